//! Is an endpoint ready, as far as probes can tell?
//!
//! ```text
//!   Waiting ──a success──► Ready ──a refusal, or `unhealthy` probes in a row without an answer──► Unready
//!      │                     ▲                                                                      │
//!      ╰──a failure──►       ╰──────────────`healthy` successes in a row────────────────────────────╯
//!         (stays)
//! ```
//!
//! A new endpoint waits: a pod that is still loading its model gets nothing. Its first success is believed at once, so that a
//! fleet starts quickly; one that was not ready must show itself steady. An *answer* that says "not ready" is believed at once too,
//! since an engine that restarts on the same address says so; *no* answer may be a full event loop, and is borne a few times.
//! This is how Envoy's HTTP health checker decides. What it does beside, sending requests to unready endpoints when too many are
//! unready ("panic"), is left out: it would send them to pods without a model.

use penstock_model::snapshot::HealthCheck;

/// What a probe saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// An answer that says that it is ready.
    Ready,
    /// Any other answer.
    Refusal,
    /// None: no connection, a broken one, or too late.
    Silence,
}

/// What is believed of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Belief {
    /// Nothing yet. Gets no requests.
    #[default]
    Waiting,
    /// Gets requests.
    Ready,
    /// Gets no requests.
    Unready,
}

/// What is believed of one endpoint, and how sure that is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    belief: Belief,
    /// Probes in a row that spoke against the belief.
    against: u32,
}

impl Health {
    /// For an endpoint that has served requests until now: it is believed until its first probes say otherwise.
    pub fn trusted() -> Self {
        Self { belief: Belief::Ready, against: 0 }
    }

    /// What is believed now.
    pub fn belief(&self) -> Belief {
        self.belief
    }

    /// Takes in what a probe saw; true if the belief has changed.
    pub fn observe(&mut self, seen: Seen, check: &HealthCheck) -> bool {
        let next = match (self.belief, seen) {
            (Belief::Waiting | Belief::Ready, Seen::Ready) => {
                self.against = 0;
                Belief::Ready
            }
            (Belief::Waiting, Seen::Refusal | Seen::Silence) => Belief::Waiting,
            (Belief::Ready, Seen::Refusal) => Belief::Unready,
            (Belief::Ready, Seen::Silence) => self.weigh(check.unhealthy_threshold, Belief::Unready),
            (Belief::Unready, Seen::Ready) => self.weigh(check.healthy_threshold, Belief::Ready),
            (Belief::Unready, Seen::Refusal | Seen::Silence) => {
                self.against = 0;
                Belief::Unready
            }
        };
        let has_changed = next != self.belief;
        if has_changed {
            *self = Self { belief: next, against: 0 };
        }
        has_changed
    }

    /// One more against the belief.
    fn weigh(&mut self, threshold: u32, other: Belief) -> Belief {
        self.against = self.against.saturating_add(1);
        if self.against >= threshold { other } else { self.belief }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `script` is probes, `+` ready, `-` refusal, `.` silence; `expected` what is believed after each.
    fn check(begin: Health, script: &str, expected: &str) {
        let thresholds = HealthCheck { healthy_threshold: 2, unhealthy_threshold: 3, ..HealthCheck::of("/") };
        let mut health = begin;
        let believed: String = script
            .chars()
            .map(|probe| {
                let seen = match probe {
                    '+' => Seen::Ready,
                    '-' => Seen::Refusal,
                    _ => Seen::Silence,
                };
                let before = health.belief();
                assert_eq!(health.observe(seen, &thresholds), health.belief() != before, "{script}");
                match health.belief() {
                    Belief::Waiting => 'w',
                    Belief::Ready => 'R',
                    Belief::Unready => 'u',
                }
            })
            .collect();
        assert_eq!(believed, expected, "{script}");
    }

    #[test]
    fn a_new_endpoint_waits_for_its_first_success() {
        check(Health::default(), "", "");
        check(Health::default(), "+", "R");
        check(Health::default(), "-.-.-.+", "wwwwwwR");
    }

    #[test]
    fn a_refusal_counts_at_once_and_silence_only_in_a_row() {
        check(Health::default(), "+-", "Ru");
        check(Health::default(), "+..+..+", "RRRRRRR");
        check(Health::default(), "+...", "RRRu");
    }

    #[test]
    fn one_that_was_not_ready_must_be_steady() {
        check(Health::default(), "+-+", "Ruu");
        check(Health::default(), "+-++", "RuuR");
        check(Health::default(), "+-+.+-++", "RuuuuuuR");
    }

    #[test]
    fn one_that_has_served_is_trusted_until_its_probes_say_otherwise() {
        check(Health::trusted(), "..+", "RRR");
        check(Health::trusted(), "...", "RRu");
        check(Health::trusted(), "-", "u");
    }
}
