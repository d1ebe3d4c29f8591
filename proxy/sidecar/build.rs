//! Compiles the clients of the control plane's gRPC services; their messages are those of the delivery package.

use std::error::Error;

const PROTO_DIR: &str = "../../config/delivery/proto";
const FILES: [&str; 2] = ["envoy/service/discovery/v3/discovery.proto", "penstock/ca/v1/certificate.proto"];
/// Packages with messages, and the modules that hold them.
const MESSAGES: [(&str, &str); 4] = [
    (".envoy.config.core.v3", "::penstock_delivery::proto::envoy::config::core::v3"),
    (".envoy.service.discovery.v3", "::penstock_delivery::proto::envoy::service::discovery::v3"),
    (".google.rpc", "::penstock_delivery::proto::google::rpc"),
    (".penstock.ca.v1", "::penstock_delivery::proto::penstock::ca::v1"),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO_DIR}");
    let descriptors = protox::compile(FILES, [PROTO_DIR])?;
    let mut builder =
        tonic_prost_build::configure().build_server(false).build_transport(false).include_file("services.rs");
    for (package, module) in MESSAGES {
        builder = builder.extern_path(package, module);
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}
