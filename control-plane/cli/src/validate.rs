//! `penstock validate`: everything that is wrong with documents, found without a control plane, by the compiler that the
//! control plane itself runs.

use std::io::stdout;
use std::path::PathBuf;
use std::process::ExitCode;

use penstock_model::finding::{Finding, Level};
use penstock_model::{Compiled, Source, compile};
use serde::Serialize;

use crate::documents;
use crate::output::{self, Colour, Fault, Form, Ink};

/// Checks documents, without a control plane.
///
/// Exit codes: 0 they are valid (there may be warnings), 1 they are not, 2 they cannot be read.
#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// Files and directories with documents; a directory is read recursively (*.yaml, *.yml), `-` is standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Form of the findings
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
    /// Lets warnings fail as well
    #[arg(long)]
    strict: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Validation {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    valid: bool,
    /// Of the snapshot that the documents make.
    version: Option<String>,
    files: usize,
    findings: Vec<Finding>,
}

/// Reads, compiles, prints.
///
/// # Errors
/// When a document cannot be read.
pub(crate) fn run(flags: &Flags) -> Result<ExitCode, Fault> {
    let sources = documents::read(&flags.paths).map_err(|error| Fault::new(2, error))?;
    let validation = Validation::of(&sources, flags.strict);
    let colour = Colour::of(&stdout());
    let text = match flags.output {
        Form::Text => validation.text(colour),
        Form::Json => output::json(&validation).map_err(|error| Fault::new(2, error))?,
    };
    output::print(&text).map_err(|error| Fault::new(2, error))?;
    let colour = Colour::of(&std::io::stderr());
    let ink = if validation.valid { Ink::Green } else { Ink::Red };
    output::talk(colour.paint(ink, &validation.verdict()));
    Ok(ExitCode::from(u8::from(!validation.valid)))
}

impl Validation {
    fn of(sources: &[Source], strict: bool) -> Self {
        let (version, findings) = match compile(sources) {
            Ok(Compiled { snapshot, warnings }) => (Some(snapshot.version().to_string()), warnings),
            Err(findings) => (None, findings),
        };
        let is_bad = |finding: &Finding| match finding.level {
            Level::Error => true,
            Level::Warning => strict,
            Level::Info => false,
        };
        Self {
            api_version: "penstock.dev/v1alpha1",
            kind: "Validation",
            valid: version.is_some() && !findings.iter().any(is_bad),
            version,
            files: sources.len(),
            findings,
        }
    }

    fn text(&self, colour: Colour) -> String {
        let texts: Vec<String> = self.findings.iter().map(ToString::to_string).collect();
        if texts.is_empty() { String::new() } else { format!("{}\n", output::findings(colour, &texts)) }
    }

    /// The last line, for people.
    fn verdict(&self) -> String {
        let number = |level| self.findings.iter().filter(|finding| finding.level == level).count();
        let levels = [(Level::Error, "error"), (Level::Warning, "warning"), (Level::Info, "note")];
        let numbers: Vec<String> = levels
            .into_iter()
            .map(|(level, noun)| (number(level), noun))
            .filter(|(number, _)| *number > 0)
            .map(|(number, noun)| output::count(number, noun))
            .collect();
        let numbers = if numbers.is_empty() { "nothing to remark".to_owned() } else { numbers.join(", ") };
        let verdict = if self.valid { "valid" } else { "not valid" };
        format!("{verdict}: {numbers} in {}", output::count(self.files, "file"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = include_str!("../tests/fixtures/good.yaml");
    const WARNED: &str = include_str!("../tests/fixtures/warned.yaml");
    const BAD: &str = include_str!("../tests/fixtures/bad.yaml");

    fn check(text: &str, strict: bool, valid: bool, verdict: &str, codes: &[&str]) -> Validation {
        let source = Source { file: "routes.yaml".to_owned(), text: text.to_owned() };
        let validation = Validation::of(&[source], strict);
        assert_eq!((validation.valid, validation.verdict().as_str()), (valid, verdict));
        let found: Vec<String> = validation.findings.iter().map(|finding| finding.code.to_string()).collect();
        assert_eq!(found, codes);
        validation
    }

    #[test]
    fn good_documents_are_valid_and_have_a_version() {
        let validation = check(GOOD, true, true, "valid: nothing to remark in 1 file", &[]);
        assert_eq!(validation.version.map(|version| version.len()), Some(16));
    }

    #[test]
    fn warnings_fail_only_when_they_are_asked_to() {
        check(WARNED, false, true, "valid: 1 warning in 1 file", &["penstock0404"]);
        check(WARNED, true, false, "not valid: 1 warning in 1 file", &["penstock0404"]);
    }

    #[test]
    fn all_findings_are_told_at_once_as_text_and_as_json() {
        let validation =
            check(BAD, false, false, "not valid: 2 errors in 1 file", &["penstock0106", "penstock0203"]);
        output::golden("validate.txt", &validation.text(Colour::Off));
        let json: serde_json::Value = serde_json::from_str(&output::json(&validation).unwrap()).unwrap();
        assert_eq!((&json["kind"], &json["valid"]), (&"Validation".into(), &false.into()));
        assert_eq!(json["findings"][0]["file"], "routes.yaml");
        assert_eq!(json["version"], serde_json::Value::Null);
    }
}
