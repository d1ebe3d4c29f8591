//! How a snapshot travels from the control plane to a sidecar: the delta push protocol as state machines without sockets.
//!
//! ```text
//!   control plane                                             sidecar
//!   Snapshot ─► server::Published                             client::ClientState ─► Parts ─► Snapshot
//!                   │ one encoding for all                        ▲        │
//!               server::Session ══ DeltaDiscoveryResponse ════════╝        ╰─► cache::encode ─► disk
//!                   ▲                one state machine a stream    ║
//!                   ╚═════════════ DeltaDiscoveryRequest ══════════╝
//! ```
//!
//! Messages and the time come in as arguments, what is to be done goes out as values; the owner of the stream, in another
//! package, does the sending and the waiting. Nothing here does I/O, reads a clock or draws a random number.
//!
//! - [`wire`]: one resource as bytes and back, read strictly
//! - [`server`]: what to send to one client, in which order
//! - [`client`]: what to make of it, and what to answer
//! - [`cache`]: the last good snapshot as checksummed bytes
//! - [`backoff`], [`nonce`]: the two small things around them
//! - [`proto`]: the generated messages of `proto/`
//!
//! Packages that generate gRPC stubs compile the same `.proto` files (`config/delivery/proto`) and map their packages to the messages
//! here with `extern_path`:
//!
//! | protobuf | Rust |
//! |---|---|
//! | `.envoy` | `::penstock_delivery::proto::envoy` |
//! | `.google.rpc` | `::penstock_delivery::proto::google::rpc` |
//! | `.penstock` | `::penstock_delivery::proto::penstock` |
//!
//! Messages can be large: a first request names everything the client holds, and one resource is never split. Both ends should
//! allow [`MESSAGE_BYTES_MAX`] where the gRPC library's default is 4 MiB.

pub mod backoff;
pub mod cache;
pub mod client;
pub mod nonce;
pub mod proto;
pub mod server;
pub mod wire;

/// Largest gRPC message that both ends of the push stream should accept: 100,000 names with their versions take about 10 MB.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// What a NACK's details hold for the control plane.
const REJECTION_TYPE_URL: &str = "type.googleapis.com/penstock.v1.Rejection";
