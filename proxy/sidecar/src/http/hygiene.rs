//! Ambiguous framing is refused, from the raw bytes: the parser has tidied up by the time a hook sees the fields.

/// Why a request's head is refused. `Display` names the field and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Ambiguity {
    /// Two ways to tell where the body ends.
    #[error("`content-length` and `transfer-encoding` are both there; send one of them")]
    LengthAndCoding,
    /// Two lengths, or a list of them.
    #[error("`content-length` is there more than once; send it once")]
    Lengths,
    /// Something else than one `chunked`.
    #[error("`transfer-encoding` must be `chunked` and nothing else")]
    Coding,
}

/// Looks at the head of an HTTP/1.x request as it came from the wire.
///
/// # Errors
/// When the next hop could read the end of the body differently.
pub(super) fn check(head: &[u8]) -> Result<(), Ambiguity> {
    let mut lengths = 0;
    let mut codings = 0;
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            lengths += 1;
            if !value.iter().all(u8::is_ascii_digit) {
                return Err(Ambiguity::Lengths);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            codings += 1;
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Ambiguity::Coding);
            }
        }
    }
    match (lengths, codings) {
        (1.., 1..) => Err(Ambiguity::LengthAndCoding),
        (2.., _) => Err(Ambiguity::Lengths),
        (_, 2..) => Err(Ambiguity::Coding),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_way_to_read_a_request_is_let_through() {
        let check = |fields: &str| check(format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n").as_bytes());
        for fields in ["", "content-length: 5\r\n", "Transfer-Encoding: Chunked\r\n", "content-length:5\n"] {
            assert_eq!(check(fields), Ok(()), "{fields:?}");
        }
        for (fields, why) in [
            ("content-length: 5\r\ntransfer-encoding: chunked\r\n", Ambiguity::LengthAndCoding),
            ("transfer-encoding: chunked\r\ncontent-length: 5\r\n", Ambiguity::LengthAndCoding),
            ("content-length: 5\r\ncontent-length: 5\r\n", Ambiguity::Lengths),
            ("content-length: 5, 5\r\n", Ambiguity::Lengths),
            ("content-length: +5\r\n", Ambiguity::Lengths),
            ("transfer-encoding: gzip, chunked\r\n", Ambiguity::Coding),
            ("transfer-encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Ambiguity::Coding),
            ("transfer-encoding: \x0bchunked\r\n", Ambiguity::Coding),
            ("transfer-encoding:\r\n", Ambiguity::Coding),
        ] {
            assert_eq!(check(fields), Err(why), "{fields:?}");
        }
    }
}
