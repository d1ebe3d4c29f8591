//! Inbound: tells a caller's sidecar how an application stands, on one long stream, whenever that has changed.
//!
//! ```text
//!   change ─► has it been long enough since the last report? ─► report ─► …
//! ```
//!
//! Long enough is 50 to 100 ms, drawn anew each time, so that many sidecars do not hear the same at the same moment and act alike; with
//! many of them it is longer, so that all together cost no more than [`REPORTS_PER_SECOND`], and so it is where a caller's sidecar asks
//! for that, because it listens to many. Where nothing changes nothing is sent.
//!
//! It ends when the sidecar drains, or serves the application no longer. Who asks by `HEAD` is told once, in the head of the answer.
//!
//! With a report comes a digest of the prompts that were cached or dropped since the last one, for peers whose identity is known and while
//! there are keys; what one digest cannot take comes with the next. A new key begins anew.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Response, StatusCode};
use penstock_policy::prefix::{Cursor, Digest};
use tokio::time::sleep;

use super::engines::Engine;
use super::wire::{self, SUBSCRIBE};
use crate::http::headers::{self, WIRE, WIRE_VERSION};
use crate::http::{Connection, Shared};
use crate::listen::caller::{Caller, CallerError, Then};
use crate::listen::conn::Direction;
use crate::{clock, seed};

/// Shortest time between two reports to one sidecar.
pub const INTERVAL_MIN: Duration = Duration::from_millis(50);
/// Reports that one sidecar sends in a second at most, but for those of a drain: with 1,000 who are told, each costs 40 to 50 us, the
/// connection's share included (`make bench-idle`), and all together are to take less than a twentieth of a core.
const REPORTS_PER_SECOND: u32 = 1_000;

/// Whether a request asks for reports.
pub fn is_asked(caller: &Caller) -> bool {
    caller.arrival().direction == Direction::Inbound && caller.head().headers.contains_key(&SUBSCRIBE)
}

/// Serves such a request to its end. It is none of an application's, and counted nowhere.
pub async fn serve(shared: &Arc<Shared>, caller: &mut Caller) -> Connection {
    let named = headers::text(&caller.head().headers, &SUBSCRIBE).and_then(|text| text.parse().ok());
    let sent = match named.and_then(|address: SocketAddr| shared.application(address)) {
        Some(application) => {
            let engine = shared.engines.of(&application);
            if caller.head().method == Method::HEAD {
                answer(caller, &engine).await
            } else {
                reports(shared, caller, &engine).await
            }
        }
        None => refuse(caller).await,
    };
    if let Err(error) = sent {
        tracing::debug!(%error, "nobody takes reports any more");
    }
    Connection::Kept
}

async fn refuse(caller: &mut Caller) -> Result<(), CallerError> {
    caller.send_head(head(StatusCode::MISDIRECTED_REQUEST), Then::End).await
}

/// How it stands at this moment, and nothing more.
async fn answer(caller: &mut Caller, engine: &Engine) -> Result<(), CallerError> {
    let mut head = head(StatusCode::OK);
    head.headers.insert(wire::LOAD, wire::write_load(&engine.report(clock::now()), None));
    caller.send_head(head, Then::End).await
}

fn head(status: StatusCode) -> http::response::Parts {
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = status;
    head.headers.insert(WIRE, WIRE_VERSION);
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static(wire::REPORTS));
    head
}

async fn reports(shared: &Arc<Shared>, caller: &mut Caller, engine: &Engine) -> Result<(), CallerError> {
    let _subscriber = shared.engines.subscriber();
    let mut changes = engine.changes();
    let mut draining = shared.draining.clone();
    let mut cursor = Cursor::default();
    let is_known = caller.arrival().peer.is_some();
    let asked = wire::read_interval(&caller.head().headers);
    caller.send_head(head(StatusCode::OK), Then::Later).await?;
    loop {
        changes.mark_unchanged();
        let is_draining = *draining.borrow();
        let report = engine.written(clock::now());
        let line = Arc::clone(caller.line());
        tokio::select! {
            biased;
            () = poll_fn(|context| line.poll_outlet(context)) => {}
            gone = caller.body_or_gone(false) => return gone.map(drop),
        }
        let keys = shared.identity.prefix_keys().filter(|_| is_known && !is_draining);
        let digest = keys.and_then(|keys| engine.digest(&mut cursor, &keys));
        let has_more = digest.as_ref().is_some_and(Digest::is_full);
        let is_last = is_draining || !shared.engines.has(engine);
        let then = if is_last { Then::End } else { Then::Later };
        caller.send(report.with(digest.as_ref()), then).await?;
        if is_last {
            return Ok(());
        }
        let interval = interval(shared.engines.subscribers(), asked, seed::share());
        tokio::select! {
            biased;
            gone = caller.body_or_gone(false) => return gone.map(drop),
            _ = draining.wait_for(|draining| *draining) => continue,
            () = sleep(interval) => {}
        }
        if has_more {
            continue;
        }
        tokio::select! {
            biased;
            gone = caller.body_or_gone(false) => return gone.map(drop),
            _ = draining.wait_for(|draining| *draining) => {}
            _ = changes.changed() => {}
        }
    }
}

/// Time from one report to the next, with so many who are told, of whom this one asked for no shorter one. `draw` is from 0 up to 1.
fn interval(subscribers: u32, asked: Duration, draw: f64) -> Duration {
    let fair = (Duration::from_secs(1) * subscribers / REPORTS_PER_SECOND).min(wire::INTERVAL_MAX);
    INTERVAL_MIN.max(fair).max(asked).mul_f64(1.0 + draw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_told_soon_and_many_so_that_all_cost_the_same() {
        for (subscribers, asked_ms, draw, expected_ms) in [
            (1, 0, 0.0, 50),
            (32, 0, 0.0, 50),
            (32, 0, 0.5, 75),
            (64, 0, 0.0, 64),
            (1_000, 0, 0.0, 1_000),
            (4_000, 0, 0.0, 4_000),
            (10_000, 0, 0.0, 5_000),
            (1, 20, 0.0, 50),
            (1, 130, 0.5, 195),
            (1_000, 130, 0.0, 1_000),
        ] {
            let interval = interval(subscribers, Duration::from_millis(asked_ms), draw);
            assert_eq!(interval, Duration::from_millis(expected_ms), "{subscribers} {asked_ms} {draw}");
        }
    }
}
