//! Prompts to tokens, and tokens to the hashes under which the prefix cache knows them.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::Service;
use super::ask::{Content, Function, Message, Tool};
use super::reply::{Body, Refusal};
use crate::bpe::{Mark, Token, Vocabulary};

/// The chat format: for each message the mark of its role, its text, and the end mark; then the mark of the
/// assistant. Tools come first, as a message of the system.
///
/// # Errors
/// No messages, a role that nobody has, or content that is not text.
pub(crate) fn chat(
    vocabulary: &Vocabulary,
    messages: &[Message],
    tools: &[Tool],
) -> Result<Vec<Token>, Refusal> {
    if messages.is_empty() {
        return Err(Refusal::bad("messages", "must have at least one message"));
    }
    let mut tokens = Vec::new();
    if !tools.is_empty() {
        let functions: Vec<&Function> = tools.iter().map(|tool| &tool.function).collect();
        tokens.push(vocabulary.mark(Mark::System));
        vocabulary.encode_into(json!(functions).to_string().as_bytes(), &mut tokens);
        tokens.push(vocabulary.mark(Mark::End));
    }
    for message in messages {
        tokens.push(vocabulary.mark(mark(&message.role)?));
        match &message.content {
            None => {}
            Some(Content::Text(text)) => vocabulary.encode_into(text.as_bytes(), &mut tokens),
            Some(Content::Parts(parts)) => {
                for part in parts {
                    vocabulary.encode_into(part.text()?.as_bytes(), &mut tokens);
                }
            }
        }
        if let Some(calls) = &message.tool_calls {
            vocabulary.encode_into(calls.to_string().as_bytes(), &mut tokens);
        }
        tokens.push(vocabulary.mark(Mark::End));
    }
    tokens.push(vocabulary.mark(Mark::Assistant));
    Ok(tokens)
}

fn mark(role: &str) -> Result<Mark, Refusal> {
    match role {
        "system" | "developer" => Ok(Mark::System),
        "user" => Ok(Mark::User),
        "assistant" => Ok(Mark::Assistant),
        "tool" | "function" => Ok(Mark::Tool),
        other => {
            let message = format!(
                "messages: nobody has the role {other:?}; known are system, developer, user, assistant, tool"
            );
            Err(Refusal::new(StatusCode::BAD_REQUEST, message).about("messages"))
        }
    }
}

/// One hash for each full block, over everything up to its end. Another model or another salt gives other hashes.
pub(crate) fn block_hashes(tokens: &[Token], block_tokens: u32, model: &str, salt: &str) -> Box<[u64]> {
    let mut so_far = xxh3_64_with_seed(salt.as_bytes(), xxh3_64(model.as_bytes()));
    let mut bytes = Vec::with_capacity(block_tokens as usize * 4);
    let hash = |block: &[Token]| {
        bytes.clear();
        bytes.extend(block.iter().flat_map(|token| token.to_le_bytes()));
        so_far = xxh3_64_with_seed(&bytes, so_far);
        so_far
    };
    tokens.chunks_exact(block_tokens as usize).map(hash).collect()
}

#[derive(Debug, Deserialize)]
pub(crate) struct TokenizeAsk {
    model: Option<String>,
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
}

/// `POST /tokenize`: the tokens of a prompt, or of messages in the chat format.
pub(crate) async fn tokenize(State(service): State<Arc<Service>>, body: Body) -> Result<Response, Refusal> {
    let ask: TokenizeAsk = service.read(body)?;
    service.model(ask.model.as_deref())?;
    let vocabulary = &service.prose.vocabulary;
    let tokens = match (&ask.prompt, &ask.messages) {
        (Some(prompt), None) => vocabulary.encode(prompt.as_bytes()),
        (None, Some(messages)) => chat(vocabulary, messages, &[])?,
        _ => return Err(Refusal::bad("prompt", "give either prompt or messages")),
    };
    let context_max = service.options.context_max();
    let answer =
        json!({"count": tokens.len(), "max_model_len": context_max, "tokens": tokens, "token_strs": null});
    Ok(service.json(&answer))
}

#[derive(Debug, Deserialize)]
pub(crate) struct DetokenizeAsk {
    model: Option<String>,
    tokens: Vec<Token>,
}

/// `POST /detokenize`: the text of tokens.
pub(crate) async fn detokenize(State(service): State<Arc<Service>>, body: Body) -> Result<Response, Refusal> {
    let ask: DetokenizeAsk = service.read(body)?;
    service.model(ask.model.as_deref())?;
    let text = service.prose.vocabulary.decode(&ask.tokens);
    Ok(service.json(&json!({"prompt": String::from_utf8_lossy(&text)})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_agree_exactly_as_far_as_the_tokens_do() {
        let one: Vec<Token> = (0..50).collect();
        let mut other = one.clone();
        other[33] = 7;
        let (one, other) = (block_hashes(&one, 16, "m", ""), block_hashes(&other, 16, "m", ""));
        assert_eq!(one.len(), 3);
        assert_eq!(one[..2], other[..2]);
        assert_ne!(one[2], other[2]);
    }

    #[test]
    fn another_model_or_another_salt_shares_nothing() {
        let tokens: Vec<Token> = (0..16).collect();
        let hashes: std::collections::BTreeSet<_> = [("m", ""), ("n", ""), ("m", "s")]
            .map(|(model, salt)| block_hashes(&tokens, 16, model, salt)[0])
            .into();
        assert_eq!(hashes.len(), 3);
    }
}
