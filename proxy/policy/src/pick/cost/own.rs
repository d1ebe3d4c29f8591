//! What a report becomes as it grows old, beside what this sidecar has sent since.
//!
//! What others send is taken to go on as it did: their answers end and others begin, and what they use up of the time to spare is given
//! back by their tokens. What is ours is counted one by one, and must not be there twice:
//!
//! ```text
//!   report ─────────────────────────────── now        of what the report holds, our share (our work of late, of all that came)
//!   prompts    computed, as others let them            ends with the answers, and gives back time to spare as they do;
//!      ├─ ours ─┼─ ours ──────┤                        each of ours since adds its prompt, is there for an answer's length,
//!                                                      and takes its time from what can be borne
//! ```
//!
//! A sidecar that sends an endpoint nearly all of its requests would otherwise take it to bear, for a whole period, what it could bear at
//! its beginning; one among many hardly notices the difference.

use penstock_model::units::Moment;

use super::{Placements, Prompt, Report, Speed, Weights};
use crate::lately::Lately;

/// What this sidecar has sent to one endpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Own {
    placements: Placements,
    sent: Sent,
    /// When the last report was made, and what had been sent then.
    reported: (Moment, Sent),
}

/// Prompts of late, averaged as an endpoint does in what it reports of all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sent {
    tokens: Lately,
    attention_doubled: Lately,
}

impl Sent {
    fn add(&mut self, at: Moment, prompt: Prompt) {
        self.tokens.add(prompt.uncached_tokens(), at);
        self.attention_doubled.add(prompt.attention_doubled(), at);
    }

    /// Their work as a share of the time in which they were sent.
    fn rate(&self, now: Moment, speed: &Speed) -> f64 {
        speed.prompt_ms(self.tokens.rate(now), self.attention_doubled.rate(now))
    }
}

fn millis(from: Moment, to: Moment) -> f64 {
    to.since(from).as_secs_f64() * 1e3
}

fn faded(age_ms: f64, mean_ms: f64) -> f64 {
    (-age_ms / mean_ms).exp()
}

impl Own {
    /// A request was sent.
    pub fn add(&mut self, at: Moment, prompt: Prompt) {
        self.placements.add(at, prompt);
        self.sent.add(at, prompt);
    }

    /// A request that was sent `at` waits no longer: it was refused, has failed, or is over.
    pub fn ended(&mut self, at: Moment, prompt: Prompt) {
        self.placements.ended(at, prompt);
    }

    /// A report came that contains what arrived up to `made`.
    pub fn reported(&mut self, made: Moment) {
        self.placements.reported(made);
        if made > self.reported.0 {
            self.reported = (made, self.sent);
        }
    }

    /// How many requests are not in a report yet.
    pub fn count(&self) -> usize {
        self.placements.count()
    }

    /// A report that was made at `made`, as it will have become by `now`, with what was sent since. Its `arriving` is that of others.
    pub fn onto(
        &self,
        report: Report,
        made: Moment,
        now: Moment,
        speed: &Speed,
        weights: &Weights,
    ) -> Report {
        // As of the report: what it holds of ours does not become somebody else's while we send nothing.
        let own = self.reported.1.rate(made, speed).min(report.arriving);
        let others = report.arriving - own;
        let answer_ms = report.answer_ms(speed, weights);
        let stays = if report.arriving > 0.0 { others / report.arriving } else { 0.0 };
        let stays = stays + (1.0 - stays) * faded(millis(made, now), answer_ms);
        let mut pending = Report { arriving: others, ..report };
        let mut at = made;
        let (mut taken_ms, mut there) = (0.0, 0.0);
        for (sent, prompt) in self.placements.iter() {
            pending = pending.after(millis(at, sent), speed).with(prompt);
            at = at.max(sent);
            taken_ms += prompt.work_ms(speed);
            there += faded(millis(sent, now), answer_ms);
        }
        let given_back_ms = own * millis(made, now);
        let count = |sequences: u32| f64::from(sequences) * stays;
        Report {
            sequences_running: count(report.sequences_running).round() as u32,
            sequences_waiting: (count(report.sequences_waiting) + there).round() as u32,
            bearable_ms: report.bearable_ms.map(|bearable_ms| bearable_ms + given_back_ms - taken_ms),
            ..pending.after(millis(at, now), speed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10 us a token; an answer of 10 tokens takes 100 ms.
    const SPEED: Speed = Speed {
        front_end_ms: 5.0,
        step_ms: 10.0,
        sequence_us: 0.0,
        token_us: 10.0,
        context_us: 0.0,
        attention_ns: 0.0,
        step_tokens_max: 1e9,
    };

    fn ms(ms: u64) -> Moment {
        Moment(ms * 1_000_000)
    }

    /// A report of so much `arriving` that was made at 10 s, as it has become `age_ms` later.
    fn grown(own: &Own, arriving: f64, age_ms: u64) -> Report {
        let report = Report {
            prompt_tokens_pending: 5_000.0,
            sequences_running: 100,
            output_tokens_mean: 10.0,
            bearable_ms: Some(40.0),
            arriving,
            ..Report::default()
        };
        own.onto(report, ms(10_000), ms(10_000 + age_ms), &SPEED, &Weights::CHOSEN)
    }

    /// Prompts of 1,000 tokens, 10 ms each, at these milliseconds.
    fn sent(at_ms: impl IntoIterator<Item = u64>) -> Own {
        let mut own = Own::default();
        at_ms.into_iter().for_each(|at| own.add(ms(at), Prompt { tokens: 1_000, cached_tokens: 0 }));
        own
    }

    #[test]
    fn what_was_sent_is_computed_after_what_was_there() {
        let tokens = |age_ms| grown(&sent([10_020]), 0.0, age_ms).prompt_tokens_pending;
        assert_eq!([tokens(20), tokens(30), tokens(40)].map(f64::round), [4_000.0, 3_000.0, 2_000.0]);
        assert_eq!(tokens(1_000), 0.0);
    }

    #[test]
    fn who_is_one_of_many_sees_a_crowd_that_stays_and_who_is_alone_sees_it_end() {
        let others = grown(&Own::default(), 0.5, 100);
        assert_eq!((others.sequences_running, others.bearable_ms), (100, Some(40.0)));
        assert_eq!(others.arriving, 0.5);
        // 10 ms of work in every 20 since long ago: all that arrives there is ours.
        let mut alone = sent((0..10_000).step_by(20));
        alone.reported(ms(10_000));
        let own = grown(&alone, 0.3, 100);
        assert_eq!((own.sequences_running, own.arriving), (37, 0.0), "a mean answer has gone by");
        assert!(own.bearable_ms > Some(69.0), "0.3 ms to spare given back in each: {own:?}");
    }

    #[test]
    fn what_was_ours_does_not_become_somebody_else_s_while_we_pause() {
        let mut alone = sent((0..10_000).step_by(20));
        alone.reported(ms(10_000));
        // A minute later, and nobody has told anything since.
        let own = grown(&alone, 0.3, 60_000);
        assert_eq!((own.arriving, own.expected_ms(60_000.0), own.sequences_running), (0.0, 0.0, 0));
    }

    #[test]
    fn others_are_expected_to_have_sent_no_more_than_they_do_in_the_time_over_which_rates_are_averaged() {
        let others = grown(&Own::default(), 0.5, 60_000);
        assert_eq!([others.expected_ms(1_000.0), others.expected_ms(60_000.0)], [500.0, 5_000.0]);
        assert_eq!(
            Report { arriving: 3.0, ..others }.expected_ms(100.0),
            100.0,
            "it computes no more than that"
        );
    }

    #[test]
    fn what_was_sent_takes_its_time_from_what_can_be_borne_and_is_there_for_an_answer() {
        let own = grown(&sent([10_000, 10_010, 10_020]), 0.0, 30);
        assert_eq!((own.bearable_ms.map(f64::round), own.sequences_waiting), (Some(10.0), 2));
        assert_eq!(grown(&sent([10_000, 10_010, 10_020]), 0.0, 1_000).sequences_waiting, 0);
        let nothing = Report { bearable_ms: None, ..Report::default() };
        let found = sent([5]).onto(nothing, ms(0), ms(10), &SPEED, &Weights::CHOSEN);
        assert_eq!(found.bearable_ms, None, "where nothing is promised nothing is taken");
    }
}
