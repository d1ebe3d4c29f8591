//! What the programs of this folder share: a clock that two processes of one machine agree on, HTTP/1.1 as bytes, the events of a
//! stream with the time each was due, long bodies whose every byte is known, and ours as they are started and looked at.
//!
//! HTTP/1.1 is read here by hand, on `httparse`: client and backend share one core, and a general client would spend more on
//! a request than the fastest of the proxies under test.

pub mod child;
pub mod chunked;
pub mod clock;
pub mod event;
pub mod h1;
pub mod h2_body;
pub mod latency;
pub mod limits;
pub mod machine;
pub mod ours;
pub mod page;
pub mod pattern;
pub mod place;
pub mod processes;
pub mod route;
pub mod tether;
pub mod unary;
