//! Why an identity was refused. Each reason has its own label, so that a metric tells them apart.

use penstock_model::spiffe::SpiffeError;

/// One refused handshake, request or call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("it brought neither a client certificate nor a join token: send `authorization: Bearer TOKEN`")]
    NoCredentials,
    #[error("its join token is wrong")]
    WrongToken,
    #[error("it asked for {asked}, but its client certificate is for {held}: a renewal keeps the identity")]
    OtherIdentity { held: String, asked: String },
    #[error("{asked} is the control plane's own identity")]
    ReservedIdentity { asked: String },

    #[error("the request has {bytes} bytes, more than {bytes_max}")]
    RequestTooLong { bytes: usize, bytes_max: usize },
    #[error("the request is not a PKCS #10 certificate request in DER: {why}")]
    RequestMalformed { why: String },
    #[error("the request is not signed with the key that it names")]
    RequestSignature,
    #[error("the request's key is not ECDSA on P-256 or P-384")]
    RequestKey,
    #[error("`validity` must be at least one second; leave it out for the authority's own choice")]
    Validity,

    #[error("it has no URI name; one SPIFFE ID is needed")]
    NoUri,
    #[error("it has {count} URI names; exactly one SPIFFE ID is needed")]
    SeveralUris { count: usize },
    #[error(transparent)]
    NotSpiffe(#[from] SpiffeError),
    #[error(
        "{asked} has no service account: spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT is needed"
    )]
    NotAWorkload { asked: String },
    #[error("{asked} is of another trust domain than {trust_domain}")]
    OtherTrustDomain { asked: String, trust_domain: String },

    #[error("the certificate cannot be read: {why}")]
    CertificateMalformed { why: String },
    #[error("the certificate is that of an authority, not of a workload")]
    CertificateOfAuthority,
    #[error("the certificate has expired")]
    CertificateExpired,
    #[error("the certificate is not valid yet; is a clock wrong?")]
    CertificateNotYetValid,
    #[error("the certificate was not issued by this trust domain's authority")]
    CertificateUnknownIssuer,
    #[error("the certificate is not acceptable: {why}")]
    CertificateOther { why: String },
}

impl Refusal {
    /// Label of the metric.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::NoCredentials => "no_credentials",
            Self::WrongToken => "wrong_token",
            Self::OtherIdentity { .. } => "other_identity",
            Self::ReservedIdentity { .. } => "reserved_identity",
            Self::RequestTooLong { .. } => "request_too_long",
            Self::RequestMalformed { .. } => "request_malformed",
            Self::RequestSignature => "request_signature",
            Self::RequestKey => "request_key",
            Self::Validity => "validity",
            Self::NoUri => "no_uri",
            Self::SeveralUris { .. } => "several_uris",
            Self::NotSpiffe(_) => "not_spiffe",
            Self::NotAWorkload { .. } => "not_a_workload",
            Self::OtherTrustDomain { .. } => "other_trust_domain",
            Self::CertificateMalformed { .. } => "certificate_malformed",
            Self::CertificateOfAuthority => "certificate_of_authority",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateNotYetValid => "certificate_not_yet_valid",
            Self::CertificateUnknownIssuer => "certificate_unknown_issuer",
            Self::CertificateOther { .. } => "certificate_other",
        }
    }

    /// What a gRPC client is told.
    pub(crate) fn status(&self) -> tonic::Status {
        match self {
            Self::NoCredentials | Self::WrongToken => tonic::Status::unauthenticated(self.to_string()),
            Self::OtherIdentity { .. } | Self::ReservedIdentity { .. } | Self::OtherTrustDomain { .. } => {
                tonic::Status::permission_denied(self.to_string())
            }
            _ => tonic::Status::invalid_argument(self.to_string()),
        }
    }
}
