//! The JSON answers.

use penstock_model::diff::Changes;
use penstock_model::finding::Finding;
use penstock_model::names::Version;
use penstock_model::snapshot::Parts;
use serde::Serialize;
use time::format_description::well_known::Rfc3339;

use crate::identity::TrustReport;
use crate::planner::{Basis, Plan, Problem};
use crate::push::SidecarReport;

/// What every answer begins with.
#[derive(Debug, Serialize)]
pub(super) struct Head {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
}

impl Head {
    fn of(kind: &'static str) -> Self {
        Self { api_version: "penstock.dev/v1alpha1", kind }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Status<'a> {
    #[serde(flatten)]
    head: Head,
    config: ConfigStatus<'a>,
    trust: TrustReport,
    sidecars: Vec<SidecarReport>,
}

#[derive(Debug, Serialize)]
struct ConfigStatus<'a> {
    /// Of the snapshot in force.
    version: Option<&'a Version>,
    /// The documents as they stand are in force.
    valid: bool,
    basis: Basis,
    since: Option<String>,
    findings: &'a [Problem],
    warnings: &'a [Finding],
}

impl<'a> Status<'a> {
    pub(super) fn of(plan: &'a Plan, trust: TrustReport, sidecars: Vec<SidecarReport>) -> Self {
        let config = ConfigStatus {
            version: plan.snapshot.as_ref().map(|snapshot| snapshot.version()),
            valid: plan.is_valid(),
            basis: plan.basis,
            since: plan.snapshot.as_ref().and_then(|_| plan.since.format(&Rfc3339).ok()),
            findings: &plan.problems,
            warnings: &plan.warnings,
        };
        Self { head: Head::of("Status"), config, trust, sidecars }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Config<'a> {
    #[serde(flatten)]
    head: Head,
    version: Option<&'a Version>,
    snapshot: Option<&'a Parts>,
}

impl<'a> Config<'a> {
    pub(super) fn of(plan: &'a Plan) -> Self {
        let snapshot = plan.snapshot.as_ref();
        Self {
            head: Head::of("Config"),
            version: snapshot.map(|snapshot| snapshot.version()),
            snapshot: snapshot.map(|snapshot| snapshot.parts()),
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Sidecars {
    #[serde(flatten)]
    head: Head,
    sidecars: Vec<SidecarReport>,
}

impl Sidecars {
    pub(super) fn of(sidecars: Vec<SidecarReport>) -> Self {
        Self { head: Head::of("Sidecars"), sidecars }
    }
}

/// What documents would change.
#[derive(Debug, Serialize)]
pub(super) struct Diff {
    #[serde(flatten)]
    head: Head,
    /// They would be accepted.
    valid: bool,
    /// Of the snapshot in force.
    from: Option<Version>,
    /// Of the snapshot that they would make.
    to: Option<Version>,
    changes: Option<Changes>,
    findings: Vec<Finding>,
    warnings: Vec<Finding>,
}

impl Diff {
    pub(super) fn accepted(
        from: Option<Version>,
        to: Version,
        changes: Changes,
        warnings: Vec<Finding>,
    ) -> Self {
        let (to, changes, findings) = (Some(to), Some(changes), Vec::new());
        Self { head: Head::of("Diff"), valid: true, from, to, changes, findings, warnings }
    }

    pub(super) fn refused(from: Option<Version>, findings: Vec<Finding>) -> Self {
        let (to, changes, warnings) = (None, None, Vec::new());
        Self { head: Head::of("Diff"), valid: false, from, to, changes, findings, warnings }
    }
}

/// Why a request was not answered.
#[derive(Debug, Serialize)]
pub(super) struct Fault {
    #[serde(flatten)]
    head: Head,
    message: String,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { head: Head::of("Error"), message: message.into() }
    }
}
