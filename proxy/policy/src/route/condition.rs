//! Whether one match holds.
//!
//! - **Header sent several times**: its values are joined with commas and compared as one, as RFC 9110 section 5.2 reads them. No
//!   value can hide behind another: an `Exact` match on one of two values does not hold.
//! - **`host`**: compared with the authority, without and with its port, since HTTP/2 has no such header.
//! - **Query parameter**: the first of its name counts, percent-decoded, `+` as space, as applications read it; so a name
//!   cannot be hidden by encoding a letter of it.
//! - **Bytes that are not UTF-8** equal no text and match no expression.

use std::borrow::Cow;

use penstock_model::snapshot::{FieldMatch, Match, PathMatch, ValueMatch};

use super::{Asked, Headers, MODEL_HEADER};

pub(super) fn holds(condition: &Match, asked: &Asked<'_>) -> bool {
    holds_but_for_model(condition, asked)
        && condition.headers.iter().filter(|field| is_model(field)).all(|field| model_holds(field, asked))
}

/// Whether everything holds that does not look at the model.
pub(super) fn holds_but_for_model(condition: &Match, asked: &Asked<'_>) -> bool {
    condition.method.as_deref().is_none_or(|method| method == asked.method)
        && path_holds(&condition.path, asked.path)
        && condition.headers.iter().filter(|field| !is_model(field)).all(|field| header_holds(field, asked))
        && condition.query.iter().all(|field| query_holds(field, asked.query.unwrap_or_default()))
}

pub(super) fn looks_at_model(condition: &Match) -> bool {
    condition.headers.iter().any(is_model)
}

fn is_model(field: &FieldMatch) -> bool {
    &*field.name == MODEL_HEADER
}

fn path_holds(wanted: &PathMatch, path: &str) -> bool {
    match wanted {
        PathMatch::Exact(whole) => &**whole == path,
        PathMatch::Prefix(prefix) => {
            path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathMatch::Pattern(pattern) => pattern.is_match(path),
    }
}

fn model_holds(field: &FieldMatch, asked: &Asked<'_>) -> bool {
    match asked.model {
        Some(model) => value_holds(&field.value, model.as_bytes()),
        None => joined(asked.headers, &field.name).is_some_and(|value| value_holds(&field.value, &value)),
    }
}

fn header_holds(field: &FieldMatch, asked: &Asked<'_>) -> bool {
    if &*field.name == "host" {
        return host_holds(&field.value, asked);
    }
    joined(asked.headers, &field.name).is_some_and(|value| value_holds(&field.value, &value))
}

fn host_holds(wanted: &ValueMatch, asked: &Asked<'_>) -> bool {
    let fits = |host: &str| match wanted {
        ValueMatch::Exact(text) => text.eq_ignore_ascii_case(host),
        ValueMatch::Pattern(pattern) => pattern.is_match(host),
    };
    fits(asked.host) || asked.port.is_some_and(|port| fits(&format!("{}:{port}", asked.host)))
}

fn query_holds(field: &FieldMatch, query: &str) -> bool {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(name, _)| *decoded(name) == *field.name.as_bytes())
        .is_some_and(|(_, value)| value_holds(&field.value, &decoded(value)))
}

fn value_holds(wanted: &ValueMatch, value: &[u8]) -> bool {
    match wanted {
        ValueMatch::Exact(text) => text.as_bytes() == value,
        ValueMatch::Pattern(pattern) => std::str::from_utf8(value).is_ok_and(|text| pattern.is_match(text)),
    }
}

/// All values of a header as one; allocates only where there are several.
fn joined<'h>(headers: &'h dyn Headers, name: &str) -> Option<Cow<'h, [u8]>> {
    let mut whole: Option<Cow<'h, [u8]>> = None;
    headers.each_value(name, &mut |value| match &mut whole {
        None => whole = Some(Cow::Borrowed(value)),
        Some(whole) => {
            let whole = whole.to_mut();
            whole.push(b',');
            whole.extend_from_slice(value);
        }
    });
    whole
}

/// Form-decoded text; an escape that is not one stays as it is.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(bytes);
    }
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, escaped(after)) {
            (b'+', _) => plain.push(b' '),
            (b'%', Some(value)) => {
                plain.push(value);
                rest = &after[2..];
            }
            _ => plain.push(byte),
        }
    }
    Cow::Owned(plain)
}

/// The byte that two hexadecimal digits stand for.
fn escaped(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| digits.get(at).and_then(|&byte| char::from(byte).to_digit(16));
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}
