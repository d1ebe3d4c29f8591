//! From the lines of a page to one account of the engine.

use super::defect::{LineDefect, PageDefect};
use super::page::{self, Sample};
use super::spec::Spec;
use super::tables::{Place, RANK_LABELS_MAX, Row, Signal, Table};
use super::{Engine, EngineGauges};

/// Most series that are read. A machine has 8 or 16 ranks, and each has less than 16 series that matter.
pub(super) const SERIES_MAX: usize = 1_024;

/// Above one by no more than this a share is rounded down: some are quotients of numbers read at different times.
const SHARE_MAX: f64 = 1.01;
/// Above this a count is none, and a float would not hold it exactly.
const COUNT_MAX: f64 = 9_007_199_254_740_992.0;

/// What a series stands for: the values of the labels that tell ranks apart; where it has not that label, any.
type Rank<'a> = [&'a str; RANK_LABELS_MAX];

/// Numbers of a page.
pub(super) struct Readings<'a> {
    engine: Engine,
    rows: &'static [Row],
    readings: Vec<Reading<'a>>,
    adapters: Option<Adapters<'a>>,
}

struct Reading<'a> {
    /// The row it was read by.
    row: usize,
    rank: Rank<'a>,
    value: f64,
}

/// LoRA adapters at one time.
struct Adapters<'a> {
    /// In seconds since 1970.
    time: f64,
    running: &'a str,
    waiting: &'a str,
    max: Option<f64>,
}

impl<'a> Readings<'a> {
    /// Reads the lines that the table asks for.
    pub(super) fn of(page: &'a [u8], table: &'static Table) -> Result<Self, PageDefect> {
        let specs: Vec<_> = table.rows.iter().map(|row| Spec::parse(row.spec)).collect::<Result<_, _>>()?;
        let mut readings =
            Self { engine: table.engine, rows: table.rows, readings: Vec::new(), adapters: None };
        for (number, line) in page::lines(page) {
            let name = page::name(line);
            if !specs.iter().any(|spec| spec.is_named(name)) {
                continue;
            }
            let wrong = |defect| PageDefect::Line { number, defect };
            let sample = Sample::parse(&line[name.len()..]).map_err(wrong)?;
            if table.part.is_some_and(|part| !sample.label(part).is_empty()) {
                continue;
            }
            let asking = |spec: &Spec<'_>| spec.is_named(name) && spec.takes(&sample.labels);
            for (row, _) in specs.iter().enumerate().filter(|(_, spec)| asking(spec)) {
                readings.take(row, &sample, table.ranks).map_err(wrong)?;
            }
            if readings.readings.len() > SERIES_MAX {
                return Err(PageDefect::TooManySeries);
            }
        }
        Ok(readings)
    }

    fn take(&mut self, row: usize, sample: &Sample<'a>, ranks: Rank<'static>) -> Result<(), LineDefect> {
        let Row { signal, place, .. } = self.rows[row];
        if signal == Signal::Lora {
            return self.take_adapters(sample);
        }
        let value = match place {
            Place::Value => Some(sample.value),
            Place::Label(label) => number(sample, label)?,
        };
        if let Some(value) = value {
            let value = checked(signal, value)?;
            self.readings.push(Reading { row, rank: ranks.map(|label| sample.label(label)), value });
        }
        Ok(())
    }

    fn take_adapters(&mut self, sample: &Sample<'a>) -> Result<(), LineDefect> {
        let time = sample.value;
        if time.is_nan() {
            return Ok(());
        }
        if self.adapters.as_ref().is_none_or(|known| time >= known.time) {
            let max = number(sample, "max_lora")?;
            let [running, waiting] =
                ["running_lora_adapters", "waiting_lora_adapters"].map(|label| sample.label(label));
            self.adapters = Some(Adapters { time, running, waiting, max });
        }
        Ok(())
    }

    /// All series of a signal by the first row that the page has, one for each rank.
    fn series(&self, signal: Signal) -> Vec<(Rank<'a>, f64)> {
        let rows = || self.readings.iter().filter(|reading| self.rows[reading.row].signal == signal);
        let Some(first) = rows().map(|reading| reading.row).min() else { return Vec::new() };
        let mut series: Vec<(Rank<'a>, f64)> = Vec::new();
        for reading in rows().filter(|reading| reading.row == first) {
            match series.iter_mut().find(|(rank, _)| *rank == reading.rank) {
                // The same told again, a little earlier or later.
                Some((_, value)) => *value = value.max(reading.value),
                None => series.push((reading.rank, reading.value)),
            }
        }
        series
    }

    fn sum(&self, signal: Signal) -> Option<f64> {
        known(sum_of(&self.series(signal)))
    }

    /// Tokens that the KV cache of each rank has room for.
    fn capacities(&self) -> Vec<(Rank<'a>, f64)> {
        let told = self.series(Signal::KvTokensTotal);
        if !told.is_empty() {
            return told;
        }
        let sizes = self.series(Signal::BlockTokens);
        let blocks = self.series(Signal::Blocks).into_iter();
        blocks.filter_map(|(rank, blocks)| Some((rank, blocks * of_rank(&sizes, rank)?))).collect()
    }

    /// The account.
    pub(super) fn gauges(&self) -> EngineGauges {
        let kv = Kv::of(&self.series(Signal::KvUse), &self.capacities());
        let used = self.sum(Signal::KvTokensUsed).or(kv.used);
        let (hits, queries) = (self.sum(Signal::PrefixHits), self.sum(Signal::PrefixQueries));
        let since_start = hits.zip(queries).filter(|(_, queries)| *queries > 0.0);
        let since_start = since_start.map(|(hits, queries)| (hits / queries).min(1.0));
        let adapters = self.adapters.as_ref();
        EngineGauges {
            engine: self.engine,
            running: self.sum(Signal::Running).map(count),
            waiting: self.sum(Signal::Waiting).map(count),
            kv_use: kv.share,
            kv_tokens_used: used.map(count),
            kv_tokens_total: kv.total.map(count),
            kv_block_tokens: largest(&self.series(Signal::BlockTokens)).map(count),
            prefix_hit_tokens: hits.map(count),
            prefix_query_tokens: queries.map(count),
            prefix_hit_share: mean_of(&self.series(Signal::PrefixHitShare)).or(since_start),
            lora_running: adapters.map(|adapters| names(adapters.running)),
            lora_waiting: adapters.map(|adapters| names(adapters.waiting)),
            lora_max: adapters
                .and_then(|adapters| adapters.max)
                .or_else(|| largest(&self.series(Signal::LoraMax)))
                .map(count),
        }
    }
}

/// The KV cache of all ranks together.
struct Kv {
    share: Option<f64>,
    used: Option<f64>,
    total: Option<f64>,
}

impl Kv {
    fn of(uses: &[(Rank<'_>, f64)], capacities: &[(Rank<'_>, f64)]) -> Self {
        let each: Option<Vec<_>> =
            uses.iter().map(|&(rank, share)| Some((share, of_rank(capacities, rank)?))).collect();
        let all = known(sum_of(capacities));
        match each {
            Some(each) if !each.is_empty() => {
                let total = each.iter().map(|(_, capacity)| capacity).sum();
                let used: f64 = each.iter().map(|(share, capacity)| share * capacity).sum();
                let share = if total > 0.0 { used / total } else { f64::NAN };
                // One use may be told for ranks whose capacities are told apart.
                let total = all.unwrap_or(total).max(total);
                Self {
                    share: known(Some(share)).or_else(|| mean_of(uses)),
                    used: known(Some(share * total)),
                    total: known(Some(total)),
                }
            }
            _ => Self { share: mean_of(uses), used: None, total: all },
        }
    }
}

/// What is told of this rank, or of all.
fn of_rank(series: &[(Rank<'_>, f64)], rank: Rank<'_>) -> Option<f64> {
    let is_same = |a: &str, b: &str| a.is_empty() || b.is_empty() || a == b;
    let fits = |(other, _): &&(Rank<'_>, f64)| other.iter().zip(rank).all(|(a, b)| is_same(a, b));
    series.iter().find(fits).map(|(_, value)| *value)
}

fn sum_of(series: &[(Rank<'_>, f64)]) -> Option<f64> {
    (!series.is_empty()).then(|| series.iter().map(|(_, value)| value).sum())
}

#[expect(clippy::cast_precision_loss, reason = "there are at most SERIES_MAX")]
fn mean_of(series: &[(Rank<'_>, f64)]) -> Option<f64> {
    known(sum_of(series).map(|sum| sum / series.len() as f64))
}

fn largest(series: &[(Rank<'_>, f64)]) -> Option<f64> {
    known(series.iter().map(|(_, value)| *value).reduce(f64::max))
}

/// Not a number is how a page says that it does not know.
fn known(value: Option<f64>) -> Option<f64> {
    value.filter(|value| !value.is_nan())
}

fn number(sample: &Sample<'_>, label: &'static str) -> Result<Option<f64>, LineDefect> {
    match sample.label(label) {
        "" | "None" => Ok(None),
        text => match text.parse() {
            Ok(value) => checked(Signal::Blocks, value).map(Some),
            Err(_) => Err(LineDefect::LabelValue { label, value: text.chars().take(40).collect() }),
        },
    }
}

fn checked(signal: Signal, value: f64) -> Result<f64, LineDefect> {
    let (most, wanted) = if signal.is_share() {
        (SHARE_MAX, "a share from 0 to 1")
    } else {
        (COUNT_MAX, "a count from 0 to 2^53")
    };
    if value < 0.0 || value > most {
        return Err(LineDefect::Impossible { value, wanted });
    }
    Ok(if signal.is_share() && value > 1.0 { 1.0 } else { value })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked when it was read; sums saturate"
)]
fn count(value: f64) -> u64 {
    value.round() as u64
}

fn names(list: &str) -> Vec<String> {
    let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(|name| page::unescape(name).into_owned()).collect()
}
