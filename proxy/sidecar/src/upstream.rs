//! From a decided request to bytes at an endpoint, and back.

pub mod attempt;
pub mod call;
pub mod dial;
pub mod http1;
pub mod origin;
pub mod place;
pub mod pool;
pub mod session;
pub mod tunnel;
pub mod upload;
