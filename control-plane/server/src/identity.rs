//! Who is who: the certificate authority of a trust domain, what it issues, and to whom.
//!
//! ```text
//! join token ──► Sign ──► leaf (hours) ──► Sign with the leaf's own key ──► next leaf ──► …
//!            ╰─► TrustBundle ──► the roots that are believed and the keys of prefix digests, again after every change
//! ```
//!
//! A join token stands for any workload of the trust domain. A client certificate stands for its own SPIFFE ID alone. The
//! control plane's own name is issued to nobody but this process.

mod authority;
mod bundle;
mod issue;
mod prefix_keys;
mod refusal;
mod roots;
mod serving;
mod sign;
mod token;
mod verify;

pub(crate) use authority::Authority;
pub(crate) use bundle::{Beliefs, Believers, TrustReport, rotate_roots};
pub(crate) use issue::{CertificateRequest, Leaf, Lifetime};
pub(crate) use refusal::Refusal;
pub(crate) use roots::{Held, Roots, Step};
pub(crate) use serving::{Rotation, ServingNames, crypto, server_tls};
pub(crate) use sign::{Caller, Signer, peer_of};
pub(crate) use token::JoinToken;
pub(crate) use verify::{PeerVerifier, identity_of};

use penstock_model::spiffe::{SpiffeError, SpiffeId};

/// Namespace and service account of the control plane itself.
const OWN_NAME: (&str, &str) = ("penstock", "penstock-control-plane");

/// The control plane's own identity in a trust domain.
pub(crate) fn own_identity(trust_domain: &str) -> Result<SpiffeId, SpiffeError> {
    SpiffeId::workload(trust_domain, OWN_NAME.0, OWN_NAME.1)
}
