//! Slo.

use std::collections::BTreeSet;
use std::sync::Arc;

use penstock_model::names::{BackendId, RouteId, SloId};
use penstock_model::snapshot::{Indicator, Objective, Slo, SloTarget};

use super::Resource;
use super::reading::{
    Misfit, at_most, each, known, needed, nested, optional, read_duration, read_name, unset, write_duration,
    write_name,
};
use crate::proto::penstock::v1;
use crate::proto::penstock::v1::slo_target::Kind;

const TARGET_MILLIONTHS_MAX: u32 = 1_000_000;

pub(super) fn write_slo(slo: &Slo) -> v1::Slo {
    v1::Slo {
        name: write_name(&slo.id.0),
        target: Some(v1::SloTarget { kind: write_target(&slo.target) }),
        window: Some(write_duration(slo.window)),
        objectives: slo.objectives.iter().map(write_objective).collect(),
        sheds: slo.sheds,
    }
}

pub(super) fn read_slo(message: v1::Slo) -> Result<Resource, Misfit> {
    let slo = Slo {
        id: SloId(nested("name", message.name, read_name)?),
        target: nested("target", message.target, read_target)?,
        window: nested("window", message.window, read_duration)?,
        objectives: each("objectives", message.objectives, read_objective)?,
        sheds: message.sheds,
    };
    let mut names = BTreeSet::new();
    if let Some(twin) = slo.objectives.iter().find(|o| !names.insert(&o.name)) {
        return Err(Misfit::new("objectives", format!("has `{}` twice", twin.name.escape_debug())));
    }
    Ok(Resource::Slo(Arc::new(slo)))
}

fn write_target(target: &SloTarget) -> Option<Kind> {
    Some(match target {
        SloTarget::Route { route, rule } => Kind::Route(v1::RouteTarget {
            route: write_name(&route.0),
            rule: rule.as_deref().map(str::to_owned),
        }),
        SloTarget::Backend(backend) => Kind::Backend(v1::ObjectName {
            namespace: backend.0.namespace.to_string(),
            name: backend.0.name.to_string(),
        }),
    })
}

fn read_target(message: v1::SloTarget) -> Result<SloTarget, Misfit> {
    match needed("kind", message.kind)? {
        Kind::Backend(name) => {
            nested("backend", Some(name), read_name).map(|n| SloTarget::Backend(BackendId(n)))
        }
        Kind::Route(target) => nested("route", Some(target), |target| {
            let route = RouteId(nested("route", target.route, read_name)?);
            Ok(SloTarget::Route { route, rule: target.rule.map(Into::into) })
        }),
    }
}

fn write_objective(objective: &Objective) -> v1::Objective {
    let indicator = match objective.indicator {
        Indicator::Ttft => v1::Indicator::Ttft,
        Indicator::Tpot => v1::Indicator::Tpot,
        Indicator::Itl => v1::Indicator::Itl,
        Indicator::E2e => v1::Indicator::E2e,
        Indicator::Availability => v1::Indicator::Availability,
    };
    v1::Objective {
        name: objective.name.to_string(),
        indicator: indicator.into(),
        threshold: objective.threshold.map(write_duration),
        target_millionths: objective.target_millionths,
        model: objective.model.as_deref().map(str::to_owned),
        streaming: objective.streaming,
    }
}

fn read_objective(message: v1::Objective) -> Result<Objective, Misfit> {
    let objective = Objective {
        name: message.name.into(),
        indicator: match known("indicator", message.indicator)? {
            v1::Indicator::Ttft => Indicator::Ttft,
            v1::Indicator::Tpot => Indicator::Tpot,
            v1::Indicator::Itl => Indicator::Itl,
            v1::Indicator::E2e => Indicator::E2e,
            v1::Indicator::Availability => Indicator::Availability,
            v1::Indicator::Unspecified => return Err(unset("indicator")),
        },
        threshold: optional("threshold", message.threshold, read_duration)?,
        target_millionths: at_most("target_millionths", message.target_millionths, TARGET_MILLIONTHS_MAX)?,
        model: message.model.map(Into::into),
        streaming: message.streaming,
    };
    match (objective.indicator, objective.threshold) {
        (Indicator::Availability, Some(_)) => {
            Err(Misfit::new("threshold", "is set, but availability is not a duration"))
        }
        (Indicator::Availability, None) | (_, Some(_)) => Ok(objective),
        (_, None) => Err(Misfit::new("threshold", "is missing")),
    }
}
