//! `penstock diff`: what documents would change, before they are pushed.

use std::io::stdout;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use penstock_model::diff::Changes;
use penstock_model::finding::Finding;
use penstock_model::{Compiled, Source, compile};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::documents;
use crate::fetch::{self, Site};
use crate::output::{self, Colour, Fault, Form, Ink};

/// Says what documents would change, without changing it.
///
/// Exit codes: 0 nothing, 1 something, 2 the documents are refused or cannot be compared.
#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// Files and directories with the new documents, `-` for standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// What they are compared with: the admin address of a control plane, or files and directories (may be repeated)
    #[arg(long, value_name = "URL|PATH", default_value = "http://127.0.0.1:8084")]
    against: Vec<String>,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
}

/// What documents would change, as the control plane says it too.
#[derive(Debug, Serialize, Deserialize)]
struct Difference {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    /// The new documents would be accepted.
    valid: bool,
    /// Version in force.
    from: Option<String>,
    /// Version that the documents make.
    to: Option<String>,
    changes: Option<Vec<Change>>,
    findings: Vec<Value>,
    warnings: Vec<Value>,
    /// Findings, or else warnings, as they are printed.
    #[serde(skip)]
    texts: Vec<String>,
}

/// What becomes of one object.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Change {
    kind: String,
    name: String,
    change: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    fields: Vec<FieldChange>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FieldChange {
    path: String,
    old: Option<String>,
    new: Option<String>,
}

/// Reads, asks or compiles, prints.
///
/// # Errors
/// When a document cannot be read, the control plane does not answer, or the old documents are refused.
pub(crate) async fn run(flags: &Flags) -> Result<ExitCode, Fault> {
    let difference = compare(flags).await.map_err(|error| Fault::new(2, error))?;
    let text = match flags.output {
        Form::Text => difference.text(Colour::of(&stdout())),
        Form::Json => output::json(&difference).map_err(|error| Fault::new(2, error))?,
    };
    output::print(&text).map_err(|error| Fault::new(2, error))?;
    output::talk(difference.verdict());
    Ok(ExitCode::from(difference.exit()))
}

async fn compare(flags: &Flags) -> anyhow::Result<Difference> {
    let new = documents::read(&flags.paths)?;
    let against = match &flags.against[..] {
        [url] if url.contains("://") => {
            Against::Plane(Site::parse(url).map_err(|why| anyhow::anyhow!("--against {url}: {why}"))?)
        }
        paths => {
            let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
            Against::Documents(documents::read(&paths).context("--against")?)
        }
    };
    // The control plane would find the same; here they are found without it.
    let compiled = match compile(&new) {
        Ok(compiled) => compiled,
        Err(findings) => return Difference::refused(&findings),
    };
    match against {
        Against::Plane(site) => ask(&site, &new, &compiled.warnings).await,
        Against::Documents(old) => local(&old, &compiled),
    }
}

enum Against {
    Plane(Site),
    Documents(Vec<Source>),
}

async fn ask(site: &Site, new: &[Source], warnings: &[Finding]) -> anyhow::Result<Difference> {
    let sources: Vec<_> =
        new.iter().map(|source| serde_json::json!({ "file": source.file, "text": source.text })).collect();
    let question = serde_json::json!({ "sources": sources });
    let answered = site.post(&fetch::client(), "/api/v1/diff", &question).await;
    let mut difference: Difference = answered.map_err(|error| fetch::nobody_there(&error, "--against"))?;
    difference.texts =
        if difference.valid { texts(warnings) } else { difference.findings.iter().map(brief).collect() };
    Ok(difference)
}

fn local(old: &[Source], new: &Compiled) -> anyhow::Result<Difference> {
    let old = compile(old).map(|compiled| compiled.snapshot).map_err(|findings| {
        anyhow::anyhow!("the documents to compare with are not valid\n\n{}", texts(&findings).join("\n\n"))
    })?;
    let changes = serde_json::to_value(Changes::between(&old, &new.snapshot))?;
    Ok(Difference {
        valid: true,
        from: Some(old.version().to_string()),
        to: Some(new.snapshot.version().to_string()),
        changes: Some(serde_json::from_value(changes)?),
        warnings: values(&new.warnings)?,
        texts: texts(&new.warnings),
        ..Difference::empty()
    })
}

impl Difference {
    fn empty() -> Self {
        Self {
            api_version: "penstock.dev/v1alpha1".to_owned(),
            kind: "Diff".to_owned(),
            valid: false,
            from: None,
            to: None,
            changes: None,
            findings: Vec::new(),
            warnings: Vec::new(),
            texts: Vec::new(),
        }
    }

    fn refused(findings: &[Finding]) -> anyhow::Result<Self> {
        Ok(Self { findings: values(findings)?, texts: texts(findings), ..Self::empty() })
    }

    fn changes(&self) -> &[Change] {
        self.changes.as_deref().unwrap_or_default()
    }

    fn exit(&self) -> u8 {
        match (self.valid, self.changes().is_empty()) {
            (false, _) => 2,
            (true, false) => 1,
            (true, true) => 0,
        }
    }

    /// Findings where there are any, then `+` what is new, `-` what goes, `~` what gets other values.
    fn text(&self, colour: Colour) -> String {
        let mut text = output::findings(colour, &self.texts);
        if !text.is_empty() {
            text.push('\n');
        }
        for change in self.changes() {
            let (ink, sign) = match change.change.as_str() {
                "added" => (Ink::Green, '+'),
                "removed" => (Ink::Red, '-'),
                _ => (Ink::Yellow, '~'),
            };
            text.push_str(&colour.paint(ink, &format!("{sign} {} {}", change.kind, change.name)));
            text.push('\n');
            for FieldChange { path, old, new } in &change.fields {
                let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "(none)".to_owned());
                text.push_str(&format!("    {path}: {} → {}\n", shown(old), shown(new)));
            }
        }
        text
    }

    /// The last line, for people.
    fn verdict(&self) -> String {
        if !self.valid {
            return format!(
                "refused: {}; nothing would change",
                output::count(self.findings.len(), "finding")
            );
        }
        let from = self.from.as_deref().unwrap_or("nothing");
        if self.changes().is_empty() {
            return format!("no change: version {from} says the same");
        }
        let number = |what: &str| self.changes().iter().filter(|change| change.change == what).count();
        let (added, changed, removed) = (number("added"), number("changed"), number("removed"));
        let to = self.to.as_deref().unwrap_or("nothing");
        format!("{added} added, {changed} changed, {removed} removed: version {from} → {to}")
    }
}

fn texts(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

fn values(findings: &[Finding]) -> serde_json::Result<Vec<Value>> {
    findings.iter().map(serde_json::to_value).collect()
}

/// A finding of a control plane whose compiler is not ours: what of it every version sends.
fn brief(finding: &Value) -> String {
    let text = |field: &str| finding[field].as_str().unwrap_or_default();
    let place = format!("{}:{}:{}", text("file"), finding["line"], finding["column"]);
    let (level, code) = (text("level").to_lowercase(), text("code"));
    format!("{level}[{code}]: {}\n  ┌─ {place}\n  = help: {}", text("message"), text("help"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = include_str!("../tests/fixtures/good.yaml");
    const CHANGED: &str = include_str!("../tests/fixtures/changed.yaml");
    const BAD: &str = include_str!("../tests/fixtures/bad.yaml");

    fn source(text: &str) -> Vec<Source> {
        vec![Source { file: "routes.yaml".to_owned(), text: text.to_owned() }]
    }

    fn check(difference: &Difference, exit: u8, golden: &str) {
        assert_eq!(difference.exit(), exit);
        let mut text = format!("{}{}\n", difference.text(Colour::Off), difference.verdict());
        // Versions are hashes of what the model holds, which grows.
        for (version, name) in [(&difference.from, "FROM"), (&difference.to, "TO")] {
            text = version.as_ref().map_or(text.clone(), |version| text.replace(version, name));
        }
        output::golden(golden, &text);
    }

    #[test]
    fn changes_are_told_object_by_object() {
        let new = compile(&source(CHANGED)).unwrap();
        check(&local(&source(GOOD), &new).unwrap(), 1, "diff-changes.txt");
    }

    #[test]
    fn equal_documents_change_nothing() {
        let new = compile(&source(GOOD)).unwrap();
        check(&local(&source(&format!("# again\n{GOOD}")), &new).unwrap(), 0, "diff-nothing.txt");
    }

    #[test]
    fn bad_documents_are_refused_with_their_findings() {
        check(&Difference::refused(&compile(&source(BAD)).unwrap_err()).unwrap(), 2, "diff-refused.txt");
        let new = compile(&source(GOOD)).unwrap();
        let fault = local(&source(BAD), &new).unwrap_err().to_string();
        assert!(fault.contains("to compare with are not valid") && fault.contains("weigth"), "{fault}");
    }

    #[test]
    fn the_answer_of_a_control_plane_is_read_and_written_again() {
        let answer = r#"{"apiVersion":"penstock.dev/v1alpha1","kind":"Diff","valid":true,"from":null,"to":"b",
            "changes":[{"kind":"Backend","name":"a/b","change":"added"},
                       {"kind":"HTTPRoute","name":"a/c","change":"changed","fields":[{"path":"x","old":"1","new":null}]}],
            "findings":[],"warnings":[],"later":1}"#;
        let difference: Difference = serde_json::from_str(answer).unwrap();
        assert_eq!(difference.text(Colour::Off), "+ Backend a/b\n~ HTTPRoute a/c\n    x: 1 → (none)\n");
        assert_eq!(difference.verdict(), "1 added, 1 changed, 0 removed: version nothing → b");
        let again: Difference = serde_json::from_str(&output::json(&difference).unwrap()).unwrap();
        assert_eq!(again.changes, difference.changes);
    }

    #[test]
    fn a_finding_of_another_compiler_is_shown_with_its_place() {
        let finding = serde_json::json!({"level": "Error", "code": "penstock0999", "message": "too new",
            "file": "a.yaml", "line": 3, "column": 5, "help": "update"});
        assert_eq!(brief(&finding), "error[penstock0999]: too new\n  ┌─ a.yaml:3:5\n  = help: update");
    }
}
