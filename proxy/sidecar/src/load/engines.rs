//! The model servers beside this sidecar, each with the account of what it has before it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use penstock_model::settings::Application;
use penstock_model::units::Moment;
use penstock_policy::gate::{Door, Pass, Patience, Promise, Refusal, Verdict};
use penstock_policy::ledger::{Entry, Ledger, Memory, Shape, Told as Said};
use penstock_policy::pick::cost::{Prompt, Report, Terms, Told};
use penstock_policy::prefix::{Boundary, Cursor, Digest, Keys};
use penstock_policy::speed::{Speed, Unit};
use tokio::sync::watch;

use super::cached::{Cached, Passing};
use super::calls::Calls;
use super::telling::Telling;
use super::waiting::{self, Asking, Waiting};
use super::wire::{Demand, Written};
use crate::scrape::Scrapes;
use crate::{clock, seed};

/// So long tokens are no new occasion to look at the door: those of all answers come together, with each step of the engine, and steps
/// mostly take longer.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// All of them, by the address under which callers know each.
#[derive(Debug)]
pub struct Engines {
    scrapes: Arc<Scrapes>,
    /// Turns true when none of them takes anything new.
    draining: watch::Receiver<bool>,
    engines: Mutex<BTreeMap<SocketAddr, Arc<Engine>>>,
    /// Sidecars that are told of any of them.
    subscribers: Arc<AtomicU32>,
}

/// Counts one sidecar that is told.
#[derive(Debug)]
pub struct Subscriber(Arc<AtomicU32>);

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One model server.
#[derive(Debug)]
pub struct Engine {
    /// Tells this life of it from others.
    instance: u32,
    endpoint: SocketAddr,
    scrapes: Arc<Scrapes>,
    draining: watch::Receiver<bool>,
    state: Mutex<State>,
    cached: Cached,
    pub(super) calls: Calls,
    telling: Telling,
    /// Grows when a report would say something new.
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    ledger: Ledger,
    sequence: u64,
    /// Those whom the answers under way cannot bear yet.
    door: Door<Asking>,
    /// When tokens are the next occasion to look at it.
    look_due: Moment,
}

/// A request's place in the account of its engine; it leaves with this.
#[derive(Debug)]
pub struct Stay {
    engine: Arc<Engine>,
    entry: Option<Entry>,
    /// Tokens that the caller's sidecar believed cached, where the engine does not tell.
    cached_tokens: u32,
    /// Its prompt, once all of it is known.
    prompt: Option<Passing>,
    /// Tokens of its answer so far.
    answer_tokens: u32,
}

/// What becomes of a request that is not refused.
#[derive(Debug)]
pub enum Offered {
    /// It is in.
    In(Stay),
    /// It waits until it is let in or refused.
    Waits(Waiting),
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// What serving it would have cost here.
    pub terms: Terms,
}

impl Engines {
    /// None yet. What they say of themselves is in `scrapes`; when `draining` turns true they take nothing new.
    pub fn new(scrapes: Arc<Scrapes>, draining: watch::Receiver<bool>) -> Self {
        Self { scrapes, draining, engines: Mutex::default(), subscribers: Arc::default() }
    }

    /// That of an application; idle and unknown if it was never asked for before.
    pub fn of(&self, application: &Application) -> Arc<Engine> {
        let mut engines = self.engines.lock();
        let engine = engines.entry(application.endpoint).or_insert_with(|| {
            let state = State {
                ledger: Ledger::starting(Speed::default()),
                sequence: 0,
                door: Door::default(),
                look_due: Moment::default(),
            };
            let changes = watch::Sender::new(0);
            Arc::new(Engine {
                // Its own: an application that was taken away and is served again begins anew.
                instance: (seed::draw() >> 32) as u32,
                endpoint: application.endpoint,
                scrapes: Arc::clone(&self.scrapes),
                draining: self.draining.clone(),
                state: Mutex::new(state),
                cached: Cached::default(),
                calls: Calls::default(),
                telling: Telling::default(),
                changes,
            })
        });
        Arc::clone(engine)
    }

    /// That of the application at `address`, if it was ever asked for.
    pub fn known(&self, address: SocketAddr) -> Option<Arc<Engine>> {
        self.engines.lock().get(&address).map(Arc::clone)
    }

    /// One more sidecar is told.
    pub fn subscriber(&self) -> Subscriber {
        self.subscribers.fetch_add(1, Ordering::Relaxed);
        Subscriber(Arc::clone(&self.subscribers))
    }

    /// Sidecars that are told.
    pub fn subscribers(&self) -> u32 {
        self.subscribers.load(Ordering::Relaxed)
    }

    /// Those that have served, in order.
    pub fn all(&self) -> Vec<(SocketAddr, Arc<Engine>)> {
        self.engines.lock().iter().map(|(address, engine)| (*address, Arc::clone(engine))).collect()
    }

    /// Lets go of those whose application is no longer served; whoever is told of them hears that.
    pub fn retain(&self, is_served: impl Fn(SocketAddr) -> bool) {
        self.engines.lock().retain(|address, engine| {
            let stays = is_served(*address);
            if !stays {
                engine.changed();
            }
            stays
        });
    }

    /// Whether it is that of an application that is served, and no earlier one's.
    pub fn has(&self, engine: &Engine) -> bool {
        self.engines.lock().get(&engine.endpoint).is_some_and(|known| std::ptr::eq(&**known, engine))
    }
}

impl Engine {
    /// Lets a request in, lets it wait, or says why not. Deciding and entering are one step, so that of many who ask at once each is
    /// counted.
    ///
    /// # Errors
    /// When it could not be served within `patience`.
    pub fn offer(
        self: &Arc<Self>,
        demand: Demand,
        patience: Option<Patience>,
        promise: Option<Promise>,
        now: Moment,
    ) -> Result<Offered, Refused> {
        let mut state = self.state.lock();
        if let Some(patience) = patience {
            let report = self.look(&mut state, now);
            let prompt = prompt_of(&state, demand);
            let (verdict, terms) = state.ledger.judge(&report, prompt, patience);
            match verdict {
                Verdict::Serve => {}
                Verdict::Refuse(refusal) => return Err(Refused { refusal, terms }),
                Verdict::Wait => {
                    let refused = Refused { refusal: Refusal::Promised, terms };
                    let (asking, waiting) = waiting::begin(self, demand, promise, patience, refused, now);
                    let waits = state.door.wait(asking, prompt.uncached_tokens(), patience, now);
                    return waits.map(|()| Offered::Waits(waiting)).map_err(|_| refused);
                }
            }
        }
        let stay = self.enter(&mut state, demand, promise, now);
        drop(state);
        self.changed();
        Ok(Offered::In(stay))
    }

    fn enter(
        self: &Arc<Self>,
        state: &mut State,
        demand: Demand,
        promise: Option<Promise>,
        now: Moment,
    ) -> Stay {
        Stay {
            engine: Arc::clone(self),
            entry: Some(state.ledger.enter(demand.size, demand.shape, promise, now)),
            cached_tokens: demand.size.cached_tokens,
            prompt: None,
            answer_tokens: 0,
        }
    }

    /// Something has changed, or somebody's patience ends: those at the door who can come in do so, and who cannot in time is told.
    pub(super) fn reconsider(self: &Arc<Self>, now: Moment) {
        let mut over = Vec::new();
        let mut state = self.state.lock();
        state.look_due = now + LOOK_INTERVAL;
        let mut door = std::mem::take(&mut state.door);
        while !door.is_empty() {
            let report = self.look(&mut state, now);
            let mut last = Terms::default();
            let next = door.next(now, |asking, patience| {
                if asking.is_left() {
                    return Verdict::Refuse(Refusal::Elsewhere);
                }
                let prompt = prompt_of(&state, asking.demand);
                let (verdict, terms) = state.ledger.judge(&report, prompt, patience);
                last = terms;
                verdict
            });
            let Some((asking, pass)) = next else { break };
            let passed = match pass {
                Pass::In => Ok(self.enter(&mut state, asking.demand, asking.promise, now)),
                Pass::Out(refusal) => Err(Refused { refusal, terms: last }),
            };
            over.push((asking, passed));
        }
        state.door = door;
        drop(state);
        if !over.is_empty() {
            // A stay that nobody takes any more leaves, which comes here again.
            over.into_iter().for_each(|(asking, passed)| asking.tell(passed));
            self.changed();
        }
    }

    /// The ledger, with what the engine itself says of its memory.
    fn look(&self, state: &mut State, now: Moment) -> Report {
        state.ledger.memory(self.memory(now).unwrap_or_default());
        state.ledger.report(now)
    }

    fn memory(&self, now: Moment) -> Option<Memory> {
        let taken = self.scrapes.latest(self.endpoint, now)?;
        let used_tokens = taken.gauges.kv_tokens_used?;
        Some(Memory { used_tokens, total_tokens: taken.gauges.kv_tokens_total? })
    }

    fn kv_tokens(&self, now: Moment) -> Option<u64> {
        self.memory(now).map(|memory| memory.total_tokens)
    }

    /// What a subscriber has not been told of the prompts that it has cached.
    pub fn digest(&self, cursor: &mut Cursor, keys: &Keys) -> Option<Digest> {
        self.cached.page_went(self.scrapes.gone(self.endpoint));
        self.cached.digest(cursor, keys)
    }

    /// Tells when a report would say something new.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn changed(&self) {
        // Nobody is woken where nobody listens.
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// How it stands, with the LoRA adapters that it says it has loaded: written once for all who are told the same. Who asks notes before
    /// which changes that was.
    pub fn written(&self, now: Moment) -> Written {
        let standing = (*self.changes.borrow(), *self.draining.borrow());
        self.telling.written(standing, now, || {
            let taken = self.scrapes.latest(self.endpoint, now);
            let names = taken.as_ref().and_then(|taken| taken.gauges.lora_running.as_deref());
            (self.report(now), self.telling.adapters(names.unwrap_or_default()))
        })
    }

    /// How it stands now.
    pub fn report(&self, now: Moment) -> Told {
        let mut state = self.state.lock();
        state.sequence += 1;
        Told {
            instance: self.instance,
            sequence: state.sequence,
            draining: *self.draining.borrow(),
            report: self.look(&mut state, now),
            speed: state.ledger.has_shown_speed().then(|| state.ledger.speed()),
            calls: self.calls.report(now),
        }
    }

    /// Relative errors of what is known of the speeds of its calls, by what those are counted in.
    pub fn call_errors(&self) -> Vec<(Unit, f64)> {
        self.calls.errors()
    }

    /// Relative errors of what is known of its speed: of a step, and of the time to the first token.
    pub fn errors(&self) -> [f64; 2] {
        self.state.lock().ledger.errors()
    }

    /// Requests in the account.
    pub fn requests(&self) -> usize {
        self.state.lock().ledger.requests()
    }
}

impl Stay {
    /// The answer begins.
    pub fn answered(&self, shape: Shape, now: Moment) {
        if let Some(entry) = &self.entry {
            self.engine.state.lock().ledger.answered(entry, shape, now);
        }
    }

    /// All of its prompt has come, of so many tokens as estimated.
    pub fn asked(&mut self, prompt: Vec<Boundary>, estimated: u32) {
        let engine = &self.engine;
        engine.cached.page_went(engine.scrapes.gone(engine.endpoint));
        self.prompt = Some(engine.cached.asked(prompt, estimated));
    }

    /// So many tokens of the answer came.
    pub fn tokens(&mut self, tokens: u32, now: Moment) {
        if let Some(entry) = &self.entry {
            let (was_first, is_occasion) = {
                let mut state = self.engine.state.lock();
                let is_occasion = !state.door.is_empty() && now >= state.look_due;
                (state.ledger.tokens(entry, tokens, now), is_occasion)
            };
            self.engine.cached.answer_grows(tokens);
            self.answer_tokens = self.answer_tokens.saturating_add(tokens);
            if was_first && let Some(prompt) = &mut self.prompt {
                self.engine.cached.computed(prompt, self.engine.kv_tokens(now));
            }
            if was_first {
                self.engine.changed();
            }
            if is_occasion {
                self.engine.reconsider(now);
            }
        }
    }

    /// The answer is over. `found` are the tokens that the engine found in its cache, where it tells.
    pub fn end(mut self, mut said: Said, found: Option<u32>, now: Moment) {
        if let Some(size) = &mut said.size {
            let believed = self.cached_tokens.min(size.tokens.saturating_sub(1));
            size.cached_tokens = found.unwrap_or(believed);
        }
        self.leave(said, found, now);
    }

    fn leave(&mut self, said: Said, found: Option<u32>, now: Moment) {
        if let Some(entry) = self.entry.take() {
            self.engine.state.lock().ledger.leave(entry, said, now);
            self.engine.cached.answer_ends(self.answer_tokens);
            let is_computed = said.output_tokens > 0 || self.answer_tokens > 0;
            if let Some(prompt) = self.prompt.take().filter(|_| is_computed) {
                let counted = said.size.map(|size| size.tokens).zip(found);
                self.engine.cached.ended(&prompt, counted, self.engine.kv_tokens(now));
            }
            self.engine.changed();
            self.engine.reconsider(now);
        }
    }
}

fn prompt_of(state: &State, demand: Demand) -> Prompt {
    let size = state.ledger.scaled(demand.size);
    Prompt { tokens: size.tokens, cached_tokens: size.cached_tokens }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.leave(Said::default(), None, clock::now());
    }
}

#[cfg(test)]
mod tests {
    use penstock_model::snapshot::Protocol;
    use penstock_policy::speed::Size;

    use super::*;

    fn application() -> Application {
        let address: SocketAddr = "127.0.0.1:80".parse().unwrap();
        Application { endpoint: address, connect: address, protocol: Protocol::Http, metrics: None }
    }

    fn engines(draining: watch::Receiver<bool>) -> Engines {
        Engines::new(Arc::default(), draining)
    }

    fn engine() -> Arc<Engine> {
        engines(watch::channel(false).1).of(&application())
    }

    fn demand(tokens: u32) -> Demand {
        Demand { size: Size { tokens, cached_tokens: 0 }, shape: Shape::Stream }
    }

    fn let_in(offered: Result<Offered, Refused>) -> Result<Stay, Refused> {
        offered.map(|offered| match offered {
            Offered::In(stay) => stay,
            Offered::Waits(waiting) => panic!("{waiting:?}"),
        })
    }

    #[test]
    fn who_is_dropped_has_left() {
        let engine = engine();
        let stay = let_in(engine.offer(demand(5_000), None, None, Moment(0))).unwrap();
        assert_eq!((engine.requests(), engine.report(Moment(0)).report.sequences_waiting), (1, 1));
        drop(stay);
        assert_eq!((engine.requests(), engine.report(Moment(1)).report.prompt_tokens_pending), (0, 0.0));
    }

    #[test]
    fn of_those_who_come_at_once_as_many_are_let_in_as_can_be_served_in_time() {
        let engine = engine();
        let patience = Patience::at_last(400.0);
        let mut stays = Vec::new();
        let refused = loop {
            match let_in(engine.offer(demand(2_000), Some(patience), None, Moment(0))) {
                Ok(stay) => stays.push(stay),
                Err(refused) => break refused,
            }
            assert!(stays.len() < 100, "nobody is refused");
        };
        assert!(stays.len() > 1, "{}", stays.len());
        assert_eq!(refused.refusal, Refusal::Late);
        assert!(refused.terms.first_token_ms() > 400.0, "{refused:?}");
        assert_eq!(engine.requests(), stays.len(), "who is refused is not counted");
    }

    #[test]
    fn a_server_without_work_refuses_nobody() {
        let engine = engine();
        let patience = Some(Patience::at_last(1.0));
        let first = let_in(engine.offer(demand(50_000), patience, None, Moment(0))).unwrap();
        assert!(engine.offer(demand(10), patience, None, Moment(0)).is_err());
        drop(first);
        assert!(engine.offer(demand(10), patience, None, Moment(1)).is_ok());
    }

    /// An engine with one answer under way, a token of which is due every 50 ms, and a prompt of 20,000 tokens that it cannot bear yet.
    fn one_waits(engine: &Arc<Engine>, now: Moment) -> (Stay, Waiting) {
        let promise =
            Promise { first_due: now + Duration::from_millis(500), span: Duration::from_millis(50) };
        let first = let_in(engine.offer(demand(100), None, Some(promise), now)).unwrap();
        match engine.offer(demand(20_000), Some(Patience::at_last(10_000.0)), Some(promise), now) {
            Ok(Offered::Waits(waiting)) => (first, waiting),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_comes_in_when_those_who_are_there_can_bear_it() {
        let engine = engine();
        let begun = clock::now();
        let (mut first, waiting) = one_waits(&engine, begun);
        let mut tokens = 0;
        while engine.requests() == 1 {
            tokens += 1;
            first.tokens(1, begun + Duration::from_millis(12 * tokens));
            assert!(tokens < 100, "it never comes in");
        }
        assert!(tokens > 5, "{tokens}: so soon it would have made the answer late");
        let stay = waiting.end().await.unwrap();
        assert_eq!((engine.requests(), clock::now()), (2, begun), "no time passes where it is in");
        drop(stay);
        assert_eq!(engine.requests(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_that_come_together_are_one_occasion_to_look_at_the_door() {
        let engine = engine();
        let begun = clock::now();
        let (mut first, _waiting) = one_waits(&engine, begun);
        let step = begun + Duration::from_millis(12);
        for token in 0..100 {
            first.tokens(1, step + Duration::from_micros(token));
        }
        assert_eq!(engine.requests(), 1, "only the first of them was an occasion, and did not gain enough");
        first.tokens(1, step + LOOK_INTERVAL);
        assert_eq!(engine.requests(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_let_in_when_the_last_one_leaves() {
        let engine = engine();
        let (first, waiting) = one_waits(&engine, clock::now());
        drop(first);
        assert!(waiting.end().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_in_vain_is_refused_at_the_end_of_its_patience() {
        let engine = engine();
        let begun = clock::now();
        let (_first, waiting) = one_waits(&engine, begun);
        let refused = waiting.end().await.unwrap_err();
        assert_eq!(clock::now().since(begun), Duration::from_secs(10));
        assert_eq!((refused.refusal, engine.requests()), (Refusal::Late, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_the_door_is_never_let_in() {
        let engine = engine();
        let (first, waiting) = one_waits(&engine, clock::now());
        drop(waiting);
        drop(first);
        assert_eq!(engine.requests(), 0);
        assert!(engine.state.lock().door.is_empty());
    }

    #[test]
    fn from_the_beginning_of_a_drain_on_every_report_says_so() {
        let (stopping, draining) = watch::channel(false);
        let engine = engines(draining).of(&application());
        assert!(!engine.report(Moment(0)).draining);
        stopping.send_replace(true);
        assert!(engine.report(Moment(1)).draining);
    }

    #[test]
    fn reports_are_numbered() {
        let engine = engine();
        let [one, two] = [0, 1].map(|now| engine.report(Moment(now)));
        assert_eq!((one.instance, one.sequence + 1), (two.instance, two.sequence));
    }

    #[test]
    fn an_application_that_is_served_again_begins_another_life() {
        let engines = engines(watch::channel(false).1);
        let before = engines.of(&application());
        let told = before.changes();
        engines.retain(|_| true);
        assert!(engines.has(&before) && !told.has_changed().unwrap());
        engines.retain(|_| false);
        assert!(!engines.has(&before) && told.has_changed().unwrap(), "its subscribers look");
        let after = engines.of(&application());
        assert!(engines.has(&after) && !engines.has(&before));
        assert_ne!(after.report(Moment(1)).instance, before.report(Moment(1)).instance);
    }
}
