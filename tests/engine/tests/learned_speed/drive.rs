//! An engine by events, the sidecar before it, and what both have to say afterwards.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;

use penstock_engine::scheduler::{Emission, Engine, Limits, Moment, Pace, Profile, Request, Step};
use penstock_model::units::Moment as At;
use penstock_policy::speed::{Learner, Load, Size, Speed, Track, Work};

use crate::traffic;
pub(crate) use crate::traffic::Mix;

const REQUESTS: u64 = 1_000;
/// Tokens of a block of the prefix cache, large so that a long prompt has few hashes.
pub(crate) const BLOCK_TOKENS: u32 = 512;

/// At the arrival of this request the engine falls to this part of its speed.
#[derive(Clone, Copy)]
pub(crate) struct Slowdown {
    pub(crate) request: u64,
    pub(crate) speed: f64,
}

/// What happened in one run.
pub(crate) struct Run {
    pub(crate) learned: Speed,
    /// What the learner says of its own errors at the end: steps, first tokens.
    pub(crate) reported_errors: [f64; 2],
    steps: Vec<LoggedStep>,
    requests: Vec<LoggedRequest>,
    slowed_ns: u64,
    truth: Speed,
}

/// A step as the engine accounts for it, and how long the sidecar would have expected it to take.
struct LoggedStep {
    start_ns: u64,
    until_ns: u64,
    work: Work,
    sequences: u32,
    context_tokens: f64,
    expected_ms: f64,
}

struct LoggedRequest {
    id: u64,
    sent_ns: u64,
    first_ns: u64,
    last_ns: u64,
    tokens: u32,
    work: Work,
    /// What was known when it came, and with its first token.
    speed: Speed,
    load: Load,
    speed_at_first: Speed,
    /// Places in the log: the newest step when it came, and those of its first and last token.
    step_at_arrival: usize,
    step_of_first: usize,
    step_of_last: usize,
}

impl LoggedStep {
    fn took_ms(&self) -> f64 {
        (self.until_ns - self.start_ns) as f64 / 1e6
    }

    fn by(&self, speed: &Speed) -> f64 {
        speed.steps_ms(1.0, self.work, self.sequences, self.context_tokens)
    }
}

impl Run {
    pub(crate) fn of(profile: &str, mix: Mix, load: f64, slowdown: Option<Slowdown>) -> Self {
        let profile = Profile::named(profile).expect("a profile");
        let requests = traffic::requests(REQUESTS, mix);
        let rate = throughput(profile, &requests[..400]) * load;
        let arrivals = traffic::arrivals(requests, rate);
        World::new(profile, slowdown).run(arrivals)
    }

    /// Mean errors in percent, of the first token, the token, the forecast, and the forecast with true constants.
    pub(crate) fn errors(&self, ids: Range<u64>) -> [f64; 4] {
        let mut sums = [[0.0; 2]; 4];
        for request in self.requests.iter().filter(|request| ids.contains(&request.id)) {
            let first_ms = (request.first_ns - request.sent_ns) as f64 / 1e6;
            let mut add = |place: usize, expected_ms: f64, took_ms: f64| {
                sums[place][0] += (expected_ms - took_ms).abs() / took_ms;
                sums[place][1] += 1.0;
            };
            add(0, self.first_token_ms(request), first_ms);
            add(2, request.speed.first_token_ms(&request.load, request.work), first_ms);
            add(3, self.truth.first_token_ms(&request.load, request.work), first_ms);
            if request.tokens > 1 {
                let tokens = f64::from(request.tokens - 1);
                let steps = &self.steps[request.step_of_first + 1..=request.step_of_last];
                let expected_ms: f64 = steps.iter().map(|step| step.by(&request.speed_at_first)).sum();
                add(1, expected_ms / tokens, (request.last_ns - request.first_ns) as f64 / 1e6 / tokens);
            }
        }
        sums.map(|[sum, count]| 100.0 * sum / count)
    }

    /// Mean error in percent of the steps that started so many seconds after the slowdown, each with what was known then.
    pub(crate) fn step_error(&self, from_s: f64, to_s: f64) -> f64 {
        let since_s = |step: &LoggedStep| (step.start_ns as f64 - self.slowed_ns as f64) / 1e9;
        let inside = self.steps.iter().filter(|step| (from_s..to_s).contains(&since_s(step)));
        let (sum, count) = inside.fold((0.0, 0.0), |(sum, count), step| {
            (sum + (step.expected_ms - step.took_ms()).abs() / step.took_ms(), count + 1.0)
        });
        assert!(count > 0.0, "no step from {from_s} to {to_s} s after the slowdown");
        100.0 * sum / count
    }

    /// The time to the first token by the constants known at its arrival, given what was in the steps until then.
    fn first_token_ms(&self, request: &LoggedRequest) -> f64 {
        let (mut at_ms, mut before_ns) = (0.0f64, 0);
        for step in &self.steps[request.step_at_arrival..=request.step_of_first] {
            if step.until_ns <= request.sent_ns {
                continue;
            }
            if step.start_ns >= request.sent_ns && step.start_ns > before_ns {
                at_ms = at_ms.max(request.speed.front_end_ms); // the engine was idle until this request reached it
            }
            before_ns = step.until_ns;
            let elapsed_ms = request.sent_ns.saturating_sub(step.start_ns) as f64 / 1e6;
            at_ms += (step.by(&request.speed) - elapsed_ms).max(0.0);
        }
        let beside = self.steps[request.step_of_first].sequences;
        at_ms + request.speed.chunk_us * 1e-3 * f64::from(beside)
    }
}

/// Requests a second that an engine does that never runs out of them.
fn throughput(profile: Profile, requests: &[Request]) -> f64 {
    let mut engine = engine(profile);
    for request in requests {
        engine.submit(Moment::START, request.clone()).expect("a request that fits");
    }
    let (mut step, mut done, enough) = (Step::default(), 0, requests.len() * 8 / 10);
    while let Some(at) = engine.next_step_at().filter(|_| done < enough) {
        engine.step(at, &mut step);
        done += step.finished().count();
    }
    done as f64 / (step.until.nanos() as f64 / 1e9)
}

fn engine(profile: Profile) -> Engine {
    let limits = Limits { block_tokens: BLOCK_TOKENS, ..Limits::default() };
    Engine::new(profile, limits, Pace { speed: 1.0, noise_sigma: 0.05 }, 11).expect("an engine")
}

fn truth(profile: &Profile) -> Speed {
    Speed {
        front_end_ms: profile.front_end_ms,
        // Tokens of sequences and their contexts go together in these mixes; a sequence has no constant of its own.
        step_ms: profile.fixed_ms + profile.weights_ms,
        chunk_us: profile.front_end_token_us,
        context_us: profile.context_us,
        token_us: profile.token_us,
        free_tokens: (profile.weights_ms - profile.compute_ms) * 1e3 / profile.token_us,
        attention_ns: profile.attention_ns,
        step_tokens_max: f64::from(Limits::default().batched_tokens_max),
    }
}

struct World {
    engine: Engine,
    learner: Learner,
    slowdown: Option<Slowdown>,
    slowed_ns: u64,
    truth: Speed,
    /// Tokens on their way out, with the step that made them.
    leaving: VecDeque<(Emission, usize)>,
    open: HashMap<u64, Open>,
    /// Blocks that were sent before: what a sidecar takes to be cached.
    sent_blocks: HashSet<u64>,
    steps: Vec<LoggedStep>,
    requests: Vec<LoggedRequest>,
}

struct Open {
    track: Track,
    prompt_tokens: u32,
    cached_tokens: u32,
    log: LoggedRequest,
}

impl World {
    fn new(profile: Profile, slowdown: Option<Slowdown>) -> Self {
        Self {
            engine: engine(profile),
            learner: Learner::starting(Speed::default()),
            slowdown,
            slowed_ns: 0,
            truth: truth(&profile),
            leaving: VecDeque::new(),
            open: HashMap::new(),
            sent_blocks: HashSet::new(),
            steps: Vec::new(),
            requests: Vec::new(),
        }
    }

    fn run(mut self, mut arrivals: VecDeque<(u64, Request)>) -> Run {
        let mut step = Step::default();
        loop {
            let arrival = arrivals.front().map_or(u64::MAX, |(at, _)| *at);
            let token = self.leaving.front().map_or(u64::MAX, |(token, _)| token.at.nanos());
            let next = self.engine.next_step_at().map_or(u64::MAX, Moment::nanos);
            if token <= arrival.min(next) {
                let Some((token, in_step)) = self.leaving.pop_front() else { break };
                self.token(token, in_step);
            } else if arrival <= next {
                let Some((at, request)) = arrivals.pop_front() else { break };
                self.arrive(at, request);
            } else {
                self.engine.step(Moment::from_nanos(next), &mut step);
                self.log_step(&step);
            }
        }
        Run {
            learned: *self.learner.speed(),
            reported_errors: [self.learner.step_error(), self.learner.first_token_error()],
            steps: self.steps,
            requests: self.requests,
            slowed_ns: self.slowed_ns,
            truth: self.truth,
        }
    }

    fn arrive(&mut self, at: u64, request: Request) {
        if let Some(slowdown) = self.slowdown.filter(|slowdown| slowdown.request == request.id) {
            self.engine.run_at(slowdown.speed).expect("a speed");
            self.slowed_ns = at;
        }
        let usable = (request.prompt_tokens - 1) / BLOCK_TOKENS;
        let known = request.block_hashes.iter().take(usable as usize);
        let cached_blocks = known.take_while(|hash| self.sent_blocks.contains(hash)).count() as u32;
        self.sent_blocks.extend(request.block_hashes.iter());
        let size = Size { tokens: request.prompt_tokens, cached_tokens: cached_blocks * BLOCK_TOKENS };
        let (speed, load) = (*self.learner.speed(), self.learner.load(At(at)));
        let track = self.learner.sent(size, At(at));
        let log = LoggedRequest {
            id: request.id,
            sent_ns: at,
            first_ns: 0,
            last_ns: 0,
            tokens: 0,
            work: Work::default(),
            speed,
            load,
            speed_at_first: speed,
            step_at_arrival: self.steps.len().saturating_sub(1),
            step_of_first: 0,
            step_of_last: 0,
        };
        let open = Open { track, prompt_tokens: size.tokens, cached_tokens: 0, log };
        self.open.insert(request.id, open);
        self.engine.submit(Moment::from_nanos(at), request).expect("a request that fits");
    }

    fn token(&mut self, token: Emission, in_step: usize) {
        let at = token.at.nanos();
        let open = self.open.get_mut(&token.id).expect("an open request");
        self.learner.chunk(&mut open.track, 1, At(at));
        let log = &mut open.log;
        if token.index == 0 {
            (log.first_ns, log.step_of_first, log.speed_at_first) = (at, in_step, *self.learner.speed());
            log.work = Work::of(open.prompt_tokens, open.cached_tokens);
        }
        (log.tokens, log.last_ns, log.step_of_last) = (token.index + 1, at, in_step);
        if token.last {
            let usage = Size { tokens: open.prompt_tokens, cached_tokens: open.cached_tokens };
            self.learner.ended(&open.track, Some(usage), At(at));
            let open = self.open.remove(&token.id).expect("an open request");
            self.requests.push(open.log);
        }
    }

    fn log_step(&mut self, step: &Step) {
        for admission in step.admitted.iter().filter(|admission| !admission.again) {
            let open = self.open.get_mut(&admission.id).expect("an open request");
            open.cached_tokens = admission.cached_tokens;
        }
        if step.is_empty() {
            return;
        }
        let sequences = step.tokens.iter().filter(|token| token.index > 0).count() as u32;
        let work = Work {
            tokens: f64::from(step.batch.tokens - sequences),
            attention_doubled: step.batch.attention_doubled as f64,
        };
        let mut logged = LoggedStep {
            start_ns: step.start.nanos(),
            until_ns: step.until.nanos(),
            work,
            sequences,
            context_tokens: step.batch.context as f64,
            expected_ms: 0.0,
        };
        logged.expected_ms = logged.by(self.learner.speed());
        self.steps.push(logged);
        let in_step = self.steps.len() - 1;
        self.leaving.extend(step.tokens.iter().map(|token| (*token, in_step)));
    }
}
