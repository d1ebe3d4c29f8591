//! HTTP/2 as bytes: frames that no library would send, and what comes back.

use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::wait::within;

/// What every client says first, before its SETTINGS.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
pub mod kind {
    #![expect(missing_docs, reason = "the names are those of RFC 9113 section 6")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    #![expect(missing_docs, reason = "the names are those of RFC 9113 section 6")]
    pub const NONE: u8 = 0;
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 32;
}

/// Why a stream or a connection was ended.
pub mod code {
    #![expect(missing_docs, reason = "the names are those of RFC 9113 section 7")]
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL: u32 = 1;
    pub const FLOW_CONTROL: u32 = 3;
    pub const STREAM_CLOSED: u32 = 5;
    pub const FRAME_SIZE: u32 = 6;
    pub const REFUSED: u32 = 7;
    pub const COMPRESSION: u32 = 9;
    pub const CALM: u32 = 11;
}

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM or GOAWAY.
    ///
    /// # Panics
    /// When it is another frame, or cut short.
    pub fn code(&self) -> u32 {
        let at = if self.kind == kind::GOAWAY { 4 } else { 0 };
        let bytes = self.payload.get(at..at + 4).unwrap_or_else(|| panic!("a code: {self:?}"));
        bytes.iter().fold(0, |code, byte| code << 8 | u32::from(*byte))
    }

    /// Whether it is the last of its stream.
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS) && self.flags & flag::END_STREAM != 0
    }

    /// The status that a header block begins with, if it is one of the static table; 0 for others.
    pub fn status(&self) -> u16 {
        match self.payload.first() {
            Some(0x88) => 200,
            Some(0x8c) => 400,
            Some(0x8d) => 404,
            _ => 0,
        }
    }
}

/// A frame as bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// One setting, as bytes.
pub fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// A field of a header block: literal, never indexed, without Huffman coding.
///
/// # Panics
/// When the name or the value has more than 126 bytes.
pub fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    assert!(name.len() < 127 && value.len() < 127, "a length of one byte");
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap_or(0);
    [&[0x10, length(name)], name, &[length(value)], value].concat()
}

trait Stream: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

/// A connection on which frames are sent and read.
pub struct Connection {
    stream: Pin<Box<dyn Stream>>,
    /// The largest frame that the other side takes.
    pub frame_bytes_max: usize,
    /// How many streams it takes at once.
    pub streams_max: u32,
}

impl Connection {
    /// Nothing has been said yet.
    pub fn silent(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        Self { stream: Box::pin(stream), frame_bytes_max: 16_384, streams_max: u32::MAX }
    }

    /// Says hello, and waits until both sides have taken the other's settings.
    ///
    /// # Panics
    /// When that does not happen.
    pub async fn open(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        let mut connection = Self::silent(stream);
        connection.send(&[PREFACE, &frame(kind::SETTINGS, flag::NONE, 0, &[])].concat()).await;
        let first = connection.next().await.expect("the other side's SETTINGS");
        assert_eq!((first.kind, first.flags), (kind::SETTINGS, flag::NONE), "{first:?}");
        for setting in first.payload.chunks(6) {
            let value = setting[2..].iter().fold(0, |value, byte| value << 8 | u32::from(*byte));
            match setting[1] {
                3 => connection.streams_max = value,
                5 => connection.frame_bytes_max = usize::try_from(value).expect("a size"),
                _ => {}
            }
        }
        connection.send(&frame(kind::SETTINGS, flag::ACK, 0, &[])).await;
        loop {
            let frame = connection.next().await.expect("an acknowledgement");
            match (frame.kind, frame.flags) {
                (kind::SETTINGS, flag::ACK) => return connection,
                (kind::WINDOW_UPDATE, _) => {}
                _ => panic!("an acknowledgement: {frame:?}"),
            }
        }
    }

    /// Sends bytes. Whoever has refused may have closed already: what it said is read all the same.
    pub async fn send(&mut self, bytes: &[u8]) {
        drop(self.stream.write_all(bytes).await);
        drop(self.stream.flush().await);
    }

    /// The next frame; nothing at the end, also after a reset.
    pub async fn next(&mut self) -> Option<Frame> {
        within("a frame", async {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, flags, stream @ ..] = head;
            let mut payload = vec![0; usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)];
            self.stream.read_exact(&mut payload).await.ok()?;
            Some(Frame { kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff, payload })
        })
        .await
    }
}
