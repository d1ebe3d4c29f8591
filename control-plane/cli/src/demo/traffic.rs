//! Open loop: requests start when the trace says, whether or not earlier ones have been answered, as those of many
//! independent callers do.

use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

use super::mesh::{Mesh, Places};
use super::prompt;
use super::request::{self, Outcome, Patience};
use super::screen::Screen;
use super::survey::{self, Survey};
use super::tally::Tally;
use super::trace::{Arrival, Trace};
use super::view::{self, Phase, Rates, Scene};
use super::written::MODEL;
use crate::clock::{self, Instant};
use crate::fetch::HttpClient;
use crate::output;

/// The sample has seven requests a second; a demo of 20 s is to have a few hundred, and an unoptimised build on two cores is
/// not to be saturated by them.
const TIMES_FASTER: f64 = 2.5;
/// One caller in so many leaves in the middle of its answer.
const LEAVES_EVERY: u64 = 24;
/// Shorter answers are over before anybody leaves.
const LEAVES_TOKENS_MIN: u32 = 20;
/// How long answers may go on after the last request was sent; the longest of the sample takes 15 s.
const FINISH_DEADLINE: Duration = Duration::from_secs(30);
const SURVEY_PAUSE: Duration = Duration::from_millis(250);
const FRAME: Duration = Duration::from_millis(250);
/// Frames between two lines of a log: 2 s.
const FRAMES_PER_LINE: u32 = 8;

/// What the demo has come to.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) tally: Tally,
    pub(super) survey: Survey,
    /// From the first request to the last byte.
    pub(super) duration: Duration,
}

/// Sends requests for `planned`, lets them end, and shows it meanwhile.
///
/// # Errors
/// When a child ends, or the terminal does.
pub(super) async fn run(
    client: &HttpClient,
    mesh: &mut Mesh,
    places: &Places,
    planned: Duration,
    version: &str,
) -> anyhow::Result<Shown> {
    let trace = Trace::sample()?;
    let mut arrivals = (0u64..).zip(trace.arrivals(TIMES_FASTER)).peekable();
    let first = survey::survey(client, places).await.context("the mesh cannot be asked how it is")?;
    let (surveys, mut newest) = watch::channel(first);
    let mut surveyor = JoinSet::new();
    surveyor.spawn(keep_asking(client.clone(), places.clone(), surveys));
    let mut requests = JoinSet::new();
    let mut stage = Stage::new(places, planned, version)?;
    let mut frames = interval(FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let start = stage.start;
    while stage.phase == Phase::Sending || !requests.is_empty() {
        let is_sending = stage.phase == Phase::Sending;
        let next = arrivals.peek().map_or(start + planned, |(_, arrival)| start + arrival.at);
        let until = if is_sending { start + planned } else { start + planned + FINISH_DEADLINE };
        tokio::select! {
            () = sleep_until(next), if is_sending && next < until => {
                if let Some((number, arrival)) = arrivals.next() {
                    requests.spawn(one(client.clone(), url(places, number), number, arrival, next));
                }
            }
            Some(ended) = requests.join_next() => match ended {
                Ok(outcome) => stage.tally.record(outcome),
                Err(error) => stage.tally.failed(format!("a defect of the demo itself: {error}")),
            },
            () = sleep_until(until) => match is_sending {
                true => stage.phase = Phase::Finishing,
                false => break,
            },
            _ = frames.tick() => {
                mesh.check()?;
                stage.show(&newest.borrow_and_update(), requests.len())?;
            }
        }
    }
    for _ in 0..requests.len() {
        stage
            .tally
            .failed(format!("not over {} s after the last request was sent", FINISH_DEADLINE.as_secs()));
    }
    let duration = clock::now().duration_since(start);
    requests.shutdown().await;
    surveyor.shutdown().await;
    let survey = survey::survey(client, places).await.context("the mesh cannot be asked how it was")?;
    stage.phase = Phase::Done;
    stage.show(&survey, 0)?;
    Ok(Shown { tally: stage.tally, survey, duration })
}

/// Callers take turns.
fn url(places: &Places, number: u64) -> String {
    let turn = usize::try_from(number).unwrap_or_default() % places.callers.len().max(1);
    places.callers.get(turn).map_or_else(String::new, |caller| caller.outbound.url("/v1/chat/completions"))
}

async fn one(client: HttpClient, url: String, number: u64, arrival: Arrival, intended: Instant) -> Outcome {
    let body = prompt::chat_body(MODEL, number, &arrival);
    request::send(&client, &url, body, intended, patience(number, arrival.answer_tokens)).await
}

fn patience(number: u64, answer_tokens: u32) -> Patience {
    if number % LEAVES_EVERY == LEAVES_EVERY - 1 && answer_tokens >= LEAVES_TOKENS_MIN {
        Patience::Events(answer_tokens / 2)
    } else {
        Patience::ToTheEnd
    }
}

/// A child that does not answer for a moment is no reason to stop: the newest survey stays.
async fn keep_asking(client: HttpClient, places: Places, surveys: watch::Sender<Survey>) {
    while !surveys.is_closed() {
        if let Ok(survey) = survey::survey(&client, &places).await {
            surveys.send_replace(survey);
        }
        sleep(SURVEY_PAUSE).await;
    }
}

/// What is shown, and what it is made from.
struct Stage<'a> {
    start: Instant,
    planned: Duration,
    phase: Phase,
    tally: Tally,
    rates: Rates,
    engines: Vec<(String, &'static str)>,
    sidecars: usize,
    version: &'a str,
    /// Where stdout can be drawn on; else lines go to stderr.
    screen: Option<Screen>,
    frames: u32,
}

impl<'a> Stage<'a> {
    fn new(places: &Places, planned: Duration, version: &'a str) -> anyhow::Result<Self> {
        Ok(Self {
            start: clock::now(),
            planned,
            phase: Phase::Sending,
            tally: Tally::new()?,
            rates: Rates::default(),
            engines: places.engines.iter().map(|engine| (engine.name.clone(), engine.profile)).collect(),
            sidecars: places.sidecars(),
            version,
            screen: Screen::of_stdout(),
            frames: 0,
        })
    }

    fn show(&mut self, survey: &Survey, open: usize) -> anyhow::Result<()> {
        let elapsed = clock::now().duration_since(self.start);
        self.rates.sample(elapsed, survey);
        let scene = Scene {
            phase: self.phase,
            elapsed,
            planned: self.planned,
            tally: &self.tally,
            open,
            survey,
            rates: &self.rates,
            engines: &self.engines,
            version: self.version,
            sidecars: self.sidecars,
        };
        match &mut self.screen {
            Some(screen) => screen.draw(&view::frame(&scene)).context("the terminal has gone")?,
            None if self.frames % FRAMES_PER_LINE == FRAMES_PER_LINE - 1 => {
                output::talk(view::log_line(&scene));
            }
            None => {}
        }
        self.frames += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_callers_leave_in_the_middle_of_long_answers() {
        let leaving: Vec<u64> =
            (0..100).filter(|number| patience(*number, 200) != Patience::ToTheEnd).collect();
        assert_eq!(leaving, [23, 47, 71, 95]);
        assert_eq!(patience(23, 200), Patience::Events(100));
        assert_eq!(patience(23, 10), Patience::ToTheEnd);
    }
}
