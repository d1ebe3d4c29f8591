//! One run: a schedule of arrivals, sidecars that choose, servers that compute, by events.
//!
//! ```text
//!   arrival ─► its sidecar chooses ─► server ─► first token … last token ─► the session's next turn
//!                  ▲ reports, as old as the sidecar's period makes them
//! ```
//!
//! A sidecar reads all reports once in each period; its phase is drawn, so that sidecars are not in step. A request reaches its server
//! at the moment of the choice, and the way there and back is added to the time of its tokens: what is true at the choice is true on
//! arrival, for all policies alike.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::time::Duration;

use anyhow::Result;
use penstock_engine::scheduler::{Pace, Profile};
use penstock_model::units::Moment;
use penstock_policy::gate::{Door, Pass, Patience, Promise, REFUSALS_MAX, Refusal, Verdict};
use penstock_policy::ledger::Memory;
use penstock_policy::pick::cost::{Prompt, Speed, Weights, is_worth_asking, lacks_memory};

use crate::account::{Account, Meters};
use crate::backend::Backend;
use crate::draw::{Draws, Purpose};
use crate::outcome::Outcome;
use crate::policy::{Policy, Router, View, speed_of, verdict};
use crate::prefix::{Digests, Knowledge};
use crate::sidecar::Sidecar;
use crate::slo::{Fare, Slo};
use crate::trace::{Arrival, Schedule};

/// Nanoseconds from a sidecar to a server.
const NETWORK_NS: u64 = 500_000;

/// Servers that are slower than their profile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slow {
    /// The last of so many servers is slow, at least 1.
    pub every: usize,
    /// Its speed, above 0.
    pub speed: f64,
}

/// What a run happens in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// Model and hardware of the servers.
    pub profile: Profile,
    /// Servers.
    pub backends: usize,
    /// Sidecars of callers.
    pub sidecars: usize,
    /// How long a sidecar lives with one reading of the reports; 0 for always the present.
    pub age_ns: u64,
    /// How prefix caches are known.
    pub prefix: Knowledge,
    /// What the sidecars beside the servers know of them.
    pub account: Account,
    /// Slower servers.
    pub slow: Option<Slow>,
    /// Sigma of the noise on step times.
    pub noise: f64,
    /// What is promised.
    pub slo: Slo,
    /// The constants of our cost and gate.
    pub weights: Weights,
    /// Seed of everything drawn.
    pub seed: u64,
    /// Share of the requests that must keep the promise, or the run is ended early.
    pub attainment_min: f64,
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.every, self.speed)
    }
}

impl Setting {
    fn speed(&self, place: usize) -> f64 {
        match self.slow {
            Some(slow) if place % slow.every == slow.every - 1 => slow.speed,
            _ => 1.0,
        }
    }

    /// The same with what a central policy has instead of many sidecars.
    fn for_policy(self, policy: Policy) -> Self {
        policy.central_age_ns().map_or(self, |age_ns| Self { sidecars: 1, age_ns, ..self })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    FirstToken(u32),
    Done(u32),
    Arrive(u32),
    Again(u32),
    /// A request's question comes to a server.
    Asked(u32, u32),
    /// The first token of a step passes the sidecar of a server.
    Look(u32),
    Answered(u32),
}

/// Where a request is and how it fares.
#[derive(Clone, Copy, Debug, Default)]
struct Trip {
    fare: Fare,
    sidecar: u32,
    place: u32,
    uncached: u64,
    refusals: u8,
    lacks_memory: bool,
    questions: u32,
    cached_tokens: u32,
}

struct World<'a> {
    setting: Setting,
    schedule: &'a Schedule,
    backends: Vec<Backend>,
    /// Requests that wait at the door of each.
    doors: Vec<Door<u32>>,
    speeds: Vec<Speed>,
    sidecars: Vec<Sidecar>,
    routers: Vec<Box<dyn Router>>,
    phases_ns: Vec<u64>,
    trips: Vec<Trip>,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    choices: Draws,
    admitted: Vec<(u64, u32)>,
    countable: u64,
    broken: u64,
    digests: Option<Digests>,
    /// What sidecars beside the servers have learned, where speeds are not just known.
    meters: Option<Meters>,
}

/// Runs a schedule under a policy.
///
/// # Errors
/// A setting with which no engine can be made.
pub fn run(schedule: &Schedule, setting: Setting, policy: Policy) -> Result<Outcome> {
    let mut world = World::new(schedule, setting.for_policy(policy), policy)?;
    let given_up = world.play();
    Ok(world.outcome(given_up))
}

impl<'a> World<'a> {
    fn new(schedule: &'a Schedule, setting: Setting, policy: Policy) -> Result<Self> {
        let pace = |place| Pace { speed: setting.speed(place), noise_sigma: setting.noise };
        let mut engines = Draws::new(setting.seed, Purpose::Engines);
        let backends = (0..setting.backends)
            .map(|place| {
                Backend::new(setting.profile, pace(place), engines.any(), setting.age_ns, setting.weights)
            })
            .collect::<Result<Vec<_>>>()?;
        let mut choices = Draws::new(setting.seed, Purpose::Choices);
        let mut phases = Draws::new(setting.seed, Purpose::Phases);
        let countable = (0..schedule.arrivals.len()).filter(|at| counts(schedule, *at)).count() as u64;
        let phases_ns: Vec<u64> =
            (0..setting.sidecars).map(|_| (phases.unit() * setting.age_ns as f64) as u64).collect();
        let kv_tokens: Vec<u64> =
            backends.iter().map(|backend: &Backend| backend.truth(0).kv_tokens_total).collect();
        let digests = (setting.prefix == Knowledge::Digest && policy.is_ours())
            .then(|| Digests::new(&kv_tokens, &phases_ns, setting.age_ns));
        let meters = (setting.account == Account::Ledger && policy.is_ours())
            .then(|| Meters::starting(setting.backends));
        Ok(Self {
            digests,
            meters,
            phases_ns,
            speeds: (0..setting.backends).map(|at| speed_of(&setting.profile, setting.speed(at))).collect(),
            sidecars: (0..setting.sidecars).map(|_| Sidecar::new(setting.backends)).collect(),
            routers: (0..setting.sidecars).map(|_| policy.router(setting.backends, &mut choices)).collect(),
            trips: trips(schedule, &setting),
            events: BinaryHeap::new(),
            admitted: Vec::new(),
            broken: 0,
            doors: (0..setting.backends).map(|_| Door::default()).collect(),
            setting,
            schedule,
            backends,
            choices,
            countable,
        })
    }

    /// Until nothing is left to happen, or too much is broken: then true.
    fn play(&mut self) -> bool {
        let broken_max = ((1.0 - self.setting.attainment_min) * self.countable as f64).floor() as u64;
        let mut starts = self.schedule.starts.iter().copied().peekable();
        loop {
            let arrival = starts.peek().map(|place| self.schedule.arrivals[*place as usize].at_ns);
            let event = self.events.peek().map(|Reverse((at, _))| *at);
            let (step, place) = self.next_step();
            let soonest = [arrival, event].into_iter().flatten().min();
            if let Some(at_ns) = step.filter(|at| soonest.is_none_or(|soonest| *at < soonest)) {
                self.step(place, at_ns);
            } else if arrival.is_some() && arrival <= event.or(arrival) {
                if let Some(request) = starts.next() {
                    self.arrive(request, arrival.unwrap_or(0));
                }
            } else if let Some(Reverse((at_ns, event))) = self.events.pop() {
                self.happen(at_ns, event);
            } else {
                return false;
            }
            if self.broken > broken_max {
                return true;
            }
        }
    }

    fn next_step(&self) -> (Option<u64>, usize) {
        let mut soonest = (None, 0);
        for (place, backend) in self.backends.iter().enumerate() {
            if let Some(at_ns) = backend.next_step_ns()
                && soonest.0.is_none_or(|other| at_ns < other)
            {
                soonest = (Some(at_ns), place);
            }
        }
        soonest
    }

    fn happen(&mut self, now_ns: u64, event: Event) {
        match event {
            Event::Arrive(request) => self.arrive(request, now_ns),
            Event::Again(request) => self.ask(request, now_ns),
            Event::Asked(request, place) => self.tell(request, place as usize, now_ns),
            Event::Answered(request) => self.choose(request, now_ns),
            Event::Look(place) => self.look(place as usize, now_ns),
            Event::FirstToken(request) => {
                let trip = self.trips[request as usize];
                let place = trip.place as usize;
                self.sidecars[trip.sidecar as usize].uncached_in_flight[place] -= trip.uncached;
                self.backends[place].sent_first(trip.fare.to_first_ns());
                self.routers[trip.sidecar as usize].first_token(place, now_ns, trip.fare.to_first_ns());
            }
            Event::Done(request) => {
                let trip = self.trips[request as usize];
                self.sidecars[trip.sidecar as usize].in_flight[trip.place as usize] -= 1;
                self.go_on(request, now_ns);
            }
        }
    }

    fn go_on(&mut self, request: u32, now_ns: u64) {
        if let Some(next) = self.schedule.arrivals[request as usize].next_turn {
            let pause_ns = self.schedule.arrivals[next as usize].at_ns;
            self.events.push(Reverse((now_ns + pause_ns, Event::Arrive(next))));
        }
    }

    fn arrive(&mut self, request: u32, now_ns: u64) {
        if now_ns >= self.schedule.until_ns {
            return;
        }
        self.trips[request as usize].fare.arrived_ns = now_ns;
        self.choose(request, now_ns);
    }

    /// A request that was refused asks others how they are before it chooses again, if its router does so.
    fn ask(&mut self, request: u32, now_ns: u64) {
        let Trip { refusals, lacks_memory, .. } = self.trips[request as usize];
        if !is_worth_asking(refusals, lacks_memory) {
            return self.choose(request, now_ns);
        }
        let asked = self.consult(request, now_ns, |router, arrival, view| router.whom_to_ask(arrival, view));
        if asked.is_empty() {
            return self.choose(request, now_ns);
        }
        self.trips[request as usize].questions += asked.len() as u32;
        for place in asked {
            self.events.push(Reverse((now_ns + NETWORK_NS, Event::Asked(request, place as u32))));
        }
        self.events.push(Reverse((now_ns + 2 * NETWORK_NS, Event::Answered(request))));
    }

    fn tell(&mut self, request: u32, place: usize, now_ns: u64) {
        let truth = self.backends[place].truth(now_ns);
        self.routers[self.trips[request as usize].sidecar as usize].told(place, now_ns, &truth);
    }

    /// What the request's router says, by what it can see.
    fn consult<T>(
        &mut self,
        request: u32,
        now_ns: u64,
        ask: impl FnOnce(&mut dyn Router, &Arrival, &mut View<'_>) -> T,
    ) -> T {
        self.learn(now_ns);
        let trip = self.trips[request as usize];
        let sidecar = trip.sidecar as usize;
        let arrival = &self.schedule.arrivals[request as usize];
        let due_ns = trip.fare.arrived_ns + self.setting.slo.first_token_ns(arrival.prompt_tokens);
        let known = match &mut self.digests {
            Some(digests) => {
                digests.advance(now_ns);
                digests.known(sidecar, arrival)
            }
            None => self.backends.iter().map(|backend| backend.cached_tokens(arrival)).collect(),
        };
        let mut view = View {
            now_ns,
            cached_tokens: &known,
            reported_ns: reported_ns(now_ns, self.setting.age_ns, self.phases_ns[sidecar]),
            refusals: trip.refusals,
            promised_ms: due_ns.saturating_sub(now_ns) as f64 / 1e6,
            backends: &self.backends,
            speeds: &self.speeds,
            weights: &self.setting.weights,
            own: &self.sidecars[sidecar],
            draws: &mut self.choices,
        };
        ask(&mut *self.routers[sidecar], arrival, &mut view)
    }

    fn choose(&mut self, request: u32, now_ns: u64) {
        let place = self.consult(request, now_ns, |router, arrival, view| router.choose(arrival, view));
        let sidecar = self.trips[request as usize].sidecar as usize;
        let Some(patience) = self.routers[sidecar].patience() else {
            return self.send(request, place, now_ns);
        };
        match self.verdict(request, place, patience, now_ns) {
            Verdict::Serve => self.send(request, place, now_ns),
            Verdict::Wait if self.routers[sidecar].can_wait() => {
                let uncached_tokens = self.prompt(request, place).uncached_tokens();
                let waits = self.doors[place].wait(request, uncached_tokens, patience, Moment(now_ns));
                if waits.is_err() {
                    self.refuse(request, place, Refusal::Promised, now_ns);
                }
            }
            Verdict::Wait => self.refuse(request, place, Refusal::Promised, now_ns),
            Verdict::Refuse(why) => self.refuse(request, place, why, now_ns),
        }
    }

    /// What the sidecars beside the servers know of their speeds by now.
    fn learn(&mut self, now_ns: u64) {
        let Some(meters) = &mut self.meters else { return };
        meters.speeds(Moment(now_ns), &mut self.speeds);
        for (backend, speed) in self.backends.iter_mut().zip(&self.speeds) {
            backend.believe(*speed);
        }
    }

    /// A prompt as a server's sidecar sees it.
    fn prompt(&self, request: u32, place: usize) -> Prompt {
        let arrival = &self.schedule.arrivals[request as usize];
        let cached_tokens = match &self.digests {
            Some(digests) => digests.believed(place, arrival),
            None => self.backends[place].cached_tokens(arrival),
        };
        Prompt { tokens: arrival.prompt_tokens, cached_tokens }
    }

    fn verdict(&mut self, request: u32, place: usize, patience: Patience, now_ns: u64) -> Verdict {
        let prompt = self.prompt(request, place);
        let backend = &self.backends[place];
        if let Some(meters) = &mut self.meters {
            let truth = backend.truth(now_ns);
            let memory = Memory { used_tokens: truth.kv_tokens_used, total_tokens: truth.kv_tokens_total };
            return meters.verdict(place, prompt, patience, memory, Moment(now_ns));
        }
        verdict(backend, &self.speeds[place], prompt, now_ns, patience, &self.setting.weights)
    }

    /// Something has changed at a server: some of those at its door may come in, or will not in time.
    fn look(&mut self, place: usize, now_ns: u64) {
        if self.doors[place].is_empty() {
            return;
        }
        self.learn(now_ns);
        let mut door = std::mem::take(&mut self.doors[place]);
        let now = Moment(now_ns);
        while let Some((request, pass)) =
            door.next(now, |request, patience| self.verdict(*request, place, patience, now_ns))
        {
            match pass {
                Pass::In => self.send(request, place, now_ns),
                Pass::Out(why) => self.refuse(request, place, why, now_ns),
            }
        }
        self.doors[place] = door;
    }

    fn refuse(&mut self, request: u32, place: usize, why: Refusal, now_ns: u64) {
        let trip = &mut self.trips[request as usize];
        trip.lacks_memory |= lacks_memory(Some(why));
        trip.refusals += 1;
        let refusals = trip.refusals;
        self.tell(request, place, now_ns);
        if refusals <= REFUSALS_MAX {
            self.events.push(Reverse((now_ns + 2 * NETWORK_NS, Event::Again(request))));
        } else {
            self.reject(request, now_ns);
        }
    }

    /// 429: nobody can serve it in time. Its session goes on.
    fn reject(&mut self, request: u32, now_ns: u64) {
        self.go_on(request, now_ns);
        let fare = &mut self.trips[request as usize].fare;
        fare.late = true;
        self.broken += u64::from(counted(self.schedule, fare));
    }

    fn send(&mut self, request: u32, place: usize, now_ns: u64) {
        let prompt = self.prompt(request, place);
        let arrival = &self.schedule.arrivals[request as usize];
        let trip = &mut self.trips[request as usize];
        let slo = &self.setting.slo;
        let first_ns = slo.first_token_ns(arrival.prompt_tokens).saturating_sub(2 * NETWORK_NS);
        let promise = Promise {
            first_due: Moment(trip.fare.arrived_ns + first_ns),
            span: Duration::from_nanos(slo.token_ns),
        };
        if !self.backends[place].submit(now_ns, u64::from(request), arrival, promise) {
            // Nobody writes down a send of which no answer will ever come.
            return self.reject(request, now_ns);
        }
        let sidecar = trip.sidecar as usize;
        trip.place = place as u32;
        trip.uncached = self.sidecars[sidecar].sent(place, arrival);
        self.routers[sidecar].sent(place, trip.uncached);
        if let Some(digests) = &mut self.digests {
            digests.sent(place, request, arrival);
        }
        if let Some(meters) = &mut self.meters {
            meters.sent(place, request, prompt, promise, Moment(now_ns));
        }
    }

    fn step(&mut self, place: usize, at_ns: u64) {
        self.admitted.clear();
        if let Some(digests) = &mut self.digests {
            digests.advance(at_ns);
        }
        let slo = &self.setting.slo;
        let tokens = self.backends[place].step(at_ns, &mut self.admitted);
        for (id, cached_tokens) in &self.admitted {
            self.trips[*id as usize].cached_tokens = *cached_tokens;
            if let Some(meters) = &mut self.meters {
                meters.found(place, *id as u32, *cached_tokens);
            }
            if let Some(digests) = &mut self.digests {
                let request = *id as u32;
                digests.counted(place, request, &self.schedule.arrivals[request as usize], *cached_tokens);
            }
        }
        let mut first_ns = None;
        for token in tokens {
            first_ns.get_or_insert(token.at.nanos());
            let request = token.id as u32;
            let arrival = &self.schedule.arrivals[request as usize];
            let trip = &mut self.trips[request as usize];
            let was_late = trip.fare.late;
            let here_ns = token.at.nanos() + 2 * NETWORK_NS;
            trip.fare.token(here_ns, arrival.prompt_tokens, arrival.output_tokens, slo);
            if trip.fare.late && !was_late {
                self.broken += u64::from(counted(self.schedule, &trip.fare));
            }
            if let Some(meters) = &mut self.meters {
                meters.token(place, request, token.last, Moment(token.at.nanos()));
            }
            if let Some(digests) = &mut self.digests {
                digests.token(place, arrival, token.index, token.last);
            }
            if token.index == 0 {
                self.events.push(Reverse((here_ns, Event::FirstToken(request))));
            }
            if token.last {
                self.events.push(Reverse((here_ns, Event::Done(request))));
            }
        }
        match first_ns.filter(|_| self.meters.is_some()) {
            // A sidecar has no other occasion than tokens that pass.
            Some(first_ns) => self.events.push(Reverse((first_ns, Event::Look(place as u32)))),
            None => self.look(place, at_ns),
        }
    }

    fn outcome(&self, given_up: bool) -> Outcome {
        let mut outcome = Outcome { given_up, rate: self.schedule.rate, ..Outcome::default() };
        for (trip, arrival) in self.trips.iter().zip(&self.schedule.arrivals) {
            // A turn whose session never came so far was not offered; in an open trace every request is.
            let offered = trip.fare.tokens > 0 || trip.fare.late;
            if !offered || !counted(self.schedule, &trip.fare) {
                continue;
            }
            outcome.counted += 1;
            outcome.refusals += u64::from(trip.refusals);
            outcome.questions += u64::from(trip.questions);
            if trip.fare.tokens < arrival.output_tokens {
                outcome.rejected += 1;
                continue;
            }
            outcome.answered(&trip.fare, arrival.prompt_tokens, trip.cached_tokens, &self.setting.slo);
        }
        outcome.sort();
        outcome.preemptions = self.backends.iter().map(|backend| backend.engine().totals().preemptions).sum();
        outcome
    }
}

/// The moment of the reading that a sidecar has now.
fn reported_ns(now_ns: u64, age_ns: u64, phase_ns: u64) -> u64 {
    if age_ns == 0 {
        return now_ns;
    }
    let since = (now_ns + age_ns - phase_ns) % age_ns;
    now_ns.saturating_sub(since)
}

/// Which sidecar each arrival comes through: requests by lot, sessions through one.
pub fn callers(schedule: &Schedule, sidecars: usize, seed: u64) -> Vec<u32> {
    let mut draws = Draws::new(seed, Purpose::Callers);
    let mut sidecar_of_session = std::collections::HashMap::new();
    let drawn = |arrival: &Arrival| {
        let drawn = draws.below(sidecars) as u32;
        match arrival.session {
            Some(session) => *sidecar_of_session.entry(session).or_insert(drawn),
            None => drawn,
        }
    };
    schedule.arrivals.iter().map(drawn).collect()
}

fn trips(schedule: &Schedule, setting: &Setting) -> Vec<Trip> {
    let callers = callers(schedule, setting.sidecars, setting.seed);
    callers.into_iter().map(|sidecar| Trip { sidecar, ..Trip::default() }).collect()
}

fn counted(schedule: &Schedule, fare: &Fare) -> bool {
    schedule.counts(fare.arrived_ns)
}

/// Whether a request is expected to count, as far as that is known before the run.
fn counts(schedule: &Schedule, place: usize) -> bool {
    let arrival = &schedule.arrivals[place];
    arrival.session.is_some() || arrival.at_ns >= schedule.from_ns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slo::Form;
    use crate::trace::{Load, Record, Trace, arrivals};

    const SERVERS: usize = 4;
    const REQUESTS: usize = 400;

    fn setting() -> Setting {
        Setting {
            profile: Profile::named("8b-h100").unwrap(),
            backends: SERVERS,
            sidecars: 1,
            age_ns: 0,
            prefix: Knowledge::Precise,
            account: Account::Exact,
            slow: None,
            noise: 0.05,
            slo: Slo::standard(Form::Deadline),
            weights: Weights::CHOSEN,
            seed: 1,
            attainment_min: 0.0,
        }
    }

    /// One request a second, with nothing in common; the first one with so long a prompt.
    fn schedule(first_tokens: u32) -> Schedule {
        let record = |number: usize| Record {
            at_ms: number as u64 * 1_000,
            prompt_tokens: if number == 0 { first_tokens } else { 600 },
            output_tokens: 4,
            blocks: vec![number as u64],
        };
        let load = Load::Open((0..=REQUESTS).map(record).collect());
        arrivals(&Trace { name: String::new(), checksum: String::new(), load }, 1.0, 1)
    }

    #[test]
    fn a_request_that_no_engine_takes_leaves_nothing_behind() {
        let schedule = schedule(100_000_000);
        for policy in Policy::all().filter(|policy| *policy != Policy::Oracle) {
            let mut world = World::new(&schedule, setting(), policy).unwrap();
            world.play();
            assert_eq!(world.trips[0].fare.tokens, 0, "{policy}");
            for sidecar in &world.sidecars {
                assert_eq!(sidecar.in_flight, [0; SERVERS], "{policy}");
                assert_eq!(sidecar.uncached_in_flight, [0; SERVERS], "{policy}");
            }
            let mut counts = [0; SERVERS];
            for trip in &world.trips[1..] {
                counts[trip.place as usize] += 1;
            }
            assert!(counts.iter().all(|count| 2 * SERVERS * count >= REQUESTS), "{policy}: {counts:?}");
        }
    }
}
