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
use super::{Stop, headers, prepare};
use crate::listen::caller::{Caller, CallerError};
use crate::upstream::attempt::Part;
use crate::upstream::call::Failure;
use crate::upstream::session::LogicalRequest;

/// What the caller's end gave.
type Came = Result<Option<Bytes>, CallerError>;

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
    let mut is_over = !exchange.is_switched && request.is_over();
    let first = match exchange.is_switched || is_over {
        true => None,
        false => poll_fn(|context| Poll::Ready(ready(request.poll_part(context)))).await,
    };
    if matches!(first, Some(Ok(_))) {
        caller.hold_back();
    }
    caller.send_head(head, is_over).await?;
    if exchange.is_switched {
        is_awaited = !caller.is_body_done();
    }
    if let Some(first) = first {
        is_over = hand_down(first, caller, exchange).await?;
    }
    while !is_over {
        let (came, part) = {
            let mut body = pin!(caller.body_or_gone(is_awaited));
            poll_fn(|context| {
                let part = request.poll_part(context);
                let came = body.as_mut().poll(context);
                if part.is_pending() && came.is_pending() {
                    return Poll::Pending;
                }
                Poll::Ready((ready(came), ready(part)))
            })
            .await
        };
        if let Some(part) = part {
            is_over = hand_down(part, caller, exchange).await?;
        }
        match came {
            // The answer is whole: whether anybody stays to send more is of no interest.
            Some(Err(_)) if is_over => {}
            Some(came) => is_awaited = hand_up(came, caller, exchange)?,
            None => {}
        }
    }
    Ok(())
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
            caller.send_head(head, false).await?;
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

/// To the caller. True at the end of the answer.
async fn hand_down(
    part: Result<Part, Failure>,
    caller: &mut Caller,
    exchange: &mut Exchange,
) -> Result<bool, Stop> {
    match part.map_err(Stop::Endpoint)? {
        Part::Chunk { bytes, is_last } => {
            exchange.answer_passes(&bytes);
            caller.send(bytes, is_last).await?;
            Ok(is_last)
        }
        Part::End(mut trailers) => {
            if let Some(trailers) = &mut trailers {
                exchange.trailers_came(trailers);
                headers::clean_trailers(trailers);
            }
            caller.end(trailers).await?;
            Ok(true)
        }
    }
}

/// To the endpoint. True while more of the body may come.
fn hand_up(came: Came, caller: &mut Caller, exchange: &mut Exchange) -> Result<bool, Stop> {
    let came = came?;
    let is_end = came.is_none();
    if let Some(bytes) = came {
        prepare::body_passes(&bytes, exchange)?;
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
