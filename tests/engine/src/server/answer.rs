//! From tokens to bytes: one answer, whole or as a stream of events.
//!
//! A stream is: for chats one event with the role and no content; one event for each token, that is for each step
//! of the scheduler, the last one with the reason for the end; usage, if it was asked for; `[DONE]`. The first event
//! leaves with the first token, as in vLLM; until then there are only headers, and comments if keep-alive is on.

mod shape;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures::stream;

use super::account::Ending;
use super::ask::{Cut, UsageWish, Wish};
use super::live::{Event, Ticket, Work};
use super::reply::Refusal;
use super::{RequestId, Service, prompt};
use crate::bpe::Token;
use crate::text::{self, Spelling};
pub(crate) use shape::Style;
use shape::{Head, Usage};

/// What to answer.
pub(crate) struct Plan<'a> {
    pub(crate) wish: &'a Wish,
    pub(crate) model: String,
    pub(crate) prompt: Vec<Token>,
    pub(crate) script: Script,
    pub(crate) style: Style,
    pub(crate) request_id: RequestId,
}

/// Where the tokens come from.
pub(crate) enum Script {
    /// Prose that depends on every token before.
    Prose(text::Answer),
    /// Known beforehand: the arguments of a tool call.
    Fixed(Vec<Token>),
}

/// Hands the work to the engine and answers as the wish says.
///
/// # Errors
/// The prompt is too long, the queue is full, or a fault says so.
pub(crate) async fn respond(service: &Arc<Service>, plan: Plan<'_>) -> Result<Response, Refusal> {
    let wish = plan.wish;
    let reply = Reply::begin(service, plan)?;
    if wish.streams() { Ok(reply.stream(wish.usage())) } else { Ok(reply.whole().await) }
}

/// An answer that has begun. Dropping it frees its place in the engine.
struct Reply {
    service: Arc<Service>,
    ticket: Ticket,
    script: Script,
    spelling: Spelling,
    style: Style,
    head: Head,
    finish_reason: &'static str,
    usage: Usage,
}

impl Reply {
    fn begin(service: &Arc<Service>, plan: Plan<'_>) -> Result<Self, Refusal> {
        let Plan { wish, model, prompt, script, style, request_id } = plan;
        let room = service.output_room(prompt.len())?;
        let (output_tokens, cut) = match &script {
            Script::Prose(answer) => wish.length(answer.tokens(), room),
            // Nothing can follow a tool call, so neither ignore_eos nor min_tokens make it longer.
            Script::Fixed(tokens) => {
                let (length, cut) = wish.length(tokens.len() as u32, room);
                (length.min(tokens.len() as u32), if length < tokens.len() as u32 { cut } else { Cut::No })
            }
        };
        let salt = wish.cache_salt.as_deref().unwrap_or_default();
        let block_tokens = service.options.block_size;
        let ticket = service.live.submit(Work {
            prompt_tokens: prompt.len() as u32,
            block_hashes: prompt::block_hashes(&prompt, block_tokens, &model, salt),
            output_tokens_max: output_tokens,
            ending: if cut == Cut::Yes { Ending::Length } else { Ending::Stop },
            request_id: request_id.0.clone(),
        })?;
        let finish_reason = if cut == Cut::Yes { "length" } else { style.finish_reason() };
        Ok(Self {
            service: Arc::clone(service),
            ticket,
            script,
            spelling: Spelling::default(),
            head: style.head(&request_id.0, model, service.live.unix_s()),
            style,
            finish_reason,
            usage: Usage::of_prompt(prompt.len() as u32),
        })
    }

    /// The text that comes with the next token.
    fn say(&mut self, last: bool) -> String {
        let prose = &self.service.prose;
        let token = match &mut self.script {
            Script::Prose(answer) => prose.next(answer),
            Script::Fixed(tokens) => {
                tokens.get(self.usage.completion_tokens as usize).copied().unwrap_or_default()
            }
        };
        let mut text = self.spelling.push(prose.vocabulary.bytes(token));
        if last {
            text += &self.spelling.finish();
        }
        text
    }

    async fn whole(mut self) -> Response {
        let mut text = String::new();
        loop {
            match self.ticket.next().await {
                Some(Event::Token { token, cached_tokens }) => {
                    text += &self.say(token.last);
                    self.usage.count(cached_tokens);
                    if token.last {
                        break;
                    }
                }
                Some(Event::Torn) | None => return torn(),
            }
        }
        self.service.json(&self.style.whole(&self.head, &text, self.finish_reason, &self.usage))
    }

    fn stream(self, wish: UsageWish) -> Response {
        let stream = Stream { reply: self, wish, ready: VecDeque::new(), state: Progress::Silent };
        let mut response = Body::from_stream(stream::unfold(stream, Stream::next)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }
}

/// An answer as a stream of events, each one its own chunk on the wire.
struct Stream {
    reply: Reply,
    wish: UsageWish,
    ready: VecDeque<Bytes>,
    state: Progress,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Nothing said yet.
    Silent,
    Speaking,
    /// Everything is said or about to be.
    Over,
}

impl Stream {
    async fn next(mut self) -> Option<(Result<Bytes, io::Error>, Self)> {
        if self.ready.is_empty() && self.state != Progress::Over {
            match self.event().await {
                Awaited::Silence => self.ready.push_back(Bytes::from_static(b": keep-alive\n\n")),
                Awaited::Event(Some(Event::Token { token, cached_tokens })) => {
                    self.token(token.last, cached_tokens);
                }
                Awaited::Event(Some(Event::Torn) | None) => {
                    // Let what was said before reach the wire, then break off without an end.
                    tokio::task::yield_now().await;
                    self.state = Progress::Over;
                    return Some((
                        Err(io::Error::other("the answer is broken off by an ordered fault")),
                        self,
                    ));
                }
            }
        }
        let bytes = self.ready.pop_front()?;
        self.reply.service.traffic.sent(bytes.len());
        Some((Ok(bytes), self))
    }

    /// The next event, or silence for as long as the keep-alive interval.
    async fn event(&mut self) -> Awaited {
        let ticket = &mut self.reply.ticket;
        match self.reply.service.options.keep_alive() {
            None => Awaited::Event(ticket.next().await),
            Some(interval) => match tokio::time::timeout(interval, ticket.next()).await {
                Ok(event) => Awaited::Event(event),
                Err(_) => Awaited::Silence,
            },
        }
    }

    fn token(&mut self, last: bool, cached_tokens: u32) {
        let text = self.reply.say(last);
        self.reply.usage.count(cached_tokens);
        let Reply { style, head, usage, finish_reason, .. } = &self.reply;
        let now = match self.wish {
            UsageWish::Never => None,
            UsageWish::AtTheEnd => Some(None),
            UsageWish::WithEachChunk => Some(Some(*usage)),
        };
        if self.state == Progress::Silent {
            self.ready.extend(style.opening(head, now));
            self.state = Progress::Speaking;
        }
        self.ready.push_back(style.chunk(head, &text, last.then_some(*finish_reason), now));
        if last {
            if self.wish != UsageWish::Never {
                self.ready.push_back(style.closing(head, *usage));
            }
            self.ready.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
            self.state = Progress::Over;
        }
    }
}

enum Awaited {
    Event(Option<Event>),
    Silence,
}

/// A response that begins and then breaks off.
pub(crate) fn torn() -> Response {
    let broken = stream::once(async { Err::<Bytes, _>(io::Error::other("broken off by an ordered fault")) });
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (kind, Body::from_stream(broken)).into_response()
}
