//! How loaded model servers are: kept at the sidecar beside each of them, told to the sidecars of their callers.
//!
//! | | inbound | outbound |
//! |---|---|---|
//! | state | [`engines`]: a ledger for each application, and what it has [`cached`] | a belief and an index for each endpoint, in its `EndpointState` |
//! | in | every request that passes | reports: in the heads of answers, on streams that [`follow`] opens, and where one must know at once, by [`ask`] |
//! | out | the same reports, by [`push`], written once for all ([`telling`]); refusals | where a request goes, and for how long it is willing to wait |
//!
//! [`wire`] has the fields of both ways. What it all means is decided in `penstock_policy`.

pub mod ask;
pub mod cached;
pub mod calls;
pub mod engines;
pub mod follow;
pub mod push;
pub mod telling;
pub mod waiting;
pub mod wire;
