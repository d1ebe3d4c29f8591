//! The gRPC services as generated.
#![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::clone_on_ref_ptr)]

include!(concat!(env!("OUT_DIR"), "/services.rs"));
