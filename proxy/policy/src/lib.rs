//! Facts, history and the time in, decisions out.
//!
//! | question | module | asked when |
//! |---|---|---|
//! | where does this request belong? | [`route`], then [`split`] and [`rewrite`] | the headers are read, and again once the model is known |
//! | which endpoint takes it? | [`pick`] | each attempt |
//! | what of its prompt does an endpoint have? | [`prefix`] | each request; each change of what an engine holds |
//! | may a request come in? | [`gate`] | its head has reached the server's sidecar |
//! | what does an endpoint have before it? | [`ledger`] | at each event of a request, by the server's sidecar |
//! | how fast is an endpoint? | [`speed`] | each chunk that comes from it |
//! | is an endpoint ready? | [`health`] | a probe has ended |
//! | where are a name's endpoints? | [`resolution`] | a look-up has ended |
//! | may it be tried once more? | [`retry`] | an attempt has failed |
//! | how did it end? | [`judge`], then [`objective`] | the account is closed |
//! | what was decided, and on what? | [`why`], of what [`pick`] [considered](pick::Considered) | somebody asks |
//!
//! Nothing here reads a clock, draws a random number, waits or does I/O: time and draws are arguments, so the same inputs give
//! the same decision in a sidecar, in a simulator and in a test.

pub mod gate;
pub mod health;
pub mod judge;
mod lately;
pub mod ledger;
pub mod objective;
pub mod pick;
pub mod prefix;
pub mod resolution;
pub mod retry;
pub mod rewrite;
pub mod route;
pub mod speed;
pub mod split;
pub mod why;

/// Maps a draw to one of `count` equally likely places; 0 where `count` is 0.
///
/// A multiplication keeps the order of draws and is off by less than `count` in 2^64, where a remainder would also lean on the
/// generator's weakest bits.
fn place(draw: u64, count: u64) -> u64 {
    let wide = (u128::from(draw) * u128::from(count)) >> 64;
    u64::try_from(wide).unwrap_or(0)
}
