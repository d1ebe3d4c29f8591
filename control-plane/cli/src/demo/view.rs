//! What a person sees while the demo runs: pure, from numbers to lines.

use std::collections::VecDeque;
use std::time::Duration;

use super::screen::Line;
use super::survey::{EngineNow, Survey};
use super::tally::{Quantiles, Tally};
use crate::output::{Cell, Ink};

const BAR: usize = 30;
/// Requests in flight that fill the bar of a backend.
const IN_FLIGHT_FULL: u64 = 24;
const IN_FLIGHT_BAR: usize = 12;
/// Samples in a sparkline.
const SPARKS: usize = 16;
/// Rates are means over this many samples.
const RATE_SAMPLES: usize = 4;
const SPARK_GLYPHS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Where the demo is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Sending,
    /// No new requests; answers that have begun are read to their end.
    Finishing,
    Done,
}

/// The numbers of one moment.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    pub(super) phase: Phase,
    pub(super) elapsed: Duration,
    pub(super) planned: Duration,
    pub(super) tally: &'a Tally,
    /// Requests that have not ended.
    pub(super) open: usize,
    pub(super) survey: &'a Survey,
    pub(super) rates: &'a Rates,
    /// Name and profile, in the order of the survey.
    pub(super) engines: &'a [(String, &'static str)],
    pub(super) version: &'a str,
    pub(super) sidecars: usize,
}

/// Output tokens a second of each engine, in the past seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    /// When, and tokens so far of each engine; oldest first.
    samples: VecDeque<(Duration, Vec<u64>)>,
}

impl Rates {
    /// Keeps what a survey found.
    pub(super) fn sample(&mut self, elapsed: Duration, survey: &Survey) {
        self.samples.push_back((elapsed, survey.engines.iter().map(|engine| engine.tokens).collect()));
        while self.samples.len() > SPARKS + RATE_SAMPLES {
            self.samples.pop_front();
        }
    }

    /// The newest rate of an engine.
    fn newest(&self, engine: usize) -> f64 {
        self.rate(engine, self.samples.len().saturating_sub(1))
    }

    fn rate(&self, engine: usize, at: usize) -> f64 {
        let tokens = |index: usize| {
            let (when, tokens) = self.samples.get(index)?;
            Some((when.as_secs_f64(), *tokens.get(engine)?))
        };
        let (Some(after), Some(before)) = (tokens(at), tokens(at.saturating_sub(RATE_SAMPLES))) else {
            return 0.0;
        };
        let seconds = after.0 - before.0;
        if seconds > 0.0 { after.1.saturating_sub(before.1) as f64 / seconds } else { 0.0 }
    }

    /// Rates of an engine as a line of glyphs; `full` is the highest glyph.
    fn sparks(&self, engine: usize, full: f64) -> String {
        let from = self.samples.len().saturating_sub(SPARKS);
        (from..self.samples.len()).map(|at| spark(self.rate(engine, at), full)).collect()
    }

    /// The highest rate that is shown, of any engine.
    fn highest(&self, engines: usize) -> f64 {
        let all =
            (0..engines).flat_map(|engine| (0..self.samples.len()).map(move |at| self.rate(engine, at)));
        all.fold(1.0, f64::max)
    }
}

fn spark(value: f64, full: f64) -> char {
    let steps = SPARK_GLYPHS.len() - 1;
    let step = (value / full * steps as f64).round().clamp(0.0, steps as f64) as usize;
    SPARK_GLYPHS.get(step).copied().unwrap_or(' ')
}

impl Scene<'_> {
    /// Tokens a second of an engine: at present, or at the end over all the time.
    fn rate(&self, engine: usize) -> f64 {
        match (self.phase, self.survey.engines.get(engine)) {
            (Phase::Done, Some(now)) => now.tokens as f64 / self.elapsed.as_secs_f64().max(0.001),
            _ => self.rates.newest(engine),
        }
    }
}

/// The block of lines for a terminal.
pub(super) fn frame(scene: &Scene<'_>) -> Vec<Line> {
    let mut lines =
        vec![title(scene), Line::new(), requests(scene), latencies(scene), Line::new(), columns()];
    lines
        .extend(scene.survey.engines.iter().enumerate().map(|(index, engine)| backend(scene, index, engine)));
    lines.extend([Line::new(), mutual_tls(scene), config(scene)]);
    lines
}

/// One line for a log.
pub(super) fn log_line(scene: &Scene<'_>) -> String {
    let Scene { tally, .. } = scene;
    let per_token = tally.per_token_ms();
    let first = tally.first_token_ms();
    format!(
        "{:>5.1} s  {} requests, {} in flight, {} errors, {} refused  TTFT p50 {} p99 {}  TPOT p50 {} p99 {}",
        scene.elapsed.as_secs_f64(),
        tally.ended() + scene.open as u64,
        scene.open,
        tally.errors,
        tally.shed,
        ms(first.p50),
        ms(first.p99),
        ms(per_token.p50),
        ms(per_token.p99),
    )
}

fn title(scene: &Scene<'_>) -> Line {
    let share = (scene.elapsed.as_secs_f64() / scene.planned.as_secs_f64().max(0.001)).min(1.0);
    let filled = (share * BAR as f64).round() as usize;
    let note = match scene.phase {
        Phase::Sending => format!("{:.1} of {} s", scene.elapsed.as_secs_f64(), scene.planned.as_secs()),
        Phase::Finishing => format!("the last {} answers end", scene.open),
        Phase::Done => format!("done in {:.1} s", scene.elapsed.as_secs_f64()),
    };
    vec![
        Cell::new(Ink::Bold, "penstock demo  "),
        Cell::new(Ink::Cyan, "━".repeat(filled)),
        Cell::new(Ink::Dim, "─".repeat(BAR - filled)),
        Cell::new(Ink::Plain, format!("  {note}")),
    ]
}

fn requests(scene: &Scene<'_>) -> Line {
    let Scene { tally, open, .. } = scene;
    let mut line = vec![Cell::new(Ink::Dim, "  requests ")];
    line.push(Cell::new(Ink::Bold, format!("{:<6}", tally.ended() + *open as u64)));
    let mut count = |name: &str, number: u64, ink: Ink| {
        line.push(Cell::new(Ink::Dim, format!("{name} ")));
        line.push(Cell::new(if number > 0 { ink } else { Ink::Plain }, format!("{number:<6}")));
    };
    count("in flight", *open as u64, Ink::Cyan);
    count("answered", tally.answered, Ink::Green);
    count("left early", tally.left, Ink::Plain);
    count("refused", tally.shed, Ink::Yellow);
    count("errors", tally.errors, Ink::Red);
    line
}

fn latencies(scene: &Scene<'_>) -> Line {
    let mut line = Line::new();
    let mut pair = |name: &str, quantiles: Quantiles| {
        line.push(Cell::new(Ink::Dim, format!("  {name}  p50 ")));
        line.push(Cell::new(Ink::Bold, format!("{:>8}", ms(quantiles.p50))));
        line.push(Cell::new(Ink::Dim, "  p99 "));
        line.push(Cell::new(Ink::Bold, format!("{:>8}", ms(quantiles.p99))));
    };
    pair("first token", scene.tally.first_token_ms());
    pair("each further token", scene.tally.per_token_ms());
    let rate =
        (0..scene.survey.engines.len()).map(|engine| scene.rate(engine)).fold(0.0, |sum, rate| sum + rate);
    line.push(Cell::new(Ink::Bold, format!("   {rate:>6.0}")));
    line.push(Cell::new(Ink::Dim, " tokens/s"));
    line
}

fn columns() -> Line {
    let head = format!(
        "  {:<9} {:<8} {:>8}  {:<16}{:>7} {:>7} {:>6} {:>10} {:>8}",
        "BACKEND", "LIKE", "REQUESTS", "IN FLIGHT", "RUNNING", "WAITING", "KV", "PREFIX HIT", "TOKENS/S"
    );
    vec![Cell::new(Ink::Dim, head)]
}

fn backend(scene: &Scene<'_>, index: usize, engine: &EngineNow) -> Line {
    let (name, profile) = scene.engines.get(index).map_or(("", ""), |(name, profile)| (name, *profile));
    let engines = scene.survey.engines.len();
    let filled = ((engine.in_flight as f64 / IN_FLIGHT_FULL as f64) * IN_FLIGHT_BAR as f64).round() as usize;
    let filled = filled.min(IN_FLIGHT_BAR);
    let share = |share: f64| format!("{:.1}%", share * 100.0);
    let hit =
        engine.cached_share().map_or_else(|| "–".to_owned(), |cached| format!("{:.0}%", cached * 100.0));
    let ink = if engine.waiting > 0 { Ink::Yellow } else { Ink::Plain };
    vec![
        Cell::new(Ink::Bold, format!("  {name:<9} ")),
        Cell::new(Ink::Dim, format!("{profile:<8} ")),
        Cell::new(Ink::Plain, format!("{:>8}  ", engine.requests)),
        Cell::new(Ink::Cyan, "█".repeat(filled)),
        Cell::new(Ink::Dim, "·".repeat(IN_FLIGHT_BAR - filled)),
        Cell::new(Ink::Plain, format!(" {:<3}", engine.in_flight)),
        Cell::new(Ink::Plain, format!("{:>7}", engine.running)),
        Cell::new(ink, format!(" {:>7}", engine.waiting)),
        Cell::new(Ink::Plain, format!(" {:>6} {hit:>10}", share(engine.kv_share))),
        Cell::new(Ink::Plain, format!(" {:>8.0} ", scene.rate(index))),
        Cell::new(Ink::Cyan, scene.rates.sparks(index, scene.rates.highest(engines))),
    ]
}

fn mutual_tls(scene: &Scene<'_>) -> Line {
    let tls = &scene.survey.tls;
    let joined =
        |set: &std::collections::BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(", ");
    vec![
        Cell::new(Ink::Dim, "  mutual TLS  "),
        Cell::new(Ink::Green, format!("{} connections", tls.connections)),
        Cell::new(Ink::Plain, format!("  {}  {}", joined(&tls.versions), joined(&tls.key_exchanges))),
        Cell::new(Ink::Dim, if is_post_quantum(scene.survey) { "  (post-quantum)" } else { "" }),
    ]
}

/// Whether every connection agreed its key in a way that a quantum computer does not undo.
pub(super) fn is_post_quantum(survey: &Survey) -> bool {
    let names = &survey.tls.key_exchanges;
    !names.is_empty() && names.iter().all(|name| name.contains("MLKEM"))
}

fn config(scene: &Scene<'_>) -> Line {
    vec![
        Cell::new(Ink::Dim, "  config      "),
        Cell::new(Ink::Green, crate::status::short(Some(scene.version))),
        Cell::new(Ink::Plain, format!("  pushed to {} sidecars, accepted by all", scene.sidecars)),
    ]
}

fn ms(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(ms) if ms < 100.0 => format!("{ms:.1} ms"),
        Some(ms) if ms < 10_000.0 => format!("{ms:.0} ms"),
        Some(ms) => format!("{:.1} s", ms / 1_000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::{Ending, Outcome};
    use super::super::survey::Tls;
    use super::*;
    use crate::output;

    fn engine(tokens: u64, in_flight: u64, waiting: u64) -> EngineNow {
        EngineNow {
            requests: tokens / 10,
            in_flight,
            running: in_flight - waiting,
            waiting,
            kv_share: 0.0213,
            prompt_tokens: 1_000,
            prompt_tokens_cached: 384,
            tokens,
            ..EngineNow::default()
        }
    }

    fn shown(phase: Phase) -> String {
        let mut tally = Tally::new().unwrap();
        for number in 1..=50 {
            let first_token = Some(Duration::from_millis(number));
            let per_token = Some(Duration::from_micros(9_000 + number));
            let outcome = Outcome { ending: Ending::Answered, tokens: 9, first_token, per_token };
            tally.record(outcome, Duration::ZERO);
        }
        let mut rates = Rates::default();
        let mut survey = Survey::default();
        for step in 0..30 {
            survey.engines = vec![engine(step * 200, 7, 0), engine(step * 100, 30, 2)];
            rates.sample(Duration::from_millis(step * 500), &survey);
        }
        survey.tls = Tls {
            connections: 8,
            versions: ["TLSv1.3".to_owned()].into(),
            key_exchanges: ["X25519MLKEM768".to_owned()].into(),
        };
        let scene = Scene {
            phase,
            elapsed: Duration::from_millis(14_500),
            planned: Duration::from_secs(20),
            tally: &tally,
            open: 37,
            survey: &survey,
            rates: &rates,
            engines: &[("engine-1".to_owned(), "8b-h100"), ("engine-2".to_owned(), "8b-a100")],
            version: "3f2a91bc00112233",
            sidecars: 6,
        };
        let text = |line: Line| line.into_iter().map(|cell| cell.text).collect::<String>();
        let lines: Vec<String> =
            frame(&scene).into_iter().map(|line| text(line).trim_end().to_owned()).collect();
        let widest = lines.iter().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 112, "{widest} columns");
        format!("{}\n\n{}\n", lines.join("\n"), log_line(&scene))
    }

    #[test]
    fn the_table_says_what_happens() {
        output::golden("demo.txt", &shown(Phase::Sending));
        assert!(shown(Phase::Finishing).contains("the last 37 answers end"));
        assert!(shown(Phase::Done).contains("done in 14.5 s"));
    }

    #[test]
    fn rates_are_differences_over_time() {
        let mut rates = Rates::default();
        let survey = |tokens| Survey { engines: vec![engine(tokens, 1, 0)], tls: Tls::default() };
        rates.sample(Duration::ZERO, &survey(100));
        assert_eq!(rates.newest(0), 0.0);
        rates.sample(Duration::from_secs(2), &survey(300));
        assert_eq!(rates.newest(0), 100.0);
        assert_eq!(rates.newest(9), 0.0);
        assert_eq!(rates.sparks(0, 100.0), "▁█");
    }

    #[test]
    fn milliseconds_are_as_precise_as_they_are_large() {
        let texts = [None, Some(7.04), Some(99.96), Some(1_234.5), Some(12_345.0)].map(ms);
        assert_eq!(texts, ["–", "7.0 ms", "100.0 ms", "1234 ms", "12.3 s"]);
    }
}
