//! One call of the program: the mesh, then each other router, all with the same requests.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::rc::Rc;

use penstock_benches::clock;
use penstock_benches::limits;
use penstock_benches::place::Place;
use penstock_benches::processes::CpuTimes;
use penstock_simulate::account::Account;
use penstock_simulate::policy::Policy;
use penstock_simulate::report::{Figures, rounded};

use crate::flags::Asked;
use crate::lag::{Lateness, Sleepers};
use crate::plan::Plan;
use crate::replay::{Replayed, replay};
use crate::result::{Live, Result, Router, Simulated};
use crate::rival::Rival;
use crate::stand::{Group, Stand};

/// Our own programs, which stand beside this one.
const PROGRAMS: [&str; 3] = ["penstock-proxy", "penstock-control-plane", "penstock-engine"];
const OURS: &str = "penstock";

/// Who routes.
#[derive(Clone, Copy)]
enum Contender {
    Ours,
    Other(Rival),
}

impl Contender {
    fn name(self) -> &'static str {
        match self {
            Self::Ours => OURS,
            Self::Other(rival) => rival.name(),
        }
    }

    fn policy(self) -> Option<Policy> {
        match self {
            Self::Ours => Some(Policy::LeastCost),
            Self::Other(rival) => rival.policy(),
        }
    }
}

/// Does what was asked and prints it.
///
/// # Errors
/// When a program is missing or ends, or the trace is none.
pub(crate) async fn run(asked: &Asked) -> anyhow::Result<()> {
    limits::raise_descriptors()?;
    let place = Place::here(&PROGRAMS)?;
    let plan = Rc::new(Plan::of(asked)?);
    let contenders = [Contender::Ours].into_iter().chain(asked.rivals.iter().copied().map(Contender::Other));
    let mut routers = Vec::new();
    for contender in contenders {
        let simulated =
            |policy, account| plan.simulated(policy, account).map(|outcome| Simulated::of(&outcome));
        let exactly = contender.policy().map(|policy| simulated(policy, Account::Exact)).transpose()?;
        let by_ledger = match contender {
            Contender::Ours => Some(simulated(Policy::LeastCost, Account::Ledger)?),
            Contender::Other(_) => None,
        };
        let (live, discarded) = tried(&place, asked, &plan, contender).await?;
        routers.push(Router::of(contender.name(), live, exactly, by_ledger, discarded));
    }
    let result = Result::of(&plan, &asked.profile, asked.load, routers);
    write!(std::io::stderr().lock(), "{}", result.table())?;
    writeln!(std::io::stdout().lock(), "{}", serde_json::to_string(&result)?)?;
    Ok(())
}

/// The first run whose timers were in time, and how late they were in those before it.
async fn tried(
    place: &Place,
    asked: &Asked,
    plan: &Rc<Plan>,
    contender: Contender,
) -> anyhow::Result<(Option<Live>, Vec<Lateness>)> {
    let mut discarded = Vec::new();
    for _ in 0..asked.tries {
        let live = once(place, asked, plan, contender).await?;
        if live.timer_lag_ms.p99 <= asked.lag_max {
            return Ok((Some(live), discarded));
        }
        discarded.push(live.timer_lag_ms);
    }
    Ok((None, discarded))
}

async fn once(place: &Place, asked: &Asked, plan: &Rc<Plan>, contender: Contender) -> anyhow::Result<Live> {
    let dir = tempfile::Builder::new().prefix("penstock-live-").tempdir()?;
    let stand = match contender {
        Contender::Ours => Stand::mesh(place, asked, dir.path()).await?,
        Contender::Other(rival) => Stand::rival(place, asked, rival, dir.path()).await?,
    };
    let mut groups = stand.groups();
    groups.push(Group { name: "load", ids: vec![std::process::id()] });
    let used = |groups: &[Group]| groups.iter().map(|group| CpuTimes::of(&group.ids)).collect::<Vec<_>>();
    let (before, begun_ns) = (used(&groups), clock::now_ns());
    let sleepers = Sleepers::begin(&[place.proxy_core, place.load_core]);
    let mut replayed = replay(plan, &stand.doors, stand.counts()).await?;
    let timer_lag_ms = sleepers.end().await?;
    let seconds = (clock::now_ns() - begun_ns) as f64 / 1e9;
    let cores = groups.iter().zip(used(&groups)).zip(&before);
    let cores: BTreeMap<_, _> = cores
        .map(|((group, after), before)| (group.name, rounded(after.seconds_since(before) / seconds)))
        .collect();
    let (before, counts) = (replayed.before, stand.counts().await?);
    replayed.outcome.refusals = counts.refusals.saturating_sub(before.refusals);
    replayed.outcome.questions = counts.questions.saturating_sub(before.questions);
    replayed.outcome.preemptions = counts.preemptions.saturating_sub(before.preemptions);
    stand.end().await?;
    Ok(live(&replayed, timer_lag_ms, cores))
}

fn live(replayed: &Replayed, timer_lag_ms: Lateness, cores: BTreeMap<&'static str, f64>) -> Live {
    Live {
        requests: replayed.outcome.counted,
        failed: replayed.failed,
        first_error: replayed.first_error.clone(),
        figures: Figures::of(&replayed.outcome),
        timer_lag_ms,
        cores,
    }
}
