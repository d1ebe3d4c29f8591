//! What a message must look like to be let in: in one way only.
//!
//! Parsers tidy up what they read, each in its own way, and where two of them differ a request can be smuggled past the first. So the
//! raw bytes are judged before any parser sees them ([`gate`]): the head here, chunks in [`chunks`]. Rules are those of RFC 9112
//! without the latitude that it gives to recipients; what they refuse no maintained client sends. HTTP/2 has fields and no text:
//! [`fields`] judges what its library leaves open.

mod chunks;
pub(crate) mod gate;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, request};
use penstock_dialect::detect::detect;
use penstock_dialect::reply::{ErrorCode, Reply, ReplyBody};

/// Why a message is refused. `Display` names the field and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Ambiguity {
    /// Not `METHOD TARGET HTTP/1.x`.
    #[error(
        "the request line must be `METHOD TARGET HTTP/1.1` with one space between, and the target a path, `http://HOST/PATH` or (OPTIONS) `*`"
    )]
    RequestLine,
    /// A line of the head ends in something else than CR LF, or has one of them inside.
    #[error("lines of the head must end with CR LF and contain neither alone")]
    LineEnd,
    /// NUL and its neighbours.
    #[error("the head contains a control character; remove it")]
    ControlByte,
    /// A field goes on in the next line.
    #[error("a line of the head begins with a space; a field must be in one line")]
    Fold,
    /// A field's name is not a token.
    #[error(
        "a field of the head has no name, or one with a space or another character that names cannot have"
    )]
    FieldName,
    /// A field whose name some servers read as that of another.
    #[error("a field's name is one about framing with `_` for `-`; servers differ in how they read it")]
    LookAlike,
    /// Space around a value, which HTTP/1.1 does not see.
    #[error("the value of a field begins or ends with a space; HTTP/2 does not allow it")]
    Padding,
    /// Two ways to tell where the body ends.
    #[error("`content-length` and `transfer-encoding` are both there; send one of them")]
    LengthAndCoding,
    /// Two lengths.
    #[error("`content-length` is there more than once; send it once")]
    Lengths,
    /// Not a number.
    #[error("`content-length` must be one decimal number, digits alone")]
    Length,
    /// Something else than one `chunked`.
    #[error(
        "`transfer-encoding` must be there once, be `chunked` and nothing else, and the request HTTP/1.1"
    )]
    Coding,
    /// Nobody is asked.
    #[error("`host` is missing; HTTP/1.1 requires it")]
    HostMissing,
    /// Several are asked.
    #[error("`host` is there more than once; send it once")]
    Hosts,
    /// The target names one and the field another.
    #[error("`host` and the authority of the request's target differ; send the same")]
    HostDiffers,
    /// Not a host and a port.
    #[error("the authority (`host`) must be a name or an address, and may end with `:PORT` from 1 to 65535")]
    Authority,
    /// Chunked framing that can be read in two ways.
    #[error("the chunked body is malformed: a chunk is its length in hexadecimal, CR LF, its bytes, CR LF")]
    Chunk,
    /// Fields after the last chunk that belong before the first.
    #[error("a trailer is malformed or about framing; only plain fields can follow a body")]
    Trailer,
    /// More after a request that asked for another protocol.
    #[error("bytes followed a request with `upgrade` before it was answered")]
    EarlyBytes,
}

impl Ambiguity {
    /// Whether it is the addressee that is in doubt, and not where the message ends.
    pub(crate) fn is_about_addressee(self) -> bool {
        matches!(self, Self::HostMissing | Self::Hosts | Self::HostDiffers | Self::Authority)
    }

    /// What the sender is told, in the dialect of the path that it seems to ask for.
    pub(crate) fn reply(self, method: &str, path: &str) -> ReplyBody {
        Reply::new(ErrorCode::BadRequest, self.to_string().as_str()).body(detect(method, path, None))
    }

    /// Value of the metric label.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::RequestLine => "request_line",
            Self::LineEnd => "line_end",
            Self::ControlByte => "control_byte",
            Self::Fold => "fold",
            Self::FieldName => "field_name",
            Self::LookAlike => "look_alike",
            Self::Padding => "padding",
            Self::LengthAndCoding => "length_and_coding",
            Self::Lengths => "lengths",
            Self::Length => "length",
            Self::Coding => "coding",
            Self::HostMissing => "host_missing",
            Self::Hosts => "hosts",
            Self::HostDiffers => "host_differs",
            Self::Authority => "authority",
            Self::Chunk => "chunk",
            Self::Trailer => "trailer",
            Self::EarlyBytes => "early_bytes",
        }
    }
}

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// The next request.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Another protocol, if the answer says so.
    Upgrade,
}

/// Names that decide where a message ends or for whom it is.
const FRAMING: [&str; 8] =
    ["content-length", "transfer-encoding", "host", "connection", "te", "trailer", "upgrade", "expect"];

/// Judges a whole HTTP/1.x request head, from the request line to the empty line.
///
/// # Errors
/// When the next hop could read it in another way.
pub(crate) fn head(head: &[u8]) -> Result<Body, Ambiguity> {
    let mut lines = Lines(head);
    let first = lines.next().ok_or(Ambiguity::RequestLine)??;
    let line = request_line(first)?;
    let mut seen = Seen::default();
    for field in lines {
        let field = field?;
        if field.is_empty() {
            return seen.body(&line);
        }
        let (name, value) = split_field(field)?;
        seen.note(name, value)?;
    }
    Err(Ambiguity::LineEnd)
}

/// Judges a request that did not come as text: HTTP/2's. Its library has refused upper case, line ends, most fields about the
/// connection, and a length that differs from the body.
///
/// # Errors
/// When an application behind HTTP/1.1 could read it in another way.
pub(crate) fn fields(head: &request::Parts) -> Result<(), Ambiguity> {
    let headers = &head.headers;
    if headers.keys().any(|name| is_look_alike(name.as_str().as_bytes())) {
        return Err(Ambiguity::LookAlike);
    }
    if headers.values().any(|value| value.as_bytes().trim_ascii().len() != value.len()) {
        return Err(Ambiguity::Padding);
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        return Err(Ambiguity::Coding);
    }
    one_length(headers)?;
    let target = head.uri.path_and_query().map_or("", |target| target.as_str()).as_bytes();
    let has_form = match target {
        _ if head.method == Method::CONNECT => true,
        b"*" => head.method == Method::OPTIONS,
        // The library for URIs has refused what cannot be in a path.
        _ => target.starts_with(b"/"),
    };
    if !has_form {
        return Err(Ambiguity::RequestLine);
    }
    let mut hosts = headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Ambiguity::Hosts);
    }
    let named = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    match (named, host) {
        (None, None) => Err(Ambiguity::HostMissing),
        (Some(named), Some(host)) if named != host => Err(Ambiguity::HostDiffers),
        (Some(named), _) | (None, Some(named)) if is_authority(named) => Ok(()),
        _ => Err(Ambiguity::Authority),
    }
}

/// Judges the fields of an HTTP/2 answer from an application. HTTP/1.1's are judged where they are read.
///
/// # Errors
/// When the next reader could see its end elsewhere than we do.
pub(crate) fn answer(headers: &HeaderMap) -> Result<(), Ambiguity> {
    if headers.contains_key(TRANSFER_ENCODING) {
        return Err(Ambiguity::Coding);
    }
    one_length(headers).map(drop)
}

/// The length, of which there is one at most.
fn one_length(headers: &HeaderMap) -> Result<Option<u64>, Ambiguity> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let one = lengths.next().map(|value| length(value.as_bytes())).transpose()?;
    if lengths.next().is_some() { Err(Ambiguity::Lengths) } else { Ok(one) }
}

/// Judges one trailer field of HTTP/1.1, without its line end.
fn trailer(line: &[u8]) -> Result<(), Ambiguity> {
    let (name, _) = split_field(line).map_err(|_| Ambiguity::Trailer)?;
    let normal = normal(name);
    if FRAMING.iter().any(|framing| normal == framing.as_bytes()) { Err(Ambiguity::Trailer) } else { Ok(()) }
}

/// Lines that end with CR LF and contain neither otherwise.
struct Lines<'h>(&'h [u8]);

impl<'h> Iterator for Lines<'h> {
    type Item = Result<&'h [u8], Ambiguity>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let end = self.0.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
        match end.and_then(|end| Some((end, self.0.get(end..end + 2)?))) {
            Some((end, b"\r\n")) => {
                let line = &self.0[..end];
                self.0 = &self.0[end + 2..];
                Some(if line.iter().any(|byte| is_control(*byte)) {
                    Err(Ambiguity::ControlByte)
                } else {
                    Ok(line)
                })
            }
            _ => {
                self.0 = &[];
                Some(Err(Ambiguity::LineEnd))
            }
        }
    }
}

/// What a request line says.
struct RequestLine<'h> {
    is_http10: bool,
    authority: Option<&'h [u8]>,
}

fn request_line(line: &[u8]) -> Result<RequestLine<'_>, Ambiguity> {
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Ambiguity::RequestLine);
    };
    let is_http10 = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        _ => return Err(Ambiguity::RequestLine),
    };
    if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) || !is_target(target) {
        return Err(Ambiguity::RequestLine);
    }
    let authority = match target {
        // Refused later, by its method.
        _ if method == b"CONNECT" => None,
        [b'/', ..] => None,
        b"*" if method == b"OPTIONS" => None,
        _ => Some(absolute(target).ok_or(Ambiguity::RequestLine)?),
    };
    if authority.is_some_and(|named| !is_authority(named)) {
        return Err(Ambiguity::Authority);
    }
    Ok(RequestLine { is_http10, authority })
}

/// What stands between the spaces, but for its form. A fragment is not sent; the others are those that the library for URIs refuses.
fn is_target(target: &[u8]) -> bool {
    let question = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
    let (path, query) = target.split_at(question);
    !path.iter().any(|byte| matches!(byte, b'#' | b'<' | b'>' | b'`'))
        && !query.iter().any(|byte| matches!(byte, b'#' | b'<' | b'>' | b'"'))
}

/// The authority of `http://AUTHORITY/PATH`.
fn absolute(target: &[u8]) -> Option<&[u8]> {
    let scheme = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))?;
    let rest = &target[scheme.len()..];
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    Some(&rest[..end])
}

/// The fields that matter, so far.
#[derive(Default)]
struct Seen<'h> {
    length: Option<u64>,
    is_chunked: bool,
    host: Option<&'h [u8]>,
    has_upgrade: bool,
    connection_upgrades: bool,
}

impl<'h> Seen<'h> {
    fn note(&mut self, name: &[u8], value: &'h [u8]) -> Result<(), Ambiguity> {
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.replace(length(value)?).is_some() {
                return Err(Ambiguity::Lengths);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Ambiguity::Coding);
            }
            self.is_chunked = true;
        } else if name.eq_ignore_ascii_case(b"host") {
            if self.host.replace(value).is_some() {
                return Err(Ambiguity::Hosts);
            }
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.has_upgrade = true;
        } else if name.eq_ignore_ascii_case(b"connection") {
            let mut options = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            self.connection_upgrades |= options.any(|option| option.eq_ignore_ascii_case(b"upgrade"));
        } else if is_look_alike(name) {
            return Err(Ambiguity::LookAlike);
        }
        Ok(())
    }

    fn body(&self, line: &RequestLine<'_>) -> Result<Body, Ambiguity> {
        match (self.host, line.authority) {
            (None, _) if !line.is_http10 => return Err(Ambiguity::HostMissing),
            (Some(host), Some(named)) if host != named => return Err(Ambiguity::HostDiffers),
            (Some(host), _) if !is_authority(host) => return Err(Ambiguity::Authority),
            _ => {}
        }
        match (self.length, self.is_chunked) {
            (Some(_), true) => Err(Ambiguity::LengthAndCoding),
            (None, true) if line.is_http10 => Err(Ambiguity::Coding),
            (None, true) => Ok(Body::Chunked),
            (Some(1..), false) => Ok(Body::Length(self.length.unwrap_or(0))),
            (_, false) if self.has_upgrade && self.connection_upgrades => Ok(Body::Upgrade),
            (_, false) => Ok(Body::None),
        }
    }
}

fn split_field(line: &[u8]) -> Result<(&[u8], &[u8]), Ambiguity> {
    if matches!(line, [b' ' | b'\t', ..]) {
        return Err(Ambiguity::Fold);
    }
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Ambiguity::FieldName)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(Ambiguity::FieldName);
    }
    Ok((name, value.trim_ascii()))
}

fn length(value: &[u8]) -> Result<u64, Ambiguity> {
    let digits = std::str::from_utf8(value).map_err(|_| Ambiguity::Length)?;
    // Larger ones overflow the signed arithmetic of some.
    let fits = |length: &u64| i64::try_from(*length).is_ok();
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(fits).filter(|_| is_number).ok_or(Ambiguity::Length)
}

/// `NAME`, `NAME:PORT`, `[IPv6]` or `[IPv6]:PORT`, without user, without percent signs.
fn is_authority(text: &[u8]) -> bool {
    let (host, port) = match text {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            let (inside, after) = (&rest[..end], &rest[end + 1..]);
            let is_address =
                std::str::from_utf8(inside).is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok());
            match after {
                [] => (is_address, None),
                [b':', port @ ..] => (is_address, Some(port)),
                _ => return false,
            }
        }
        _ => {
            let colon = text.iter().position(|byte| *byte == b':');
            let name = &text[..colon.unwrap_or(text.len())];
            let is_name = !name.is_empty()
                && name
                    .iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~'));
            (is_name, colon.map(|colon| &text[colon + 1..]))
        }
    };
    host && port.is_none_or(is_port)
}

fn is_port(text: &[u8]) -> bool {
    let digits = std::str::from_utf8(text).unwrap_or_default();
    (1..=5).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && digits.parse::<u16>().is_ok_and(|port| port > 0)
}

/// CGI and its descendants make one name of `content_length` and `content-length`.
fn is_look_alike(name: &[u8]) -> bool {
    name.contains(&b'_') && {
        let normal = normal(name);
        FRAMING.iter().any(|framing| normal == framing.as_bytes())
    }
}

fn normal(name: &[u8]) -> Vec<u8> {
    name.iter().map(|byte| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() }).collect()
}

fn is_control(byte: u8) -> bool {
    byte != b'\t' && byte.is_ascii_control()
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(fields: &str, expected: Result<Body, Ambiguity>) {
        let text = format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
        assert_eq!(head(text.as_bytes()), expected, "{fields:?}");
    }

    #[test]
    fn one_way_to_tell_where_the_body_ends_is_let_through() {
        check("", Ok(Body::None));
        check("content-length: 5\r\n", Ok(Body::Length(5)));
        check("content-length:5 \t\r\n", Ok(Body::Length(5)));
        check("content-length: 0\r\n", Ok(Body::None));
        check("Transfer-Encoding: Chunked\r\n", Ok(Body::Chunked));
        check("connection: keep-alive, Upgrade\r\nupgrade: websocket\r\n", Ok(Body::Upgrade));
        check("upgrade: websocket\r\n", Ok(Body::None));
    }

    #[test]
    fn anything_else_about_the_body_is_refused() {
        for (fields, why) in [
            ("content-length: 5\r\ntransfer-encoding: chunked\r\n", Ambiguity::LengthAndCoding),
            ("transfer-encoding: chunked\r\ncontent-length: 5\r\n", Ambiguity::LengthAndCoding),
            ("content-length: 5\r\ncontent-length: 5\r\n", Ambiguity::Lengths),
            ("content-length: 0\r\ncontent-length: 0\r\n", Ambiguity::Lengths),
            ("content-length: 5, 5\r\n", Ambiguity::Length),
            ("content-length: +5\r\n", Ambiguity::Length),
            ("content-length: -5\r\n", Ambiguity::Length),
            ("content-length: 0x5\r\n", Ambiguity::Length),
            ("content-length:\r\n", Ambiguity::Length),
            ("content-length: 9223372036854775808\r\n", Ambiguity::Length),
            ("transfer-encoding: gzip, chunked\r\n", Ambiguity::Coding),
            ("transfer-encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Ambiguity::Coding),
            ("transfer-encoding: \x0bchunked\r\n", Ambiguity::ControlByte),
            ("transfer-encoding:\r\n", Ambiguity::Coding),
            ("content_length: 5\r\n", Ambiguity::LookAlike),
            ("Transfer_Encoding: chunked\r\n", Ambiguity::LookAlike),
        ] {
            check(fields, Err(why));
        }
        assert_eq!(head(b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n"), Err(Ambiguity::Coding));
    }

    #[test]
    fn the_text_of_a_head_has_one_form() {
        for (text, why) in [
            ("GET / HTTP/1.1\nhost: a\r\n\r\n", Ambiguity::LineEnd),
            ("GET / HTTP/1.1\r\nhost: a\rb: c\r\n\r\n", Ambiguity::LineEnd),
            ("GET / HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n", Ambiguity::ControlByte),
            ("GET / HTTP/1.1\r\nhost: a\r\nx: \x7f\r\n\r\n", Ambiguity::ControlByte),
            ("GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n 2\r\n\r\n", Ambiguity::Fold),
            ("GET / HTTP/1.1\r\n host: a\r\n\r\n", Ambiguity::Fold),
            ("GET / HTTP/1.1\r\nhost: a\r\nx : 1\r\n\r\n", Ambiguity::FieldName),
            ("GET / HTTP/1.1\r\nhost: a\r\n: 1\r\n\r\n", Ambiguity::FieldName),
            ("GET / HTTP/1.1\r\nhost: a\r\nx\r\n\r\n", Ambiguity::FieldName),
            ("GET  / HTTP/1.1\r\nhost: a\r\n\r\n", Ambiguity::RequestLine),
            ("GET\t/ HTTP/1.1\r\nhost: a\r\n\r\n", Ambiguity::RequestLine),
            ("GET /\r\nhost: a\r\n\r\n", Ambiguity::RequestLine),
            ("GET / HTTP/1.2\r\nhost: a\r\n\r\n", Ambiguity::RequestLine),
            ("G(T / HTTP/1.1\r\nhost: a\r\n\r\n", Ambiguity::RequestLine),
            ("GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n", Ambiguity::RequestLine),
            ("GET /<a> HTTP/1.1\r\nhost: a\r\n\r\n", Ambiguity::RequestLine),
            ("GET /?\"a HTTP/1.1\r\nhost: a\r\n\r\n", Ambiguity::RequestLine),
            ("GET a HTTP/1.1\r\nhost: a\r\n\r\n", Ambiguity::RequestLine),
            ("GET * HTTP/1.1\r\nhost: a\r\n\r\n", Ambiguity::RequestLine),
        ] {
            assert_eq!(head(text.as_bytes()), Err(why), "{text:?}");
        }
    }

    #[test]
    fn a_request_names_one_authority() {
        for (target, host, expected) in [
            ("/", "host: a\r\n", Ok(Body::None)),
            ("/", "host: a.b-c_d.e:8080\r\n", Ok(Body::None)),
            ("/", "host: [::1]:80\r\n", Ok(Body::None)),
            ("http://a/x", "host: a\r\n", Ok(Body::None)),
            ("HTTP://a?x", "host: a\r\n", Ok(Body::None)),
            ("http://a/x", "host: b\r\n", Err(Ambiguity::HostDiffers)),
            ("http://a:80/x", "host: a\r\n", Err(Ambiguity::HostDiffers)),
            ("http://u@a/x", "host: u@a\r\n", Err(Ambiguity::Authority)),
            ("http:///x", "host: a\r\n", Err(Ambiguity::Authority)),
            ("ftp://a/x", "host: a\r\n", Err(Ambiguity::RequestLine)),
            ("/", "", Err(Ambiguity::HostMissing)),
            ("/", "host:\r\n", Err(Ambiguity::Authority)),
            ("/", "host: a\r\nHost: a\r\n", Err(Ambiguity::Hosts)),
            ("/", "host: a:99999\r\n", Err(Ambiguity::Authority)),
            ("/", "host: a:0\r\n", Err(Ambiguity::Authority)),
            ("/", "host: a:\r\n", Err(Ambiguity::Authority)),
            ("/", "host: a:8:9\r\n", Err(Ambiguity::Authority)),
            ("/", "host: a, b\r\n", Err(Ambiguity::Authority)),
            ("/", "host: a/b\r\n", Err(Ambiguity::Authority)),
            ("/", "host: [::1\r\n", Err(Ambiguity::Authority)),
        ] {
            let text = format!("GET {target} HTTP/1.1\r\n{host}\r\n");
            assert_eq!(head(text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(head(b"GET / HTTP/1.0\r\n\r\n"), Ok(Body::None));
    }

    #[test]
    fn an_answer_ends_in_one_place() {
        for (fields, expected) in [
            (&[("content-length", "5")][..], Ok(())),
            (&[], Ok(())),
            (&[("content-length", "5"), ("content-length", "5")], Err(Ambiguity::Lengths)),
            (&[("content-length", "x")], Err(Ambiguity::Length)),
            (&[("transfer-encoding", "chunked")], Err(Ambiguity::Coding)),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(answer(&headers), expected, "{fields:?}");
        }
    }

    #[test]
    fn fields_of_http2_are_judged_as_an_application_behind_http1_would_read_them() {
        for (uri, fields, expected) in [
            ("http://a/", &[("content-length", "5")][..], Ok(())),
            ("http://a/", &[("host", "a")], Ok(())),
            ("/", &[("host", "a")], Ok(())),
            ("http://a/", &[("content-length", "5"), ("content-length", "5")], Err(Ambiguity::Lengths)),
            ("http://a/", &[("content-length", "5, 5")], Err(Ambiguity::Length)),
            ("http://a/", &[("content-length", "+5")], Err(Ambiguity::Length)),
            ("http://a/", &[("transfer-encoding", "chunked")], Err(Ambiguity::Coding)),
            ("http://a/", &[("transfer_encoding", "chunked")], Err(Ambiguity::LookAlike)),
            ("http://a/", &[("x", " a")], Err(Ambiguity::Padding)),
            ("http://a/", &[("x", "a\t")], Err(Ambiguity::Padding)),
            ("http://a/", &[("x", "")], Ok(())),
            ("*", &[("host", "a")], Err(Ambiguity::RequestLine)),
            ("http://a:99999/", &[], Err(Ambiguity::Authority)),
            ("http://user@a/", &[], Err(Ambiguity::Authority)),
            ("/", &[("host", "a b")], Err(Ambiguity::Authority)),
            ("/", &[], Err(Ambiguity::HostMissing)),
            ("http://a/", &[("host", "b")], Err(Ambiguity::HostDiffers)),
            ("http://a/", &[("host", "a"), ("host", "a")], Err(Ambiguity::Hosts)),
        ] {
            let mut request = http::Request::builder().uri(uri);
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            let head = request.body(()).unwrap().into_parts().0;
            assert_eq!(super::fields(&head), expected, "{uri} {fields:?}");
        }
    }
}
