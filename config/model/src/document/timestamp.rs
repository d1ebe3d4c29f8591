//! RFC 3339 times, as Kubernetes writes `creationTimestamp`.

/// Seconds since 1970 of `YYYY-MM-DDTHH:MM:SS[.FRACTION](Z|±HH:MM)`; nothing where the text is none.
pub(crate) fn seconds(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let number = |from: usize, digits: usize| {
        let part = bytes.get(from..from + digits)?;
        part.iter().try_fold(0_i64, |sum, b| b.is_ascii_digit().then(|| sum * 10 + i64::from(b - b'0')))
    };
    let mark = |at: usize, marks: &[u8]| bytes.get(at).is_some_and(|b| marks.contains(b)).then_some(());
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    for (at, marks) in [(4, b"-".as_slice()), (7, b"-"), (10, b"Tt"), (13, b":"), (16, b":")] {
        mark(at, marks)?;
    }
    let mut zone = 19;
    if mark(zone, b".").is_some() {
        let digits = bytes[zone + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
        zone += 1 + digits;
        (digits > 0).then_some(())?;
    }
    let (offset_s, end) = match bytes.get(zone)? {
        b'Z' | b'z' => (0, zone + 1),
        sign @ (b'+' | b'-') => {
            mark(zone + 3, b":")?;
            let (hours, minutes) = (number(zone + 1, 2)?, number(zone + 4, 2)?);
            (hours <= 23 && minutes <= 59).then_some(())?;
            let span = hours * 3_600 + minutes * 60;
            (if *sign == b'+' { span } else { -span }, zone + 6)
        }
        _ => return None,
    };
    let in_range = (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour <= 23
        && minute <= 59
        && second <= 60; // a leap second
    (in_range && end == bytes.len())
        .then(|| days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset_s)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Years are counted from March, so that the leap day is the last of its year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let in_year = (153 * month + 2) / 5 + day - 1;
    365 * year + leap_days + in_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn times_are_counted_from_1970() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:00:00Z", Some(951_825_600)),
            ("2026-11-21T10:03:33Z", Some(1_795_255_413)),
            ("2026-11-21T11:03:33.25+01:00", Some(1_795_255_413)),
            ("1969-12-31t23:59:59z", Some(-1)),
            ("2026-02-29T00:00:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-01-01T24:00:00Z", None),
            ("2026-01-01T00:00:00", None),
            ("2026-01-01T00:00:00.Z", None),
            ("2026-01-01T00:00:00Zx", None),
            ("2026-01-01 00:00:00Z", None),
            ("2026-01-01T00:00:00+0100", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}
