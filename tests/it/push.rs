//! The push protocol is public: a client that knows nothing but the `.proto` files drives the control plane.

use std::path::Path;

use penstock_tests::mesh::Mesh;
use penstock_tests::python::Python;

#[tokio::test]
async fn a_client_made_from_the_proto_files_follows_the_control_plane() {
    let Some(python) = Python::with(&["grpc", "grpc_tools", "google.protobuf"]) else { return };
    let mesh = Mesh::start().await;
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/delivery/proto");
    let code = mesh.dir().join("code");
    std::fs::create_dir(&code).unwrap();
    let plane = &mesh.plane;
    let paths = [&proto, &code, &plane.trust_bundle(), &plane.join_token(), &plane.documents_dir()];
    let [proto, code, root, token, documents] = paths.map(|path| path.to_str().unwrap());
    let (grpc, admin) = (plane.grpc().to_string(), format!("http://{}", plane.admin()));
    python.run("push_client.py", &[proto, code, &grpc, root, token, &admin, documents]).await;
    let metrics = plane.metrics().await;
    assert_eq!(metrics.sum("penstock_xds_updates_total", &[("result", "nack")]), 2.0);
    assert!(metrics.sum("penstock_identity_refusals_total", &[("stage", "push")]) >= 3.0);
}
