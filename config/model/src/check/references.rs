//! References that lead nowhere, and targets that two objects claim.

use std::collections::BTreeMap;

use super::Tables;
use crate::document::http_route::ParentRefKind;
use crate::document::latency_slo::SloTargetKind;
use crate::document::{Document, Documents, Kind};
use crate::finding::{Code, Finding, spelling};
use crate::names::ObjectName;
use crate::source::{End, FieldPath};

pub(super) fn check(documents: &Documents, tables: &Tables<'_>, findings: &mut Vec<Finding>) {
    let mut search = Search { documents, tables, findings };
    search.routes();
    search.policies();
    search.slos();
}

/// How many names a help lists.
const NAMES_SHOWN_MAX: usize = 8;

struct Search<'a> {
    documents: &'a Documents,
    tables: &'a Tables<'a>,
    findings: &'a mut Vec<Finding>,
}

impl<'a> Search<'a> {
    fn routes(&mut self) {
        let tables = self.tables;
        for (document, spec) in tables.routes.values() {
            let path = FieldPath::spec();
            for (index, parent) in spec.parent_refs.iter().enumerate() {
                if parent.kind == Some(ParentRefKind::Backend) {
                    let at = path.field("parentRefs").item(index).field("name");
                    let name = in_namespace(
                        document,
                        parent.namespace.as_ref().map(|n| n.0.as_str()),
                        &parent.name.0,
                    );
                    self.find(Code::ParentNotFound, Kind::Backend, &name, document, &at);
                }
            }
            for (rule_index, rule) in spec.rules.iter().enumerate() {
                for (index, backend) in rule.backend_refs.iter().enumerate() {
                    if backend.kind.is_some() {
                        let at = path
                            .field("rules")
                            .item(rule_index)
                            .field("backendRefs")
                            .item(index)
                            .field("name");
                        let namespace = backend.namespace.as_ref().map(|n| n.0.as_str());
                        let name = in_namespace(document, namespace, &backend.name.0);
                        self.find(Code::BackendNotFound, Kind::Backend, &name, document, &at);
                    }
                }
            }
        }
    }

    fn policies(&mut self) {
        let tables = self.tables;
        let mut claims: BTreeMap<ObjectName, Vec<&Document>> = BTreeMap::new();
        for (document, spec) in tables.policies.values() {
            for target in &spec.target_refs {
                let name = in_namespace(document, None, &target.name.0);
                self.find(Code::TargetNotFound, Kind::Backend, &name, document, &target_path());
                claims.entry(name).or_default().push(document);
            }
        }
        for (name, documents) in claims {
            self.conflicts(documents, &format!("the Backend {name}"));
        }
    }

    fn slos(&mut self) {
        let tables = self.tables;
        let mut claims: BTreeMap<(Kind, ObjectName, Option<&str>), Vec<&Document>> = BTreeMap::new();
        for (document, spec) in tables.slos.values() {
            for target in &spec.target_refs {
                let name = in_namespace(document, None, &target.name.0);
                let kind = match target.kind {
                    SloTargetKind::HttpRoute => Kind::HttpRoute,
                    SloTargetKind::Backend => Kind::Backend,
                };
                self.find(Code::TargetNotFound, kind, &name, document, &target_path());
                let section = target.section_name.as_ref().map(|name| name.0.as_str());
                if let (Some(section), Some((route, spec))) = (section, tables.routes.get(&name))
                    && kind == Kind::HttpRoute
                {
                    let rules: Vec<&str> = spec
                        .rules
                        .iter()
                        .filter_map(|rule| rule.name.as_ref())
                        .map(|name| name.0.as_str())
                        .collect();
                    self.rule(section, &rules, route, document);
                }
                claims.entry((kind, name, section)).or_default().push(document);
            }
        }
        for ((kind, name, section), documents) in claims {
            let rule = section.map(|section| format!("the rule `{section}` of ")).unwrap_or_default();
            self.conflicts(documents, &format!("{rule}the {} {name}", kind.name()));
        }
    }

    fn find(&mut self, code: Code, kind: Kind, name: &ObjectName, document: &Document, at: &FieldPath) {
        let tables = self.tables;
        let found = match kind {
            Kind::HttpRoute => tables.routes.contains_key(name),
            _ => tables.backends.contains_key(name),
        };
        if found || self.documents.may_be_refused(kind, name) {
            return;
        }
        let known: Vec<&ObjectName> = match kind {
            Kind::HttpRoute => tables.routes.keys().copied().collect(),
            _ => tables.backends.keys().copied().collect(),
        };
        let near = known.iter().filter(|known| known.namespace == name.namespace).map(|known| &*known.name);
        let mut help = spelling::guess(&name.name, near);
        match known.iter().find(|known| known.name == name.name) {
            Some(elsewhere) if help.is_empty() => {
                help = format!("there is one in the namespace `{}`. ", elsewhere.namespace);
            }
            _ => {}
        }
        let message = format!("there is no {} {name}", kind.name());
        let finding = document.origin.finding(code, at, message);
        let names: Vec<String> = known.iter().take(NAMES_SHOWN_MAX).map(ToString::to_string).collect();
        let known = if names.is_empty() { String::new() } else { format!(". Known: {}", names.join(", ")) };
        let help = format!("{help}{}{known}", code.entry().fix);
        self.findings.push(finding.with_help(help));
    }

    fn rule(&mut self, section: &str, rules: &[&str], route: &Document, document: &Document) {
        if rules.contains(&section) {
            return;
        }
        let at = FieldPath::spec().field("targetRefs").item(0).field("sectionName");
        let message = format!("{} has no rule of the name `{section}`", route.origin.title);
        let named = if rules.is_empty() {
            "none of its rules has a name".to_owned()
        } else {
            format!("named rules: {}", rules.join(", "))
        };
        let help = format!("{}{named}", spelling::guess(section, rules.iter().copied()));
        let rules_at = route.origin.locate(&FieldPath::spec().field("rules"), End::Key);
        let finding = document.origin.finding(Code::RuleNotFound, &at, message).with_help(help);
        self.findings.push(finding.beside(rules_at, "its rules are here"));
    }

    /// The oldest wins, then the first by name.
    fn conflicts(&mut self, mut documents: Vec<&Document>, target: &str) {
        documents.sort_by_key(|document| (document.created_s.unwrap_or(i64::MAX), &document.name));
        let Some((winner, losers)) = documents.split_first() else { return };
        for loser in losers {
            let message = format!("Conflicted: {} already is about {target}", winner.origin.title);
            let finding = loser.origin.finding(Code::Conflicted, &target_path(), message);
            self.findings.push(
                finding.beside(winner.origin.locate(&target_path(), End::Value), "which wins, is here"),
            );
        }
    }
}

fn target_path() -> FieldPath {
    FieldPath::spec().field("targetRefs").item(0).field("name")
}

fn in_namespace(document: &Document, written: Option<&str>, name: &str) -> ObjectName {
    ObjectName::new(written.unwrap_or(&document.name.namespace), name)
}
