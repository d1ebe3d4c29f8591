//! Quantities, each parsed once and printed back as it was written.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in time in nanoseconds since an origin that the caller chose.
///
/// Unlike `std::time::Instant` it can be built from a number, so it can be stored, replayed and written in a golden file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Moment(pub u64);

impl Moment {
    /// The time from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// A Gateway API duration (GEP-2257): one to four of `NUMBER(h|m|s|ms)`, no fraction, `0s` for zero.
///
/// The text is kept, so that a document is printed back as its author wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    text: String,
    value: Duration,
}

impl Span {
    /// The quantity.
    pub fn duration(&self) -> Duration {
        self.value
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = || UnitError {
            text: text.to_owned(),
            grammar: "a duration: one to four of NUMBER(h|m|s|ms), such as `500ms`, `1m30s` or `0s`",
        };
        let mut rest = text;
        let mut value = Duration::ZERO;
        let mut parts = 0;
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let number: u64 = match digits {
                1..=5 => rest[..digits].parse().map_err(|_| refuse())?,
                _ => return Err(refuse()),
            };
            rest = &rest[digits..];
            let (unit_ms, after) = if let Some(after) = rest.strip_prefix("ms") {
                (1, after)
            } else if let Some(after) = rest.strip_prefix('s') {
                (1_000, after)
            } else if let Some(after) = rest.strip_prefix('m') {
                (60_000, after)
            } else if let Some(after) = rest.strip_prefix('h') {
                (3_600_000, after)
            } else {
                return Err(refuse());
            };
            value += Duration::from_millis(number * unit_ms);
            rest = after;
            parts += 1;
        }
        if (1..=4).contains(&parts) { Ok(Self { text: text.to_owned(), value }) } else { Err(refuse()) }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The shortest text of a duration in the grammar of [`Span`]; what is below a millisecond is dropped.
pub fn duration_text(duration: Duration) -> String {
    let mut rest_ms = duration.as_millis();
    let mut text = String::new();
    for (unit, unit_ms) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if rest_ms >= unit_ms {
            text.push_str(&format!("{}{unit}", rest_ms / unit_ms));
            rest_ms %= unit_ms;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// A rolling window of whole hours, days or weeks, as SLOs are written elsewhere: `24h`, `30d`, `4w`; 1 to 9999 of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    text: String,
    value: Duration,
}

impl Window {
    /// The quantity.
    pub fn duration(&self) -> Duration {
        self.value
    }
}

impl FromStr for Window {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = || UnitError {
            text: text.to_owned(),
            grammar: "a window of whole hours, days or weeks, such as `24h`, `30d` or `4w`",
        };
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let unit_h: u64 = match &text[digits..] {
            "h" => 1,
            "d" => 24,
            "w" => 7 * 24,
            _ => return Err(refuse()),
        };
        if !(1..=4).contains(&digits) || text.starts_with('0') {
            return Err(refuse());
        }
        let number: u64 = text[..digits].parse().map_err(|_| refuse())?;
        Ok(Self { text: text.to_owned(), value: Duration::from_secs(number * unit_h * 3_600) })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A number of bytes: `512`, `64Ki`, `16Mi`, `1Gi` (Kubernetes' binary suffixes).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ByteSize {
    text: String,
    bytes: u64,
}

impl ByteSize {
    /// The quantity.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = || UnitError {
            text: text.to_owned(),
            grammar: "a number of bytes, with `Ki`, `Mi` or `Gi` if wanted, such as `16Mi`",
        };
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = text[..digits].parse().map_err(|_| refuse())?;
        let scale: u64 = match &text[digits..] {
            "" => 1,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            _ => return Err(refuse()),
        };
        let bytes = number.checked_mul(scale).ok_or_else(refuse)?;
        Ok(Self { text: text.to_owned(), bytes })
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A percentage from 0 to 100 written as a string, such as `"99.5"`, as OpenSLO's `targetPercent` is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Percent {
    text: String,
    millionths: u32,
}

impl Percent {
    /// The quantity in millionths: 1,000,000 for `100`.
    pub fn millionths(&self) -> u32 {
        self.millionths
    }

    /// The quantity as a share from 0 to 1.
    pub fn share(&self) -> f64 {
        f64::from(self.millionths) / 1_000_000.0
    }
}

impl FromStr for Percent {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = || UnitError {
            text: text.to_owned(),
            grammar: "a percentage from 0 to 100 with at most four decimals, such as `\"99.5\"`",
        };
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let plain =
            |s: &str, most: usize| (1..=most).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit());
        if !plain(whole, 3) || !plain(decimals, 4) {
            return Err(refuse());
        }
        let whole: u32 = whole.parse().map_err(|_| refuse())?;
        let padded: u32 = format!("{decimals:0<4}").parse().map_err(|_| refuse())?;
        let millionths = whole * 10_000 + padded;
        if millionths > 1_000_000 { Err(refuse()) } else { Ok(Self { text: text.to_owned(), millionths }) }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Text that does not fit a unit's grammar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {grammar}")]
pub struct UnitError {
    /// What was written.
    pub text: String,
    /// What can be written, with an example.
    pub grammar: &'static str,
}

macro_rules! written_as_text {
    ($($unit:ty),*) => {$(
        impl Serialize for $unit {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.text)
            }
        }

        impl<'de> Deserialize<'de> for $unit {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

written_as_text!(Span, Window, ByteSize, Percent);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_follow_gep_2257() {
        for (text, ms) in [
            ("0s", 0),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1h1m1s1ms", 3_661_001),
            ("99999h", 359_996_400_000),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.duration(), Duration::from_millis(ms), "{text}");
            assert_eq!(span.to_string(), text);
        }
        for text in ["", "0", "1.5s", "100000s", "1d", "-1s", "1s1s1s1s1s", "s", "1 s", "１s"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_written_as_short_as_can_be() {
        for (ms, text) in [(0, "0s"), (500, "500ms"), (90_000, "1m30s"), (3_661_001, "1h1m1s1ms")] {
            assert_eq!(duration_text(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn windows_are_whole_hours_days_or_weeks() {
        for (text, hours) in [("1h", 1), ("30d", 720), ("4w", 672), ("9999h", 9_999)] {
            let window: Window = text.parse().unwrap();
            assert_eq!(window.duration(), Duration::from_secs(hours * 3_600), "{text}");
            assert_eq!(window.to_string(), text);
        }
        for text in ["", "0d", "d", "30", "30m", "1.5d", "30d1h", "10000h", "-1d", "３０d"] {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
    }

    #[test]
    fn byte_sizes_take_binary_suffixes() {
        for (text, bytes) in [("0", 0), ("512", 512), ("64Ki", 65_536), ("16Mi", 16_777_216)] {
            assert_eq!(text.parse::<ByteSize>().unwrap().bytes(), bytes, "{text}");
        }
        for text in ["", "1K", "1MB", "-1", "1.5Gi", "99999999999Gi", "Mi"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn percentages_keep_four_decimals() {
        for (text, share) in [("99.5", 0.995), ("100", 1.0), ("0", 0.0), ("99.9999", 0.999_999)] {
            assert!((text.parse::<Percent>().unwrap().share() - share).abs() < 1e-12, "{text}");
        }
        for text in ["", "100.1", "101", "-1", "99.", ".5", "99.99999", "1e2"] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }
}
