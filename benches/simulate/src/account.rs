//! What the sidecars beside the servers know of them, where it is not just given: the production ledger, kept from the requests that pass.
//!
//! ```text
//!   sent · each token · end ─► ledger of that server ─► its speed, and whether a request may come in
//! ```
//!
//! Callers know of speeds at once, also where reports are old: they change within seconds or not at all. Load in reports is exact.

use std::collections::HashMap;

use penstock_model::units::Moment;
use penstock_policy::gate::{Patience, Promise, Verdict};
use penstock_policy::ledger::{Entry, Ledger, Memory, Shape, Told};
use penstock_policy::pick::cost::{Prompt, Speed};
use penstock_policy::speed::{Size, Speed as Learned};

/// How servers are known to the sidecars beside them.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Account {
    /// As they are, and so is how fast they compute.
    #[default]
    Exact,
    /// By the ledger, which learns their speed from a prior that fits none of them.
    Ledger,
}

/// What the sidecar beside one server has learned.
struct Meter {
    ledger: Ledger,
    entries: HashMap<u32, (Entry, Size, u32)>,
    /// Tokens of the step under way, in the order in which they will come.
    coming: Vec<Coming>,
}

#[derive(Clone, Copy)]
struct Coming {
    at: Moment,
    request: u32,
    is_last: bool,
}

impl Meter {
    fn starting() -> Self {
        Self { ledger: Ledger::starting(Learned::default()), entries: HashMap::new(), coming: Vec::new() }
    }

    /// All that has come by `now`.
    fn advance(&mut self, now: Moment) {
        let (came, coming) = std::mem::take(&mut self.coming).into_iter().partition(|token| token.at <= now);
        self.coming = coming;
        let came: Vec<Coming> = came;
        for Coming { at, request, is_last } in came {
            let Some((entry, size, tokens)) = self.entries.get_mut(&request) else { continue };
            *tokens += 1;
            self.ledger.tokens(entry, 1, at);
            let told = Told { size: Some(*size), output_tokens: *tokens };
            if is_last && let Some((entry, ..)) = self.entries.remove(&request) {
                self.ledger.leave(entry, told, at);
            }
        }
    }
}

/// What the sidecars beside all servers have learned.
pub struct Meters(Vec<Meter>);

impl Meters {
    /// Nothing is known of any of so many servers.
    pub fn starting(servers: usize) -> Self {
        Self((0..servers).map(|_| Meter::starting()).collect())
    }

    /// A request is sent to a server, with so much of its prompt cached as its sidecar believes.
    pub fn sent(&mut self, place: usize, request: u32, prompt: Prompt, promise: Promise, now: Moment) {
        let meter = &mut self.0[place];
        meter.advance(now);
        let size = Size { tokens: prompt.tokens, cached_tokens: prompt.cached_tokens };
        let entry = meter.ledger.enter(size, Shape::Stream, Some(promise), now);
        meter.entries.insert(request, (entry, size, 0));
    }

    /// The server has found so many tokens of its prompt cached, as it will say in the end.
    pub fn found(&mut self, place: usize, request: u32, cached_tokens: u32) {
        if let Some((_, size, _)) = self.0[place].entries.get_mut(&request) {
            size.cached_tokens = cached_tokens;
        }
    }

    /// A token will come of it.
    pub fn token(&mut self, place: usize, request: u32, is_last: bool, at: Moment) {
        self.0[place].coming.push(Coming { at, request, is_last });
    }

    /// What is known now: of a server that has shown nothing, what another one has shown, or what is assumed of all.
    pub fn speeds(&mut self, now: Moment, speeds: &mut [Speed]) {
        self.0.iter_mut().for_each(|meter| meter.advance(now));
        let shown = |meter: &Meter| meter.ledger.has_shown_speed().then(|| meter.ledger.speed());
        let other = self.0.iter().find_map(shown).unwrap_or_else(|| Learned::default().into());
        for (meter, speed) in self.0.iter().zip(speeds) {
            *speed = shown(meter).unwrap_or(other);
        }
    }

    /// What a server's sidecar does with a request, by its own account and what the engine says of its memory.
    pub fn verdict(
        &mut self,
        place: usize,
        prompt: Prompt,
        patience: Patience,
        memory: Memory,
        now: Moment,
    ) -> Verdict {
        let meter = &mut self.0[place];
        meter.advance(now);
        meter.ledger.memory(memory);
        let report = meter.ledger.report(now);
        meter.ledger.judge(&report, prompt, patience).0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_server_that_shows_its_steps_is_known_and_others_are_taken_to_be_like_it() {
        let mut meters = Meters::starting(2);
        let mut speeds = [Speed::from(Learned::default()); 2];
        let step_ms = |speeds: &[Speed]| [speeds[0].step_ms, speeds[1].step_ms];
        let prompt = Prompt { tokens: 100, cached_tokens: 0 };
        let promise = Promise { first_due: Moment(1), span: Duration::from_secs(1) };
        let refuses = |meters: &mut Meters, place| {
            let patience = Patience::at_last(1.0);
            meters.verdict(place, prompt, patience, Memory::default(), Moment(0)) != Verdict::Serve
        };
        meters.sent(0, 7, prompt, promise, Moment(0));
        assert_eq!(
            [0, 1].map(|place| refuses(&mut meters, place)),
            [true, false],
            "who is idle refuses nobody"
        );
        let before = step_ms(&speeds);
        for number in 1..=200u64 {
            let at = Moment(number * 50_000_000);
            meters.token(0, 7, number == 200, at);
            meters.speeds(at, &mut speeds);
        }
        let [one, other] = step_ms(&speeds);
        assert!(one > 1.5 * before[0] && (one - other).abs() < 1e-9, "{one} {other} {before:?}");
        assert!(!refuses(&mut meters, 0), "its request has ended");
    }
}
