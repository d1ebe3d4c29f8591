//! Documents to a snapshot: the only way from what is written to what is decided.
//!
//! Everything that is wrong anywhere is reported at once. Nothing is half applied: one error, and there is no snapshot.

mod backends;
mod filters;
mod objectives;
mod outside;
mod paths;
mod proxy;
mod routes;

use std::path::Path;
use std::sync::Arc;

use crate::check;
use crate::document::{Document, Documents, Object};
use crate::finding::{Code, Finding, Level};
use crate::settings::ProxySettings;
use crate::snapshot::{Parts, Snapshot};
use crate::source::{End, FieldPath, Origin, Page, Place, Source};

/// What a set of documents means.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    /// The decided configuration.
    pub snapshot: Snapshot,
    /// What is applied but hardly meant; by file and line.
    pub warnings: Vec<Finding>,
}

/// Compiles a set of documents. A ProxyConfig among them is checked, and is no part of the snapshot.
///
/// # Errors
/// Everything that is wrong, warnings included, by file and line; at least one of them is an error.
pub fn compile(sources: &[Source]) -> Result<Compiled, Vec<Finding>> {
    let mut documents = Documents::from(sources);
    let mut findings = std::mem::take(&mut documents.findings);
    let mut parts = Parts::default();
    for document in &documents.read {
        lower(document, &mut parts, &mut findings);
    }
    check::all(&documents, &mut findings);
    let warnings = settle(&documents, findings)?;
    Ok(Compiled { snapshot: Snapshot::assemble(parts), warnings })
}

/// Compiles the one ProxyConfig among documents. Relative paths in it are relative to `base_dir`. Other documents are read,
/// and play no part.
///
/// # Errors
/// As [`compile`]; also when there is not exactly one ProxyConfig.
pub fn compile_proxy(
    sources: &[Source],
    base_dir: &Path,
) -> Result<(ProxySettings, Vec<Finding>), Vec<Finding>> {
    let mut documents = Documents::from(sources);
    let mut findings = std::mem::take(&mut documents.findings);
    let mut settings = None;
    let mut first: Option<&Document> = None;
    for document in &documents.read {
        let Object::ProxyConfig(spec) = &document.object else { continue };
        let mut review = Review { origin: &document.origin, findings: &mut findings };
        match first {
            None => {
                settings = proxy::lower(document, spec, base_dir, &mut review);
                first = Some(document);
            }
            Some(first) => {
                let name = FieldPath::default().field("metadata").field("name");
                let other = first.origin.locate(&name, End::Value);
                let finding = document.origin.finding(Code::NotOneProxyConfig, &name, "a second ProxyConfig");
                review.findings.push(finding.beside(other, "the first is here"));
            }
        }
    }
    if first.is_none() && findings.is_empty() {
        let file = sources.first().map_or("", |source| source.file.as_str());
        let text = sources.first().map_or("", |source| source.text.as_str());
        let at = Page::new(file, text).location(Place::START, String::new());
        let finding = Finding::new(Code::NotOneProxyConfig, "", at, "there is no ProxyConfig");
        findings.push(finding.with_help("write a document with `kind: ProxyConfig`"));
    }
    let warnings = settle(&documents, findings)?;
    settings.map(|settings| (settings, warnings)).ok_or_else(Vec::new)
}

fn lower(document: &Document, parts: &mut Parts, findings: &mut Vec<Finding>) {
    let mut review = Review { origin: &document.origin, findings };
    match &document.object {
        Object::HttpRoute(spec) => {
            let route = routes::lower(document, spec, &mut review);
            parts.routes.entry(route.id.clone()).or_insert_with(|| Arc::new(route));
        }
        Object::Backend(spec) => {
            let (backend, endpoints) = backends::lower(document, spec, &mut review);
            if let std::collections::btree_map::Entry::Vacant(place) =
                parts.backends.entry(backend.id.clone())
            {
                place.insert(Arc::new(backend));
                parts.endpoints.extend(endpoints.into_iter().map(|e| (e.id.clone(), Arc::new(e))));
            }
        }
        Object::BackendPolicy(spec) => {
            if let Some((target, policy)) = backends::lower_policy(document, spec) {
                parts.policies.entry(target).or_insert_with(|| Arc::new(policy));
            }
        }
        Object::LatencySlo(spec) => {
            if let Some(slo) = objectives::lower(document, spec, &mut review) {
                parts.slos.entry(slo.id.clone()).or_insert_with(|| Arc::new(slo));
            }
        }
        Object::ProxyConfig(spec) => {
            proxy::lower(document, spec, Path::new(""), &mut review);
        }
    }
}

/// Puts findings in order and drops silenced warnings.
///
/// # Errors
/// All of them, when one is an error.
fn settle(documents: &Documents, mut findings: Vec<Finding>) -> Result<Vec<Finding>, Vec<Finding>> {
    for document in documents.read.iter().filter(|document| !document.silenced.is_empty()) {
        let warning = |code: &str| Code::named(code).filter(|code| code.entry().level != Level::Error);
        findings.retain(|finding| {
            let silenced = document.silenced.iter().any(|code| warning(code) == Some(finding.code));
            !(silenced && finding.document == document.origin.title)
        });
        for unknown in document.silenced.iter().filter(|code| warning(code).is_none()) {
            let path = FieldPath::default().field("metadata").field("annotations").field(check::SUPPRESS);
            let message = format!("`{unknown}` is the code of no warning");
            findings.push(document.origin.finding(Code::SilencedUnknown, &path, message));
        }
    }
    findings.sort_by(|a, b| place_in_order(a).cmp(&place_in_order(b)));
    findings.dedup();
    if findings.iter().any(|finding| finding.level == Level::Error) { Err(findings) } else { Ok(findings) }
}

fn place_in_order(finding: &Finding) -> (&str, u32, u32, Code) {
    (&finding.at.file, finding.at.line, finding.at.column, finding.code)
}

/// Collects findings about one document.
pub(crate) struct Review<'a> {
    pub(crate) origin: &'a Origin,
    pub(crate) findings: &'a mut Vec<Finding>,
}

impl Review<'_> {
    /// Something is wrong with the value at `path`.
    pub(crate) fn note(&mut self, code: Code, path: &FieldPath, message: impl Into<String>) {
        self.findings.push(self.origin.finding(code, path, message));
    }

    /// The same, with a help of its own.
    pub(crate) fn note_with_help(
        &mut self,
        code: Code,
        path: &FieldPath,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.findings.push(self.origin.finding(code, path, message).with_help(help));
    }

    /// Two values of the document do not go together.
    pub(crate) fn note_two(
        &mut self,
        code: Code,
        path: &FieldPath,
        message: impl Into<String>,
        other: &FieldPath,
        other_message: &str,
    ) {
        let at = self.origin.locate(other, End::Value);
        self.findings.push(self.origin.finding(code, path, message).beside(at, other_message));
    }
}
