//! `POST /v1/completions`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;

use super::answer::{Plan, Script, Style, respond};
use super::ask::{CompletionAsk, Input};
use super::reply::{Body, Refusal};
use super::{RequestId, Service};

pub(crate) async fn serve(
    State(service): State<Arc<Service>>,
    Extension(request_id): Extension<RequestId>,
    body: Body,
) -> Result<Response, Refusal> {
    let CompletionAsk { wish, prompt } = service.read(body)?;
    let model = service.model(wish.model.as_deref())?;
    wish.check()?;
    let vocabulary = &service.prose.vocabulary;
    let prompt = match prompt {
        Input::Text(text) => vocabulary.encode(text.as_bytes()),
        Input::Tokens(tokens) => tokens,
        Input::Texts(texts) if texts.len() == 1 => vocabulary.encode(texts[0].as_bytes()),
        Input::TokenLists(mut lists) if lists.len() == 1 => lists.swap_remove(0),
        Input::Texts(_) | Input::TokenLists(_) => {
            return Err(Refusal::bad("prompt", "only one prompt per request"));
        }
    };
    if prompt.is_empty() {
        return Err(Refusal::bad("prompt", "must not be empty"));
    }
    let script = Script::Prose(service.prose.answer(wish.text_seed(service.options.seed), &prompt));
    respond(&service, Plan { wish: &wish, model, prompt, script, style: Style::Completion, request_id }).await
}
