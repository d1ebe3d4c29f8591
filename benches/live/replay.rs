//! The load: every request at its time, whatever became of those before it; turns of a session one after the other.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::task::JoinSet;
use tokio::time::timeout;

use penstock_benches::clock::{self, Alarm};
use penstock_benches::h1::Connection;
use penstock_simulate::outcome::Outcome;
use penstock_simulate::slo::Fare;

use crate::ask::Words;
use crate::plan::Plan;
use crate::stand::Counts;
use crate::stream::Answer;

/// Answers under way when the last request was sent have so long to end.
const DRAIN_MAX: Duration = Duration::from_secs(120);
/// A connection that was idle for longer may be closed by the other side at the moment of its next request.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// As much of an error as is told.
const ERROR_BYTES_MAX: usize = 300;
const OVERLOADED: u16 = 429;

/// What came of the requests that count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replayed {
    pub(crate) outcome: Outcome,
    /// Those that were neither answered nor refused with 429; `outcome` has them among the rejected.
    pub(crate) failed: u64,
    pub(crate) first_error: Option<String>,
    /// What had been counted before the time that counts.
    pub(crate) before: Counts,
}

/// How a request ended.
enum Ending {
    Answered { cached_tokens: u32 },
    Rejected,
    Failed(anyhow::Error),
}

struct Replay {
    plan: Rc<Plan>,
    words: Words,
    doors: Vec<SocketAddr>,
    /// Connections on which nothing is under way, for each door, and since when.
    idle: RefCell<Vec<Vec<(u64, Connection)>>>,
    begun_ns: u64,
    seen: RefCell<Replayed>,
    under_way: Cell<u64>,
}

/// Sends everything and waits for the answers. When the time begins that counts, `at_begin` is asked what was counted so far.
///
/// # Errors
/// When the system has no timer, or `at_begin` fails.
pub(crate) async fn replay(
    plan: &Rc<Plan>,
    doors: &[SocketAddr],
    at_begin: impl Future<Output = anyhow::Result<Counts>>,
) -> anyhow::Result<Replayed> {
    let replay = Rc::new(Replay {
        plan: Rc::clone(plan),
        words: Words::shipped()?,
        doors: doors.to_vec(),
        idle: RefCell::new(doors.iter().map(|_| Vec::new()).collect()),
        begun_ns: clock::now_ns(),
        seen: RefCell::default(),
        under_way: Cell::new(0),
    });
    let sent = Rc::clone(&replay).send_all();
    let counted = async {
        Alarm::new()?.wait_until(replay.begun_ns + plan.schedule.from_ns).await?;
        at_begin.await
    };
    let (sent, before) = tokio::join!(sent, counted);
    sent?;
    let mut replayed = replay.seen.take();
    replayed.before = before?;
    replayed.outcome.counted += replay.under_way.get();
    replayed.failed += replay.under_way.get();
    replayed.outcome.rejected += replay.under_way.get();
    replayed.outcome.rate = plan.schedule.rate;
    replayed.outcome.sort();
    Ok(replayed)
}

impl Replay {
    async fn send_all(self: Rc<Self>) -> anyhow::Result<()> {
        let alarm = Alarm::new()?;
        let mut tasks = JoinSet::new();
        for place in &self.plan.schedule.starts {
            let place = *place as usize;
            let at_ns = self.plan.schedule.arrivals[place].at_ns;
            if at_ns >= self.plan.schedule.until_ns {
                break;
            }
            // Written before it is due: a long prompt takes a millisecond.
            let request = self.request(place);
            alarm.wait_until(self.begun_ns + at_ns).await?;
            tasks.spawn_local(Rc::clone(&self).session(place, at_ns, request));
            while tasks.try_join_next().is_some() {}
        }
        // What has not ended by then is counted as failed.
        let _all_ended = timeout(DRAIN_MAX, tasks.join_all()).await;
        Ok(())
    }

    fn request(&self, place: usize) -> Vec<u8> {
        self.words.request(place, &self.plan.schedule.arrivals[place], &self.plan.setting.slo)
    }

    /// A request and, where it is a turn of a session, those after it.
    async fn session(self: Rc<Self>, first: usize, at_ns: u64, request: Vec<u8>) {
        let (mut place, mut at_ns, mut request) = (first, at_ns, request);
        let schedule = &self.plan.schedule;
        loop {
            self.one(place, at_ns, &request).await;
            let Some(next) = schedule.arrivals[place].next_turn else { return };
            place = next as usize;
            let pause = Duration::from_nanos(schedule.arrivals[place].at_ns);
            request = self.request(place);
            tokio::time::sleep(pause).await;
            at_ns = clock::now_ns() - self.begun_ns;
            if at_ns >= schedule.until_ns {
                return;
            }
        }
    }

    async fn one(&self, place: usize, at_ns: u64, request: &[u8]) {
        let arrival = &self.plan.schedule.arrivals[place];
        let counts = u64::from(self.plan.schedule.counts(at_ns));
        self.under_way.set(self.under_way.get() + counts);
        let mut fare = Fare { arrived_ns: at_ns, ..Fare::default() };
        let door = self.plan.callers[place] as usize % self.doors.len();
        let ending = self.exchange(place, door, request, &mut fare).await.unwrap_or_else(Ending::Failed);
        self.under_way.set(self.under_way.get() - counts);
        let mut seen = self.seen.borrow_mut();
        if let Ending::Failed(error) = &ending {
            seen.first_error.get_or_insert_with(|| format!("{error:#}"));
        }
        if counts == 0 {
            return;
        }
        seen.outcome.counted += 1;
        match ending {
            Ending::Answered { cached_tokens } => {
                seen.outcome.answered(&fare, arrival.prompt_tokens, cached_tokens, &self.plan.setting.slo);
            }
            Ending::Rejected => seen.outcome.rejected += 1,
            Ending::Failed(_) => {
                seen.outcome.rejected += 1;
                seen.failed += 1;
            }
        }
    }

    async fn exchange(
        &self,
        place: usize,
        door: usize,
        request: &[u8],
        fare: &mut Fare,
    ) -> anyhow::Result<Ending> {
        let idle = self.idle.borrow_mut()[door].pop();
        let fresh_from_ns = clock::now_ns().saturating_sub(clock::nanos(IDLE_MAX));
        let mut connection = match idle {
            Some((since_ns, connection)) if since_ns >= fresh_from_ns => connection,
            _ => Connection::open(self.doors[door]).await?,
        };
        connection.send(request).await?;
        let (status, mut body) = connection.head().await.context("no answer")?;
        let ending = if status == 200 {
            self.answered(place, &mut connection, &mut body, fare).await?
        } else {
            let mut said = Vec::new();
            while !connection.part(&mut body, &mut |bytes| said.extend_from_slice(bytes)).await? {}
            said.truncate(ERROR_BYTES_MAX);
            match status {
                OVERLOADED => Ending::Rejected,
                _ => bail!("answered with {status}: {}", String::from_utf8_lossy(&said).trim()),
            }
        };
        self.idle.borrow_mut()[door].push((clock::now_ns(), connection));
        Ok(ending)
    }

    async fn answered(
        &self,
        place: usize,
        connection: &mut Connection,
        body: &mut penstock_benches::h1::Body,
        fare: &mut Fare,
    ) -> anyhow::Result<Ending> {
        let arrival = &self.plan.schedule.arrivals[place];
        let mut answer = Answer::default();
        loop {
            let is_over = connection
                .part(body, &mut |bytes| {
                    let now_ns = clock::now_ns() - self.begun_ns;
                    for _ in 0..answer.read(bytes) {
                        fare.token(
                            now_ns,
                            arrival.prompt_tokens,
                            arrival.output_tokens,
                            &self.plan.setting.slo,
                        );
                    }
                })
                .await?;
            if is_over {
                break;
            }
        }
        if let Some(error) = answer.error {
            bail!("an error in the stream: {error}");
        }
        ensure!(answer.is_done, "the answer ended without its last event");
        ensure!(fare.tokens == arrival.output_tokens, "{} of {} tokens", fare.tokens, arrival.output_tokens);
        Ok(Ending::Answered { cached_tokens: answer.cached_tokens })
    }
}
