//! `POST /rerank`: for each document a prefill of the question with it, and how close the two lie, the closest first.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::answer::torn;
use super::ask::{Document, RerankAsk};
use super::reply::{Body, Refusal};
use super::vector::{self, closeness, embed};
use super::{RequestId, Service};
use crate::bpe::Token;

/// Numbers in the vectors that are compared.
const DIMENSIONS: u32 = 256;
/// Documents in one request.
const DOCUMENTS_MAX: usize = 2_048;

pub(crate) async fn serve(
    State(service): State<Arc<Service>>,
    Extension(request_id): Extension<RequestId>,
    body: Body,
) -> Result<Response, Refusal> {
    let ask: RerankAsk = service.read(body)?;
    let model = service.model(ask.model.as_deref())?;
    if ask.documents.is_empty() || ask.documents.len() > DOCUMENTS_MAX {
        return Err(Refusal::bad("documents", "must have from 1 to 2048 entries"));
    }
    let vocabulary = &service.prose.vocabulary;
    let query = vocabulary.encode(ask.query.as_bytes());
    if query.is_empty() {
        return Err(Refusal::bad("query", "must not be empty"));
    }
    let documents: Vec<Vec<Token>> =
        ask.documents.iter().map(|document| vocabulary.encode(document.text().as_bytes())).collect();
    let pairs: Vec<Vec<Token>> =
        documents.iter().map(|document| query.iter().chain(document).copied().collect()).collect();
    if !vector::prefill(&service, &pairs, &model, "rerank", &request_id).await? {
        return Ok(torn());
    }
    let asked = embed(&query, DIMENSIONS);
    let mut scored: Vec<(usize, f32)> = documents
        .iter()
        .map(|document| closeness(&asked, &embed(document, DIMENSIONS)))
        .enumerate()
        .collect();
    scored.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    scored.truncate(ask.top_n.unwrap_or(usize::MAX));
    let result = |(index, score): (usize, f32)| json!({"index": index, "document": {"text": ask.documents[index].text()}, "relevance_score": score});
    let results: Vec<Value> = scored.into_iter().map(result).collect();
    let tokens: usize = pairs.iter().map(Vec::len).sum();
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    let id = format!("rerank-{}", request_id.0);
    Ok(service.json(&json!({"id": id, "model": model, "usage": usage, "results": results})))
}

impl Document {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Object { text } => text,
        }
    }
}
