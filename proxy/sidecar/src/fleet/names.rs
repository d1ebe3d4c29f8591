//! Follows the addresses of names: each name of a Backend is looked up, and again when its answer is no longer good.
//!
//! What becomes of an answer is decided in `penstock_policy::resolution`. A fleet is made anew only when addresses change, or when
//! look-ups begin or cease to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, join};
use futures::stream::FuturesUnordered;
use penstock_policy::resolution::{Bounds, Outcome, Resolution};
use tokio::time::sleep;

use crate::live::Live;
use crate::seed;
use crate::telemetry::Telemetry;

/// What is known of each name that was looked up.
pub type Names = BTreeMap<Arc<str>, Arc<Known>>;

/// What is known of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Its addresses.
    pub resolution: Resolution,
    /// Why the last look-up failed, if it did.
    pub error: Option<String>,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Addresses, none if there are none, and how long that holds.
pub type Addresses = (BTreeSet<IpAddr>, Duration);

/// Looks names up: production asks servers, tests make answers up.
pub trait Resolve: Send + Sync + fmt::Debug {
    /// The addresses of `name` in one family, or why they cannot be told. Bounds its own time.
    fn look_up(&self, name: Arc<str>, family: Family) -> BoxFuture<'static, Result<Addresses, String>>;
}

/// Follows names.
#[derive(Debug)]
pub struct Follower {
    /// What is kept up to date.
    pub live: Arc<Live>,
    /// Who is asked.
    pub resolver: Arc<dyn Resolve>,
    /// How often.
    pub bounds: Bounds,
    /// Where it is told.
    pub telemetry: Arc<Telemetry>,
}

/// A name that is followed.
#[derive(Debug)]
struct Followed {
    known: Known,
    told: Option<Arc<Known>>,
    /// Tells it from an earlier time when the same name was followed, whose last look-up may still be under way.
    turn: u64,
}

/// A look-up that has ended.
struct Answer {
    name: Arc<str>,
    turn: u64,
    v4: Result<Addresses, String>,
    v6: Result<Addresses, String>,
}

impl Follower {
    /// Follows the names of the current snapshot, for ever.
    pub async fn run(self) {
        let mut published = self.live.watch();
        let mut followed = BTreeMap::new();
        let mut asking = FuturesUnordered::new();
        let mut turns = 0;
        loop {
            for (name, turn) in self.newcomers(&mut followed, &mut turns) {
                asking.push(self.ask(name, turn, Duration::ZERO));
            }
            tokio::select! {
                biased;
                changed = published.changed() => if changed.is_err() {
                    return;
                },
                Some(answer) = asking.next(), if !asking.is_empty() => {
                    let (name, turn) = (Arc::clone(&answer.name), answer.turn);
                    if let Some(wait) = self.learn(&mut followed, answer) {
                        asking.push(self.ask(name, turn, wait));
                    }
                }
            }
        }
    }

    /// Lets go of names that no Backend has any more, and gives those that are new.
    fn newcomers(
        &self,
        followed: &mut BTreeMap<Arc<str>, Followed>,
        turns: &mut u64,
    ) -> Vec<(Arc<str>, u64)> {
        let snapshot = Arc::clone(&self.live.load().snapshot);
        let backends = snapshot.parts().backends.values();
        let wanted: BTreeSet<&Arc<str>> =
            backends.flat_map(|backend| &backend.outside.hosts).map(|host| &host.name).collect();
        let gone: Vec<Arc<str>> = followed.keys().filter(|name| !wanted.contains(name)).cloned().collect();
        for name in gone {
            followed.remove(&name);
            self.live.learn(&name, None);
        }
        let mut new = Vec::new();
        for name in wanted {
            if !followed.contains_key(name) {
                *turns += 1;
                // Whoever followed it before, by other settings, has left what is in use.
                let told = self.live.known(name);
                let known = told.as_deref().cloned().unwrap_or_default();
                let begun = Followed { known, told, turn: *turns };
                followed.insert(Arc::clone(name), begun);
                new.push((Arc::clone(name), *turns));
            }
        }
        new
    }

    fn ask(&self, name: Arc<str>, turn: u64, wait: Duration) -> BoxFuture<'static, Answer> {
        let resolver = Arc::clone(&self.resolver);
        Box::pin(async move {
            sleep(wait).await;
            let ask = |family| resolver.look_up(Arc::clone(&name), family);
            let (v4, v6) = join(ask(Family::V4), ask(Family::V6)).await;
            Answer { name, turn, v4, v6 }
        })
    }

    /// Takes in an answer and says when to ask again; not at all where the name has been let go of.
    fn learn(&self, followed: &mut BTreeMap<Arc<str>, Followed>, answer: Answer) -> Option<Duration> {
        let Answer { name, turn, v4, v6 } = answer;
        let Followed { known, told, .. } =
            followed.get_mut(&name).filter(|followed| followed.turn == turn)?;
        known.error = [&v4, &v6].into_iter().find_map(|looked_up| looked_up.as_ref().err().cloned());
        let wait = known.resolution.learn(outcome(v4), outcome(v6), self.bounds, seed::share());
        self.count(&name, known);
        if told.as_deref() != Some(known) {
            tell(&name, told.as_deref(), known);
            let now = Arc::new(known.clone());
            self.live.learn(&name, Some(Arc::clone(&now)));
            *told = Some(now);
        }
        Some(wait)
    }

    fn count(&self, name: &str, known: &Known) {
        let result = match (&known.error, known.resolution.addresses().next()) {
            (Some(_), _) => "failed",
            (None, Some(_)) => "found",
            (None, None) => "nothing",
        };
        self.telemetry.metrics.dns_lookups.with_label_values(&[name, result]).inc();
    }
}

fn outcome(looked_up: Result<Addresses, String>) -> Outcome {
    match looked_up {
        Ok((addresses, ttl)) => Outcome::Found { addresses, ttl },
        Err(_) => Outcome::Failed,
    }
}

fn tell(name: &str, before: Option<&Known>, now: &Known) {
    let addresses: Vec<IpAddr> = now.resolution.addresses().collect();
    match (&now.error, before.and_then(|before| before.error.as_ref())) {
        (Some(error), None) => {
            tracing::warn!(
                name,
                error,
                ?addresses,
                "the name cannot be looked up; its last addresses stay in use"
            );
        }
        (Some(_), Some(_)) => {}
        (None, _) => tracing::info!(name, ?addresses, "addresses of a name"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use parking_lot::Mutex;
    use penstock_model::names::BackendId;
    use penstock_model::settings::AccessLog;
    use penstock_model::snapshot::{Backend, Host, Outside, Parts, Protocol, Snapshot};
    use tokio::time::Instant;

    use super::*;
    use crate::live::Source;
    use crate::tasks::Tasks;

    type Line = Result<(&'static [&'static str], u64), &'static str>;

    /// Answers in turn, the last one for ever; IPv6 has nothing.
    #[derive(Debug)]
    struct Script(Mutex<VecDeque<Line>>);

    impl Resolve for Script {
        fn look_up(&self, _name: Arc<str>, family: Family) -> BoxFuture<'static, Result<Addresses, String>> {
            let answer = match family {
                Family::V6 => Ok((&[][..], 3_600)),
                Family::V4 => {
                    let mut script = self.0.lock();
                    if script.len() > 1 { script.pop_front().unwrap() } else { script[0] }
                }
            };
            let answer = answer.map(|(addresses, ttl_s)| {
                let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
                (addresses, Duration::from_secs(ttl_s))
            });
            Box::pin(std::future::ready(answer.map_err(str::to_owned)))
        }
    }

    fn snapshot(hosts: &[&str]) -> Snapshot {
        let id = BackendId::new("default", "chat");
        let hosts = hosts
            .iter()
            .map(|name| Host { name: (*name).into(), port: 80, attributes: Default::default() })
            .collect();
        let backend = Backend {
            id: id.clone(),
            hostnames: Vec::new(),
            is_default: true,
            protocol: Protocol::Http,
            identity: None,
            outside: Outside { hosts, ..Outside::default() },
        };
        Snapshot::assemble(Parts { backends: [(id, Arc::new(backend))].into(), ..Parts::default() })
    }

    fn endpoints(live: &Live) -> Vec<String> {
        let fleet = live.load();
        let backend = fleet.backends().next().unwrap();
        backend.endpoints.iter().map(|state| state.endpoint.id.address.to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_come_and_go_with_the_answers_and_stay_through_failures() {
        let script = [
            Ok((&["10.0.0.1", "10.0.0.2"][..], 10)),
            Ok((&["10.0.0.2", "10.0.0.3"][..], 10)),
            Err("no answer"),
            Ok((&[][..], 10)),
        ];
        let live = Arc::new(Live::default());
        let telemetry = Telemetry::new(&AccessLog::Off).unwrap();
        let follower = Follower {
            live: Arc::clone(&live),
            resolver: Arc::new(Script(Mutex::new(script.into()))),
            bounds: Bounds { ttl_min: Duration::from_secs(1), ttl_max: Duration::from_secs(60) },
            telemetry: Arc::clone(&telemetry),
        };
        let tasks = Tasks::default();
        live.publish(snapshot(&["chat.example"]), Source::Push);
        let mut changes = live.watch();
        let began = Instant::now();
        tasks.spawn("names", follower.run());

        changes.changed().await.unwrap();
        assert_eq!(endpoints(&live), ["10.0.0.1:80", "10.0.0.2:80"]);
        let kept = Arc::clone(&live.load().backends().next().unwrap().endpoints[1]);

        changes.changed().await.unwrap();
        assert_eq!(endpoints(&live), ["10.0.0.2:80", "10.0.0.3:80"]);
        let waited = began.elapsed();
        assert!(waited >= Duration::from_secs(9) && waited <= Duration::from_secs(10), "{waited:?}");
        let fleet = live.load();
        assert!(Arc::ptr_eq(&kept, &fleet.backends().next().unwrap().endpoints[0]), "its history is kept");

        changes.changed().await.unwrap();
        assert_eq!(endpoints(&live), ["10.0.0.2:80", "10.0.0.3:80"], "a failure takes nothing away");
        let fleet = live.load();
        let known = fleet.backends().next().unwrap().hosts[0].1.clone().unwrap();
        assert_eq!((known.error.as_deref(), known.resolution.is_stale()), (Some("no answer"), true));

        changes.changed().await.unwrap();
        assert!(endpoints(&live).is_empty(), "nothing there is an answer");
        assert!(live.load().backends().next().unwrap().absence().contains("chat.example:80 has no address"));

        live.publish(snapshot(&[]), Source::Push);
        changes.mark_unchanged();
        changes.changed().await.unwrap();
        live.publish(snapshot(&["chat.example"]), Source::Push);
        assert!(
            live.load().backends().next().unwrap().hosts[0].1.is_none(),
            "a name that was gone is forgotten"
        );
        tasks.cut();
        let page = String::from_utf8(telemetry.metrics.text().unwrap()).unwrap();
        for (result, count) in [("found", 2), ("failed", 1)] {
            let line =
                format!("penstock_dns_lookups_total{{name=\"chat.example\",result=\"{result}\"}} {count}");
            assert!(page.contains(&line), "{line}\n{page}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_follows_next_keeps_what_is_known_until_somebody_answers() {
        let live = Arc::new(Live::default());
        live.publish(snapshot(&["chat.example"]), Source::Push);
        let follower = |script: &[Line]| Follower {
            live: Arc::clone(&live),
            resolver: Arc::new(Script(Mutex::new(script.iter().copied().collect()))),
            bounds: Bounds { ttl_min: Duration::from_secs(1), ttl_max: Duration::from_secs(60) },
            telemetry: Telemetry::new(&AccessLog::Off).unwrap(),
        };
        let mut changes = live.watch();
        for (script, expected) in [
            ([Ok((&["10.0.0.1"][..], 10))], ["10.0.0.1:80"]),
            ([Err("nobody is there")], ["10.0.0.1:80"]),
            ([Ok((&["10.0.0.2"][..], 10))], ["10.0.0.2:80"]),
        ] {
            tokio::select! {
                () = follower(&script).run() => panic!("it ended"),
                changed = changes.changed() => changed.unwrap(),
            }
            assert_eq!(endpoints(&live), expected);
        }
    }
}
