//! The control plane as its clients meet it: in process, on ports that the system chooses, over real sockets and TLS.

mod admin;
mod config;
mod identity;
mod plane;
mod program;
mod push;
