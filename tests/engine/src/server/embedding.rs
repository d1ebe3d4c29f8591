//! `POST /v1/embeddings`: for each input a prefill, and a vector of length 1 in which texts that share tokens lie
//! close together.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::answer::torn;
use super::ask::{EmbeddingAsk, Input};
use super::reply::{Body, Refusal};
use super::vector::{self, embed};
use super::{RequestId, Service};
use crate::bpe::Token;

/// Numbers in a vector if the caller names none, and at most.
const DIMENSIONS: u32 = 256;
const DIMENSIONS_MAX: u32 = 4_096;

/// Inputs in one request.
const INPUTS_MAX: usize = 2_048;

pub(crate) async fn serve(
    State(service): State<Arc<Service>>,
    Extension(request_id): Extension<RequestId>,
    body: Body,
) -> Result<Response, Refusal> {
    let ask: EmbeddingAsk = service.read(body)?;
    let model = service.model(ask.model.as_deref())?;
    let dimensions = ask.dimensions.unwrap_or(DIMENSIONS);
    if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
        return Err(Refusal::bad("dimensions", "must be from 1 to 4096"));
    }
    let render = match ask.encoding_format.as_deref() {
        None | Some("float") => |vector: &[f32]| json!(vector),
        Some("base64") => |vector: &[f32]| json!(base64(&bytes(vector))),
        Some(_) => return Err(Refusal::bad("encoding_format", "must be float or base64")),
    };
    let inputs = inputs(&service, ask.input)?;
    if !vector::prefill(&service, &inputs, &model, "embedding", &request_id).await? {
        return Ok(torn());
    }
    let mut data: Vec<Value> = Vec::with_capacity(inputs.len());
    for (index, tokens) in inputs.iter().enumerate() {
        let embedding = render(&embed(tokens, dimensions));
        data.push(json!({"object": "embedding", "index": index, "embedding": embedding}));
    }
    let tokens: usize = inputs.iter().map(Vec::len).sum();
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    Ok(service.json(&json!({"object": "list", "data": data, "model": model, "usage": usage})))
}

fn inputs(service: &Service, input: Input) -> Result<Vec<Vec<Token>>, Refusal> {
    let vocabulary = &service.prose.vocabulary;
    let inputs = match input {
        Input::Text(text) => vec![vocabulary.encode(text.as_bytes())],
        Input::Tokens(tokens) => vec![tokens],
        Input::Texts(texts) => texts.iter().map(|text| vocabulary.encode(text.as_bytes())).collect(),
        Input::TokenLists(lists) => lists,
    };
    if inputs.is_empty() || inputs.len() > INPUTS_MAX {
        return Err(Refusal::bad("input", "must have from 1 to 2048 entries"));
    }
    if inputs.iter().any(Vec::is_empty) {
        return Err(Refusal::bad("input", "no entry may be empty"));
    }
    for tokens in &inputs {
        service.output_room(tokens.len())?;
    }
    Ok(inputs)
}

fn bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let group =
            three.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let sextet = group >> (18 - 6 * digit) & 63;
            text.push(if digit > three.len() { '=' } else { char::from(ALPHABET[sextet as usize]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_padded_to_groups_of_four() {
        let cases = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, encoded) in cases {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(base64(&bytes(&[1.0])), "AACAPw==");
    }
}
