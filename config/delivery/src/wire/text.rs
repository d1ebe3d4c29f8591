//! What texts may hold. The compiler has checked the same; this is for what comes from another version, or from elsewhere.

use super::reading::Misfit;

/// Longest DNS name, and so the longest name of an object in Kubernetes.
const DNS_NAME_BYTES_MAX: usize = 253;

/// A DNS-1123 subdomain: lower case letters, digits, `-` and `.`, a letter or digit at both ends.
pub(super) fn dns_name(field: &str, value: &str) -> Result<(), Misfit> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends_plain = value.bytes().next().is_some_and(plain) && value.bytes().last().is_some_and(plain);
    let fits =
        value.len() <= DNS_NAME_BYTES_MAX && value.bytes().all(|b| plain(b) || matches!(b, b'-' | b'.'));
    check(field, value, ends_plain && fits, "a DNS name in lower case")
}

/// A host, with a port if need be: visible ASCII without what would end the authority of a URL.
pub(super) fn host(field: &str, value: &str) -> Result<(), Misfit> {
    let fits = value.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b'?' | b'#' | b'@' | b'\\'));
    check(field, value, fits && !value.is_empty(), "a host name")
}

/// The token of RFC 9110 5.6.2, which a method is.
pub(super) fn token(field: &str, value: &str) -> Result<(), Misfit> {
    let fits = value.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    check(field, value, fits && !value.is_empty(), "a token")
}

/// A token without upper case letters.
pub(super) fn header_name(field: &str, value: &str) -> Result<(), Misfit> {
    token(field, value)?;
    check(field, value, !value.bytes().any(|b| b.is_ascii_uppercase()), "a header name in lower case")
}

/// No control character but the tab: a line feed here would be a second header on the wire.
pub(super) fn header_value(field: &str, value: &str) -> Result<(), Misfit> {
    check(field, value, !value.bytes().any(|b| b.is_ascii_control() && b != b'\t'), "a header value")
}

/// A path that can stand in a request line.
pub(super) fn path(field: &str, value: &str) -> Result<(), Misfit> {
    let fits = value.starts_with('/') && !value.bytes().any(|b| b.is_ascii_control() || b == b' ');
    check(field, value, fits, "a path that starts with `/`")
}

/// A path without trailing slash, empty for `/`.
pub(super) fn path_prefix(field: &str, value: &str) -> Result<(), Misfit> {
    if value.is_empty() {
        return Ok(());
    }
    path(field, value)?;
    check(field, value, !value.ends_with('/'), "a path without trailing `/`")
}

pub(super) fn check(field: &str, value: &str, fits: bool, wanted: &str) -> Result<(), Misfit> {
    if fits {
        return Ok(());
    }
    Err(Misfit::new(field, format!("is `{}`, not {wanted}", value.escape_debug())))
}
