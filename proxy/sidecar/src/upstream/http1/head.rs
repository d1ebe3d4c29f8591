//! Heads: the request's as it is written, the answer's as it is read.

use bytes::{Buf, BufMut, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};

use super::body::Framing;
use super::{Http1Error, Start};

/// Fields of one answer.
const FIELDS_MAX: usize = 256;

/// The head of a request. `fields` holds nothing that is about one connection but what an upgrade needs.
pub(super) fn request(start: Start<'_>, fields: &HeaderMap, framing: Framing) -> BytesMut {
    let mut out = BytesMut::with_capacity(256 + 48 * fields.len());
    out.put_slice(start.method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(start.target.as_bytes());
    // First, as RFC 9110 section 7.2 asks.
    out.put_slice(b" HTTP/1.1\r\nhost: ");
    out.put_slice(start.host.as_bytes());
    out.put_slice(b"\r\n");
    for (name, value) in fields {
        // Told once, below, in its one true form.
        if *name != CONTENT_LENGTH {
            field(&mut out, name, value);
        }
    }
    if let Some((name, value)) = framing.field() {
        field(&mut out, &name, &value);
    }
    out.put_slice(b"\r\n");
    out
}

pub(super) fn field(out: &mut BytesMut, name: &HeaderName, value: &HeaderValue) {
    out.put_slice(name.as_str().as_bytes());
    out.put_slice(b": ");
    out.put_slice(value.as_bytes());
    out.put_slice(b"\r\n");
}

/// Takes the head of an answer from the front of what was received, if it is whole.
pub(super) fn answer(received: &mut BytesMut) -> Result<Option<Response<()>>, Http1Error> {
    if received.is_empty() {
        return Ok(None);
    }
    let mut space = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut space);
    let length = match parsed.parse(received) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Http1Error::Protocol("it has more than 256 fields"));
        }
        Err(_) => return Err(Http1Error::Protocol("its head is malformed")),
    };
    let malformed = || Http1Error::Protocol("its head is malformed");
    let mut answer = Response::new(());
    *answer.status_mut() =
        parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or_else(malformed)?;
    *answer.version_mut() = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let fields = answer.headers_mut();
    fields.reserve(parsed.headers.len());
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| malformed())?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| malformed())?;
        fields.append(name, value);
    }
    received.advance(length);
    if received.is_empty() {
        *received = BytesMut::new();
    }
    Ok(Some(answer))
}

/// Whether the application keeps the connection open after this answer.
pub(super) fn is_persistent(answer: &Response<()>) -> bool {
    let says = |option: &str| {
        let lines = answer.headers().get_all(CONNECTION).iter();
        lines
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(','))
            .any(|named| named.trim().eq_ignore_ascii_case(option))
    };
    if answer.version() == Version::HTTP_10 { says("keep-alive") } else { !says("close") }
}
