//! Marginal cost: the production code, and what the oracle makes of it.

use penstock_engine::scheduler::{Moment, Profile, Request, Step};
use penstock_model::units::Moment as Instant;
use penstock_policy::gate::{Margin, Patience, REFUSALS_MAX, Verdict, decide};
use penstock_policy::pick::cost::{
    Estimate, Own, Prompt, Report, Speed, Terms, Weights, choose, terms, whom_to_ask,
};

use crate::backend::{Backend, Truth};
use crate::trace::Arrival;

use super::{Router, View};

/// The speed of a profile's hardware at a pace: what a sidecar that learns would have learned.
pub fn speed_of(profile: &Profile, pace: f64) -> Speed {
    Speed {
        front_end_ms: profile.front_end_ms / pace,
        step_ms: (profile.fixed_ms + profile.compute_ms) / pace,
        sequence_us: profile.sequence_us / pace,
        token_us: profile.token_us / pace,
        context_us: profile.context_us / pace,
        attention_ns: profile.attention_ns / pace,
        step_tokens_max: 8_192.0,
    }
}

/// What a sidecar says of its server.
pub fn report_of(truth: &Truth) -> Report {
    Report {
        prompt_tokens_pending: truth.prompt_tokens_pending,
        attention_doubled_pending: truth.attention_doubled_pending,
        sequences_running: truth.running,
        sequences_waiting: truth.waiting,
        sequences_max: truth.places,
        longest_waiting_ms: truth.longest_waiting_ns as f64 / 1e6,
        output_tokens_mean: truth.output_tokens_mean,
        kv_tokens_used: truth.kv_tokens_used,
        kv_tokens_total: truth.kv_tokens_total,
        arriving: truth.arriving,
        bearable_ms: truth.bearable_ms,
    }
}

pub(super) fn prompt_of(arrival: &Arrival, backend: &Backend) -> Prompt {
    Prompt { tokens: arrival.prompt_tokens, cached_tokens: backend.cached_tokens(arrival) }
}

/// What a server may do with a request that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// Refuse it, or let it wait.
    Gated,
    /// Refuse it.
    Shut,
    /// Nothing: it takes everything.
    Open,
}

/// What a sidecar knows of one server beyond the reports that it reads.
#[derive(Clone, Default)]
struct Known {
    own: Own,
    /// From a refusal: the moment, and how it was then.
    told: Option<(u64, Report)>,
    tried: bool,
}

/// Marginal cost as a sidecar does it: reports with own placements, aged; a draw among what others will take as well; patience.
pub(super) struct LeastCost {
    known: Vec<Known>,
    door: Door,
    margin: Margin,
    patience: Option<Patience>,
}

impl LeastCost {
    pub(super) fn over(endpoints: usize, door: Door) -> Self {
        Self { known: vec![Known::default(); endpoints], door, margin: Margin::default(), patience: None }
    }

    /// How a server is, as far as this sidecar knows, and how old that is.
    fn report(&mut self, place: usize, view: &View<'_>) -> (Report, f64) {
        let known = &mut self.known[place];
        let (made_ns, report) = match known.told {
            Some((told_ns, report)) if told_ns > view.reported_ns => (told_ns, report),
            _ => (view.reported_ns, report_of(&view.report(place))),
        };
        known.own.reported(Instant(made_ns));
        let (made, now) = (Instant(made_ns), Instant(view.now_ns));
        let grown = known.own.onto(report, made, now, &view.speeds[place], view.weights);
        (grown, (view.now_ns - made_ns) as f64 / 1e6)
    }

    /// What a place would cost, as far as this sidecar knows.
    fn estimate(&mut self, place: usize, arrival: &Arrival, view: &View<'_>) -> Estimate {
        let (report, age_ms) = self.report(place, view);
        let prompt = view.prompt(arrival, place);
        Estimate {
            terms: terms(&report, &view.speeds[place], prompt, view.weights),
            expected_ms: report.expected_ms(age_ms),
            age_ms: Some(age_ms),
            placements: 0,
            cached_tokens: prompt.cached_tokens,
        }
    }
}

impl Router for LeastCost {
    fn whom_to_ask(&mut self, arrival: &Arrival, view: &View<'_>) -> Vec<usize> {
        // As in a sidecar, those that refused may be chosen again; what they have said is young.
        whom_to_ask((0..view.count()).map(|place| (place, self.estimate(place, arrival, view))))
    }

    fn choose(&mut self, arrival: &Arrival, view: &mut View<'_>) -> usize {
        if view.refusals == 0 || view.refusals == REFUSALS_MAX {
            self.known.iter_mut().for_each(|known| known.tried = false);
        }
        if view.refusals == 0 {
            self.margin.placed(view.weights);
        } else {
            self.margin.refused(view.weights);
        }
        let all: Vec<Estimate> = (0..view.count()).map(|place| self.estimate(place, arrival, view)).collect();
        let expected_ms: f64 = all.iter().map(|estimate| estimate.expected_ms).sum();
        let all: Vec<Terms> = all.into_iter().map(|estimate| estimate.terms).collect();
        let costs: Vec<f64> = all
            .iter()
            .zip(&self.known)
            .map(|(terms, known)| if known.tried { f64::INFINITY } else { terms.total_ms() })
            .collect();
        let choice = choose(&costs, expected_ms * view.weights.spread, view.draws.any());
        let place = choice.map_or(0, |choice| choice.place);
        let others = (0..all.len()).filter(|other| *other != place && costs[*other].is_finite());
        let next_ms = others.map(|other| all[other].first_token_ms()).fold(f64::INFINITY, f64::min);
        let last = view.refusals >= REFUSALS_MAX || !next_ms.is_finite();
        let patience = if last {
            Patience::at_last(view.promised_ms)
        } else {
            let (believed_ms, promised_ms) = (all[place].first_token_ms(), view.promised_ms);
            let margin_ms = self.margin.ms(Some(promised_ms), view.weights);
            Patience::while_others(believed_ms, next_ms, margin_ms, promised_ms)
        };
        self.patience = (self.door != Door::Open).then_some(patience);
        self.known[place].tried = true;
        let prompt = view.prompt(arrival, place);
        self.known[place].own.add(Instant(view.now_ns), prompt);
        place
    }

    fn patience(&self) -> Option<Patience> {
        self.patience
    }

    fn can_wait(&self) -> bool {
        self.door == Door::Gated
    }

    fn told(&mut self, place: usize, now_ns: u64, truth: &Truth) {
        self.known[place].told = Some((now_ns, report_of(truth)));
    }
}

/// What a server's sidecar does with a request: the production gate with what is true at this moment.
pub fn verdict(
    backend: &Backend,
    speed: &Speed,
    prompt: Prompt,
    now_ns: u64,
    patience: Patience,
    weights: &Weights,
) -> Verdict {
    let report = present(backend, speed, now_ns, weights);
    let terms = terms(&report, speed, prompt, weights);
    decide(&terms, patience, backend.promises().gain(&report, speed))
}

/// What a sidecar says of its server at this moment.
fn present(backend: &Backend, speed: &Speed, now_ns: u64, weights: &Weights) -> Report {
    let report = report_of(&backend.truth(now_ns));
    let bearable_ms = backend.promises().bearable_ms(&report, speed, Instant(now_ns), None, weights);
    Report { bearable_ms, ..report }
}

/// By which sum one scheduler that knows the present compares servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sum {
    /// What production compares.
    Ours,
    /// Its plain form, which stays as it is when production changes: time to the first token, and what the prompt takes from the others.
    Plain,
}

/// Marginal cost by one scheduler that knows the present.
pub(super) struct Central {
    sum: Sum,
    alpha: f64,
    door: Door,
    patience: Option<Patience>,
}

impl Central {
    /// Every request is let in.
    pub(super) fn admitting(sum: Sum, alpha: f64) -> Self {
        Self { sum, alpha, door: Door::Open, patience: None }
    }

    /// Who would come too late at the best server is refused.
    pub(super) fn shedding(sum: Sum, alpha: f64) -> Self {
        Self { sum, alpha, door: Door::Shut, patience: None }
    }

    /// Who would be in time at some server after waiting at its door waits there.
    pub(super) fn waiting(alpha: f64) -> Self {
        Self { sum: Sum::Ours, alpha, door: Door::Gated, patience: None }
    }
}

impl Router for Central {
    fn choose(&mut self, arrival: &Arrival, view: &mut View<'_>) -> usize {
        let (sum, alpha, door) = (self.sum, self.alpha, self.door);
        let cost = |view: &View<'_>, place: usize| {
            let (backend, speed) = (&view.backends[place], &view.speeds[place]);
            let prompt = prompt_of(arrival, backend);
            match sum {
                Sum::Ours => {
                    let weights = Weights { others: alpha, ..*view.weights };
                    let report = present(backend, speed, view.now_ns, &weights);
                    let terms = terms(&report, speed, prompt, &weights);
                    let gain = backend.promises().gain(&report, speed);
                    let comes_in = match decide(&terms, Patience::at_last(view.promised_ms), gain) {
                        Verdict::Serve => true,
                        Verdict::Wait => door == Door::Gated,
                        Verdict::Refuse(_) => false,
                    };
                    (terms.total_ms(), comes_in)
                }
                Sum::Plain => {
                    let (first_token_ms, total_ms) =
                        plain_ms(&report_of(&backend.truth(view.now_ns)), speed, prompt, alpha);
                    (total_ms, first_token_ms <= view.promised_ms)
                }
            }
        };
        // Production's rule tries another server where one refuses, and this one knows beforehand which do. The plain form refuses who
        // would be late at the best.
        let place = view.least(|view, place| match cost(view, place) {
            (_, false) if door != Door::Open && sum == Sum::Ours => f64::INFINITY,
            (total_ms, _) => total_ms,
        });
        let comes_in = door == Door::Open || cost(view, place).1;
        // It knows the present: who is not let in is not even sent.
        self.patience = if !comes_in {
            Some(NONE_AT_ALL)
        } else if sum == Sum::Ours && door == Door::Gated {
            Some(Patience::at_last(view.promised_ms))
        } else {
            None
        };
        place
    }

    fn patience(&self) -> Option<Patience> {
        self.patience
    }

    fn can_wait(&self) -> bool {
        self.door == Door::Gated
    }
}

/// Milliseconds that a KV token stays held in the plain form.
const KV_RESIDENCE_MS: f64 = 6_000.0;

/// Is refused wherever it goes.
const NONE_AT_ALL: Patience = Patience { first_token_ms: f64::NEG_INFINITY, promised_ms: f64::NEG_INFINITY };

/// Time to the first token, with waiting for memory where there is none; and `TTFT + α · time of the uncached prompt · (1 + sequences / 16)`.
fn plain_ms(report: &Report, speed: &Speed, prompt: Prompt, alpha: f64) -> (f64, f64) {
    let running = f64::from(report.sequences_running);
    let sequences = running + f64::from(report.sequences_waiting);
    let chunk = (speed.step_tokens_max - running).max(1.0);
    let step_ms = speed.step_ms
        + speed.sequence_us * 1e-3 * (running + 1.0)
        + speed.context_us * 1e-3 * report.kv_tokens_used as f64;
    let compute_ms =
        |tokens: f64, doubled: f64| speed.token_us * 1e-3 * tokens + speed.attention_ns * 0.5e-6 * doubled;
    let (pending, own) = (report.prompt_tokens_pending, prompt.uncached_tokens());
    let steps = ((pending + own) / chunk).ceil().max(1.0);
    let under_way_ms = if pending == 0.0 && running > 0.0 { step_ms / 2.0 } else { 0.0 };
    let work_ms = compute_ms(own, prompt.attention_doubled());
    let before_ms = compute_ms(pending, report.attention_doubled_pending);
    let first_token_ms = speed.front_end_ms + under_way_ms + steps * step_ms + before_ms + work_ms;
    let waiting = if report.sequences_waiting > 0 { pending } else { 0.0 };
    let missing = report.kv_tokens_used as f64 + waiting + own - report.kv_tokens_total as f64;
    let room_ms = missing.max(0.0) / (report.kv_tokens_used as f64).max(1.0) * KV_RESIDENCE_MS;
    let others_ms = alpha * (work_ms + own / chunk * step_ms) * (1.0 + sequences / 16.0);
    (first_token_ms + room_ms, first_token_ms + room_ms + others_ms)
}

/// The least time to the first token, found by letting a copy of each engine run until it comes.
pub(super) struct GreedyFirstToken;

impl Router for GreedyFirstToken {
    fn choose(&mut self, arrival: &Arrival, view: &mut View<'_>) -> usize {
        let now_ns = view.now_ns;
        let mut best = u64::MAX;
        view.least(|view, place| {
            let at_ns = first_token_ns(&view.backends[place], arrival, now_ns, best);
            best = best.min(at_ns);
            at_ns as f64
        })
    }
}

/// When the first token would come; any later moment once it is sure to be later than `best_ns`.
fn first_token_ns(backend: &Backend, arrival: &Arrival, now_ns: u64, best_ns: u64) -> u64 {
    let mut engine = backend.engine().clone();
    let request = Request {
        id: u64::MAX,
        prompt_tokens: arrival.prompt_tokens,
        block_hashes: arrival.blocks.iter().copied().collect(),
        output_tokens_max: arrival.output_tokens,
    };
    if engine.submit(Moment::from_nanos(now_ns), request).is_err() {
        return u64::MAX;
    }
    let mut step = Step::default();
    while let Some(at) = engine.next_step_at().filter(|at| at.nanos() <= best_ns) {
        engine.step(at, &mut step);
        if let Some(token) = step.tokens.iter().find(|token| token.id == u64::MAX) {
            return token.at.nanos();
        }
    }
    u64::MAX
}
