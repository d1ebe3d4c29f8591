//! The harness. For the tests in `it/`: real programs on ports that the system chooses, real sockets, real TLS.
//!
//! * [`mesh`]: a whole mesh; what else a test needs hangs from it.
//! * [`programs`], [`engine`], [`sidecar`], [`plane`]: the processes. Each is ended when its value is dropped, and shows the end
//!   of its log if the test failed.
//! * [`documents`]: what the control plane is given.
//! * [`client`], [`load`], [`application`], [`certs`]: the ends of the mesh, played by the test itself.
//! * [`recorded`]: answers of every engine, and an application that gives them.
//! * [`memory`], [`sockets`]: networks for whole meshes in this process, in `sim/`.
//! * [`python`], [`curl`], [`peers`]: clients and proxies that others wrote.
//! * [`messages`], [`frames`]: HTTP/1.1 and HTTP/2 as bytes, for what no library would send.
//! * [`exposition`]: what `/metrics` says.
//! * [`golden`]: texts that are pinned.
//! * [`wait`], [`skip`]: waits are on state; what cannot be tested here is counted.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that cannot go on fails there, and says why"
)]

pub mod application;
pub mod certs;
pub mod client;
pub mod curl;
pub mod documents;
pub mod engine;
pub mod exposition;
pub mod frames;
pub mod golden;
pub mod load;
pub mod memory;
pub mod mesh;
pub mod messages;
pub mod peers;
pub mod plane;
pub mod programs;
pub mod python;
pub mod recorded;
pub mod sidecar;
pub mod skip;
pub mod sockets;
pub mod wait;
