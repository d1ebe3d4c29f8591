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
pub(super) const TIMES_FASTER: f64 = 2.5;
/// One prompt in so many comes with a document. Drawn, since callers and round robin take turns by number.
pub(super) const DOCUMENT_EVERY: u64 = 16;
/// 48 KB of text.
pub(super) const DOCUMENT_TOKENS: u32 = 12_000;
/// The first token is promised after this, and a little more for each token of the prompt.
pub(super) const PROMISED: Duration = Duration::from_millis(500);
pub(super) const PROMISED_PER_TOKEN: Duration = Duration::from_micros(100);
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

/// What is sent, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan<'a> {
    pub(super) mix: Mix,
    pub(super) planned: Duration,
    /// Of the documents in force.
    pub(super) version: &'a str,
}

/// Which requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mix {
    /// The sample as it is; some callers leave.
    Sample,
    /// The sample, and a few prompts are much longer. All callers stay. Those of another salt find caches empty.
    HeavyTail { salt: &'static str },
}

impl Mix {
    fn arrival(self, number: u64, arrival: Arrival) -> Arrival {
        let has_document = self != Self::Sample && prompt::mixed(number).is_multiple_of(DOCUMENT_EVERY);
        let document = if has_document { DOCUMENT_TOKENS } else { 0 };
        Arrival { prompt_tokens: arrival.prompt_tokens + document, ..arrival }
    }

    fn patience(self, number: u64, answer_tokens: u32) -> Patience {
        match self {
            Self::Sample => patience(number, answer_tokens),
            Self::HeavyTail { .. } => Patience::ToTheEnd,
        }
    }

    fn salt(self) -> Option<&'static str> {
        match self {
            Self::Sample => None,
            Self::HeavyTail { salt } => Some(salt),
        }
    }
}

/// What the demo has come to.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) tally: Tally,
    pub(super) survey: Survey,
    /// From the first request to the last byte.
    pub(super) duration: Duration,
}

/// Sends requests as planned, lets them end, and shows it meanwhile.
///
/// # Errors
/// When a child ends, or the terminal does.
pub(super) async fn run(
    client: &HttpClient,
    mesh: &mut Mesh,
    places: &Places,
    plan: Plan<'_>,
) -> anyhow::Result<Shown> {
    let Plan { mix, planned, .. } = plan;
    let trace = Trace::sample()?;
    let mut arrivals = (0u64..).zip(trace.arrivals(TIMES_FASTER)).peekable();
    let first = survey::survey(client, places).await.context("the mesh cannot be asked how it is")?;
    let mut stage = Stage::new(places, plan, first.clone())?;
    let (surveys, mut newest) = watch::channel(first);
    let mut surveyor = JoinSet::new();
    surveyor.spawn(keep_asking(client.clone(), places.clone(), surveys));
    let mut requests = JoinSet::new();
    let mut frames = interval(FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Skip);
    stage.start = clock::now();
    let start = stage.start;
    while stage.phase == Phase::Sending || !requests.is_empty() {
        let is_sending = stage.phase == Phase::Sending;
        let next = arrivals.peek().map_or(start + planned, |(_, arrival)| start + arrival.at);
        let until = if is_sending { start + planned } else { start + planned + FINISH_DEADLINE };
        tokio::select! {
            () = sleep_until(next), if is_sending && next < until => {
                if let Some((number, arrival)) = arrivals.next() {
                    let arrival = mix.arrival(number, arrival);
                    requests.spawn(one(client.clone(), url(places, number), mix, (number, arrival), next));
                }
            }
            Some(ended) = requests.join_next() => match ended {
                Ok((outcome, promised)) => stage.tally.record(outcome, promised),
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
    Ok(Shown { survey: survey.since(&stage.before), tally: stage.tally, duration })
}

/// Callers take turns.
fn url(places: &Places, number: u64) -> String {
    let turn = usize::try_from(number).unwrap_or_default() % places.callers.len().max(1);
    places.callers.get(turn).map_or_else(String::new, |caller| caller.outbound.url("/v1/chat/completions"))
}

/// What became of a request, and when its first token was promised.
async fn one(
    client: HttpClient,
    url: String,
    mix: Mix,
    (number, arrival): (u64, Arrival),
    intended: Instant,
) -> (Outcome, Duration) {
    let body = prompt::chat_body(MODEL, number, &arrival, mix.salt());
    let patience = mix.patience(number, arrival.answer_tokens);
    let outcome = request::send(&client, &url, body, intended, patience).await;
    (outcome, PROMISED + PROMISED_PER_TOKEN * arrival.prompt_tokens)
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
    /// What engines had done before.
    before: Survey,
    /// Where stdout can be drawn on; else lines go to stderr.
    screen: Option<Screen>,
    frames: u32,
}

impl<'a> Stage<'a> {
    fn new(places: &Places, plan: Plan<'a>, before: Survey) -> anyhow::Result<Self> {
        Ok(Self {
            start: clock::now(),
            planned: plan.planned,
            phase: Phase::Sending,
            tally: Tally::new()?,
            rates: Rates::default(),
            engines: places.engines.iter().map(|engine| (engine.name.clone(), engine.profile)).collect(),
            sidecars: places.sidecars(),
            version: plan.version,
            before,
            screen: Screen::of_stdout(),
            frames: 0,
        })
    }

    fn show(&mut self, survey: &Survey, open: usize) -> anyhow::Result<()> {
        let elapsed = clock::now().duration_since(self.start);
        let survey = &survey.since(&self.before);
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
    fn a_few_prompts_of_a_heavy_tail_are_much_longer_and_fall_on_all_engines_in_turn() {
        let mix = Mix::HeavyTail { salt: "x" };
        let arrival = Arrival { at: Duration::ZERO, prompt_tokens: 1_000, answer_tokens: 9 };
        let long: Vec<u64> =
            (0..800).filter(|number| mix.arrival(*number, arrival).prompt_tokens > 1_000).collect();
        assert!((35..=65).contains(&long.len()), "{}", long.len());
        for turn in 0..8 {
            assert!(long.iter().any(|number| number % 8 == turn), "{turn}: two callers, four engines");
        }
        assert_eq!(mix.arrival(long[0], arrival).prompt_tokens, 1_000 + DOCUMENT_TOKENS);
        assert!((0..800).all(|number| Mix::Sample.arrival(number, arrival) == arrival));
        assert_eq!(mix.patience(23, 200), Patience::ToTheEnd);
    }

    #[test]
    fn some_callers_leave_in_the_middle_of_long_answers() {
        let leaving: Vec<u64> =
            (0..100).filter(|number| patience(*number, 200) != Patience::ToTheEnd).collect();
        assert_eq!(leaving, [23, 47, 71, 95]);
        assert_eq!(patience(23, 200), Patience::Events(100));
        assert_eq!(patience(23, 10), Patience::ToTheEnd);
    }
}
