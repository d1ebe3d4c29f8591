//! LatencySLO to SLO.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::document::Document;
use crate::document::latency_slo::{
    IndicatorName, LatencySloSpec, ObjectiveSpec, SloTargetGroup, SloTargetKind, SloTargetRef,
};
use crate::finding::Code;
use crate::names::{BackendId, ObjectName, RouteId, SloId};
use crate::snapshot::{Indicator, Objective, Slo, SloTarget};
use crate::source::FieldPath;
use crate::units::{Span, Window, duration_text};

use super::Review;

/// Thirty days, the window of the burn-rate alerts in Google's SRE workbook.
const WINDOW_DEFAULT: Duration = Duration::from_secs(30 * 24 * 3_600);
/// `target` of 100 %.
const ALL_MILLIONTHS: u32 = 1_000_000;

pub(super) fn lower(document: &Document, spec: &LatencySloSpec, review: &mut Review<'_>) -> Option<Slo> {
    let path = FieldPath::spec();
    let target = target(document, spec.target_refs.first()?, &path.field("targetRefs").item(0), review);
    let mut names: BTreeMap<&str, FieldPath> = BTreeMap::new();
    let mut objectives = Vec::new();
    for (index, written) in spec.objectives.iter().enumerate() {
        let at = path.field("objectives").item(index);
        let name = written.name.0.as_str();
        if let Some(first) = names.get(name) {
            let message = format!("a second objective of the name `{name}`");
            review.note_two(Code::ObjectiveTwice, &at.field("name"), message, first, "the first is here");
        } else {
            names.insert(name, at.field("name"));
        }
        objectives.push(objective(written, &at, review));
    }
    Some(Slo {
        id: SloId(document.name.clone()),
        target: target?,
        window: spec.window.as_ref().map_or(WINDOW_DEFAULT, Window::duration),
        objectives,
        sheds: spec.enforcement.as_ref().is_some_and(|enforcement| enforcement.shed),
    })
}

fn target(
    document: &Document,
    target: &SloTargetRef,
    at: &FieldPath,
    review: &mut Review<'_>,
) -> Option<SloTarget> {
    let name = ObjectName::new(Arc::clone(&document.name.namespace), target.name.0.as_str());
    let (group, group_name, kind_name) = match target.kind {
        SloTargetKind::HttpRoute => (SloTargetGroup::Gateway, "gateway.networking.k8s.io", "HTTPRoute"),
        SloTargetKind::Backend => (SloTargetGroup::Penstock, "penstock.dev", "Backend"),
    };
    if target.group != group {
        let message = format!("there is no kind {kind_name} in this group");
        review.note_with_help(
            Code::WrongGroup,
            &at.field("group"),
            message,
            format!("write `group: {group_name}`"),
        );
        return None;
    }
    match (target.kind, &target.section_name) {
        (SloTargetKind::HttpRoute, section) => {
            let rule = section.as_ref().map(|name| name.0.as_str().into());
            Some(SloTarget::Route { route: RouteId(name), rule })
        }
        (SloTargetKind::Backend, None) => Some(SloTarget::Backend(BackendId(name))),
        (SloTargetKind::Backend, Some(_)) => {
            review.note(Code::SectionOfBackend, &at.field("sectionName"), "a Backend has no named rules");
            None
        }
    }
}

fn objective(written: &ObjectiveSpec, at: &FieldPath, review: &mut Review<'_>) -> Objective {
    let indicator = match written.indicator {
        IndicatorName::Ttft => Indicator::Ttft,
        IndicatorName::Tpot => Indicator::Tpot,
        IndicatorName::Itl => Indicator::Itl,
        IndicatorName::E2e => Indicator::E2e,
        IndicatorName::Availability => Indicator::Availability,
    };
    let threshold = written.threshold.as_ref().map(Span::duration);
    let threshold_at = at.field("threshold");
    match (indicator, threshold) {
        (Indicator::Availability, Some(_)) => {
            review.note(Code::ThresholdNeedless, &threshold_at, "Availability has no threshold");
        }
        (Indicator::Availability, None) => {}
        (_, None) => review.note(
            Code::ThresholdMissing,
            &at.field("name"),
            "an objective of latency without threshold",
        ),
        (indicator, Some(threshold)) => off_bucket(indicator, threshold, &threshold_at, review),
    }
    let target_millionths = written.target.millionths();
    if target_millionths == 0 || target_millionths == ALL_MILLIONTHS {
        let message = format!("a target of {} percent", written.target);
        review.note(Code::TargetUnreachable, &at.field("target"), message);
    }
    let streaming = written.r#match.as_ref().and_then(|m| m.streaming);
    if streaming == Some(false) && matches!(indicator, Indicator::Tpot | Indicator::Itl) {
        let message = "answers that do not stream have no time between tokens";
        let indicator_at = at.field("indicator");
        let streaming_at = at.field("match").field("streaming");
        review.note_two(Code::NeverMeasured, &streaming_at, message, &indicator_at, "what is measured");
    }
    Objective {
        name: written.name.0.as_str().into(),
        indicator,
        threshold,
        target_millionths,
        model: written.r#match.as_ref().and_then(|m| m.model.as_deref()).map(Into::into),
        streaming,
    }
}

fn off_bucket(indicator: Indicator, threshold: Duration, at: &FieldPath, review: &mut Review<'_>) {
    let bounds = indicator.bucket_bounds();
    if bounds.contains(&threshold) {
        return;
    }
    // Bounds between milliseconds cannot be written as a threshold.
    let written = |bound: &&Duration| bound.subsec_nanos().is_multiple_of(1_000_000);
    let below = bounds.iter().filter(written).rfind(|bound| **bound < threshold);
    let above = bounds.iter().filter(written).find(|bound| **bound > threshold);
    let near: Vec<String> =
        below.into_iter().chain(above).map(|bound| format!("`{}`", duration_text(*bound))).collect();
    let message = format!("{} is between two buckets of the histogram", duration_text(threshold));
    review.note_with_help(Code::ThresholdOffBucket, at, message, format!("choose {}", near.join(" or ")));
}
