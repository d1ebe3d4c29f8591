//! The generated messages, in modules named after the protobuf packages: `penstock.ca.v1` is [`penstock::ca::v1`].
#![allow(missing_docs, clippy::all, reason = "generated; the documentation is in the .proto files")]

include!(concat!(env!("OUT_DIR"), "/proto.rs"));
