//! `POST /v2/models/{model}/infer`: the Open Inference Protocol. The first input is a batch of rows of numbers, each a sequence that is
//! prefilled, as token ids for a text model are; for each row a vector comes back.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Value, json};

use super::answer::torn;
use super::ask::InferAsk;
use super::reply::{Body, Refusal};
use super::vector::{self, embed};
use super::{RequestId, Service};
use crate::bpe::Token;

/// Numbers in the vector of a row.
const DIMENSIONS: u32 = 8;

pub(crate) async fn serve(
    service: State<Arc<Service>>,
    Path(model): Path<String>,
    request_id: Extension<RequestId>,
    body: Body,
) -> Result<Response, Refusal> {
    serve_version(service, Path((model, "1".to_owned())), request_id, body).await
}

pub(crate) async fn serve_version(
    State(service): State<Arc<Service>>,
    Path((model, version)): Path<(String, String)>,
    Extension(request_id): Extension<RequestId>,
    body: Body,
) -> Result<Response, Refusal> {
    let ask: InferAsk = service.read(body)?;
    let model = service.model(Some(&model))?;
    let rows = rows(&ask)?;
    if !vector::prefill(&service, &rows, &model, "infer", &request_id).await? {
        return Ok(torn());
    }
    let data: Vec<f32> = rows.iter().flat_map(|row| embed(row, DIMENSIONS)).collect();
    let output =
        json!({"name": "embedding", "datatype": "FP32", "shape": [rows.len(), DIMENSIONS], "data": data});
    let mut answer = json!({"model_name": model, "model_version": version, "outputs": [output]});
    if let Some(id) = ask.id {
        answer["id"] = id.into();
    }
    Ok(service.json(&answer))
}

/// The rows of the first input.
fn rows(ask: &InferAsk) -> Result<Vec<Vec<Token>>, Refusal> {
    let Some(input) = ask.inputs.first() else {
        return Err(Refusal::bad("inputs", "must have at least one entry"));
    };
    let mut numbers = Vec::new();
    flatten(&input.data, &mut numbers)?;
    let elements = input.shape.iter().try_fold(1usize, |all, side| all.checked_mul(*side));
    let batch = input.shape.first().copied().unwrap_or(1);
    if elements != Some(numbers.len()) || batch == 0 {
        return Err(Refusal::bad("inputs", "data must have as many numbers as shape says, and at least one"));
    }
    Ok(numbers.chunks(numbers.len() / batch).map(<[Token]>::to_vec).collect())
}

/// Numbers of an array, in the order in which they are written; a nested one is as good as a flat one.
fn flatten(data: &Value, numbers: &mut Vec<Token>) -> Result<(), Refusal> {
    match data {
        Value::Array(items) => items.iter().try_for_each(|item| flatten(item, numbers)),
        Value::Number(number) => {
            // Any number will do for a token: what is equal stays equal.
            let bits = number.as_f64().unwrap_or_default().to_bits();
            numbers.push((bits >> 32) as Token ^ bits as Token);
            Ok(())
        }
        _ => Err(Refusal::bad("inputs", "data must be numbers")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(shape: &str, data: &str, expected: Option<usize>) {
        let ask = format!(r#"{{"inputs": [{{"name": "ids", "shape": {shape}, "data": {data}}}]}}"#);
        let ask = serde_json::from_str(&ask).expect("an ask");
        assert_eq!(rows(&ask).ok().map(|rows| rows.len()), expected, "{shape} {data}");
    }

    #[test]
    fn a_batch_has_as_many_rows_as_its_shape_says() {
        check("[2, 3]", "[1, 2, 3, 4, 5, 6]", Some(2));
        check("[2, 3]", "[[1, 2, 3], [4, 5, 6]]", Some(2));
        check("[3]", "[0.5, 1, 2]", Some(3));
        check("[2, 3]", "[1, 2, 3]", None);
        check("[0]", "[]", None);
        check("[1]", r#"["x"]"#, None);
    }
}
