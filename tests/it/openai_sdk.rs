//! The official OpenAI SDK needs no more than another base URL.

use penstock_tests::documents::backend;
use penstock_tests::mesh::Mesh;
use penstock_tests::python::Python;
use serde_json::json;

#[tokio::test]
async fn the_official_sdk_works_as_it_does_without_a_mesh() {
    let Some(python) = Python::with(&["openai"]) else { return };
    let mesh = Mesh::start().await;
    let chat = mesh.serve("chat", "--speed 20 --model penstock-small").await;
    let web = mesh.caller("web").await;
    mesh.publish(&[backend("chat", &[chat.endpoint()]).with("default", true)], &[&chat.sidecar, &web]).await;
    let [base, engine] = [web.outbound(), chat.engine.address].map(|address| format!("http://{address}"));
    python.run("openai_sdk.py", &[&base, "penstock-small", &engine]).await;
    web.idle().await;
    chat.sidecar.idle().await;
    let log = web.access_log().await;
    let left: Vec<_> = log.iter().filter(|line| line["classification"] == "cancelled").collect();
    assert_eq!(left.len(), 1, "the one that left: {left:#?}");
    assert!(log.iter().all(|line| line["classification"] != "failure"), "{log:#?}");
    assert!(
        log.iter().any(|line| line["dialect"] == "openai_embeddings" && line["input_tokens"] != json!(null))
    );
}
