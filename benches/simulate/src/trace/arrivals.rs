//! A trace at a load.
//!
//! Requests without sessions come when they came, with time compressed by `scale`. A trace in which most requests share their
//! timestamp with others, and the next one is a second or more away, is not bursty but coarse: a seeded uniform draw of up to that
//! step is added to each. A trace that would be over too soon to fill servers begins again as another, with blocks of its own.
//!
//! Sessions start when they started, with the starts compressed by `scale`; the thinking in between is not compressed. So that a
//! higher load lasts as long as the recorded one, sessions begin again from the first when all have started; a repeated session
//! shares with the others what it shared with others in the trace, and its own blocks with none.

use std::collections::HashMap;
use std::sync::Arc;

use crate::draw::{Draws, Purpose};

use super::{Load, Record, Trace};

/// Warm-up that no figure counts, in milliseconds of trace time,
const WARM_UP_MS: f64 = 60e3;
/// and as a share of a trace of which that would leave less than half.
const WARM_UP_SHARE: f64 = 0.1;
/// Requests come for at least so many milliseconds,
const RUN_MIN_MS: f64 = 10e3;
/// except where a trace with a minute of warm-up is compressed by no more than this: such runs stay what they always were.
const SCALE_PLAIN_MAX: f64 = 200.0;
/// A usual step between timestamps from which on they are coarse, in milliseconds.
const COARSE_MS: u64 = 1_000;
/// Spreads block numbers over all 64 bits.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// One request that will arrive.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Nanoseconds from the start; for a later turn of a session the pause after the answer before.
    pub at_ns: u64,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub output_tokens: u32,
    /// Prefix blocks of the prompt.
    pub blocks: Arc<[u64]>,
    /// Which session it belongs to, if to any; all its turns come through one sidecar.
    pub session: Option<u32>,
    /// Place of the session's next turn among the arrivals.
    pub next_turn: Option<u32>,
}

/// All that will arrive.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Requests; later turns of a session stand behind its first.
    pub arrivals: Vec<Arrival>,
    /// Places of those that arrive by themselves, in the order of their arrival.
    pub starts: Vec<u32>,
    /// Figures count what arrives from here on, in nanoseconds,
    pub from_ns: u64,
    /// and before here.
    pub until_ns: u64,
    /// Requests, or starts of sessions, a second.
    pub rate: f64,
}

impl Schedule {
    /// As much of it as arrives before `until_ns`.
    pub fn until(self, until_ns: u64) -> Self {
        Self { until_ns: self.until_ns.min(until_ns), ..self }
    }

    /// Whether figures count what arrives then.
    pub fn counts(&self, at_ns: u64) -> bool {
        (self.from_ns..self.until_ns).contains(&at_ns)
    }
}

/// The trace with time compressed by `scale`, which is above 0.
pub fn arrivals(trace: &Trace, scale: f64, seed: u64) -> Schedule {
    let rate = trace.rate() * scale;
    let mut schedule = match &trace.load {
        Load::Open(records) => open(trace, records, scale, seed),
        Load::Sessions(_) => sessions(trace, scale),
    };
    let arrivals = &schedule.arrivals;
    schedule.starts.sort_by_key(|place| arrivals[*place as usize].at_ns);
    Schedule { rate, ..schedule }
}

/// What of a trace of this length no figure counts.
fn warm_up_ms(span_ms: f64) -> f64 {
    if is_long(span_ms) { WARM_UP_MS } else { span_ms * WARM_UP_SHARE }
}

/// Whether at least half of it is left after a minute.
fn is_long(span_ms: f64) -> bool {
    span_ms >= 2.0 * WARM_UP_MS
}

fn open(trace: &Trace, records: &[Record], scale: f64, seed: u64) -> Schedule {
    let mut draws = Draws::new(seed, Purpose::Arrivals);
    let step_ms = coarseness_ms(records);
    let span_ms = trace.span_ms() as f64;
    // A usual pause lies between its end and where it begins again.
    let period_ms = records.len() as f64 / trace.rate() * 1e3;
    let needed = (RUN_MIN_MS * scale / period_ms).ceil().max(1.0) as u64;
    let passes = if is_long(span_ms) && scale <= SCALE_PLAIN_MAX { 1 } else { needed };
    let mut arrivals = Vec::with_capacity(passes as usize * records.len());
    for pass in 0..passes {
        arrivals.extend(records.iter().map(|record| {
            let at_ms = record.at_ms as f64 + draws.unit() * step_ms as f64 + pass as f64 * period_ms;
            arrival(record, (at_ms * 1e6 / scale) as u64, None, blocks(record, |_| pass))
        }));
    }
    let warm_up_ms = if passes > 1 { passes as f64 * period_ms * WARM_UP_SHARE } else { warm_up_ms(span_ms) };
    let starts = (0..arrivals.len() as u32).collect();
    Schedule { arrivals, starts, from_ns: (warm_up_ms * 1e6 / scale) as u64, until_ns: u64::MAX, rate: 0.0 }
}

fn sessions(trace: &Trace, scale: f64) -> Schedule {
    let Load::Sessions(sessions) = &trace.load else {
        return Schedule { arrivals: Vec::new(), starts: Vec::new(), from_ns: 0, until_ns: 0, rate: 0.0 };
    };
    let owners = owners(trace);
    let is_shared = |block: u64| owners.get(&block).is_some_and(|(_, count)| *count > 1);
    let span_ms = sessions.len() as f64 / trace.rate() * 1e3;
    let mut schedule = Schedule {
        arrivals: Vec::new(),
        starts: Vec::new(),
        from_ns: (warm_up_ms(span_ms) * 1e6) as u64,
        until_ns: (span_ms * 1e6) as u64,
        rate: 0.0,
    };
    let passes = scale.ceil().max(1.0) as u64;
    for pass in 0..passes {
        for (number, session) in sessions.iter().enumerate() {
            let start_ms = (session.turns[0].at_ms as f64 + pass as f64 * span_ms) / scale;
            if start_ms >= span_ms {
                continue;
            }
            let id = pass as u32 * sessions.len() as u32 + number as u32;
            schedule.starts.push(schedule.arrivals.len() as u32);
            for (turn, (record, pause_ms)) in session.turns.iter().zip(&session.pauses_ms).enumerate() {
                let at_ms = if turn == 0 { start_ms } else { *pause_ms as f64 };
                let blocks = blocks(record, |block| if is_shared(block) { 0 } else { pass });
                let mut arrival = arrival(record, (at_ms * 1e6) as u64, Some(id), blocks);
                let last = turn + 1 == session.turns.len();
                arrival.next_turn = (!last).then_some(schedule.arrivals.len() as u32 + 1);
                schedule.arrivals.push(arrival);
            }
        }
    }
    schedule
}

/// How many sessions hold each block: 1, or 2 for more.
fn owners(trace: &Trace) -> HashMap<u64, (usize, u8)> {
    let mut owners: HashMap<u64, (usize, u8)> = HashMap::new();
    let Load::Sessions(sessions) = &trace.load else { return owners };
    for (number, session) in sessions.iter().enumerate() {
        for block in session.turns.iter().flat_map(|turn| &turn.blocks) {
            let entry = owners.entry(*block).or_insert((number, 1));
            if entry.0 != number {
                entry.1 = 2;
            }
        }
    }
    owners
}

/// The blocks of a prompt: those of two passes differ.
fn blocks(record: &Record, pass_of: impl Fn(u64) -> u64) -> Arc<[u64]> {
    let spread = |block: &u64| block.wrapping_add(1 + (pass_of(*block) << 40)).wrapping_mul(SPREAD);
    record.blocks.iter().map(spread).collect()
}

fn arrival(record: &Record, at_ns: u64, session: Option<u32>, blocks: Arc<[u64]>) -> Arrival {
    Arrival {
        at_ns,
        prompt_tokens: record.prompt_tokens,
        output_tokens: record.output_tokens,
        blocks,
        session,
        next_turn: None,
    }
}

/// The usual step between timestamps where they are coarse, else 0.
fn coarseness_ms(records: &[Record]) -> u64 {
    let mut steps_ms: Vec<u64> =
        records.windows(2).map(|pair| pair[1].at_ms - pair[0].at_ms).filter(|step| *step > 0).collect();
    steps_ms.sort_unstable();
    let usual_ms = steps_ms.get(steps_ms.len() / 2).copied().unwrap_or(0);
    let crowded = 2 * (steps_ms.len() + 1) <= records.len();
    if crowded && usual_ms >= COARSE_MS { usual_ms } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::super::read::parse;
    use super::*;

    fn trace(text: &str) -> Trace {
        Trace { name: String::new(), checksum: String::new(), load: parse("t.jsonl", text).unwrap() }
    }

    fn lines(times_ms: &[u64]) -> Trace {
        let line = |at| format!(r#"{{"timestamp":{at},"input_length":9,"output_length":1}}"#);
        trace(&times_ms.iter().map(line).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn compression_divides_times_and_multiplies_the_rate() {
        let schedule = arrivals(&lines(&[0, 10_000, 25_000]), 2.0, 1);
        let times: Vec<_> = schedule.arrivals.iter().map(|a| a.at_ns / 1_000_000).collect();
        assert_eq!(times, [0, 5_000, 12_500]);
        assert!((schedule.rate - 0.16).abs() < 1e-9);
    }

    #[test]
    fn a_trace_that_would_be_over_at_once_begins_again_as_another_and_a_long_one_only_far_beyond() {
        let even = |count: u64| {
            let line = |at: u64| {
                let at_ms = at * 1_000;
                format!(r#"{{"timestamp":{at_ms},"input_length":600,"output_length":1,"hash_ids":[{at}]}}"#)
            };
            trace(&(0..count).map(line).collect::<Vec<_>>().join("\n"))
        };
        for (count, scale, passes) in
            [(20, 1.0, 1), (20, 2.0, 1), (20, 30.0, 15), (5, 1.0, 2), (150, 150.0, 1), (150, 300.0, 20)]
        {
            let schedule = arrivals(&even(count), scale, 1);
            let arrivals = &schedule.arrivals;
            assert_eq!(arrivals.len() as u64, passes * count, "{count} at {scale}");
            // As many a second as before, to the end.
            for (place, arrival) in arrivals.iter().enumerate() {
                let expected_ns = (place as f64 * 1e9 / scale) as u64;
                assert!(arrival.at_ns.abs_diff(expected_ns) < 1_000, "{count} at {scale}: {arrival:?}");
            }
            let different: std::collections::HashSet<_> = arrivals.iter().map(|a| a.blocks[0]).collect();
            assert_eq!(different.len(), arrivals.len(), "nothing is cached that was not before");
            if passes > 1 {
                let all_s = (passes * count) as f64 / scale;
                assert!(all_s >= 10.0 && (schedule.from_ns as f64 / 1e9 - all_s / 10.0).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn a_minute_does_not_count_or_a_tenth_where_that_would_be_more_than_half() {
        let from_ms = |trace: &Trace, scale| arrivals(trace, scale, 1).from_ns / 1_000_000;
        for (last_ms, expected_ms) in [(120_000, 60_000), (119_990, 11_999), (60_000, 6_000), (30_000, 3_000)]
        {
            let open = lines(&[0, last_ms]);
            assert_eq!((from_ms(&open, 1.0), from_ms(&open, 0.5)), (expected_ms, 2 * expected_ms));
        }
        // They last as long as two sessions at their rate; only starts are compressed.
        for (last_ms, expected_ms) in [(60_000, 60_000), (30_000, 6_000)] {
            let line = |at: u64| {
                format!(r#"{{"timestamp":{at},"input_length":9,"output_length":1,"session_id":"{at}"}}"#)
            };
            let sessions = trace(&[line(0), line(last_ms)].join("\n"));
            assert_eq!((from_ms(&sessions, 1.0), from_ms(&sessions, 2.0)), (expected_ms, expected_ms));
        }
    }

    #[test]
    fn coarse_timestamps_are_spread_and_fine_ones_are_not() {
        let recorded = [0, 0, 3_000, 3_000, 3_000, 6_001];
        let coarse = arrivals(&lines(&recorded), 1.0, 1);
        let times: Vec<_> = coarse.arrivals.iter().map(|a| a.at_ns / 1_000_000).collect();
        assert_ne!(times[2], times[3]);
        assert!(
            times.iter().zip(recorded).all(|(at, recorded)| (recorded..recorded + 3_001).contains(at)),
            "{times:?}"
        );
        let order: Vec<_> = coarse.starts.iter().map(|p| coarse.arrivals[*p as usize].at_ns).collect();
        assert!(order.is_sorted());
    }

    #[test]
    fn more_load_repeats_sessions_and_only_what_several_had_is_shared() {
        let line = |at: u64, id: &str, turn: u32, own: u64| {
            format!(
                r#"{{"timestamp":{at},"input_length":1024,"output_length":1,"session_id":"{id}","turn":{turn},"delay":5,"hash_ids":[7,{own}]}}"#
            )
        };
        let text = [line(0, "a", 1, 1), line(600, "b", 1, 2), line(700, "a", 2, 1)].join("\n");
        let schedule = arrivals(&trace(&text), 2.0, 1);
        assert_eq!(schedule.starts.len(), 4, "twice the sessions in the same time");
        let first = &schedule.arrivals[0];
        let again = &schedule.arrivals[schedule.starts[2] as usize];
        assert_eq!(first.next_turn, Some(1));
        assert_eq!(schedule.arrivals[1].next_turn, None);
        assert_eq!((first.blocks[0], first.blocks[1]), (again.blocks[0], schedule.arrivals[1].blocks[1]));
        assert_ne!(first.blocks[1], again.blocks[1]);
        assert_ne!(first.session, again.session);
    }
}
