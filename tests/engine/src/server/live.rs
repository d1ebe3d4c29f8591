//! The scheduler, driven by a clock.
//!
//! One lock holds all state. One task sleeps until the next step ends or the next token is due; whoever submits or
//! leaves first lets the scheduler run up to the present, so that what happens does not depend on how late a timer
//! fires: the same arrivals at the same moments give the same steps as an event simulator would.
//!
//! A [`Ticket`] is a caller's hold on its sequence. Dropping it, which is what happens when the connection goes away
//! in any phase, aborts the sequence within that very call.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};

use super::account::{Account, Ending, Left};
use super::faults::{BadFault, FaultOrder, Faults};
use crate::clock::Clock;
use crate::mix::NumberMap;
use crate::scheduler::{
    Emission, Engine, Gauges, Limits, Moment, Refused, Request, SequenceId, Step, Totals,
};

/// How far the steps may lag behind the clock before the engine counts as slow instead of catching up, in
/// nanoseconds: well above the runtime's timer grain of 1 ms.
const LAG_MAX_NS: u64 = 50_000_000;

/// What a caller wants computed.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) prompt_tokens: u32,
    pub(crate) block_hashes: Box<[u64]>,
    pub(crate) output_tokens_max: u32,
    /// How the answer will end if nobody leaves.
    pub(crate) ending: Ending,
    pub(crate) request_id: String,
}

/// What the caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// One output token; `cached_tokens` of the prompt were not computed.
    Token { token: Emission, cached_tokens: u32 },
    /// The answer breaks off here, without an end.
    Torn,
}

/// A refusal, with the whole seconds after which to come back if they are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Turned {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the model is being loaded")]
    Loading,
    #[error("this engine is unavailable for a while")]
    Unavailable { retry_after_s: Option<u32> },
}

#[derive(Debug)]
pub(crate) struct Live {
    state: Mutex<State>,
    nudge: Notify,
    clock: Clock,
    /// Speed without faults, as a multiple of the profile's.
    speed: f64,
}

#[derive(Debug)]
struct State {
    engine: Engine,
    step: Step,
    /// Tokens computed or under way, in the order in which they leave.
    outbox: VecDeque<Emission>,
    callers: NumberMap<SequenceId, Caller>,
    next_id: SequenceId,
    faults: Faults,
    account: Account,
}

#[derive(Debug)]
struct Caller {
    events: mpsc::Sender<Event>,
    arrived: Moment,
    admitted: Moment,
    first: Moment,
    last: Moment,
    cached_tokens: u32,
    prompt_tokens: u32,
    ending: Ending,
    request_id: String,
    /// Tear the answer when this many tokens are out.
    torn_after: Option<u32>,
}

impl Live {
    pub(crate) fn new(engine: Engine, speed: f64, clock: Clock) -> Arc<Self> {
        let state = State {
            engine,
            step: Step::default(),
            outbox: VecDeque::new(),
            callers: NumberMap::default(),
            next_id: 0,
            faults: Faults::default(),
            account: Account::default(),
        };
        Arc::new(Self { state: Mutex::new(state), nudge: Notify::new(), clock, speed })
    }

    /// Runs the engine for as long as it is polled.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let wake = self.turn();
            tokio::select! {
                biased;
                () = self.clock.reach(wake) => {}
                () = self.nudge.notified() => {}
            }
        }
    }

    /// Hands work in.
    pub(crate) fn submit(self: &Arc<Self>, work: Work) -> Result<Ticket, Turned> {
        let now = self.clock.now();
        let mut state = self.at(now);
        if state.faults.loading_at(now) {
            state.account.rejected_unavailable += 1;
            return Err(Turned::Loading);
        }
        if let Some(retry_after_s) = state.faults.unavailable_at(now) {
            state.account.rejected_unavailable += 1;
            return Err(Turned::Unavailable { retry_after_s });
        }
        let id = state.next_id;
        let (events, receiver) = mpsc::channel(work.output_tokens_max as usize + 1);
        let request = Request {
            id,
            prompt_tokens: work.prompt_tokens,
            block_hashes: work.block_hashes,
            output_tokens_max: work.output_tokens_max,
        };
        state.engine.submit(now, request)?;
        state.next_id += 1;
        let caller = Caller {
            events,
            arrived: now,
            admitted: now,
            first: now,
            last: now,
            cached_tokens: 0,
            prompt_tokens: work.prompt_tokens,
            ending: work.ending,
            request_id: work.request_id,
            torn_after: state.faults.take_reset(),
        };
        state.callers.insert(id, caller);
        drop(state);
        self.nudge.notify_one();
        Ok(Ticket { live: Arc::clone(self), id, events: receiver })
    }

    /// Changes what goes wrong, all at once or not at all.
    pub(crate) fn order_faults(&self, order: &FaultOrder) -> Result<(), BadFault> {
        order.check()?;
        let now = self.clock.now();
        let mut state = self.at(now);
        state.faults.apply(order, now);
        if order.restarts() {
            state.restart(now);
        }
        state.engine.lift_hold();
        let stalled_until = state.faults.stalled_until;
        state.engine.hold(stalled_until);
        let speed = self.speed / state.faults.slow_factor;
        let checked = state.engine.run_at(speed).map_err(|_| BadFault::SlowFactor(state.faults.slow_factor));
        drop(state);
        self.nudge.notify_one();
        checked
    }

    /// Seconds since 1970, now.
    pub(crate) fn unix_s(&self) -> u64 {
        self.clock.unix_ms(self.clock.now()) / 1_000
    }

    /// Seconds since 1970, when the engine started.
    pub(crate) fn created_unix_s(&self) -> u64 {
        self.clock.unix_ms(Moment::START) / 1_000
    }

    /// Looks at everything at one moment.
    pub(crate) fn survey<R>(&self, see: impl FnOnce(&Survey<'_>) -> R) -> R {
        let now = self.clock.now();
        let state = self.at(now);
        see(&Survey {
            now,
            clock: &self.clock,
            gauges: state.engine.gauges(),
            prompt_tokens_pending: state.engine.prompt_tokens_pending(),
            totals: state.engine.totals(),
            limits: state.engine.limits(),
            account: &state.account,
            faults: &state.faults,
        })
    }

    /// Runs what is due; returns when something will be due next.
    fn turn(&self) -> Option<Moment> {
        let state = self.at(self.clock.now());
        let token = state.outbox.front().map(|token| token.at);
        [token, state.engine.next_step_at()].into_iter().flatten().min()
    }

    /// The caller of `id` has gone.
    fn leave(&self, id: SequenceId) {
        let now = self.clock.now();
        let mut state = self.at(now);
        state.leave(id, now);
        drop(state);
        self.nudge.notify_one();
    }

    /// The state as of `now`: every step that starts until then has been taken, every token due is out.
    fn at(&self, now: Moment) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.catch_up(now);
        state.deliver(now);
        state
    }
}

/// Everything there is to report, at one moment.
pub(crate) struct Survey<'a> {
    pub(crate) now: Moment,
    pub(crate) clock: &'a Clock,
    pub(crate) gauges: Gauges,
    pub(crate) prompt_tokens_pending: u64,
    pub(crate) totals: Totals,
    pub(crate) limits: Limits,
    pub(crate) account: &'a Account,
    pub(crate) faults: &'a Faults,
}

impl State {
    fn catch_up(&mut self, now: Moment) {
        let Self { engine, step, outbox, callers, account, .. } = self;
        let horizon = now.minus(LAG_MAX_NS);
        if engine.next_step_at().is_some_and(|at| at < horizon) {
            engine.hold(horizon);
        }
        engine.advance(now, step, |step| {
            account.step(step);
            for admission in step.admitted.iter().filter(|admission| !admission.again) {
                if let Some(caller) = callers.get_mut(&admission.id) {
                    caller.admitted = step.start;
                    caller.cached_tokens = admission.cached_tokens;
                    account.admitted(caller.prompt_tokens, admission.cached_tokens);
                }
            }
            outbox.extend(&step.tokens);
        });
    }

    fn deliver(&mut self, now: Moment) {
        while let Some(token) = self.outbox.pop_front_if(|token| token.at <= now) {
            // Tokens for callers that left go nowhere.
            let Some(caller) = self.callers.get_mut(&token.id) else { continue };
            if caller.torn_after == Some(token.index) {
                self.tear(token.id, now);
                continue;
            }
            observe(&mut self.account, caller, &token);
            // The channel has room for the whole answer; it is closed only if the caller is leaving right now.
            let event = Event::Token { token, cached_tokens: caller.cached_tokens };
            let _gone = caller.events.try_send(event);
            if token.last {
                self.callers.remove(&token.id);
            } else if caller.torn_after == Some(token.index + 1) {
                self.tear(token.id, now);
            }
        }
    }

    /// Breaks an answer off, as a crash of its connection would.
    fn tear(&mut self, id: SequenceId, now: Moment) {
        if let Some(caller) = self.callers.remove(&id) {
            let _gone = caller.events.try_send(Event::Torn);
            self.account.torn += 1;
        }
        self.engine.abort(now, id);
    }

    fn restart(&mut self, now: Moment) {
        self.engine.restart(now);
        self.outbox.clear();
        for caller in std::mem::take(&mut self.callers).into_values() {
            let _gone = caller.events.try_send(Event::Torn);
            self.account.torn += 1;
        }
    }

    fn leave(&mut self, id: SequenceId, now: Moment) {
        let Some(caller) = self.callers.remove(&id) else { return };
        if let Some(aborted) = self.engine.abort(now, id) {
            self.account.left(Left { request_id: caller.request_id, noticed: now, aborted });
        }
    }
}

fn observe(account: &mut Account, caller: &mut Caller, token: &Emission) {
    let at = token.at;
    account.generated(caller.ending);
    if token.index == 0 {
        caller.first = at;
        account.first_token(caller.arrived, caller.admitted, at);
    } else {
        account.gap(at.since(caller.last));
    }
    caller.last = at;
    if token.last {
        account.finished(caller.ending, caller.arrived, caller.first, at, token.index);
    }
}

/// A caller's hold on its sequence; dropping it aborts what is left.
#[derive(Debug)]
pub(crate) struct Ticket {
    live: Arc<Live>,
    id: SequenceId,
    events: mpsc::Receiver<Event>,
}

impl Ticket {
    /// The next event; `None` after the last token.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.live.leave(self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::scheduler::{PROFILES, Pace};

    /// What a caller does, in milliseconds after the start.
    #[derive(Clone, Copy)]
    enum Deed {
        Ask { prompt_tokens: u32, output_tokens: u32 },
        Leave { nth: u64 },
    }

    /// Sixty callers in two bursts and a trickle, some of whom leave: in the queue, in prefill, while being told.
    fn script() -> Vec<(u64, Deed)> {
        let mut script = Vec::new();
        for nth in 0..60 {
            let prompt_tokens = 50 + (nth as u32 * 7_919) % 9_000;
            let output_tokens = 1 + (nth as u32 * 31) % 70;
            let at = if nth < 20 { nth / 5 } else { nth * 37 };
            script.push((at, Deed::Ask { prompt_tokens, output_tokens }));
            if nth % 4 == 1 {
                script.push((at + 3 + nth * 11 % 900, Deed::Leave { nth }));
            }
        }
        script.sort_by_key(|(at, _)| *at);
        script
    }

    fn engine() -> Engine {
        let limits = Limits { sequences_max: 12, ..Limits::default() };
        let pace = Pace { speed: 1.0, noise_sigma: 0.05 };
        Engine::new(PROFILES[0], limits, pace, 42).expect("a usable engine")
    }

    fn hashes(nth: u64, prompt_tokens: u32) -> Box<[u64]> {
        (0..u64::from(prompt_tokens / 16))
            .map(|block| if block < 3 { block } else { nth << 32 | block })
            .collect()
    }

    type Told = BTreeMap<SequenceId, Vec<(u32, Moment)>>;

    /// The engine with a heap of events and no clock, as a simulator drives it.
    fn by_events() -> (Told, Totals) {
        let (mut engine, mut step, mut told) = (engine(), Step::default(), Told::new());
        let (mut nth, mut left) = (0, BTreeMap::new());
        for (at, deed) in script() {
            let now = Moment::from_millis(at);
            while let Some(at) = engine.next_step_at().filter(|at| *at <= now) {
                engine.step(at, &mut step);
                note(&step, &mut told);
            }
            match deed {
                Deed::Ask { prompt_tokens, output_tokens } => {
                    let block_hashes = hashes(nth, prompt_tokens);
                    let request =
                        Request { id: nth, prompt_tokens, block_hashes, output_tokens_max: output_tokens };
                    engine.submit(now, request).expect("accepted");
                    nth += 1;
                }
                Deed::Leave { nth } => {
                    engine.abort(now, nth);
                    left.insert(nth, now);
                }
            }
        }
        while let Some(at) = engine.next_step_at() {
            engine.step(at, &mut step);
            note(&step, &mut told);
        }
        for (nth, at) in left {
            told.entry(nth).or_default().retain(|(_, token_at)| *token_at <= at);
        }
        told.retain(|_, tokens| !tokens.is_empty());
        (told, engine.totals())
    }

    fn note(step: &Step, told: &mut Told) {
        for token in &step.tokens {
            told.entry(token.id).or_default().push((token.index, token.at));
        }
    }

    /// The live server's loop on the runtime's paused clock, whose timers fire late by up to a millisecond.
    async fn by_clock() -> (Told, Totals) {
        let live = Live::new(engine(), 1.0, Clock::start());
        let _stepping = crate::tasks::spawn(Arc::clone(&live).run());
        let (mut tickets, mut told) = (BTreeMap::new(), Told::new());
        let mut nth = 0;
        for (at, deed) in script() {
            live.clock.reach(Some(Moment::from_millis(at))).await;
            match deed {
                Deed::Ask { prompt_tokens, output_tokens } => {
                    let work = Work {
                        prompt_tokens,
                        block_hashes: hashes(nth, prompt_tokens),
                        output_tokens_max: output_tokens,
                        ending: Ending::Stop,
                        request_id: nth.to_string(),
                    };
                    tickets.insert(nth, live.submit(work).expect("accepted"));
                    nth += 1;
                }
                Deed::Leave { nth } => {
                    let mut ticket = tickets.remove(&nth).expect("there");
                    live.turn();
                    while let Ok(Event::Token { token, .. }) = ticket.events.try_recv() {
                        told.entry(nth).or_default().push((token.index, token.at));
                    }
                }
            }
        }
        for (nth, mut ticket) in tickets {
            while let Some(Event::Token { token, .. }) = ticket.next().await {
                told.entry(nth).or_default().push((token.index, token.at));
            }
        }
        (told, live.survey(|survey| survey.totals))
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_and_events_drive_the_same_steps() {
        let (events, clock) = (by_events(), by_clock().await);
        assert!(events.1.aborted > 5 && events.1.wasted_steps > 0 && events.1.prefix_hits > 0);
        assert_eq!(events.1, clock.1);
        assert_eq!(events.0, clock.0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_was_not_polled_for_long_is_slow_and_does_not_catch_up() {
        let live = Live::new(engine(), 1.0, Clock::start());
        let work = Work {
            prompt_tokens: 10,
            block_hashes: Box::default(),
            output_tokens_max: 1_000,
            ending: Ending::Stop,
            request_id: String::new(),
        };
        let _ticket = live.submit(work).expect("accepted");
        live.clock.reach(Some(Moment::from_millis(5_000))).await;
        live.turn();
        let steps = live.survey(|survey| survey.totals.steps);
        assert!((1..=10).contains(&steps), "{steps} steps in the 50 ms that may be made good");
    }
}
