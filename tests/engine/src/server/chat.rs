//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;

use super::answer::{Plan, Script, Style, respond};
use super::ask::ChatAsk;
use super::reply::{Body, Refusal};
use super::{RequestId, Service, prompt, tools};

pub(crate) async fn serve(
    State(service): State<Arc<Service>>,
    Extension(request_id): Extension<RequestId>,
    body: Body,
) -> Result<Response, Refusal> {
    let ask: ChatAsk = service.read(body)?;
    let model = service.model(ask.wish.model.as_deref())?;
    ask.wish.check()?;
    let offered = ask.tools.as_deref().unwrap_or_default();
    let demanded = tools::demanded(offered, ask.tool_choice.as_ref())?;
    let vocabulary = &service.prose.vocabulary;
    let prompt = prompt::chat(vocabulary, &ask.messages, offered)?;
    let answer = service.prose.answer(ask.wish.text_seed(service.options.seed), &prompt);
    let (script, style) = match demanded {
        None => (Script::Prose(answer), Style::Chat),
        Some(function) => {
            let arguments = tools::arguments(function, answer.draw());
            let tokens = vocabulary.encode(arguments.as_bytes());
            (Script::Fixed(tokens), Style::Call { function: function.name.clone() })
        }
    };
    respond(&service, Plan { wish: &ask.wish, model, prompt, script, style, request_id }).await
}
