//! One asking: a GET for the page, and what its answer says.

use std::fmt;
use std::future::poll_fn;
use std::time::Duration;

use http::header::{ACCEPT, ACCEPT_ENCODING, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use penstock_dialect::engine::defect::PageDefect;
use penstock_dialect::engine::{self, PATHS};
use penstock_model::settings::MetricsPage;
use tokio::time::timeout;

use super::Taken;
use super::pace::Seen;
use crate::clock;
use crate::upstream::attempt::{self, Head, Part};
use crate::upstream::call::Call;
use crate::upstream::place::Place;
use crate::upstream::pool::{Pool, Terms};

/// Most bytes of a page: more than an engine with hundreds of ranks and models writes.
pub(super) const PAGE_BYTES_MAX: usize = 1 << 20;
/// Longest time of one asking, connecting included.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(1);
const WHO_ASKS: HeaderValue =
    HeaderValue::from_static(concat!("penstock-proxy/", env!("CARGO_PKG_VERSION"), " scrape"));
/// Pages are short-lived and go over loopback: packing them would only cost the engine time.
const UNPACKED: HeaderValue = HeaderValue::from_static("identity");

/// What an application is asked.
pub(super) struct Question {
    place: Place,
    authority: String,
    paths: Vec<String>,
    /// The one that was asked for last, in `paths`: it is asked for first.
    turn: usize,
}

/// Why there is nothing to be known.
#[derive(Debug)]
pub(super) enum Failure {
    /// No connection, or it broke.
    Unreachable(String),
    /// Too late.
    Timeout,
    /// Another status than 200.
    Status(StatusCode),
    /// More than [`PAGE_BYTES_MAX`].
    TooLarge,
    /// The page says nothing that can be used.
    Page(PageDefect),
    /// The path is none.
    Path,
}

impl Question {
    /// What is asked for this page.
    pub(super) fn of(page: &MetricsPage) -> Self {
        let place = Place::of_metrics(page);
        let usual = || PATHS.map(str::to_owned).to_vec();
        let paths = page.path.as_ref().map_or_else(usual, |path| vec![path.clone()]);
        Self { place, authority: page.address.to_string(), paths, turn: 0 }
    }

    /// The path that was asked for last.
    pub(super) fn path(&self) -> &str {
        &self.paths[self.turn]
    }

    /// Asks for the path that had the page last, and for the others if it has none any more.
    pub(super) async fn ask(&mut self, pool: &Pool) -> Result<Taken, Failure> {
        let (first, count) = (self.turn, self.paths.len());
        let mut failed = None;
        for turn in (0..count).map(|step| (first + step) % count) {
            match self.ask_for(pool, &self.paths[turn]).await {
                Ok(taken) => {
                    self.turn = turn;
                    return Ok(taken);
                }
                Err(failure) if failure.seen() == Seen::Unfit => failed = failed.or(Some(failure)),
                // Another path would be no better.
                Err(failure) => return Err(failure),
            }
        }
        Err(failed.unwrap_or(Failure::Path))
    }

    async fn ask_for(&self, pool: &Pool, path: &str) -> Result<Taken, Failure> {
        let headers = HeaderMap::from_iter([
            (USER_AGENT, WHO_ASKS),
            (ACCEPT, HeaderValue::from_static(engine::ACCEPT)),
            (ACCEPT_ENCODING, UNPACKED),
        ]);
        let target = path.parse().map_err(|_| Failure::Path)?;
        let head = Head { method: Method::GET, target, authority: self.authority.clone(), headers };
        timeout(ASK_TIMEOUT, self.exchange(pool, head)).await.unwrap_or(Err(Failure::Timeout))
    }

    async fn exchange(&self, pool: &Pool, head: Head) -> Result<Taken, Failure> {
        let broken = |failed: attempt::Failed| Failure::Unreachable(failed.message);
        let terms = Terms { connect_timeout: ASK_TIMEOUT, streams_max: u32::MAX };
        let call = Call::of_our_own();
        let (response, mut answer) =
            attempt::attempt(pool, &self.place, terms, head, &call).await.map_err(broken)?;
        let at = clock::now();
        let (mut page, mut is_over) = (Vec::new(), answer.is_over());
        while !is_over {
            match poll_fn(|context| answer.poll_part(context)).await.map_err(broken)? {
                Part::Chunk { bytes, is_last } => {
                    if page.len() + bytes.len() > PAGE_BYTES_MAX {
                        return Err(Failure::TooLarge);
                    }
                    page.extend_from_slice(&bytes);
                    is_over = is_last;
                }
                Part::End(_) => is_over = true,
            }
        }
        answer.release(pool, &self.place, &call.upload);
        match response.status() {
            StatusCode::OK => engine::read(&page).map(|gauges| Taken { at, gauges }).map_err(Failure::Page),
            other => Err(Failure::Status(other)),
        }
    }
}

impl Failure {
    /// A word for it in metrics.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Timeout => "timeout",
            Self::Status(StatusCode::NOT_FOUND) => "not_found",
            Self::Status(_) => "status",
            Self::TooLarge => "too_large",
            Self::Page(defect) => defect.reason(),
            Self::Path => "bad_path",
        }
    }

    /// What it means for when to ask again.
    pub(super) fn seen(&self) -> Seen {
        match self {
            Self::Unreachable(_)
            | Self::Status(StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) => Seen::Silence,
            Self::Timeout => Seen::Late,
            Self::Status(_) | Self::TooLarge | Self::Page(_) | Self::Path => Seen::Unfit,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "cannot be asked: {why}"),
            Self::Timeout => write!(f, "no whole answer within {ASK_TIMEOUT:?}"),
            Self::Status(StatusCode::NOT_FOUND) => write!(
                f,
                "answered 404: it has no such page; name it in `metrics.path` and `metrics.port` of the application, or write \
                 `metrics: {{scrape: false}}`"
            ),
            Self::Status(status) => write!(f, "answered {}", status.as_u16()),
            Self::TooLarge => write!(f, "the page has more than {PAGE_BYTES_MAX} bytes"),
            Self::Page(defect) => defect.fmt(f),
            Self::Path => write!(f, "`metrics.path` is no path"),
        }
    }
}
