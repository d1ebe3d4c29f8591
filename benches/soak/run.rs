//! The run: everything started, warmed up, looked at, worked with, and looked at again.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use penstock_benches::child::{Child, Start, listening};
use penstock_benches::limits;
use penstock_benches::machine::Machine;
use penstock_benches::ours::{self, Application, Sidecar};
use penstock_benches::place::Place;
use penstock_benches::processes::Memory;
use penstock_benches::route::{Hops, Protocol};

use super::client::To;
use super::flags::{Asked, Work};
use super::picture::Picture;
use super::tally::Tally;
use super::verdict::{self, Compared, Row};
use super::{bodies, cancels, requests};

/// Our own programs, which stand beside this one.
const PROGRAMS: [&str; 3] = ["penstock-proxy", "penstock-control-plane", "penstock-backend"];
/// Sidecars on a busy machine answer within this.
const START_MAX: Duration = Duration::from_secs(30);
/// What does not return by itself within this does not return.
const RETURN_MAX: Duration = Duration::from_secs(30);
/// Longer than the load reports of an endpoint are listened to that nothing goes to, which is 11 s, and than idle connections to an
/// application that speaks HTTP/1.1 are kept.
const QUIET: Duration = Duration::from_secs(12);
const POLL: Duration = Duration::from_millis(250);

/// What runs.
struct Stand {
    backend: Child,
    /// Where it says what it has seen.
    counts: SocketAddr,
    target: SocketAddr,
    sidecars: [Sidecar; 2],
    plane: Child,
}

/// How long each part took.
#[derive(Default)]
struct Times(serde_json::Map<String, Value>);

/// Does the work, prints the table and writes the file. Fails when anything is not as it must be.
///
/// # Errors
/// When a program of ours is missing or ends.
pub(crate) async fn run(asked: &Asked) -> anyhow::Result<ExitCode> {
    let descriptors = limits::raise_descriptors()?;
    let dir = tempfile::Builder::new().prefix("penstock-soak-").tempdir()?;
    let stand = Stand::start(&Place::here(&PROGRAMS)?, dir.path()).await?;
    let (work, mut times) = (Work::measured(asked.scale), Times::default());
    let warm_up = Tally::default();
    stand.work(&Work::warm_up(asked.scale), &warm_up, &mut times, "warm-up: ").await;
    let before = stand.look_after(QUIET, |_| true).await?;

    let tally = Tally::default();
    let small = Work { body_bytes: 0, ..work };
    stand.work(&small, &tally, &mut times, "").await;
    let (before_bodies, done_earlier) = (stand.look_after(Duration::ZERO, |_| true).await?, tally.done());
    for sidecar in &stand.sidecars {
        Memory::forget_peak(sidecar.process.id())?;
    }
    let long = Work { body_bytes: work.body_bytes, ..Work::default() };
    stand.work(&long, &tally, &mut times, "").await;
    let peaks_bytes = stand.sidecars.each_ref().map(|sidecar| Memory::of(&[sidecar.process.id()]).peak);

    let mut done = tally.done();
    let warmed = warm_up.done();
    done.failed += warmed.failed;
    done.faults.extend(warmed.faults);
    let judge = |after: &Picture| {
        let before_bodies = (&before_bodies, &done_earlier);
        verdict::rows(&Compared { before: &before, before_bodies, peaks_bytes, after, done: &done })
    };
    let after = stand.look_after(QUIET, |after| judge(after).iter().all(Row::is_kept)).await?;
    let rows = judge(&after);
    say(&verdict::table(&rows));
    for fault in &done.faults {
        say(&format!("failed: {fault}\n"));
    }
    if let Some(file) = &asked.json {
        let all = json!({
            "machine": Machine::here(descriptors), "scale": asked.scale, "work": work, "seconds": times.0, "done": done,
            "rows": rows, "before": before, "after": after,
        });
        std::fs::write(file, format!("{all:#}\n"))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    stand.end().await?;
    Ok(if rows.iter().all(Row::is_kept) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Stand {
    async fn start(place: &Place, dir: &Path) -> anyhow::Result<Self> {
        let program = place.programs.join("penstock-backend");
        let start = Start { name: "backend", program: &program, core: place.load_core, dir };
        let mut backend = Child::start(start, &[])?;
        let said = backend.first_line().await?;
        let counts = listening(&said, "h1")?;
        let applications = [
            Application { name: To::HTTP1_NAME, protocol: Protocol::Http1, at: counts },
            Application { name: To::HTTP2_NAME, protocol: Protocol::Http2, at: listening(&said, "h2")? },
        ];
        let ours = ours::start(place, Hops::Two, &applications, dir).await?;
        let Ok(sidecars) = <[Sidecar; 2]>::try_from(ours.sidecars) else {
            bail!("two hops have two sidecars")
        };
        let mut stand = Self { backend, counts, target: ours.target, sidecars, plane: ours.plane };
        stand.answers().await?;
        Ok(stand)
    }

    /// Waits until requests of every kind are answered.
    async fn answers(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let tally = Tally::default();
            requests::http1(self.target, 2, &tally).await;
            requests::http2(self.target, 4, &tally).await;
            let done = tally.done();
            if done.failed == 0 {
                return Ok(());
            }
            for sidecar in &mut self.sidecars {
                sidecar.process.check()?;
            }
            if begun.elapsed() > START_MAX {
                bail!("no answer: {}", done.faults.join("\n"));
            }
            sleep(POLL).await;
        }
    }

    async fn work(&self, work: &Work, tally: &Tally, times: &mut Times, when: &str) {
        let (target, count) = (self.target, |count: u64, what: &str| format!("{when}{count} {what}"));
        if work.http1_requests > 0 {
            let done = requests::http1(target, work.http1_requests, tally);
            times.of(count(work.http1_requests, "requests over HTTP/1.1"), done).await;
        }
        if work.http2_requests > 0 {
            let done = requests::http2(target, work.http2_requests, tally);
            times.of(count(work.http2_requests, "requests over HTTP/2"), done).await;
        }
        if work.cancels > 0 {
            times.of(count(work.cancels, "cancels"), cancels::run(target, work.cancels, tally)).await;
        }
        if work.body_bytes > 0 {
            let done = bodies::run(target, work.body_bytes, tally);
            times.of(format!("{when}four bodies of {} bytes", work.body_bytes), done).await;
        }
    }

    /// The picture when everything has been quiet for so long and `is_enough`, or when that does not come.
    async fn look_after(
        &self,
        quiet: Duration,
        is_enough: impl Fn(&Picture) -> bool,
    ) -> anyhow::Result<Picture> {
        let begun = Instant::now();
        let (mut since, mut descriptors) = (begun, None);
        loop {
            let picture = Picture::of(&self.sidecars, self.counts).await.with_context(|| self.logs())?;
            let now = Some(picture.descriptors());
            if !picture.is_quiet() || now != descriptors {
                (since, descriptors) = (Instant::now(), now);
            }
            let is_back = picture.is_quiet() && since.elapsed() >= quiet && is_enough(&picture);
            if is_back || begun.elapsed() > RETURN_MAX {
                return Ok(picture);
            }
            sleep(POLL).await;
        }
    }

    fn logs(&self) -> String {
        let logs = self.sidecars.each_ref().map(|sidecar| sidecar.process.log());
        format!("a sidecar does not answer:\n{}", logs.join("\n"))
    }

    async fn end(self) -> anyhow::Result<()> {
        for sidecar in self.sidecars {
            sidecar.process.end().await?;
        }
        self.plane.end().await?;
        self.backend.end().await
    }
}

impl Times {
    async fn of(&mut self, what: String, work: impl Future<Output = ()>) {
        let begun = Instant::now();
        work.await;
        let seconds = begun.elapsed().as_secs_f64();
        note(&format!("{what}: {seconds:.1} s"));
        self.0.insert(what, json!(seconds));
    }
}

#[expect(clippy::print_stdout, reason = "what this program is for")]
fn say(text: &str) {
    print!("{text}");
}

#[expect(clippy::print_stderr, reason = "a run takes minutes")]
fn note(text: &str) {
    eprintln!("{text}");
}
