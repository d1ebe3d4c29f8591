//! Events of a chat stream, each with the time when the backend was due to send it.

use memchr::memmem;

/// Digits of the time: enough for any `u64`, and always as many, so that every event has the same length.
const DIGITS: usize = 20;
const BEFORE: &str = "data: {\"id\":\"bench\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"bench\",\
    \"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},\"finish_reason\":null}],\"due_ns\":\"";
const AFTER: &str = "\"}\n\n";
const MARK: &[u8] = b"\"due_ns\":\"";
/// The last event of every stream.
pub const DONE: &str = "data: [DONE]\n\n";

/// The event that is due at this time.
pub fn write(due_ns: u64) -> String {
    format!("{BEFORE}{due_ns:0DIGITS$}{AFTER}")
}

/// Finds events in a stream that arrives in pieces.
#[derive(Debug, Default)]
pub struct Events {
    /// The begin of an event whose end has not arrived.
    begun: Vec<u8>,
}

impl Events {
    /// Hands the due time of every event that is whole now to `sink`.
    pub fn read(&mut self, bytes: &[u8], mut sink: impl FnMut(u64)) {
        self.begun.extend_from_slice(bytes);
        let mut from = 0;
        while let Some(end) = memmem::find(&self.begun[from..], b"\n\n") {
            if let Some(due_ns) = due(&self.begun[from..from + end]) {
                sink(due_ns);
            }
            from += end + 2;
        }
        self.begun.drain(..from);
    }
}

fn due(event: &[u8]) -> Option<u64> {
    let digits = memmem::find(event, MARK)? + MARK.len();
    std::str::from_utf8(event.get(digits..digits + DIGITS)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_due_time_is_found_wherever_the_stream_is_split() {
        let stream = format!(": ping\n\n{}{}{DONE}", write(7), write(u64::MAX));
        for split in 0..=stream.len() {
            let (mut events, mut found) = (Events::default(), Vec::new());
            for part in [&stream[..split], &stream[split..]] {
                events.read(part.as_bytes(), |due_ns| found.push(due_ns));
            }
            assert_eq!(found, [7, u64::MAX], "at {split}");
        }
    }

    #[test]
    fn events_have_one_length() {
        assert_eq!(write(0).len(), write(u64::MAX).len());
    }
}
