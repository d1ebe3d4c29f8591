//! `penstock status`: which sidecar has accepted which version.

use std::collections::BTreeMap;
use std::io::stdout;
use std::process::ExitCode;

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;

use crate::fetch::{self, Site};
use crate::output::{self, Cell, Colour, Fault, Form, Ink};

/// The types that travel, in the order of the columns.
const TYPES: [&str; 5] = ["routes", "backends", "endpoints", "policies", "slos"];
/// Enough of a version to tell it from others.
const VERSION_CHARS: usize = 8;

/// Shows which sidecar has accepted which version.
///
/// For each type: SYNCED (it holds all of it), STALE (it waits for an update or for the connection), NACK (it refuses
/// what it was sent and keeps the last good), NOT SENT. Exit codes: 0, or 1 when the control plane cannot be asked.
#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// Admin address of the control plane
    #[arg(
        long,
        value_name = "URL",
        env = "PENSTOCK_CONTROL_PLANE",
        default_value = "http://127.0.0.1:8084",
        value_parser = Site::parse
    )]
    control_plane: Site,
    /// Form of the answer: a table or JSON
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
}

/// What the control plane says.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Status {
    pub(crate) config: Config,
    pub(crate) sidecars: Vec<Sidecar>,
}

/// What is in force, and what is wrong with what is not.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    /// Of the snapshot in force.
    pub(crate) version: Option<String>,
    /// The documents as they stand are in force.
    pub(crate) valid: bool,
    since: Option<String>,
    findings: Vec<Value>,
}

/// How far one sidecar is.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Sidecar {
    pub(crate) node: String,
    identity: Option<String>,
    connected: bool,
    pub(crate) in_sync: bool,
    version: Option<String>,
    types: BTreeMap<String, Progress>,
}

/// How far it is with one type.
#[derive(Clone, Debug, Deserialize)]
struct Progress {
    version: Option<String>,
    acked: Option<String>,
    error: Option<String>,
    pending: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Synced,
    Stale,
    Nack,
    NotSent,
}

/// Asks and prints.
///
/// # Errors
/// When the control plane cannot be asked.
pub(crate) async fn run(flags: &Flags) -> Result<ExitCode, Fault> {
    let page: anyhow::Result<Value> = flags.control_plane.get(&fetch::client(), "/api/v1/status").await;
    let page = page.map_err(|error| Fault::new(1, fetch::nobody_there(&error, "--control-plane")))?;
    let text = match flags.output {
        Form::Json => output::json(&page).map_err(|error| Fault::new(1, error))?,
        Form::Text => {
            let status = Status::read(page).map_err(|error| Fault::new(1, error))?;
            status.text(Colour::of(&stdout()))
        }
    };
    output::print(&text).map_err(|error| Fault::new(1, error))?;
    Ok(ExitCode::SUCCESS)
}

impl Status {
    fn read(page: Value) -> anyhow::Result<Self> {
        serde_json::from_value(page)
            .context("the answer is not the status of a control plane of this version")
    }

    fn text(&self, colour: Colour) -> String {
        let mut text = self.config.text(colour);
        text.push('\n');
        if self.sidecars.is_empty() {
            text.push_str("no sidecar has connected yet\n");
            return text;
        }
        let types = TYPES.map(str::to_uppercase);
        let mut head = vec!["NAME", "IDENTITY", "CONNECTED", "VERSION"];
        head.extend(types.iter().map(String::as_str));
        let rows: Vec<Vec<Cell>> = self.sidecars.iter().map(Sidecar::row).collect();
        text.push_str(&output::table(colour, &head, &rows));
        for sidecar in &self.sidecars {
            for (kind, progress) in &sidecar.types {
                if let Some(error) = &progress.error {
                    let refusal = format!("\n{} refuses {kind}: {error}\n", sidecar.node);
                    text.push_str(&colour.paint(Ink::Red, &refusal));
                }
            }
        }
        text
    }
}

impl Status {
    /// The whole as text, without colour.
    pub(crate) fn summary(&self) -> String {
        self.text(Colour::Off)
    }
}

impl Config {
    fn text(&self, colour: Colour) -> String {
        let version = self.version.as_deref().unwrap_or("none");
        let since = self.since.as_deref().map(|since| format!(" since {since}")).unwrap_or_default();
        let mut text = format!("config {version}{since}");
        if self.valid {
            text.push_str(&colour.paint(Ink::Green, "  the documents as they stand are in force"));
            text.push('\n');
            return text;
        }
        text.push_str(&colour.paint(Ink::Red, "  the documents as they stand are NOT in force:"));
        text.push('\n');
        for finding in &self.findings {
            let field = |name: &str| finding[name].as_str().unwrap_or_default();
            let place = format!("{}:{}:{}", field("file"), finding["line"], finding["column"]);
            text.push_str(&format!("  {place}: {} ({})\n", field("message"), field("code")));
        }
        text
    }
}

impl Sidecar {
    fn row(&self) -> Vec<Cell> {
        let connected = if self.connected { Cell::new(Ink::Green, "yes") } else { Cell::new(Ink::Red, "no") };
        let mut row = vec![
            Cell::new(Ink::Plain, self.node.as_str()),
            Cell::new(Ink::Plain, self.identity.as_deref().unwrap_or("none")),
            connected,
            Cell::new(Ink::Plain, short(self.version.as_deref())),
        ];
        row.extend(TYPES.map(|kind| self.cell(kind)));
        row
    }

    fn cell(&self, kind: &str) -> Cell {
        let Some(progress) = self.types.get(kind) else { return Cell::new(Ink::Dim, "NOT SENT") };
        match progress.state(self.connected) {
            State::Synced => Cell::new(Ink::Green, "SYNCED"),
            State::Stale => Cell::new(Ink::Yellow, format!("STALE {}", short(progress.acked.as_deref()))),
            State::Nack => Cell::new(Ink::Red, format!("NACK {}", short(progress.version.as_deref()))),
            State::NotSent => Cell::new(Ink::Dim, "NOT SENT"),
        }
    }
}

impl Progress {
    /// A type that a new version leaves as it was is not sent again, so its last version may be an old one: what counts is
    /// that the last response was accepted and nothing waits.
    fn state(&self, connected: bool) -> State {
        match (&self.error, &self.version) {
            (Some(_), _) => State::Nack,
            (None, None) => State::NotSent,
            (None, Some(_)) if connected && self.pending == 0 && self.acked == self.version => State::Synced,
            (None, Some(_)) => State::Stale,
        }
    }
}

/// The first characters of a version.
pub(crate) fn short(version: Option<&str>) -> String {
    version.map_or_else(|| "none".to_owned(), |version| version.chars().take(VERSION_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = include_str!("../tests/fixtures/status.json");

    fn page() -> Value {
        serde_json::from_str(STATUS).unwrap()
    }

    #[test]
    fn each_sidecar_has_a_row_and_each_refusal_its_reason() {
        output::golden("status.txt", &Status::read(page()).unwrap().text(Colour::Off));
    }

    #[test]
    fn documents_that_are_not_in_force_are_told_with_their_place() {
        let mut page = page();
        page["config"]["valid"] = false.into();
        page["config"]["findings"] = serde_json::json!([{ "code": "penstock0106", "message": "unknown field `weigth`",
            "file": "routes.yaml", "line": 18, "column": 11 }]);
        page["sidecars"] = serde_json::json!([]);
        output::golden("status-invalid.txt", &Status::read(page).unwrap().text(Colour::Off));
    }

    #[test]
    fn the_state_of_a_type_follows_from_its_last_response() {
        let check =
            |version: Option<&str>, acked: Option<&str>, error: Option<&str>, pending, connected, state| {
                let owned = |text: Option<&str>| text.map(str::to_owned);
                let progress =
                    Progress { version: owned(version), acked: owned(acked), error: owned(error), pending };
                assert_eq!(progress.state(connected), state, "{progress:?}");
            };
        check(Some("b"), Some("b"), None, 0, true, State::Synced);
        check(Some("b"), Some("b"), None, 1, true, State::Stale);
        check(Some("b"), Some("a"), None, 0, true, State::Stale);
        check(Some("b"), Some("b"), None, 0, false, State::Stale);
        check(Some("b"), Some("a"), Some("why"), 0, true, State::Nack);
        check(None, None, None, 0, true, State::NotSent);
    }

    #[test]
    fn a_page_of_another_kind_is_refused() {
        assert!(Status::read(serde_json::json!({"kind": "Clusters"})).is_err());
    }
}
