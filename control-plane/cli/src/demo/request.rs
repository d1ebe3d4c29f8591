//! One request of a caller, from the moment it was meant to be sent to the last byte of its answer.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};

use super::stream::AnswerStream;
use crate::clock::{self, Instant};
use crate::fetch::{self, HttpClient};

/// As much of an error's body as is read; a sentence is enough.
const ERROR_BYTES_MAX: usize = 64 << 10;
const ERROR_CHARS_MAX: usize = 200;

/// How long a caller stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    ToTheEnd,
    /// It leaves after this many events with text.
    Events(u32),
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Answered,
    /// The caller left, as it meant to.
    Left,
    /// Refused for load.
    Shed,
    /// Why its caller sees it as failed.
    Failed(String),
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) ending: Ending,
    /// Output tokens that arrived.
    pub(super) tokens: u64,
    /// From the intended start to the first generated text.
    pub(super) first_token: Option<Duration>,
    /// Mean time of each output token after the first.
    pub(super) per_token: Option<Duration>,
}

impl Outcome {
    fn failed(why: String) -> Self {
        Self { ending: Ending::Failed(why), tokens: 0, first_token: None, per_token: None }
    }
}

/// Sends a chat completion and reads its stream. Time counts from `intended`, so that a client that is late itself does not
/// flatter the mesh.
pub(super) async fn send(
    client: &HttpClient,
    url: &str,
    body: Vec<u8>,
    intended: Instant,
    patience: Patience,
) -> Outcome {
    let request =
        Request::post(url).header("content-type", "application/json").body(Full::new(Bytes::from(body)));
    let request = match request {
        Ok(request) => request,
        Err(error) => return Outcome::failed(error.to_string()),
    };
    match client.request(request).await {
        Err(error) => Outcome::failed(format!("no answer: {}", fetch::causes(&error))),
        Ok(answer) if answer.status() == StatusCode::OK => read(answer.into_body(), intended, patience).await,
        Ok(answer) => refused(answer).await,
    }
}

async fn read(mut body: Incoming, intended: Instant, patience: Patience) -> Outcome {
    let mut stream = AnswerStream::default();
    let mut pace = Pace::default();
    let ending = loop {
        match body.frame().await {
            None => break finished(&stream, &pace),
            Some(Err(error)) => {
                break Ending::Failed(format!("the answer broke off: {}", fetch::causes(&error)));
            }
            Some(Ok(frame)) => {
                let Some(bytes) = frame.data_ref() else { continue };
                pace.events(stream.read(bytes).contents, clock::now());
                if pace.is_past(patience) {
                    break Ending::Left;
                }
            }
        }
    };
    let tokens = stream.tokens.unwrap_or(u64::from(pace.events));
    Outcome {
        ending,
        tokens,
        first_token: pace.first.map(|first| first.saturating_duration_since(intended)),
        per_token: pace.per_token(tokens),
    }
}

fn finished(stream: &AnswerStream, pace: &Pace) -> Ending {
    match &stream.error {
        Some(error) => Ending::Failed(format!("an error in the stream: {error}")),
        None if !stream.is_done => Ending::Failed("the answer ended without [DONE]".to_owned()),
        None if pace.events == 0 => Ending::Failed("the answer has no text".to_owned()),
        None => Ending::Answered,
    }
}

async fn refused(answer: Response<Incoming>) -> Outcome {
    let status = answer.status();
    if is_busy(status, answer.headers().contains_key("retry-after")) {
        return Outcome { ending: Ending::Shed, ..Outcome::failed(String::new()) };
    }
    let body = Limited::new(answer.into_body(), ERROR_BYTES_MAX).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let said: String = String::from_utf8_lossy(&body).trim().chars().take(ERROR_CHARS_MAX).collect();
    Outcome::failed(format!("{status}: {said}"))
}

/// Whether an answer says "not now" rather than "broken": what the sidecars count as shed.
fn is_busy(status: StatusCode, has_retry_after: bool) -> bool {
    matches!(status.as_u16(), 429 | 529) || status == StatusCode::SERVICE_UNAVAILABLE && has_retry_after
}

/// When text arrived.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    events: u32,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Pace {
    fn events(&mut self, events: u32, now: Instant) {
        if events > 0 {
            self.events += events;
            self.first = self.first.or(Some(now));
            self.last = Some(now);
        }
    }

    fn is_past(&self, patience: Patience) -> bool {
        matches!(patience, Patience::Events(most) if self.events >= most)
    }

    fn per_token(&self, tokens: u64) -> Option<Duration> {
        let (first, last) = (self.first?, self.last?);
        let gaps = u32::try_from(tokens.checked_sub(1)?).ok().filter(|gaps| *gaps > 0)?;
        Some(last.saturating_duration_since(first) / gaps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_told_from_broken() {
        let check = |status: u16, retry_after, busy| {
            assert_eq!(is_busy(StatusCode::from_u16(status).unwrap(), retry_after), busy, "{status}");
        };
        check(429, false, true);
        check(529, false, true);
        check(503, true, true);
        check(503, false, false);
        check(500, true, false);
    }

    #[test]
    fn time_per_token_is_the_mean_of_the_gaps() {
        let start = clock::now();
        let mut pace = Pace::default();
        pace.events(0, start);
        assert_eq!(pace.per_token(5), None);
        pace.events(1, start + Duration::from_millis(50));
        assert_eq!(pace.per_token(1), None);
        pace.events(2, start + Duration::from_millis(70));
        assert_eq!(pace.per_token(5), Some(Duration::from_millis(5)));
        assert!(pace.is_past(Patience::Events(2)) && !pace.is_past(Patience::Events(4)));
        assert!(!pace.is_past(Patience::ToTheEnd));
    }

    #[test]
    fn an_answer_counts_only_when_it_is_whole() {
        let ending = |text: &str| {
            let mut stream = AnswerStream::default();
            let mut pace = Pace::default();
            pace.events(stream.read(text.as_bytes()).contents, clock::now());
            finished(&stream, &pace)
        };
        let said = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
        assert_eq!(ending(&format!("{said}data: [DONE]\n\n")), Ending::Answered);
        for (text, why) in [
            (said.to_owned(), "without [DONE]"),
            ("data: [DONE]\n\n".to_owned(), "no text"),
            (format!("{said}data: {{\"error\":{{\"message\":\"x\"}}}}\n\n"), "an error in the stream: x"),
        ] {
            assert!(matches!(ending(&text), Ending::Failed(said) if said.contains(why)), "{text}");
        }
    }
}
