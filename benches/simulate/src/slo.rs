//! What was promised, and whether a request got it.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How the time between tokens is promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Each token has a deadline: that of the first one, and so much more for each token since.
    #[default]
    Deadline,
    /// The mean time between tokens has a limit.
    Mean,
}

/// The promise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slo {
    /// Nanoseconds to the first token, whatever the prompt.
    pub first_ns: u64,
    /// Nanoseconds more for each prompt token.
    pub prompt_token_ns: u64,
    /// Nanoseconds for each output token after the first.
    pub token_ns: u64,
    /// How `token_ns` is meant.
    pub form: Form,
}

impl Slo {
    /// 0.5 s and 0.1 ms a prompt token to the first token, then 50 ms a token.
    pub fn standard(form: Form) -> Self {
        Self { first_ns: 500_000_000, prompt_token_ns: 100_000, token_ns: 50_000_000, form }
    }

    /// Nanoseconds from the arrival to the first token.
    pub fn first_token_ns(&self, prompt_tokens: u32) -> u64 {
        self.first_ns + self.prompt_token_ns * u64::from(prompt_tokens)
    }
}

/// How one request fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fare {
    /// When it arrived at its sidecar.
    pub arrived_ns: u64,
    /// When its first token arrived there; 0 before.
    pub first_ns: u64,
    /// When its last token so far arrived there.
    pub last_ns: u64,
    /// Longest time between two of its tokens.
    pub stall_ns: u64,
    /// Tokens so far.
    pub tokens: u32,
    /// Whether a promise was broken.
    pub late: bool,
}

impl Fare {
    /// One more token arrives.
    pub fn token(&mut self, at_ns: u64, prompt_tokens: u32, output_tokens: u32, slo: &Slo) {
        let first_due_ns = self.arrived_ns + slo.first_token_ns(prompt_tokens);
        if self.tokens == 0 {
            self.first_ns = at_ns;
            self.late |= at_ns > first_due_ns;
        } else {
            self.stall_ns = self.stall_ns.max(at_ns - self.last_ns);
            if slo.form == Form::Deadline {
                self.late |= at_ns > first_due_ns + u64::from(self.tokens) * slo.token_ns;
            }
        }
        self.last_ns = at_ns;
        self.tokens += 1;
        if slo.form == Form::Mean && self.tokens == output_tokens {
            self.late |= self.last_ns - self.first_ns > u64::from(self.tokens - 1) * slo.token_ns;
        }
    }

    /// Nanoseconds from the arrival to the first token.
    pub fn to_first_ns(&self) -> u64 {
        self.first_ns - self.arrived_ns
    }

    /// Mean nanoseconds between tokens, where there were two.
    pub fn per_token_ns(&self) -> Option<u64> {
        (self.tokens > 1).then(|| (self.last_ns - self.first_ns) / u64::from(self.tokens - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds at which tokens of a request with 1,000 prompt tokens arrive: due at 600, then every 50.
    #[track_caller]
    fn check(form: Form, tokens_ms: &[u64], kept: bool) {
        let slo = Slo::standard(form);
        let mut fare = Fare::default();
        for at in tokens_ms {
            fare.token(at * 1_000_000, 1_000, tokens_ms.len() as u32, &slo);
        }
        assert_eq!(!fare.late, kept, "{form:?} {tokens_ms:?}");
    }

    #[test]
    fn the_first_token_has_a_deadline_that_grows_with_the_prompt() {
        for form in [Form::Deadline, Form::Mean] {
            check(form, &[600], true);
            check(form, &[601], false);
        }
    }

    #[test]
    fn an_early_first_token_leaves_time_for_the_others_with_deadlines_alone() {
        check(Form::Deadline, &[100, 300, 350], true);
        check(Form::Mean, &[100, 300, 350], false);
        check(Form::Deadline, &[600, 651, 652], false);
        check(Form::Mean, &[600, 651, 652], true);
    }
}
