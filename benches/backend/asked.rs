//! What a request asks this server for.

/// See the program's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A few bytes.
    Small,
    /// Events.
    Stream {
        /// How many; without end where there are none.
        chunks: u64,
        /// Between two of them.
        interval_us: u64,
    },
    /// No answer at all.
    Silence,
    /// So many bytes of the pattern.
    Download {
        /// Of the body.
        bytes: u64,
    },
    /// To compare the body with the pattern.
    Upload,
    /// What became of all requests.
    Counts,
}

impl Asked {
    /// What a target with a query asks for.
    pub(super) fn of(target: &str) -> Self {
        let Some((_, query)) = target.split_once('?') else { return Self::Small };
        let value = |name: &str| {
            let mut fields = query.split('&').filter_map(|field| field.split_once('='));
            fields.find(|(field, _)| *field == name).map(|(_, value)| value)
        };
        let number = |name: &str| value(name)?.parse().ok();
        match value("ask") {
            Some("silence") => return Self::Silence,
            Some("compare") => return Self::Upload,
            Some("counts") => return Self::Counts,
            _ => {}
        }
        if let Some(bytes) = number("bytes") {
            return Self::Download { bytes };
        }
        let stream = |chunks| Self::Stream { chunks, interval_us: number("interval_us").unwrap_or(0) };
        number("chunks").map_or(Self::Small, stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_says_what_is_asked_for() {
        let stream = |chunks, interval_us| Asked::Stream { chunks, interval_us };
        for (target, asked) in [
            ("/v1/chat/completions?chunks=200&interval_us=2000", stream(200, 2_000)),
            ("/v1/chat/completions?chunks=0", stream(0, 0)),
            ("/v1/chat/completions?ask=silence", Asked::Silence),
            ("/?ask=compare", Asked::Upload),
            ("/?ask=counts", Asked::Counts),
            ("/?bytes=1073741824", Asked::Download { bytes: 1 << 30 }),
            ("/small", Asked::Small),
            ("/small?x=1", Asked::Small),
            ("/small?chunks=many", Asked::Small),
        ] {
            assert_eq!(Asked::of(target), asked, "{target}");
        }
    }
}
