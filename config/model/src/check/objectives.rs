//! Promises that the route's own time limit cuts short.

use std::sync::Arc;

use super::Tables;
use crate::document::latency_slo::{IndicatorName, SloTargetKind};
use crate::finding::{Code, Finding};
use crate::names::ObjectName;
use crate::source::{End, FieldPath};
use crate::units::Span;

pub(super) fn check(tables: &Tables<'_>, findings: &mut Vec<Finding>) {
    for (document, slo) in tables.slos.values() {
        for target in slo.target_refs.iter().filter(|target| target.kind == SloTargetKind::HttpRoute) {
            let name = ObjectName::new(Arc::clone(&document.name.namespace), target.name.0.as_str());
            let Some((route, spec)) = tables.routes.get(&name) else { continue };
            let about = |rule: &Option<_>| target.section_name.is_none() || *rule == target.section_name;
            let limits = spec.rules.iter().enumerate().filter(|(_, rule)| about(&rule.name)).filter_map(
                |(index, rule)| {
                    let limit = rule.timeouts.as_ref()?.request.as_ref().map(Span::duration)?;
                    (!limit.is_zero()).then_some((index, limit))
                },
            );
            let Some((rule, limit)) = limits.min_by_key(|(_, limit)| *limit) else { continue };
            for (index, objective) in slo.objectives.iter().enumerate() {
                let whole_answer = matches!(objective.indicator, IndicatorName::Ttft | IndicatorName::E2e);
                if !whole_answer
                    || objective.threshold.as_ref().is_none_or(|threshold| threshold.duration() <= limit)
                {
                    continue;
                }
                let path = FieldPath::spec().field("objectives").item(index).field("threshold");
                let other = FieldPath::spec().field("rules").item(rule).field("timeouts").field("request");
                let message = "the route ends requests before this threshold";
                let finding = document.origin.finding(Code::TimeoutBeforeThreshold, &path, message);
                findings
                    .push(finding.beside(route.origin.locate(&other, End::Value), "the time limit is here"));
            }
        }
    }
}
