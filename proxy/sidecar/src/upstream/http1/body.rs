//! Where a body ends (RFC 9112 sections 6 and 7): written one way, read one way, refused where two ways are possible.

use bytes::{BufMut, BytesMut};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Version};

use super::{Http1Error, Upload, is_bodiless};

/// Longest line of a chunk's size with its extensions, and all trailers together.
const LINE_BYTES_MAX: usize = 4 << 10;
const TRAILER_BYTES_MAX: usize = 64 << 10;
const TRAILERS_MAX: usize = 128;

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    None,
    /// So many bytes are still to come.
    Length(u64),
    /// In chunks.
    Chunked,
    /// All that comes until the connection closes.
    UntilClose,
}

impl Framing {
    /// What a request's fields and body call for. A length that the caller has given is kept.
    pub(super) fn of_request(
        method: &Method,
        fields: &HeaderMap,
        upload: Option<&Upload>,
    ) -> Result<Self, Http1Error> {
        let Some(upload) = upload else { return Ok(Self::None) };
        if let Some(length) = length(fields)? {
            return Ok(Self::Length(length));
        }
        let has_meaning = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
        Ok(match upload.whole_bytes() {
            Some(0) if !has_meaning => Self::None,
            Some(bytes) => Self::Length(bytes),
            None => Self::Chunked,
        })
    }

    /// What an answer's status and fields say.
    pub(super) fn of_answer(answer: &Response<()>, is_head: bool) -> Result<Self, Http1Error> {
        let fields = answer.headers();
        let length = length(fields)?;
        let mut codings = fields.get_all(TRANSFER_ENCODING).iter();
        let coding = codings.next();
        if coding.is_some() && answer.version() == Version::HTTP_10 {
            return Err(Http1Error::Protocol("HTTP/1.0 has no `transfer-encoding`"));
        }
        if coding.is_some_and(|coding| {
            !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") || codings.next().is_some()
        }) {
            return Err(Http1Error::Protocol("its `transfer-encoding` is not exactly `chunked`"));
        }
        if is_head || is_bodiless(answer.status()) {
            return Ok(Self::None);
        }
        match (coding, length) {
            (Some(_), Some(_)) => {
                Err(Http1Error::Protocol("it has both `transfer-encoding` and `content-length`"))
            }
            (Some(_), None) => Ok(Self::Chunked),
            (None, Some(length)) => Ok(Self::Length(length)),
            (None, None) => Ok(Self::UntilClose),
        }
    }

    /// The field that tells it, where the caller's fields do not.
    pub(super) fn field(self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::Length(bytes) => Some((CONTENT_LENGTH, HeaderValue::from(bytes))),
            Self::Chunked => Some((TRANSFER_ENCODING, HeaderValue::from_static("chunked"))),
            Self::None | Self::UntilClose => None,
        }
    }

    /// What stands before `bytes` of a body.
    pub(super) fn open_chunk(&mut self, out: &mut BytesMut, bytes: usize) -> Result<(), Http1Error> {
        match self {
            Self::Chunked => out.extend_from_slice(format!("{bytes:x}\r\n").as_bytes()),
            Self::Length(left) => {
                let left_after = left.checked_sub(bytes as u64);
                *left = left_after
                    .ok_or(Http1Error::Protocol("the request's body is longer than its `content-length`"))?;
            }
            Self::None | Self::UntilClose => {}
        }
        Ok(())
    }

    /// What stands behind it.
    pub(super) fn close_chunk(self, is_last: bool) -> Result<&'static [u8], Http1Error> {
        match self {
            Self::Chunked if is_last => Ok(b"\r\n0\r\n\r\n"),
            Self::Chunked => Ok(b"\r\n"),
            Self::Length(1..) if is_last => Err(TOO_SHORT),
            Self::None | Self::Length(_) | Self::UntilClose => Ok(b""),
        }
    }

    /// What stands at the end of a body. Trailers need chunks.
    pub(super) fn end(self, out: &mut BytesMut, trailers: Option<&HeaderMap>) -> Result<(), Http1Error> {
        match self {
            Self::Chunked => {
                out.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    super::head::field(out, name, value);
                }
                out.extend_from_slice(b"\r\n");
                Ok(())
            }
            Self::Length(1..) => Err(TOO_SHORT),
            Self::None | Self::Length(_) | Self::UntilClose => Ok(()),
        }
    }
}

const TOO_SHORT: Http1Error = Http1Error::Protocol("the request's body is shorter than its `content-length`");

/// The one length that the fields tell.
fn length(fields: &HeaderMap) -> Result<Option<u64>, Http1Error> {
    let mut found = None;
    for value in fields.get_all(CONTENT_LENGTH) {
        let text = value.as_bytes();
        // `parse` alone would take a sign.
        let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(text).ok().filter(|_| is_number).and_then(|text| text.parse().ok());
        let number: u64 = number.ok_or(Http1Error::Protocol("its `content-length` is not a number"))?;
        if found.is_some_and(|other| other != number) {
            return Err(Http1Error::Protocol("it has two different values of `content-length`"));
        }
        found = Some(number);
    }
    Ok(found)
}

/// Takes a body out of its framing, from pieces of any size.
#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
    /// Part of a line.
    line: Vec<u8>,
    trailers: Option<HeaderMap>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    /// The line with a chunk's size.
    Size,
    /// So many bytes of a chunk are to come.
    Chunk(u64),
    /// The end of the line behind a chunk; how much of CR LF has been seen.
    ChunkEnd(usize),
    /// Fields after the last chunk.
    Trailers,
    Ended,
}

impl Decoder {
    /// For a body.
    pub(super) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Ended,
            Framing::Length(bytes) => State::Length(bytes),
            Framing::Chunked => State::Size,
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, line: Vec::new(), trailers: None }
    }

    /// Nothing to come.
    pub(super) fn ended() -> Self {
        Self::new(Framing::None)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    pub(super) fn has_trailers(&self) -> bool {
        self.trailers.is_some()
    }

    pub(super) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    /// The peer has closed the connection.
    pub(super) fn closed(&mut self) -> Result<(), Http1Error> {
        if self.state != State::UntilClose {
            return Err(Http1Error::Closed);
        }
        self.state = State::Ended;
        Ok(())
    }

    /// Takes what it can from `input`, appends the body's bytes to `out`, and says how much it took: all but what follows the end.
    pub(super) fn decode(&mut self, input: &[u8], out: &mut BytesMut) -> Result<usize, Http1Error> {
        let mut used = 0;
        while used < input.len() && !self.has_ended() {
            used += self.step(&input[used..], out)?;
        }
        Ok(used)
    }

    fn step(&mut self, input: &[u8], out: &mut BytesMut) -> Result<usize, Http1Error> {
        match self.state {
            State::Length(left) | State::Chunk(left) => {
                let part = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                out.put_slice(&input[..part]);
                let left = left - part as u64;
                self.state = match (self.state, left) {
                    (State::Length(_), 0) => State::Ended,
                    (State::Length(_), _) => State::Length(left),
                    (_, 0) => State::ChunkEnd(0),
                    (_, _) => State::Chunk(left),
                };
                Ok(part)
            }
            State::UntilClose => {
                out.put_slice(input);
                Ok(input.len())
            }
            State::ChunkEnd(seen) => {
                if input[0] != b"\r\n"[seen] {
                    return Err(Http1Error::Protocol("a chunk is not followed by an end of line"));
                }
                self.state = if seen == 1 { State::Size } else { State::ChunkEnd(1) };
                Ok(1)
            }
            State::Size => {
                let used = self.take_line(input, LINE_BYTES_MAX)?;
                if self.line.ends_with(b"\r\n") {
                    let bytes = chunk_bytes(&self.line)?;
                    self.line.clear();
                    self.state = if bytes == 0 { State::Trailers } else { State::Chunk(bytes) };
                }
                Ok(used)
            }
            State::Trailers => {
                let used = self.take_line(input, TRAILER_BYTES_MAX)?;
                if self.line == b"\r\n" || self.line.ends_with(b"\r\n\r\n") {
                    self.trailers = trailers(&self.line)?;
                    self.line = Vec::new();
                    self.state = State::Ended;
                }
                Ok(used)
            }
            State::Ended => Ok(0),
        }
    }

    /// Adds up to the end of a line.
    fn take_line(&mut self, input: &[u8], bytes_max: usize) -> Result<usize, Http1Error> {
        let used = memchr::memchr(b'\n', input).map_or(input.len(), |at| at + 1);
        if self.line.len() + used > bytes_max {
            return Err(Http1Error::Protocol("a line of its chunked body is too long"));
        }
        self.line.extend_from_slice(&input[..used]);
        if self.line.ends_with(b"\n") && !self.line.ends_with(b"\r\n") {
            return Err(Http1Error::Protocol("a line of its chunked body ends without CR"));
        }
        Ok(used)
    }
}

/// The size in a line such as `1f;name=value`.
fn chunk_bytes(line: &[u8]) -> Result<u64, Http1Error> {
    let refused = Http1Error::Protocol("a chunk's size is not a hexadecimal number");
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    // Fifteen digits are more than any disk; sixteen could overflow what others count with.
    let after = line[digits..].trim_ascii();
    if !(1..=15).contains(&digits) || !(after.is_empty() || after[0] == b';') {
        return Err(refused);
    }
    let text = std::str::from_utf8(&line[..digits]).unwrap_or_default();
    u64::from_str_radix(text, 16).map_err(|_| refused)
}

fn trailers(lines: &[u8]) -> Result<Option<HeaderMap>, Http1Error> {
    let mut space = [httparse::EMPTY_HEADER; TRAILERS_MAX];
    let Ok(httparse::Status::Complete((_, parsed))) = httparse::parse_headers(lines, &mut space) else {
        return Err(Http1Error::Protocol("its trailers are malformed"));
    };
    let mut fields = HeaderMap::new();
    for field in parsed {
        let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(field.name.as_bytes()), HeaderValue::from_bytes(field.value))
        else {
            return Err(Http1Error::Protocol("its trailers are malformed"));
        };
        fields.append(name, value);
    }
    Ok((!fields.is_empty()).then_some(fields))
}
