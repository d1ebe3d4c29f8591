//! Both ways of a request at once: the body to the endpoint, the answer to the caller.
//!
//! One task, one loop: each turn asks both ends what has come, and hands it on without waiting. Nothing lies between them, so that a
//! chunk costs one wake-up, and an open stream holds no more than what both ends hold.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::Response;

use super::exchange::Exchange;
use super::{Stop, headers, inspect, prepare};
use crate::listen::caller::{Caller, CallerError, Then};
use crate::upstream::attempt::Part;
use crate::upstream::call::Failure;
use crate::upstream::session::LogicalRequest;

/// What the caller's end gave.
type Came = Result<Option<Bytes>, CallerError>;
/// What the endpoint's end gave.
type Next = Result<Part, Failure>;

/// Sends the request and passes the answer on, to its end.
///
/// # Errors
/// When either end breaks off before that.
pub(super) async fn relay(
    caller: &mut Caller,
    exchange: &mut Exchange,
    request: &mut LogicalRequest,
) -> Result<(), Stop> {
    let mut is_awaited = exchange.is_body_awaited();
    // On the heap: waiting for the head is over soon, and an open stream must not hold its room.
    let answered = Box::pin(answer(caller, exchange, request, &mut is_awaited)).await?;
    let (mut head, ()) = answered.map_err(Stop::Endpoint)?.into_parts();
    prepare::answer_passes(caller, &mut head, exchange);
    if !exchange.is_switched && request.is_over() {
        return Ok(caller.send_head(head, Then::End).await?);
    }
    let mut next = None;
    if exchange.is_switched {
        caller.send_head(head, Then::Later).await?;
        is_awaited = !caller.is_body_done();
    } else {
        next = at_hand(caller, request).await;
        caller.send_head(head, what_follows(next.as_ref())).await?;
    }
    loop {
        let (came, part) = either(caller, is_awaited, request, next.take()).await;
        let mut is_over = false;
        if let Some(part) = part {
            is_over = is_end(&part);
            if !is_over {
                next = at_hand(caller, request).await;
            }
            hand_down(part, what_follows(next.as_ref()), caller, exchange).await?;
        }
        match came {
            // The answer is whole: whether anybody stays to send more is of no interest.
            Some(Err(_)) if is_over => {}
            Some(came) => is_awaited = hand_up(came, caller, exchange)?,
            None => {}
        }
        if is_over {
            return Ok(());
        }
    }
}

/// Waits for either end, and takes from both what is there. Of the endpoint's, `next` may be at hand already.
async fn either(
    caller: &mut Caller,
    is_awaited: bool,
    request: &mut LogicalRequest,
    mut next: Option<Next>,
) -> (Option<Came>, Option<Next>) {
    let mut body = pin!(caller.body_or_gone(is_awaited));
    poll_fn(|context| {
        let part = next.take().or_else(|| ready(request.poll_part(context)));
        let came = ready(body.as_mut().poll(context));
        if part.is_none() && came.is_none() {
            return Poll::Pending;
        }
        Poll::Ready((came, part))
    })
    .await
}

/// What else of the answer is there already. Asked for callers of HTTP/1.1 alone: over HTTP/2 a turn's frames go out together by themselves.
async fn at_hand(caller: &Caller, request: &mut LogicalRequest) -> Option<Next> {
    match caller {
        Caller::Http1(_) => poll_fn(|context| Poll::Ready(ready(request.poll_part(context)))).await,
        Caller::Http2(_) => None,
    }
}

fn what_follows(next: Option<&Next>) -> Then {
    if matches!(next, Some(Ok(_))) { Then::More } else { Then::Later }
}

fn is_end(part: &Next) -> bool {
    match part {
        Ok(Part::Chunk { is_last, .. }) => *is_last,
        Ok(Part::End(_)) | Err(_) => true,
    }
}

/// Waits for the head of the answer, while the body is sent and interim answers are passed on.
async fn answer(
    caller: &mut Caller,
    exchange: &mut Exchange,
    request: &mut LogicalRequest,
    is_awaited: &mut bool,
) -> Result<Result<Response<()>, Failure>, Stop> {
    let mut answering = pin!(request.answer());
    loop {
        let (came, interim, answered) = {
            let line = Arc::clone(caller.line());
            let mut body = pin!(caller.body_or_gone(*is_awaited));
            poll_fn(|context| {
                let answered = answering.as_mut().poll(context);
                let interim = line.take_interim();
                let came = body.as_mut().poll(context);
                if answered.is_pending() && interim.is_none() && came.is_pending() {
                    return Poll::Pending;
                }
                Poll::Ready((ready(came), interim, ready(answered)))
            })
            .await
        };
        let mut next = interim;
        while let Some(interim) = next {
            let (mut head, ()) = interim.into_parts();
            prepare::answer_passes(caller, &mut head, exchange);
            caller.send_head(head, Then::Later).await?;
            next = caller.line().take_interim();
        }
        if let Some(came) = came {
            *is_awaited = hand_up(came, caller, exchange)?;
        }
        if let Some(answered) = answered {
            return Ok(answered);
        }
    }
}

/// To the caller.
async fn hand_down(part: Next, then: Then, caller: &mut Caller, exchange: &mut Exchange) -> Result<(), Stop> {
    match part.map_err(Stop::Endpoint)? {
        Part::Chunk { bytes, is_last } => {
            exchange.answer_passes(&bytes);
            caller.send(bytes, if is_last { Then::End } else { then }).await?;
        }
        Part::End(mut trailers) => {
            if let Some(trailers) = &mut trailers {
                exchange.trailers_came(trailers);
                headers::clean_trailers(trailers);
            }
            caller.end(trailers).await?;
        }
    }
    Ok(())
}

/// To the endpoint. True while more of the body may come.
fn hand_up(came: Came, caller: &mut Caller, exchange: &mut Exchange) -> Result<bool, Stop> {
    let came = came?;
    let is_end = came.is_none();
    if let Some(bytes) = came {
        inspect::body_passes(&bytes, exchange)?;
        exchange.upload_more(bytes);
    }
    if is_end || caller.is_body_done() {
        exchange.upload_ends();
        return Ok(false);
    }
    Ok(true)
}

fn ready<T>(poll: Poll<T>) -> Option<T> {
    match poll {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
