//! A sidecar with one Backend.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use penstock_proxy::app::{self, App};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// A sidecar that takes its documents from files.
pub(crate) struct Sidecar {
    pub(crate) outbound: SocketAddr,
    admin: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    ended: tokio::task::JoinHandle<()>,
    dir: TempDir,
}

impl Sidecar {
    /// With one Backend, `app`, whose `spec` is this flow mapping, and with these further settings.
    pub(crate) async fn before(spec: &str, settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("documents")).unwrap();
        write(dir.path(), spec);
        let config = dir.path().join("proxy.yaml");
        let settings = format!(
            "apiVersion: penstock.dev/v1alpha1\nkind: ProxyConfig\nmetadata: {{name: web}}\nspec:\n  documents: ./documents\n  \
             outbound: {{listen: \"127.0.0.1:0\"}}\n  admin: {{listen: \"127.0.0.1:0\"}}\n  accessLog: {{path: \"off\"}}\n  \
             {settings}\n"
        );
        fs::write(&config, settings).unwrap();
        let app = App::build(app::settings(&config).unwrap()).await.unwrap();
        let (outbound, admin) = (app.outbound().unwrap(), app.admin().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        #[expect(clippy::disallowed_methods, reason = "the test owns this task and joins it")]
        let ended = tokio::spawn(async move {
            app.run(async { drop(stopped.await) }).await.unwrap();
        });
        let sidecar = Self { outbound, admin, stop: Some(stop), ended, dir };
        // An unknown host is answered by the sidecar itself: 503 until it has documents, 404 after.
        while sidecar.get("x").await.contains("no_backend") {
            tokio::task::yield_now().await;
        }
        sidecar
    }

    /// Gives its Backend another `spec`.
    pub(crate) fn rewrite(&self, spec: &str) {
        write(self.dir.path(), spec);
    }

    /// The whole answer to a GET of `/`.
    pub(crate) async fn get(&self, host: &str) -> String {
        get(self.outbound, host, "/").await
    }

    /// Waits until this stands in its metrics.
    pub(crate) async fn counts(&self, line: &str) {
        self.shows("/metrics", line).await;
    }

    /// Waits until this stands on an admin page.
    pub(crate) async fn shows(&self, page: &str, line: &str) {
        while !self.page(page).await.contains(line) {
            tokio::task::yield_now().await;
        }
    }

    /// An admin page.
    pub(crate) async fn page(&self, path: &str) -> String {
        get(self.admin, "admin", path).await
    }

    /// Asks until the answer is as wished.
    pub(crate) async fn answers(&self, wish: impl Fn(&str) -> bool) -> String {
        loop {
            let answer = self.get("app").await;
            if wish(&answer) {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        self.ended.await.unwrap();
    }
}

fn write(dir: &Path, spec: &str) {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    let document =
        format!("apiVersion: penstock.dev/v1alpha1\nkind: Backend\nmetadata: {{name: app}}\nspec:\n{spec}\n");
    let new = dir.join("new.yaml");
    fs::write(&new, document).unwrap();
    fs::rename(new, dir.join("documents/app.yaml")).unwrap();
}

async fn get(address: SocketAddr, host: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
