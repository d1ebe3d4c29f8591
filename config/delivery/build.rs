//! Compiles the `.proto` files to Rust messages, without a `protoc` on the machine.

use std::error::Error;

const FILES: [&str; 5] = [
    "envoy/service/discovery/v3/discovery.proto",
    "penstock/v1/resources.proto",
    "penstock/load/v1/load_report.proto",
    "penstock/ca/v1/certificate.proto",
    "penstock/push/v1/snapshot_cache.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    prost_build::Config::new()
        .btree_map(["."]) // the same message is the same bytes, always
        .include_file("proto.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
