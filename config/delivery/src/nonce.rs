//! Nonces: which response a request answers.

/// Makes the nonces of one stream. They differ from those of the control plane's other streams too, so that an answer that a
/// client carries over from a lost stream is known to be stale.
#[derive(Debug)]
pub struct Nonces {
    stream: u64,
    made: u64,
}

impl Nonces {
    /// For the stream with this number, which the control plane gives to no other stream.
    pub fn new(stream: u64) -> Self {
        Self { stream, made: 0 }
    }

    /// One that was not made before: `STREAM-COUNT`, the stream in hexadecimal.
    pub fn make(&mut self) -> String {
        self.made += 1;
        format!("{:x}-{}", self.stream, self.made)
    }
}
