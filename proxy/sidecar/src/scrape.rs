//! What the model servers beside this sidecar say of themselves on their metrics pages. The sidecar's own account is exact about what
//! passed through it and knows nothing of what goes on inside; this is what it is corrected by.
//!
//! ```text
//!   a request has come ──► every 200 ms ── 5 s without one ──► every 5 s
//!   no page that can be read ──► after 1 s, doubling to 60 s       nobody there ──► after 1 s, doubling to 5 s
//! ```
//!
//! Each server is asked from here alone, over loopback, and its sidecar tells the others. Nothing depends on it: a server that has no
//! such page, or is silent, is ready or not as before, and after 2 s nothing is known of it.

mod ask;
mod pace;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use futures::future::join_all;
use parking_lot::Mutex;
use penstock_dialect::engine::EngineGauges;
use penstock_model::settings::{MetricsPage, ProxySettings};
use penstock_model::units::Moment;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::sleep_until;

use self::ask::{Failure, Question};
use self::pace::{Pace, Seen, Traffic};
use crate::clock;
use crate::settings::Settings;
use crate::telemetry::Telemetry;
use crate::upstream::pool::Pool;

/// What is older than this says nothing: an engine's queue can be twice as long by then.
pub const STALE_AFTER: Duration = Duration::from_secs(2);

/// Of every application whose page is to be read, what it said last. By the address under which callers know it.
#[derive(Debug, Default)]
pub struct Scrapes {
    known: ArcSwap<BTreeMap<SocketAddr, Arc<Scraped>>>,
}

/// One application.
#[derive(Debug)]
pub struct Scraped {
    page: MetricsPage,
    latest: ArcSwapOption<Taken>,
    in_flight: AtomicU32,
    /// When the last request ended, in nanoseconds of [`Moment`]; 0 for never.
    ended: AtomicU64,
    arrived: Notify,
    /// How often it had gone for long enough to have begun anew.
    gone: AtomicU32,
    standing: Mutex<Standing>,
}

/// What an engine said.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    /// When it had said so: its numbers are of a moment shortly before.
    pub at: Moment,
    /// What.
    pub gauges: EngineGauges,
}

/// A request that an application has; over when this is dropped.
#[derive(Debug)]
pub struct Serving(Arc<Scraped>);

/// So often in a row nobody must have been there, at least a second apart: no engine begins anew sooner, and a connection that broke is
/// made again at once.
const GONE_ASKED: u32 = 2;

#[derive(Debug, Default)]
struct Standing {
    /// How often in a row nobody was there.
    unreachable: u32,
    /// What was asked for last.
    path: Option<String>,
    failure: Option<Failure>,
    next: Option<Moment>,
}

impl Scrapes {
    /// Of the applications in these settings. Those that are known stay known.
    pub fn adopt(&self, settings: &ProxySettings) {
        let before = self.known.load();
        let known = pages(settings).into_iter().map(|(endpoint, page)| {
            let scraped = before.get(&endpoint).filter(|known| known.page == page);
            (endpoint, scraped.map_or_else(|| Arc::new(Scraped::new(page)), Arc::clone))
        });
        self.known.store(Arc::new(known.collect()));
    }

    /// A request that is work for the application has come; `None` where its page is not to be read.
    pub fn serve(&self, endpoint: SocketAddr) -> Option<Serving> {
        self.known.load().get(&endpoint).map(Scraped::serve)
    }

    /// What the application said last, unless that is [stale](STALE_AFTER).
    pub fn latest(&self, endpoint: SocketAddr, now: Moment) -> Option<Arc<Taken>> {
        self.known.load().get(&endpoint)?.latest(now)
    }

    /// How often the application had gone. Only while its page was read is that known.
    pub fn gone(&self, endpoint: SocketAddr) -> u32 {
        self.known.load().get(&endpoint).map_or(0, |scraped| scraped.gone.load(Ordering::Relaxed))
    }

    /// All of them, for pages and metrics.
    pub fn all(&self) -> Vec<(SocketAddr, Arc<Scraped>)> {
        self.known.load().iter().map(|(endpoint, scraped)| (*endpoint, Arc::clone(scraped))).collect()
    }
}

impl Scraped {
    fn new(page: MetricsPage) -> Self {
        Self {
            page,
            latest: ArcSwapOption::empty(),
            in_flight: AtomicU32::new(0),
            ended: AtomicU64::new(0),
            arrived: Notify::new(),
            gone: AtomicU32::new(0),
            standing: Mutex::default(),
        }
    }

    /// What it said last, unless that is [stale](STALE_AFTER).
    pub fn latest(&self, now: Moment) -> Option<Arc<Taken>> {
        self.latest.load_full().filter(|taken| now.since(taken.at) <= STALE_AFTER)
    }

    /// How long ago it said anything, stale or not.
    pub fn age(&self, now: Moment) -> Option<Duration> {
        self.latest.load().as_ref().map(|taken| now.since(taken.at))
    }

    fn serve(self: &Arc<Self>) -> Serving {
        if self.in_flight.fetch_add(1, Ordering::AcqRel) == 0 {
            self.arrived.notify_one();
        }
        Serving(Arc::clone(self))
    }

    fn traffic(&self, now: Moment) -> Traffic {
        let ended = self.ended.load(Ordering::Acquire);
        let is_recent = ended > 0 && now.since(Moment(ended)) < pace::LINGER;
        if is_recent || self.in_flight.load(Ordering::Acquire) > 0 { Traffic::Some } else { Traffic::None }
    }

    /// Waits until it is to be asked again; a request that ends a pause in traffic may shorten that.
    async fn wait(&self, pace: &Pace) {
        let since = clock::now();
        loop {
            let due = since + pace.pause(self.traffic(clock::now()));
            self.standing.lock().next = Some(due);
            tokio::select! {
                () = sleep_until(clock::instant(due)) => return,
                () = self.arrived.notified() => {}
            }
        }
    }

    /// How it stands, as JSON.
    pub fn status(&self, now: Moment) -> Value {
        let standing = self.standing.lock();
        let taken = self.latest.load();
        let gauges = taken.as_ref().map(|taken| &taken.gauges);
        json!({
            "address": self.page.address,
            "path": standing.path,
            "engine": gauges.map(|gauges| gauges.engine.as_str()),
            "ageMs": taken.as_ref().map(|taken| millis(now.since(taken.at))),
            "running": gauges.and_then(|gauges| gauges.running),
            "waiting": gauges.and_then(|gauges| gauges.waiting),
            "kvUse": gauges.and_then(|gauges| gauges.kv_use),
            "kvTokensUsed": gauges.and_then(|gauges| gauges.kv_tokens_used),
            "kvTokensTotal": gauges.and_then(|gauges| gauges.kv_tokens_total),
            "prefixHitShare": gauges.and_then(|gauges| gauges.prefix_hit_share),
            "loraRunning": gauges.and_then(|gauges| gauges.lora_running.as_ref()),
            "loraWaiting": gauges.and_then(|gauges| gauges.lora_waiting.as_ref()),
            "lastError": standing.failure.as_ref().map(ToString::to_string),
            "nextAskMs": standing.next.map(|next| millis(next.since(now))),
        })
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Before the count, so that nobody sees neither.
        self.0.ended.store(clock::now().0.max(1), Ordering::Release);
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Asks for the pages.
#[derive(Debug)]
pub struct Scraper {
    /// Which.
    pub settings: Arc<Settings>,
    /// Where what they say is put.
    pub scrapes: Arc<Scrapes>,
    /// Connections; those to applications are shared with their requests.
    pub pool: Arc<Pool>,
    /// Who is told.
    pub telemetry: Arc<Telemetry>,
}

impl Scraper {
    /// Asks the applications of the current settings, until it is dropped.
    pub async fn run(self) {
        self.settings
            .each(pages, async |settings| {
                self.scrapes.adopt(&settings);
                let all = self.scrapes.all();
                join_all(all.iter().map(|(endpoint, scraped)| self.keep_asking(*endpoint, scraped))).await;
            })
            .await;
    }

    async fn keep_asking(&self, endpoint: SocketAddr, scraped: &Scraped) {
        let mut question = Question::of(&scraped.page);
        let mut pace = Pace::default();
        loop {
            let began = clock::now();
            let asked = question.ask(&self.pool).await;
            pace.saw(
                asked.as_ref().map_or_else(Failure::seen, |_| Seen::Page { took: clock::now().since(began) }),
            );
            self.tell(endpoint, scraped, question.path(), asked);
            scraped.wait(&pace).await;
        }
    }

    fn tell(&self, endpoint: SocketAddr, scraped: &Scraped, path: &str, asked: Result<Taken, Failure>) {
        let result = asked.as_ref().map_or_else(Failure::reason, |_| "success");
        self.telemetry.metrics.scrapes.with_label_values(&[&*endpoint.to_string(), result]).inc();
        let mut standing = scraped.standing.lock();
        let before = (standing.path.is_some(), standing.failure.as_ref().map(Failure::reason));
        standing.path = Some(path.to_owned());
        match asked {
            Ok(taken) => {
                if before != (true, None) {
                    let engine = taken.gauges.engine.as_str();
                    tracing::info!(%endpoint, engine, path, "the model server says how loaded it is");
                }
                standing.failure = None;
                standing.unreachable = 0;
                scraped.latest.store(Some(Arc::new(taken)));
            }
            Err(failure) => {
                if before.1 != Some(failure.reason()) {
                    let why = failure.to_string();
                    tracing::info!(%endpoint, path, why, "the application does not say how loaded it is");
                }
                let is_unreachable = matches!(failure, Failure::Unreachable(_));
                standing.unreachable =
                    if is_unreachable { standing.unreachable.saturating_add(1) } else { 0 };
                if standing.unreachable == GONE_ASKED {
                    scraped.gone.fetch_add(1, Ordering::Relaxed);
                }
                standing.failure = Some(failure);
            }
        }
    }
}

fn pages(settings: &ProxySettings) -> BTreeMap<SocketAddr, MetricsPage> {
    let applications = settings.inbound.iter().flat_map(|inbound| &inbound.applications);
    applications
        .filter_map(|application| Some((application.endpoint, application.metrics.clone()?)))
        .collect()
}

#[cfg(test)]
mod tests;
