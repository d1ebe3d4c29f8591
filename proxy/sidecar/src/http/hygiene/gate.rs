//! Stands between the socket and the HTTP/1.1 parser: only bytes that can be read in one way pass.
//!
//! It follows a connection from request to request, so it knows where each head begins, also of requests that were sent ahead. A
//! head is held until it is whole and then passes or does not; bodies pass as they come.
//!
//! ```text
//! head ─► body (length, chunks) ─► head …
//!   ╰───► upgrade ─► 101: anything, 2xx to 5xx: head
//! ```

use penstock_dialect::reply::ErrorCode;

use super::chunks::Chunks;
use super::{Ambiguity, Body, head, is_control, request_line};
use crate::http::headers::ERROR;

const HEAD_END: &[u8] = b"\r\n\r\n";

/// What the next byte is part of.
#[derive(Debug)]
enum Stage {
    /// A request's head.
    Head,
    /// A body of known length, of which so much is missing.
    Length(u64),
    /// A chunked body.
    Chunked(Chunks),
    /// Nothing: the answer to an upgrade comes first.
    Upgrade,
    /// Something else than HTTP/1.1, or a head beyond the limit, which is refused as a request.
    Opaque,
}

/// What may be done with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    /// So many of them may pass.
    pub(crate) pass: usize,
    /// What about the rest.
    pub(crate) rest: Rest,
}

/// What comes after the bytes that may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// The beginning of a head, or nothing: to be judged again when there is more.
    Hold,
    /// Nothing of it passes, and nothing after it.
    Refuse(Ambiguity),
}

/// The judge of one connection.
#[derive(Debug)]
pub(crate) struct Gate {
    stage: Stage,
    heads: u64,
    head_bytes_max: usize,
}

impl Gate {
    /// Before the first request. Heads that are longer pass, and are refused as requests.
    pub(crate) fn new(head_bytes_max: u32) -> Self {
        let head_bytes_max = usize::try_from(head_bytes_max).unwrap_or(usize::MAX);
        Self { stage: Stage::Head, heads: 0, head_bytes_max }
    }

    /// Judges the next bytes, the first `seen` of which were held before.
    pub(crate) fn judge(&mut self, bytes: &[u8], seen: usize) -> Judged {
        let mut at = 0;
        let rest = loop {
            let left = &bytes[at..];
            if left.is_empty() {
                break Rest::Hold;
            }
            match &mut self.stage {
                Stage::Head => match self.whole_head(left, seen.saturating_sub(at)) {
                    Ok(Some(length)) => at += length,
                    Ok(None) => break Rest::Hold,
                    Err(why) => break Rest::Refuse(why),
                },
                Stage::Length(missing) => {
                    let taken =
                        usize::try_from(*missing).map_or(left.len(), |missing| missing.min(left.len()));
                    *missing -= taken as u64;
                    if *missing == 0 {
                        self.stage = Stage::Head;
                    }
                    at += taken;
                }
                Stage::Chunked(chunks) => match chunks.read(left) {
                    Ok(Some(length)) => {
                        self.stage = Stage::Head;
                        at += length;
                    }
                    Ok(None) => at = bytes.len(),
                    Err((good, why)) => {
                        at += good;
                        break Rest::Refuse(why);
                    }
                },
                Stage::Upgrade => break Rest::Refuse(Ambiguity::EarlyBytes),
                Stage::Opaque => at = bytes.len(),
            }
        };
        Judged { pass: at, rest }
    }

    /// How many heads have passed.
    pub(crate) fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether the next byte is part of the last head's request, and not of another.
    pub(crate) fn is_in_body(&self) -> bool {
        !matches!(self.stage, Stage::Head)
    }

    /// The length of the head at the beginning of `bytes`, with empty lines before it, if it is whole and good.
    fn whole_head(&mut self, bytes: &[u8], seen: usize) -> Result<Option<usize>, Ambiguity> {
        let mut start = 0;
        while bytes[start..].starts_with(b"\r\n") {
            start += 2;
        }
        // An end may begin in what was seen.
        let from = seen.saturating_sub(HEAD_END.len() - 1).max(start);
        let end = bytes[from..].windows(HEAD_END.len()).position(|window| window == HEAD_END);
        let Some(end) = end.map(|end| from + end + HEAD_END.len()) else {
            if bytes.len() > self.head_bytes_max {
                self.stage = Stage::Opaque;
                return Ok(Some(bytes.len()));
            }
            if start == bytes.len() {
                return Ok(Some(start));
            }
            return partial_head(&bytes[start..], from - start).map(|()| None);
        };
        let body = head(&bytes[start..end])?;
        if body == Body::Upgrade && end < bytes.len() {
            return Err(Ambiguity::EarlyBytes);
        }
        self.heads += 1;
        self.stage = match body {
            Body::None => Stage::Head,
            Body::Length(length) => Stage::Length(length),
            Body::Chunked => Stage::Chunked(Chunks::new()),
            Body::Upgrade => Stage::Upgrade,
        };
        Ok(Some(end))
    }

    /// Bytes are sent to the client: after a request for an upgrade they decide what comes next.
    pub(crate) fn answered(&mut self, bytes: &[u8]) {
        if !matches!(self.stage, Stage::Upgrade) || !bytes.starts_with(b"HTTP/1.") {
            return;
        }
        match bytes.get(9..12) {
            Some(b"101") => self.stage = Stage::Opaque,
            Some([b'1', _, _]) | None => {}
            Some(_) => self.stage = Stage::Head,
        }
    }
}

/// Refuses the beginning of a head as soon as it is wrong: a head with other line ends might never become whole.
fn partial_head(bytes: &[u8], from: usize) -> Result<(), Ambiguity> {
    for (index, byte) in bytes.iter().enumerate().skip(from) {
        match byte {
            b'\n' if index == 0 || bytes[index - 1] != b'\r' => return Err(Ambiguity::LineEnd),
            b'\r' if bytes.get(index + 1).is_some_and(|next| *next != b'\n') => {
                return Err(Ambiguity::LineEnd);
            }
            b'\r' | b'\n' => {}
            byte if is_control(*byte) => return Err(Ambiguity::ControlByte),
            _ => {}
        }
    }
    match bytes.windows(2).position(|window| window == b"\r\n") {
        Some(end) => request_line(&bytes[..end]).map(drop),
        None => Ok(()),
    }
}

/// The answer to a head that does not pass, in the dialect of the path that it seems to ask for. The connection is closed after it.
pub(crate) fn answer(head: &[u8], why: Ambiguity) -> Vec<u8> {
    let line = head.trim_ascii_start().split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let mut words =
        line.split(|byte| *byte == b' ').map(|word| std::str::from_utf8(word).unwrap_or_default());
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let body = why.reply(method, path);
    let length = body.bytes.len();
    let mut answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: {}\r\ncontent-length: {length}\r\n{ERROR}: {}\r\nconnection: close\r\n\r\n",
        body.content_type,
        ErrorCode::BadRequest.as_str(),
    )
    .into_bytes();
    if method != "HEAD" {
        answer.extend_from_slice(&body.bytes);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    /// What passes of `bytes` and why the rest does not, however they are cut in two.
    fn check(bytes: &str, passes: usize, why: Option<Ambiguity>) {
        for cut in 0..=bytes.len() {
            let mut gate = Gate::new(1_000);
            let (mut passed, mut held, mut refused) = (0, Vec::new(), None);
            for part in [&bytes[..cut], &bytes[cut..]] {
                let seen = held.len();
                held.extend_from_slice(part.as_bytes());
                let judged = gate.judge(&held, seen);
                passed += judged.pass;
                held.drain(..judged.pass);
                if let Rest::Refuse(why) = judged.rest {
                    refused = Some(why);
                    break;
                }
            }
            assert_eq!((passed, refused), (passes, why), "{bytes:?} cut at {cut}");
        }
    }

    #[test]
    fn good_requests_pass_one_after_another() {
        check(GET, GET.len(), None);
        check(&format!("\r\n\r\n{GET}"), 4 + GET.len(), None);
        check(&GET.repeat(3), GET.len() * 3, None);
        let post = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nGET /";
        check(&format!("{post}{GET}"), post.len() + GET.len(), None);
        let post = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nGET /\r\n0\r\n\r\n";
        check(&format!("{post}{GET}{post}"), post.len() * 2 + GET.len(), None);
    }

    #[test]
    fn a_head_passes_whole_or_not_at_all() {
        check(&GET[..GET.len() - 1], 0, None);
        check(&format!("{GET}GET / HTTP/1.1\r\nhos"), GET.len(), None);
        check("GET / HTTP/1.1\nhost: a\n\n", 0, Some(Ambiguity::LineEnd));
        check("GET /\r\n", 0, Some(Ambiguity::RequestLine));
        check("GET / HTTP/1.1\r\nhost: \0", 0, Some(Ambiguity::ControlByte));
        check("GET / HTTP/1.1\r\nhost: a\r\n\rx", 0, Some(Ambiguity::LineEnd));
    }

    #[test]
    fn what_comes_before_a_bad_request_still_passes() {
        let bad = "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n";
        check(&format!("{GET}{bad}{GET}"), GET.len(), Some(Ambiguity::Hosts));
        let post = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\n";
        check(&format!("{post}hello\n0\r\n\r\n"), post.len() + 5, Some(Ambiguity::Chunk));
    }

    #[test]
    fn nothing_may_come_before_the_answer_to_an_upgrade() {
        let upgrade = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        let sent_ahead = format!("{upgrade}{GET}");
        assert_eq!(
            Gate::new(1_000).judge(sent_ahead.as_bytes(), 0),
            Judged { pass: 0, rest: Rest::Refuse(Ambiguity::EarlyBytes) }
        );
        for (answer, next, rest) in [
            ("HTTP/1.1 101 Switching Protocols\r\n", "\0\n", Rest::Hold),
            ("HTTP/1.1 200 OK\r\n", "\0\n", Rest::Refuse(Ambiguity::ControlByte)),
            ("HTTP/1.1 200 OK\r\n", GET, Rest::Hold),
            ("HTTP/1.1 103 Early Hints\r\n", GET, Rest::Refuse(Ambiguity::EarlyBytes)),
        ] {
            let mut gate = Gate::new(1_000);
            assert_eq!(gate.judge(upgrade.as_bytes(), 0).pass, upgrade.len());
            gate.answered(answer.as_bytes());
            assert_eq!(gate.judge(next.as_bytes(), 0).rest, rest, "{answer}{next}");
        }
    }

    #[test]
    fn a_head_beyond_the_limit_passes_and_is_refused_later() {
        let long = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(2_000));
        assert_eq!(Gate::new(1_000).judge(long.as_bytes(), 0), Judged { pass: long.len(), rest: Rest::Hold });
    }

    #[test]
    fn a_refusal_is_told_in_the_dialect_of_the_path() {
        let text = |head: &str| String::from_utf8(answer(head.as_bytes(), Ambiguity::Hosts)).unwrap();
        let chat = text("POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n");
        assert!(chat.contains("\r\ncontent-type: application/json\r\n") && chat.contains("`host`"), "{chat}");
        assert!(text("GET / HTTP/1.1\r\n").contains("\r\nx-penstock-error: bad_request\r\n"));
        assert!(text("HEAD / HTTP/1.1\r\n").ends_with("\r\n\r\n"));
        assert!(text("\0\n").starts_with("HTTP/1.1 400 "));
    }
}
