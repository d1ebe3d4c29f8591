//! What sidecars are told, and what they answer.

use serde_json::{Value, json};
use tonic::Code;

use crate::plane::{BACKENDS, ENDPOINTS, Plane, backend};

#[tokio::test]
async fn a_sidecar_gets_everything_and_then_only_what_changes() {
    let plane =
        Plane::start(&[("a.yaml", &backend("chat", "10.0.0.1")), ("b.yaml", &backend("embed", "10.0.0.2"))])
            .await;
    let mut stream = plane.follower("web-1.chat").await;
    assert_eq!(stream.accept_all(4).await, ["chat", "embed", "chat/10.0.0.1:8000", "embed/10.0.0.2:8000"]);
    plane.write("b.yaml", &backend("embed", "10.0.0.3"));
    assert_eq!(stream.accept_all(2).await, ["embed/10.0.0.3:8000", "-embed/10.0.0.2:8000"]);
    plane.remove("a.yaml");
    assert_eq!(stream.accept_all(2).await, ["-chat/10.0.0.1:8000", "-chat"]);
    let status = plane.status_when(|status| status["sidecars"][0]["in_sync"] == true).await;
    let sidecar = &status["sidecars"][0];
    assert_eq!(sidecar["node"], "web-1.chat");
    assert_eq!(sidecar["connected"], true);
    assert_eq!(sidecar["version"], status["config"]["version"]);
    let backends = &sidecar["types"]["backends"];
    assert_eq!(backends["acked"], backends["version"]);
    assert_eq!(backends["error"], Value::Null);
}

#[tokio::test]
async fn a_refusal_is_shown_and_other_sidecars_are_not_held_up() {
    let plane = Plane::start(&[("a.yaml", &backend("chat", "10.0.0.1"))]).await;
    let mut sulky = plane.follower("sulky").await;
    let _silent = plane.follower("silent").await;
    let mut eager = plane.follower("eager").await;
    let response = sulky.next().await.unwrap();
    sulky.nack(&response, "no memory left").await;
    assert_eq!(eager.accept_all(2).await, ["chat", "chat/10.0.0.1:8000"]);
    plane.write("a.yaml", &backend("chat", "10.0.0.9"));
    assert_eq!(eager.accept_all(2).await, ["chat/10.0.0.9:8000", "-chat/10.0.0.1:8000"]);
    let status = plane
        .status_when(|status| {
            status["sidecars"][0]["in_sync"] == true
                && status["sidecars"][2]["types"]["backends"]["error"].is_string()
        })
        .await;
    let in_sync = status["sidecars"].as_array().unwrap().iter().map(|s| json!([s["node"], s["in_sync"]]));
    assert_eq!(Value::from_iter(in_sync), json!([["eager", true], ["silent", false], ["sulky", false]]));
    assert_eq!(status["sidecars"][2]["types"]["backends"]["error"], "no memory left");
    let refused = "penstock_xds_updates_total{result=\"nack\",type=\"backends\"}";
    assert_eq!(plane.metric(refused).await, Some(1.0));
    assert_eq!(plane.metric("penstock_xds_connected").await, Some(3.0));
}

#[tokio::test]
async fn a_sidecar_that_comes_back_gets_the_difference_across_a_restart() {
    let mut plane =
        Plane::start(&[("a.yaml", &backend("chat", "10.0.0.1")), ("b.yaml", &backend("embed", "10.0.0.2"))])
            .await;
    let mut first = plane.follower("web").await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let response = first.next().await.unwrap();
        first.ack(&response).await;
        let known = response.resources.iter().map(|r| (r.name.clone(), r.version.clone()));
        held.push((response.type_url.clone(), known.collect::<Vec<_>>()));
    }
    plane.stop().await.unwrap();
    assert_eq!(first.next().await.unwrap_err().code(), Code::Unavailable);
    plane.remove("a.yaml");
    plane.run().await;
    let bearer = format!("Bearer {}", plane.token());
    let mut second = plane.subscribe("web", None, Some(&bearer)).await.unwrap();
    for (type_url, known) in &held {
        second.resume(type_url, known).await;
    }
    assert_eq!(second.accept_all(2).await, ["-chat/10.0.0.1:8000", "-chat"]);
}

#[tokio::test]
async fn a_sidecar_that_has_gone_is_still_shown() {
    let plane = Plane::start(&[("a.yaml", &backend("chat", "10.0.0.1"))]).await;
    let mut stream = plane.follower("web").await;
    stream.accept_all(2).await;
    drop(stream);
    let status = plane.status_when(|status| status["sidecars"][0]["connected"] == false).await;
    assert_eq!(status["sidecars"][0]["in_sync"], false);
    assert_eq!(plane.json("/debug/syncz").await["sidecars"], status["sidecars"]);
}

#[tokio::test]
async fn an_unknown_type_is_answered_and_others_go_on() {
    let plane = Plane::start(&[("a.yaml", &backend("chat", "10.0.0.1"))]).await;
    let bearer = format!("Bearer {}", plane.token());
    let mut stream = plane.subscribe("web", None, Some(&bearer)).await.unwrap();
    let unknown = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    stream.want_all(unknown).await;
    let response = stream.next().await.unwrap();
    assert_eq!((response.type_url.as_str(), response.resources.len()), (unknown, 0));
    stream.want_all(BACKENDS).await;
    assert_eq!(stream.accept().await.0, ["chat"]);
    stream.want_all(ENDPOINTS).await;
    assert_eq!(stream.accept().await.0, ["chat/10.0.0.1:8000"]);
}

#[tokio::test]
async fn the_other_form_of_the_protocol_is_refused_with_a_hint() {
    let plane = Plane::start(&[("a.yaml", &backend("chat", "10.0.0.1"))]).await;
    let bearer = format!("Bearer {}", plane.token());
    let Err(refused) = plane.stream("StreamAggregatedResources", "web", None, Some(&bearer)).await else {
        panic!("it was let in");
    };
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("DeltaAggregatedResources"), "{refused}");
}
