//! What to do about one reading. Pure: a reading and what is in force go in, a step comes out.

use std::fmt;
use std::sync::Arc;

use penstock_delivery::server::Published;
use penstock_model::diff::Changes;
use penstock_model::finding::Finding;
use penstock_model::snapshot::Snapshot;
use penstock_model::{Compiled, Source, compile};
use serde::Serialize;
use time::OffsetDateTime;

use crate::source::{ReadFault, Reading};
use crate::telemetry::Reload;

/// What is in force, and what is wrong with the documents as they stand.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// What sidecars are told; nothing while there never was anything good.
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    pub(crate) basis: Basis,
    /// Why the documents as they stand are not in force; empty when they are.
    pub(crate) problems: Vec<Problem>,
    /// About what is in force.
    pub(crate) warnings: Vec<Finding>,
    /// Since when the snapshot is in force.
    pub(crate) since: OffsetDateTime,
}

/// What is in force was made from these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Basis {
    /// Nothing is in force.
    Nothing,
    /// The documents as they stood at some moment of this run.
    Documents,
    /// Those that an earlier run accepted last.
    LastGood,
}

/// Why documents are not in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Problem {
    Unreadable(ReadFault),
    Finding(Box<Finding>),
}

/// The last reading that was decided about, so that the same is not decided twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Considered {
    #[default]
    Nothing,
    Sources(Arc<Vec<Source>>),
    Faults(Vec<ReadFault>),
}

/// What to do.
#[derive(Debug)]
pub(crate) enum Step {
    Nothing,
    ReadAgain,
    Keep {
        considered: Considered,
        plan: Arc<Plan>,
        reload: Reload,
    },
    Publish {
        considered: Considered,
        plan: Arc<Plan>,
        /// Absent when the documents say the same as those in force.
        published: Option<Arc<Published>>,
        changes: Changes,
    },
}

impl Plan {
    pub(crate) fn empty(now: OffsetDateTime) -> Self {
        Self { snapshot: None, basis: Basis::Nothing, problems: Vec::new(), warnings: Vec::new(), since: now }
    }

    /// The documents as they stand are in force.
    pub(crate) fn is_valid(&self) -> bool {
        self.basis == Basis::Documents && self.problems.is_empty()
    }
}

impl Considered {
    pub(crate) fn sources(&self) -> Arc<Vec<Source>> {
        match self {
            Self::Sources(sources) => Arc::clone(sources),
            Self::Nothing | Self::Faults(_) => Arc::default(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(fault) => fault.fmt(f),
            Self::Finding(finding) => finding.fmt(f),
        }
    }
}

/// Decides what to do about a reading.
pub(crate) fn decide(reading: Reading, last: &Considered, before: &Plan, now: OffsetDateTime) -> Step {
    let sources = match reading {
        Reading::Moving => return Step::ReadAgain,
        Reading::Unreadable(faults) => {
            let problems = faults.iter().cloned().map(Problem::Unreadable).collect();
            return keep(Considered::Faults(faults), problems, last, before, Reload::Unreadable);
        }
        Reading::Complete(sources) => Arc::new(sources),
    };
    let considered = Considered::Sources(Arc::clone(&sources));
    if considered == *last {
        return Step::Nothing;
    }
    match compile(&sources) {
        Err(findings) => {
            let problems = findings.into_iter().map(Box::new).map(Problem::Finding).collect();
            keep(considered, problems, last, before, Reload::Refused)
        }
        Ok(compiled) => publish(considered, compiled, before, now),
    }
}

/// A plan from what an earlier run accepted; nothing when this version of the compiler does not accept it.
pub(crate) fn recall(sources: &[Source], before: &Plan) -> Option<Arc<Plan>> {
    let Compiled { snapshot, warnings } = compile(sources).ok()?;
    let snapshot = Some(Arc::new(snapshot));
    Some(Arc::new(Plan { snapshot, basis: Basis::LastGood, warnings, ..before.clone() }))
}

fn keep(
    considered: Considered,
    problems: Vec<Problem>,
    last: &Considered,
    before: &Plan,
    reload: Reload,
) -> Step {
    if considered == *last {
        return Step::Nothing;
    }
    Step::Keep { considered, plan: Arc::new(Plan { problems, ..before.clone() }), reload }
}

fn publish(considered: Considered, compiled: Compiled, before: &Plan, now: OffsetDateTime) -> Step {
    let Compiled { snapshot, warnings } = compiled;
    let nothing = Snapshot::default();
    let changes = Changes::between(before.snapshot.as_deref().unwrap_or(&nothing), &snapshot);
    let same = before.snapshot.clone().filter(|old| old.version() == snapshot.version());
    let (snapshot, published, since) = match same {
        Some(old) => (old, None, before.since),
        None => {
            let published = Arc::new(Published::new(&snapshot));
            (Arc::new(snapshot), Some(published), now)
        }
    };
    let plan =
        Plan { snapshot: Some(snapshot), basis: Basis::Documents, problems: Vec::new(), warnings, since };
    Step::Publish { considered, plan: Arc::new(plan), published, changes }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-21 09:00 UTC);
    const GOOD: &str = "apiVersion: penstock.dev/v1alpha1\nkind: Backend\nmetadata: { name: chat }\nspec:\n  endpoints:\n    - address: 10.0.0.1\n      port: 8000\n";
    const BAD: &str =
        "apiVersion: penstock.dev/v1alpha1\nkind: Backend\nmetadata: { name: chat }\nspec:\n  edpoints: []\n";

    fn text(text: &str) -> Reading {
        Reading::Complete(vec![Source { file: "a.yaml".to_owned(), text: text.to_owned() }])
    }

    fn unreadable(file: &str) -> Reading {
        let (message, help) = ("gone".to_owned(), "look for it");
        Reading::Unreadable(vec![ReadFault { file: file.to_owned(), message, help }])
    }

    /// What is done about each reading in turn, and whether the documents are then in force.
    fn check(turns: Vec<(Reading, &str, bool)>) {
        let (mut considered, mut plan) = (Considered::default(), Arc::new(Plan::empty(NOW)));
        for (at, (reading, expected, valid)) in turns.into_iter().enumerate() {
            let done = match decide(reading, &considered, &plan, NOW) {
                Step::Nothing => "nothing",
                Step::ReadAgain => "read again",
                Step::Keep { considered: now, plan: kept, reload } => {
                    (considered, plan) = (now, kept);
                    if reload == Reload::Refused { "refuse" } else { "cannot read" }
                }
                Step::Publish { considered: now, plan: made, published, .. } => {
                    (considered, plan) = (now, made);
                    if published.is_some() { "publish" } else { "accept" }
                }
            };
            assert_eq!((done, plan.is_valid()), (expected, valid), "turn {at}");
        }
    }

    #[test]
    fn only_what_is_good_and_new_is_published() {
        let commented = format!("# a comment\n{GOOD}");
        check(vec![
            (Reading::Moving, "read again", false),
            (text(BAD), "refuse", false),
            (text(BAD), "nothing", false),
            (unreadable("a.yaml"), "cannot read", false),
            (unreadable("a.yaml"), "nothing", false),
            (unreadable("b.yaml"), "cannot read", false),
            (text(GOOD), "publish", true),
            (text(GOOD), "nothing", true),
            (text(&commented), "accept", true),
            (text(BAD), "refuse", false),
            (Reading::Moving, "read again", false),
            (text(&commented), "accept", true),
            (unreadable("a.yaml"), "cannot read", false),
            (text(GOOD), "accept", true),
        ]);
    }

    #[test]
    fn what_is_recalled_is_in_force_but_the_documents_are_not() {
        let before = match decide(text(BAD), &Considered::default(), &Plan::empty(NOW), NOW) {
            Step::Keep { plan, .. } => plan,
            other => panic!("{other:?}"),
        };
        let source = |text: &str| [Source { file: "a.yaml".to_owned(), text: text.to_owned() }];
        let plan = recall(&source(GOOD), &before).unwrap();
        assert!(plan.snapshot.is_some() && !plan.is_valid());
        assert_eq!((plan.basis, &plan.problems), (Basis::LastGood, &before.problems));
        assert!(recall(&source(BAD), &before).is_none());
    }
}
