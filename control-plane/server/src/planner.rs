//! Documents become what is published: debounce, read, compile, compare, publish; or keep the last good and say why.
//!
//! ```text
//!   change ──► debounce ──► read ──┬─ unchanged ──► nothing
//!                 ▲                ├─ moving ─────► once more
//!                 └────────────────┤
//!                                  ├─ unreadable ─► keep, say why
//!                                  └─ complete ───► compile ──┬─ findings ─► keep, say why
//!                                                             └─ snapshot ─► remember, publish
//! ```
//!
//! Accepted texts are remembered in the state directory. A start with bad documents serves those; without any it publishes
//! nothing, and sidecars go on with what they have.

mod debounce;
mod last_good;
mod plan;

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;
use penstock_delivery::server::Published;

use debounce::Debounce;
pub(crate) use plan::{Basis, Plan, Problem};
use plan::{Considered, Step};

use crate::clock::{Clock, time_of_day};
use crate::push::Fanout;
use crate::source::{self, Changes};
use crate::tasks::Tasks;
use crate::telemetry::{Metrics, Reload};

/// Reads, decides and publishes.
#[derive(Debug)]
pub(crate) struct Planner {
    root: PathBuf,
    state_dir: PathBuf,
    plan: Arc<RwLock<Arc<Plan>>>,
    considered: Considered,
    fanout: Arc<Fanout>,
    metrics: Arc<Metrics>,
}

impl Planner {
    /// Reads for the first time: what it finds is published when this returns, or else the last good.
    pub(crate) async fn start(
        root: PathBuf,
        state_dir: PathBuf,
        fanout: Arc<Fanout>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let plan = Arc::new(RwLock::new(Arc::new(Plan::empty(time_of_day()))));
        let mut planner = Self { root, state_dir, plan, considered: Considered::default(), fanout, metrics };
        // Documents that move at this very moment are read again as soon as they are watched.
        planner.consider().await;
        if planner.plan.read().snapshot.is_none() {
            planner.fall_back().await;
        }
        planner
    }

    /// What is in force, and what is wrong with what is not.
    pub(crate) fn plan(&self) -> Arc<RwLock<Arc<Plan>>> {
        Arc::clone(&self.plan)
    }

    /// Follows changes until the stop signal.
    pub(crate) async fn run(mut self, changes: Changes, clock: Clock, tasks: Tasks) {
        let mut debounce = Debounce::default();
        loop {
            tokio::select! {
                biased;
                () = changes.next() => debounce.changed(clock.now()),
                () = clock.sleep_until_some(debounce.due()) => {
                    if debounce.over(clock.now()) && self.consider().await == Pace::Again {
                        debounce.changed(clock.now());
                    }
                }
                () = tasks.stopped() => return,
            }
        }
    }

    async fn consider(&mut self) -> Pace {
        let root = self.root.clone();
        let considered = self.considered.clone();
        let before = Arc::clone(&self.plan.read());
        let decide = move || plan::decide(source::read(&root), &considered, &before, time_of_day());
        // A panic in the compiler is a fault of ours; the documents that met it are not in force, and the process lives on.
        let Some(step) = Tasks::block(decide).await else {
            self.metrics.reloaded(Reload::Refused);
            tracing::error!("the compiler failed; the last good configuration stays in force");
            return Pace::Rest;
        };
        match step {
            Step::Nothing => {}
            Step::ReadAgain => return Pace::Again,
            Step::Keep { considered, plan, reload } => {
                self.considered = considered;
                self.metrics.reloaded(reload);
                self.metrics.config_refused(&plan);
                *self.plan.write() = plan;
            }
            Step::Publish { considered, plan, published, changes } => {
                self.remember(&considered).await;
                self.considered = considered;
                self.metrics.config_applied(&plan, &changes);
                *self.plan.write() = plan;
                match published {
                    None => self.metrics.reloaded(Reload::Unchanged),
                    Some(published) => {
                        self.metrics.reloaded(Reload::Applied);
                        self.fanout.publish(published);
                    }
                }
            }
        }
        Pace::Rest
    }

    async fn remember(&self, considered: &Considered) {
        let (dir, sources) = (self.state_dir.clone(), considered.sources());
        let kept = Tasks::block(move || last_good::store(&dir, &sources)).await;
        if let Some(Err(error)) = kept {
            tracing::warn!(%error, "the accepted documents cannot be kept for the next start");
        }
    }

    async fn fall_back(&mut self) {
        let dir = self.state_dir.clone();
        let before = Arc::clone(&self.plan.read());
        let recall = move || last_good::load(&dir).map(|sources| plan::recall(&sources, &before));
        match Tasks::block(recall).await {
            Some(Ok(Some(plan))) => {
                tracing::warn!("serving the last good documents of an earlier run");
                if let Some(snapshot) = &plan.snapshot {
                    self.fanout.publish(Arc::new(Published::new(snapshot)));
                }
                *self.plan.write() = plan;
            }
            Some(Ok(None)) => {
                tracing::warn!("the last good documents of an earlier run do not fit this version");
            }
            Some(Err(error)) => tracing::warn!(%error, "there are no last good documents of an earlier run"),
            None => tracing::error!("the compiler failed on the last good documents"),
        }
    }
}

/// Whether to read again soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    Rest,
    Again,
}
