//! From documents to what is in force.

use crate::plane::{Plane, backend, point_data_at};

const BAD: &str = "apiVersion: penstock.dev/v1alpha1\nkind: Backend\nmetadata: { name: chat }\nspec:\n  edpoints:\n    - address: 10.0.0.9\n      port: 8000\n";

#[tokio::test]
async fn a_bad_change_is_told_with_its_place_and_the_old_version_stays() {
    let plane = Plane::start(&[("a.yaml", &backend("chat", "10.0.0.1"))]).await;
    let mut stream = plane.follower("web").await;
    stream.accept_all(2).await;
    let before = plane.status_when(|status| status["sidecars"][0]["in_sync"] == true).await;
    assert_eq!(plane.metric("penstock_config_valid").await, Some(1.0));

    plane.write("a.yaml", BAD);
    let refused = plane.status_when(|status| status["config"]["valid"] == false).await;
    let findings = refused["config"]["findings"].as_array().unwrap();
    let finding = findings.iter().find(|f| f["message"].as_str().unwrap().contains("edpoints")).unwrap();
    assert!(finding["file"].as_str().unwrap().ends_with("config/a.yaml"), "{finding}");
    assert_eq!((&finding["line"], &finding["column"]), (&5.into(), &3.into()));
    assert_eq!(refused["config"]["version"], before["config"]["version"]);
    assert_eq!(refused["sidecars"][0]["in_sync"], true);
    assert_eq!(plane.metric("penstock_config_valid").await, Some(0.0));
    assert_eq!(plane.metric("penstock_config_reload_total{result=\"refused\"}").await, Some(1.0));
    assert_eq!(plane.get("/ready").await.0, 200);

    plane.write("a.yaml", &backend("chat", "10.0.0.9"));
    assert_eq!(stream.accept_all(2).await, ["chat/10.0.0.9:8000", "-chat/10.0.0.1:8000"]);
    let mended = plane.status_when(|status| status["config"]["valid"] == true).await;
    assert_eq!(mended["config"]["findings"].as_array().unwrap().len(), 0);
    assert_eq!(plane.metric("penstock_config_valid").await, Some(1.0));
}

#[tokio::test]
async fn nothing_is_pushed_until_there_is_something_good() {
    let plane = Plane::start(&[("a.yaml", BAD)]).await;
    let (status, why) = plane.get("/ready").await;
    assert_eq!(status, 503);
    assert!(why.contains("a.yaml:5:3"), "{why}");
    assert_eq!(plane.get("/live").await.0, 200);
    let mut stream = plane.follower("web").await;
    let waiting = plane.status_when(|status| status["sidecars"][0]["connected"] == true).await;
    assert_eq!(waiting["config"]["basis"], "nothing");
    plane.write("a.yaml", &backend("chat", "10.0.0.1"));
    assert_eq!(stream.accept_all(2).await, ["chat", "chat/10.0.0.1:8000"]);
    assert_eq!(plane.get("/ready").await.0, 200);
}

#[tokio::test]
async fn a_start_with_bad_documents_serves_the_last_good() {
    let mut plane = Plane::start(&[("a.yaml", &backend("chat", "10.0.0.1"))]).await;
    plane.stop().await.unwrap();
    plane.write("a.yaml", BAD);
    plane.run().await;
    assert_eq!(plane.get("/ready").await.0, 200);
    let status = plane.json("/api/v1/status").await;
    assert_eq!(status["config"]["basis"], "last_good");
    assert_eq!(status["config"]["valid"], false);
    assert!(!status["config"]["findings"].as_array().unwrap().is_empty());
    let mut stream = plane.follower("web").await;
    assert_eq!(stream.accept_all(2).await, ["chat", "chat/10.0.0.1:8000"]);
}

#[tokio::test]
async fn a_comment_changes_nothing_but_clears_the_findings() {
    let plane = Plane::start(&[("a.yaml", &backend("chat", "10.0.0.1"))]).await;
    let before = plane.json("/api/v1/status").await;
    plane.write("a.yaml", BAD);
    plane.status_when(|status| status["config"]["valid"] == false).await;
    plane.write("a.yaml", &format!("# mended\n{}", backend("chat", "10.0.0.1")));
    let after = plane.status_when(|status| status["config"]["valid"] == true).await;
    assert_eq!(after["config"], before["config"]);
    assert_eq!(plane.metric("penstock_config_reload_total{result=\"unchanged\"}").await, Some(1.0));
}

#[tokio::test]
async fn the_swap_of_a_kubernetes_volume_is_followed() {
    let mut plane = Plane::start(&[("z.yaml", &backend("chat", "10.0.0.1"))]).await;
    plane.stop().await.unwrap();
    plane.remove("z.yaml");
    let config = plane.path("config");
    for (directory, address) in [("..1", "10.0.0.1"), ("..2", "10.0.0.2")] {
        std::fs::create_dir(config.join(directory)).unwrap();
        std::fs::write(config.join(directory).join("a.yaml"), backend("chat", address)).unwrap();
    }
    point_data_at(&config, "..1");
    std::os::unix::fs::symlink("..data/a.yaml", config.join("a.yaml")).unwrap();
    plane.run().await;
    let mut stream = plane.follower("web").await;
    assert_eq!(stream.accept_all(2).await, ["chat", "chat/10.0.0.1:8000"]);
    point_data_at(&config, "..2");
    assert_eq!(stream.accept_all(2).await, ["chat/10.0.0.2:8000", "-chat/10.0.0.1:8000"]);
}

#[tokio::test]
async fn a_directory_that_loses_its_documents_takes_nothing_away() {
    let plane = Plane::start(&[("a.yaml", &backend("chat", "10.0.0.1"))]).await;
    let before = plane.json("/api/v1/status").await;
    plane.remove("a.yaml");
    let status = plane.status_when(|status| status["config"]["valid"] == false).await;
    assert_eq!(status["config"]["version"], before["config"]["version"]);
    assert_eq!(status["config"]["findings"][0]["code"], "unreadable");
    assert_eq!(plane.metric("penstock_config_reload_total{result=\"unreadable\"}").await, Some(1.0));
}

#[tokio::test]
async fn a_directory_that_is_not_there_yet_is_taken_up_when_it_is() {
    let mut plane = Plane::start(&[("a.yaml", &backend("chat", "10.0.0.1"))]).await;
    plane.stop().await.unwrap();
    for gone in ["config", "state"] {
        std::fs::remove_dir_all(plane.path(gone)).unwrap();
    }
    plane.run().await;
    assert_eq!(plane.get("/ready").await.0, 503);
    std::fs::create_dir(plane.path("config")).unwrap();
    plane.write("a.yaml", &backend("chat", "10.0.0.1"));
    plane.status_when(|status| status["config"]["valid"] == true).await;
}
