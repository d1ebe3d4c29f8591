//! The `error_detail` of a NACK: for a person in `message`, for the control plane in `details`. Bounded, whatever was received.

use prost::Message;

use crate::proto::google::rpc::Status;
use crate::proto::penstock::v1::{RejectedResource, Rejection};
use crate::wire::Flaw;

/// gRPC's INVALID_ARGUMENT.
const INVALID_ARGUMENT: i32 = 3;

/// Resources that `message` tells of.
const TOLD_MAX: usize = 3;

/// Resources in `details`. Those beyond are sent again by the control plane, and named then.
const LISTED_MAX: usize = 100;

/// Longest name in `details`; ours are shorter, and a name that is cut is of no use.
const NAME_BYTES_MAX: usize = 1_024;

/// Longest text about one resource.
const TEXT_CHARS_MAX: usize = 500;

/// The whole response is at fault.
pub(super) fn of_response(why: &str) -> Status {
    Status { code: INVALID_ARGUMENT, message: cut(why), details: Vec::new() }
}

/// These resources are at fault.
pub(super) fn of_resources(flaws: &[Flaw]) -> Status {
    let told: Vec<_> = flaws.iter().take(TOLD_MAX).map(|flaw| cut(&flaw.to_string())).collect();
    let mut message = told.join("; ");
    if flaws.len() > TOLD_MAX {
        message.push_str(&format!("; and {} more", flaws.len() - TOLD_MAX));
    }
    let listed = |flaw: &Flaw| RejectedResource {
        name: flaw.name.clone(),
        field: cut(&flaw.field),
        problem: cut(&flaw.problem),
    };
    let named = flaws.iter().filter(|flaw| flaw.name.len() <= NAME_BYTES_MAX);
    let rejection = Rejection { resources: named.take(LISTED_MAX).map(listed).collect() };
    let details =
        prost_types::Any { type_url: crate::REJECTION_TYPE_URL.to_owned(), value: rejection.encode_to_vec() };
    Status { code: INVALID_ARGUMENT, message, details: vec![details] }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
