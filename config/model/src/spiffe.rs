//! SPIFFE identities: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A workload's identity, checked against the SPIFFE ID grammar and the mesh's path layout.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    uri: Arc<str>,
    trust_domain_end: usize,
}

impl SpiffeId {
    const SCHEME: &'static str = "spiffe://";
    /// Longest URI that has to be accepted (SPIFFE-ID section 2.3).
    const BYTES_MAX: usize = 2_048;
    /// Longest trust domain (SPIFFE-ID section 2.1).
    const TRUST_DOMAIN_BYTES_MAX: usize = 255;

    /// The identity of a service account.
    ///
    /// # Errors
    /// When a part does not fit the grammar.
    pub fn workload(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, SpiffeError> {
        format!("{}{trust_domain}/ns/{namespace}/sa/{service_account}", Self::SCHEME).parse()
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.uri[Self::SCHEME.len()..self.trust_domain_end]
    }

    /// The namespace, where the path has the mesh's layout.
    pub fn namespace(&self) -> Option<&str> {
        self.segments().map(|(namespace, _)| namespace)
    }

    /// The service account, where the path has the mesh's layout.
    pub fn service_account(&self) -> Option<&str> {
        self.segments().map(|(_, account)| account)
    }

    fn segments(&self) -> Option<(&str, &str)> {
        let path = self.uri[self.trust_domain_end..].strip_prefix("/ns/")?;
        let (namespace, account) = path.split_once("/sa/")?;
        (!namespace.contains('/') && !account.contains('/')).then_some((namespace, account))
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(uri: &str) -> Result<Self, SpiffeError> {
        let refuse = |why| Err(SpiffeError { uri: uri.escape_default().to_string(), why });
        if uri.len() > Self::BYTES_MAX {
            return refuse("it is longer than 2048 bytes");
        }
        let Some(rest) = uri.strip_prefix(Self::SCHEME) else {
            return refuse("it does not start with `spiffe://`");
        };
        let (trust_domain, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if trust_domain.is_empty() || trust_domain.len() > Self::TRUST_DOMAIN_BYTES_MAX {
            return refuse("the trust domain must have 1 to 255 characters");
        }
        if !trust_domain.bytes().all(lower) {
            return refuse("the trust domain may hold a-z, 0-9, `.`, `-` and `_` only");
        }
        let in_segment = |b: u8| b.is_ascii_uppercase() || lower(b);
        for segment in path.split('/').skip(1) {
            if segment.is_empty() || segment == "." || segment == ".." {
                return refuse("the path has an empty, `.` or `..` segment");
            }
            if !segment.bytes().all(in_segment) {
                return refuse("a path segment may hold a-z, A-Z, 0-9, `.`, `-` and `_` only");
            }
        }
        Ok(Self { uri: uri.into(), trust_domain_end: Self::SCHEME.len() + trust_domain.len() })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

/// A text that is no SPIFFE ID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{uri}` is not a SPIFFE ID: {why}")]
pub struct SpiffeError {
    uri: String,
    why: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_id_is_taken_apart() {
        let id = SpiffeId::workload("cluster.local", "chat", "web").unwrap();
        assert_eq!(id.as_str(), "spiffe://cluster.local/ns/chat/sa/web");
        assert_eq!(
            (id.trust_domain(), id.namespace(), id.service_account()),
            ("cluster.local", Some("chat"), Some("web"))
        );
    }

    #[test]
    fn what_the_grammar_forbids_is_refused() {
        let long = format!("spiffe://{}/x", "a".repeat(256));
        for uri in [
            "",
            "http://a/b",
            "spiffe://",
            "spiffe:///ns/a",
            "spiffe://A/b",
            "spiffe://a:1/b",
            "spiffe://u@a/b",
            "spiffe://a/",
            "spiffe://a//b",
            "spiffe://a/./b",
            "spiffe://a/../b",
            "spiffe://a/b/",
            "spiffe://a/%61",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a/b\0",
            "spiffe://a/ns/é",
            &long,
        ] {
            assert!(uri.parse::<SpiffeId>().is_err(), "{uri}");
        }
    }

    #[test]
    fn other_layouts_have_no_service_account() {
        for uri in ["spiffe://a", "spiffe://a/ns/b", "spiffe://a/ns/b/c/sa/d", "spiffe://a/ns/b/sa/c/d"] {
            assert_eq!(uri.parse::<SpiffeId>().unwrap().service_account(), None, "{uri}");
        }
    }
}
