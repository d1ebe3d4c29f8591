//! What documents would change: compiled and compared as a real change would be, then forgotten.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use penstock_model::diff::Changes;
use penstock_model::snapshot::Snapshot;
use penstock_model::{Compiled, Source, compile};
use serde::Deserialize;

use super::{Admin, view};
use crate::planner::Plan;
use crate::tasks::Tasks;

/// How findings name documents that come as plain YAML.
#[derive(Debug, Deserialize)]
pub(super) struct Named {
    file: Option<String>,
}

/// Documents of several files, as JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Files {
    sources: Vec<File>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    file: String,
    text: String,
}

pub(super) async fn diff(
    State(admin): State<Admin>,
    Query(named): Query<Named>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let sources = match read(&headers, named, &body) {
        Ok(sources) => sources,
        Err(message) => return (StatusCode::BAD_REQUEST, Json(view::Fault::new(message))).into_response(),
    };
    let plan = admin.plan();
    // The semaphore is never closed; were it, the answer would only come without its turn.
    let _turn = admin.compiles.acquire().await;
    match Tasks::block(move || compare(&sources, &plan)).await {
        Some(answer) => Json(answer).into_response(),
        None => {
            let fault = view::Fault::new("the compiler failed on these documents; please report them");
            (StatusCode::INTERNAL_SERVER_ERROR, Json(fault)).into_response()
        }
    }
}

fn read(headers: &HeaderMap, named: Named, body: &[u8]) -> Result<Vec<Source>, String> {
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.split(';').next().is_some_and(|kind| kind.trim() == "application/json"));
    if is_json {
        let files: Files = serde_json::from_slice(body).map_err(|error| {
            format!("the body must be {{\"sources\": [{{\"file\", \"text\"}}]}}: {error}")
        })?;
        return Ok(files.sources.into_iter().map(|f| Source { file: f.file, text: f.text }).collect());
    }
    let text = std::str::from_utf8(body).map_err(|error| format!("the body is not UTF-8: {error}"))?;
    let file = named.file.unwrap_or_else(|| "documents.yaml".to_owned());
    Ok(vec![Source { file, text: text.to_owned() }])
}

fn compare(sources: &[Source], plan: &Arc<Plan>) -> view::Diff {
    let from = plan.snapshot.as_ref().map(|snapshot| snapshot.version().clone());
    match compile(sources) {
        Err(findings) => view::Diff::refused(from, findings),
        Ok(Compiled { snapshot, warnings }) => {
            let nothing = Snapshot::default();
            let changes = Changes::between(plan.snapshot.as_deref().unwrap_or(&nothing), &snapshot);
            view::Diff::accepted(from, snapshot.version().clone(), changes, warnings)
        }
    }
}
