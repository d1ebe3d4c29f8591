//! Tells what a client speaks from its first bytes.

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// A TLS handshake record.
    Tls,
    /// The preface of HTTP/2.
    Http2,
    /// A request line of HTTP/1.x.
    Http1,
    /// Too few to say.
    More,
    /// None of these.
    Unknown,
}

/// Longest prefix that has to be seen.
pub(super) const BYTES_MAX: usize = PREFACE.len();

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const TLS_HANDSHAKE: u8 = 0x16;

/// Judges `bytes`, the first of a connection.
pub(super) fn detect(bytes: &[u8]) -> First {
    match bytes {
        [] => First::More,
        [TLS_HANDSHAKE, ..] => First::Tls,
        // `PRI` is reserved: no HTTP/1.x request starts so.
        _ if bytes.starts_with(PREFACE) => First::Http2,
        _ if PREFACE.starts_with(bytes) => First::More,
        // Empty lines before a request line are allowed (RFC 9112 section 2.2).
        [b'\r' | b'\n', ..] => First::Http1,
        [first, ..] if first.is_ascii_alphabetic() => First::Http1,
        _ => First::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_comes_with_the_first_telling_byte() {
        for (bytes, first) in [
            (&b""[..], First::More),
            (b"\x16\x03\x01", First::Tls),
            (b"G", First::Http1),
            (b"GET / HTTP/1.0\r\n\r\n", First::Http1),
            (b"\r\nGET / HTTP/1.1\r\n", First::Http1),
            (b"P", First::More),
            (b"PRI", First::More),
            (b"POST /v1", First::Http1),
            (b"PRIX", First::Http1),
            (PREFACE, First::Http2),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04", First::Http2),
            (b"\0\x01", First::Unknown),
            (b" GET", First::Unknown),
        ] {
            assert_eq!(detect(bytes), first, "{bytes:?}");
        }
    }
}
