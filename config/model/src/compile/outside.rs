//! What a Backend says of endpoints outside the mesh: TLS, and the question whether they are ready.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};

use crate::document::backend::{
    BackendSpec, HealthCheckSpec, ProbedEndpoints, ProbedEngine, SubjectAltName, SubjectAltNameKind, TlsSpec,
};
use crate::finding::Code;
use crate::snapshot::{HealthCheck, HealthScope, PeerName, Roots, Tls};
use crate::source::FieldPath;
use crate::units::Span;

use super::Review;

/// TLS as decided; nothing where its roots are unusable, which is noted.
pub(super) fn tls(spec: &BackendSpec, path: &FieldPath, review: &mut Review<'_>) -> Option<Arc<Tls>> {
    let written = spec.tls.as_ref()?;
    let path = path.field("tls");
    if let Some(index) = spec.endpoints.iter().position(|endpoint| endpoint.sidecar.is_some()) {
        let sidecar = FieldPath::spec().field("endpoints").item(index).field("sidecar");
        let message = "the Backend has an endpoint with a sidecar";
        review.note_two(Code::TlsBesideSidecar, &path, message, &sidecar, "this one");
    }
    let names = names(&written.subject_alt_names, &path.field("subjectAltNames"), review);
    let roots = roots(written, &path, review)?;
    Some(Arc::new(Tls { hostname: written.hostname.0.as_str().into(), roots, names }))
}

fn roots(written: &TlsSpec, path: &FieldPath, review: &mut Review<'_>) -> Option<Roots> {
    let system = written.well_known_ca_certificates.map(|_| Roots::System);
    let file = written.ca_file.as_ref().map(|file| Roots::File(file.0.as_str().into()));
    let pem = written.ca_certificates.as_deref().map(|text| {
        check_pem(text, &path.field("caCertificates"), review);
        Roots::Pem(text.into())
    });
    let mut given = [("wellKnownCACertificates", system), ("caCertificates", pem), ("caFile", file)]
        .into_iter()
        .filter_map(|(field, roots)| Some((field, roots?)));
    let Some((first, roots)) = given.next() else {
        review.note(Code::TlsRoots, path, "nothing says what the certificate must lead to");
        return None;
    };
    for (field, _) in given {
        let message = format!("`{field}` beside `{first}`");
        review.note_two(
            Code::TlsRoots,
            &path.field(field),
            message,
            &path.field(first),
            "the first source is here",
        );
    }
    Some(roots)
}

/// What can be told of PEM without reading the certificates in it, which is the sidecar's part.
fn check_pem(text: &str, path: &FieldPath, review: &mut Review<'_>) {
    if text.contains("PRIVATE KEY-----") {
        review.note(
            Code::PemUnusable,
            path,
            "there is a private key in it, which every sidecar would be sent",
        );
        return;
    }
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match read {
        Ok(certificates) if certificates.is_empty() => {
            review.note(Code::PemUnusable, path, "there is no certificate in it");
        }
        Ok(_) => {}
        Err(error) => {
            let why = match error {
                pem::Error::MissingSectionEnd { .. } => "a block has no end",
                pem::Error::IllegalSectionStart { .. } => "a block begins badly",
                pem::Error::Base64Decode(_) => "a block is not base64",
                _ => "it is not PEM",
            };
            review.note(Code::PemUnusable, path, why);
        }
    }
}

fn names(written: &[SubjectAltName], path: &FieldPath, review: &mut Review<'_>) -> Vec<PeerName> {
    let mut names = Vec::new();
    for (index, name) in written.iter().enumerate() {
        let path = path.item(index);
        match (name.kind, &name.hostname, &name.uri) {
            (SubjectAltNameKind::Hostname, Some(name), None) => {
                names.push(PeerName::Hostname(name.0.as_str().into()));
            }
            (SubjectAltNameKind::Uri, None, Some(uri)) => names.push(PeerName::Uri(uri.0.as_str().into())),
            (kind, _, _) => {
                let (kind, field) = match kind {
                    SubjectAltNameKind::Hostname => ("Hostname", "hostname"),
                    SubjectAltNameKind::Uri => ("URI", "uri"),
                };
                let message = format!("a name of type {kind} has `{field}` and nothing else");
                review.note(Code::SubjectAltNameField, &path, message);
            }
        }
    }
    names
}

/// The health check as decided; nothing where it is not clear what is asked, which is noted.
pub(super) fn health_check(
    spec: &BackendSpec,
    path: &FieldPath,
    review: &mut Review<'_>,
) -> Option<Arc<HealthCheck>> {
    let written = spec.health_check.as_ref()?;
    let path = path.field("healthCheck");
    let scope = match written.scope {
        Some(ProbedEndpoints::All) => HealthScope::All,
        Some(ProbedEndpoints::OutsideMesh) | None => HealthScope::OutsideMesh,
    };
    if scope == HealthScope::OutsideMesh && spec.endpoints.iter().all(|endpoint| endpoint.sidecar.is_some()) {
        review.note(Code::ProbeIdle, &path, "no endpoint of the Backend is without a sidecar");
    }
    let question = question(written, &path, review)?;
    let defaults = HealthCheck::of(question);
    Some(Arc::new(HealthCheck {
        port: written.port,
        interval: written.interval.as_ref().map_or(defaults.interval, Span::duration),
        timeout: written.timeout.as_ref().map_or(defaults.timeout, Span::duration),
        healthy_threshold: written.healthy_threshold.unwrap_or(defaults.healthy_threshold),
        unhealthy_threshold: written.unhealthy_threshold.unwrap_or(defaults.unhealthy_threshold),
        scope,
        ..defaults
    }))
}

fn question(written: &HealthCheckSpec, path: &FieldPath, review: &mut Review<'_>) -> Option<String> {
    let model_path = path.field("model");
    match (written.engine, &written.path) {
        (Some(engine), None) => {
            let row = readiness(engine);
            match (&written.model, row.of_model) {
                (None, _) => Some(row.of_server.to_owned()),
                (Some(model), Some((before, after))) => {
                    if !model.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-~".contains(&b)) {
                        let message = format!("`{model}` cannot stand in a path");
                        let help = "write letters, digits, `.`, `_`, `-` and `~`";
                        review.note_with_help(Code::BadFormat, &model_path, message, help);
                    }
                    Some(format!("{before}{model}{after}"))
                }
                (Some(_), None) => {
                    review.note(Code::ProbeModel, &model_path, "the engine does not tell of single models");
                    None
                }
            }
        }
        (None, Some(question)) => {
            if written.model.is_some() {
                let message = "`path` says all that is asked";
                review.note(Code::ProbeModel, &model_path, message);
            }
            Some(question.0.clone())
        }
        (Some(_), Some(_)) => {
            let (first, second) = (path.field("engine"), path.field("path"));
            let message = "`path` beside `engine`";
            review.note_two(Code::ProbeUnclear, &second, message, &first, "the engine is here");
            None
        }
        (None, None) => {
            review.note(Code::ProbeUnclear, path, "nothing says what endpoints are asked");
            None
        }
    }
}

/// What a kind of model server is asked.
struct Readiness {
    /// GET that is answered with 2xx once the server can work.
    of_server: &'static str,
    /// The same for one model, whose name stands between the two.
    of_model: Option<(&'static str, &'static str)>,
}

/// One row for each question, from the engines' own sources. None of these costs an engine a step: SGLang's `/health_generate`,
/// which makes a token, is left alone, since every sidecar asks.
fn readiness(engine: ProbedEngine) -> Readiness {
    match engine {
        // vLLM: 503 when the engine is dead; until its model is loaded nothing listens. SGLang: 503 while it starts and while it
        // shuts down (`/ready` says the same, in new versions alone). llama.cpp: 503 while the model is loading. TGI: 503 while
        // its shards do not answer.
        ProbedEngine::Vllm
        | ProbedEngine::Sglang
        | ProbedEngine::Trtllm
        | ProbedEngine::Llamacpp
        | ProbedEngine::Tgi => Readiness { of_server: "/health", of_model: None },
        // Triton is by default not ready before all models of its repository are.
        ProbedEngine::Triton | ProbedEngine::Kserve => {
            Readiness { of_server: "/v2/health/ready", of_model: Some(("/v2/models/", "/ready")) }
        }
        // There is no better question: its models are loaded when they are first asked for.
        ProbedEngine::Ollama => Readiness { of_server: "/api/version", of_model: None },
    }
}
