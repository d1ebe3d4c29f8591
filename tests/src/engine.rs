//! A simulated model server as a process.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::client;
use crate::programs::{Program, built};
use crate::wait::eventually;

/// A model server.
#[derive(Debug)]
pub struct Engine {
    /// The process.
    pub program: Program,
    /// Where it serves.
    pub address: SocketAddr,
}

impl Engine {
    /// Starts one with these words on its command line.
    pub async fn start(dir: &Path, name: &str, words: &str) -> Self {
        let mut command = built("penstock-engine");
        command.args(["--listen", "127.0.0.1:0"]).args(words.split_whitespace());
        let program = Program::start(dir, name, command).await;
        let address = program.listening("http");
        Self { program, address }
    }

    /// What it counts.
    pub async fn stats(&self) -> Value {
        client::json(self.address, "/admin/stats").await
    }

    /// One of the numbers that it counts.
    ///
    /// # Panics
    /// When there is no such number.
    pub async fn count(&self, name: &str) -> u64 {
        let stats = self.stats().await;
        stats[name].as_u64().unwrap_or_else(|| panic!("no number `{name}` in {stats:#}"))
    }

    /// Waits until what it counts is as wished.
    pub async fn stats_when(&self, what: &str, wish: impl Fn(&Value) -> bool) -> Value {
        eventually(what, async || {
            let stats = self.stats().await;
            if wish(&stats) { Ok(stats) } else { Err(format!("{stats:#}")) }
        })
        .await
    }

    /// Waits until nothing runs or waits there.
    pub async fn idle(&self) -> Value {
        self.stats_when("the engine is idle", |stats| stats["running"] == 0 && stats["waiting"] == 0).await
    }

    /// Makes something go wrong there.
    pub async fn order_faults(&self, order: &Value) {
        let answer = client::post(self.address, "/admin/faults", order).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// A chat of these words with the model `penstock-small`; `more` fields are added.
///
/// # Panics
/// When `more` is not an object.
pub fn chat(words: &str, more: Value) -> Value {
    let mut body = json!({"model": "penstock-small", "messages": [{"role": "user", "content": words}]});
    let (Some(body_fields), Value::Object(more)) = (body.as_object_mut(), more) else { panic!("no object") };
    body_fields.extend(more);
    body
}
