//! One stream: requests, snapshots and the end of its life go into the pure session; what it decides goes out.
//!
//! Responses wait in a short queue. While it is full this task waits, and with it its sidecar's requests: a sidecar that does
//! not read can make nothing pile up here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use penstock_delivery::proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use penstock_delivery::server::{Refusal, ServerAction, Session};
use penstock_delivery::wire::ResourceType;
use penstock_model::units::Moment;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use super::fanout::{Fanout, Progress, SidecarKey, TypeReport};
use crate::clock::{Clock, time_of_day};
use crate::listen::{Open, Peer};
use crate::seed;
use crate::tasks::Tasks;
use crate::telemetry::{Metrics, StreamEnd};

/// Long enough to cost nothing, short enough that sidecars spread over new replicas within the hour.
const LIFE_MIN: Duration = Duration::from_secs(30 * 60);
/// Added at random, so that sidecars that came together do not go together.
const LIFE_JITTER: Duration = Duration::from_secs(30 * 60);
/// A sidecar answers at once, or holds a refusal back for half a minute. One that has not answered after twice that has lost the
/// response: nothing more would ever be sent to it on this stream.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(60);
/// Longest name that Kubernetes allows, for pod and namespace together with the dot.
const NODE_CHARS_MAX: usize = 317;

/// As many reasons as fit a screen.
const REASONS_MAX: usize = 10;
const REASON_CHARS_MAX: usize = 1_000;

/// Why a stream ends, and what the sidecar is told.
type End = (StreamEnd, Option<Status>);

/// Drives one stream.
pub(super) struct Driver {
    stream: u64,
    peer: Peer,
    session: Session,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    fanout: Arc<Fanout>,
    metrics: Arc<Metrics>,
    progress: Progress,
    key: Option<SidecarKey>,
    /// Since when the last response of a type has had no answer.
    unanswered: BTreeMap<ResourceType, Moment>,
    _open: Open,
}

impl Driver {
    pub(super) fn new(
        stream: u64,
        peer: Peer,
        responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
        fanout: Arc<Fanout>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            stream,
            peer,
            session: Session::new(stream),
            responses,
            fanout,
            _open: Open::new(&metrics.streams),
            metrics,
            progress: Progress::default(),
            key: None,
            unanswered: BTreeMap::new(),
        }
    }

    /// Runs until the stream ends.
    pub(super) async fn run(
        mut self,
        requests: impl Stream<Item = Result<DeltaDiscoveryRequest, Status>> + Unpin,
        clock: Clock,
        tasks: &Tasks,
    ) {
        let life = LIFE_MIN + LIFE_JITTER.mul_f64(seed::share());
        let (end, told) = tokio::select! {
            biased;
            () = tasks.stopped() => {
                (StreamEnd::Shutdown, Some(Status::unavailable("the control plane is stopping; connect again")))
            }
            () = clock.sleep(life) => (StreamEnd::Lifetime, None),
            end = self.exchange(requests, clock) => end,
        };
        let why = told.as_ref().map_or("", Status::message).to_owned();
        if let Some(told) = told.filter(|_| end != StreamEnd::Sidecar) {
            // A queue that is full has no room for a parting word; the stream ends without.
            let _unread = self.responses.try_send(Err(told));
        }
        self.metrics.stream_ended(end, self.node(), &why);
    }

    async fn exchange(
        &mut self,
        mut requests: impl Stream<Item = Result<DeltaDiscoveryRequest, Status>> + Unpin,
        clock: Clock,
    ) -> End {
        let mut published = self.fanout.subscribe();
        published.mark_changed();
        loop {
            let oldest = self.unanswered.values().min().copied();
            let actions = tokio::select! {
                biased;
                // The fanout outlives every stream, so there is always a next change to wait for.
                Ok(()) = published.changed() => {
                    let newest = published.borrow_and_update().clone();
                    newest.map_or_else(Vec::new, |newest| self.session.publish(&newest))
                }
                request = requests.next() => match request {
                    Some(Ok(request)) => self.session.request(request),
                    None => return (StreamEnd::Sidecar, None),
                    Some(Err(status)) => return (StreamEnd::Sidecar, Some(status)),
                },
                () = clock.sleep_until_some(oldest.map(|since| since + ANSWER_WAIT_MAX)) => {
                    let why = "a response was not answered; connect again";
                    return (StreamEnd::Unanswered, Some(Status::deadline_exceeded(why)));
                }
            };
            for action in actions {
                if let Err(end) = self.perform(action, clock).await {
                    return end;
                }
            }
            self.tell_progress();
        }
    }

    async fn perform(&mut self, action: ServerAction, clock: Clock) -> Result<(), End> {
        match action {
            ServerAction::Send(response) => {
                let resource_type = ResourceType::from_type_url(&response.type_url);
                self.metrics.response_sent(resource_type.map_or("unknown", ResourceType::label));
                if let Some(resource_type) = resource_type {
                    self.unanswered.insert(resource_type, clock.now());
                    let report = self.progress.types.entry(resource_type.label()).or_default();
                    report.version = Some(response.system_version_info.clone());
                    report.nonce = Some(response.nonce.clone());
                }
                self.responses.send(Ok(response)).await.map_err(|_| (StreamEnd::Sidecar, None))
            }
            ServerAction::Acked { resource_type, nonce } => {
                self.unanswered.remove(&resource_type);
                self.metrics.acked(resource_type.label(), self.node());
                let report = self.progress.types.entry(resource_type.label()).or_default();
                if report.nonce.as_ref() == Some(&nonce) {
                    report.acked.clone_from(&report.version);
                }
                Ok(())
            }
            ServerAction::Nacked { resource_type, message, .. } => {
                self.unanswered.remove(&resource_type);
                let why = printable(&message, REASON_CHARS_MAX);
                self.metrics.nacked(resource_type.label(), self.node(), &why);
                Ok(())
            }
            ServerAction::End(why) => Err((StreamEnd::Protocol, Some(Status::resource_exhausted(why)))),
        }
    }

    /// Lets operators see how far the sidecar is, once it has said who it is.
    fn tell_progress(&mut self) {
        if self.key.is_none()
            && let Some(node) = self.session.node()
        {
            let node = printable(&node.id, NODE_CHARS_MAX);
            tracing::info!(node, peer = %self.peer, "sidecar connected");
            self.key = Some(SidecarKey { node, identity: self.peer.identity.clone() });
        }
        let Some(key) = &self.key else { return };
        let status = self.session.status();
        self.progress.synced = status.synced;
        for of_type in status.types {
            let report: &mut TypeReport =
                self.progress.types.entry(of_type.resource_type.label()).or_default();
            (report.held, report.pending) = (of_type.held, of_type.pending);
            report.error = reasons(&of_type.refusals);
        }
        self.fanout.progressed(key, self.stream, &self.peer, self.progress.clone(), time_of_day());
    }

    fn node(&self) -> &str {
        self.key.as_ref().map_or("", |key| &key.node)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.fanout.gone(key, self.stream, time_of_day());
        }
    }
}

/// The first reasons of a sidecar, and how many more there are.
fn reasons(refusals: &[Arc<Refusal>]) -> Option<String> {
    let reason = |refusal: &Arc<Refusal>| printable(&refusal.message, REASON_CHARS_MAX);
    let first: Vec<String> = refusals.iter().take(REASONS_MAX).map(reason).collect();
    let more = match refusals.len() - first.len() {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    (!first.is_empty()).then(|| first.join("; ") + &more)
}

/// What a sidecar says, cut and without control characters.
fn printable(words: &str, chars_max: usize) -> String {
    words.chars().map(|c| if c.is_control() { '?' } else { c }).take(chars_max).collect()
}

#[cfg(test)]
mod tests {
    use penstock_delivery::proto::envoy::config::core::v3::Node;
    use penstock_delivery::server::Published;
    use penstock_model::snapshot::Snapshot;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    type Requests = mpsc::Sender<Result<DeltaDiscoveryRequest, Status>>;
    type Responses = mpsc::Receiver<Result<DeltaDiscoveryResponse, Status>>;

    fn start(tasks: &Tasks, fanout: &Arc<Fanout>) -> (Requests, Responses) {
        let (requests, incoming) = mpsc::channel(1);
        let (outgoing, responses) = mpsc::channel(1);
        let peer = Peer { address: ([127, 0, 0, 1], 1).into(), identity: None };
        let driver = Driver::new(1, peer, outgoing, Arc::clone(fanout), Metrics::new().unwrap());
        let owner = tasks.clone();
        tasks.spawn("push", async move {
            driver.run(ReceiverStream::new(incoming), Clock::start(), &owner).await;
        });
        (requests, responses)
    }

    /// Of a type that nobody has, so that each is answered at once.
    fn request() -> Result<DeltaDiscoveryRequest, Status> {
        let node = Some(Node { id: "web".to_owned(), ..Node::default() });
        Ok(DeltaDiscoveryRequest { node, type_url: "unknown".to_owned(), ..DeltaDiscoveryRequest::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_without_a_fault_when_its_life_is_over() {
        let (tasks, fanout) = (Tasks::new(), Fanout::new());
        let (requests, mut responses) = start(&tasks, &fanout);
        requests.send(request()).await.unwrap();
        assert!(responses.recv().await.unwrap().is_ok());
        let clock = Clock::start();
        let before = clock.now();
        assert!(responses.recv().await.is_none());
        let life = clock.now().since(before);
        assert!((LIFE_MIN..=LIFE_MIN + LIFE_JITTER).contains(&life), "{life:?}");
        assert!(serde_json::to_string(&fanout.report()).unwrap().contains("\"connected\":false"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sidecar_that_reads_nothing_is_not_read_either_and_still_hears_the_stop() {
        let (tasks, fanout) = (Tasks::new(), Fanout::new());
        let (requests, mut responses) = start(&tasks, &fanout);
        let full = async {
            loop {
                requests.send(request()).await.unwrap();
            }
        };
        // Under a paused clock the time passes only once nothing else can happen.
        assert!(tokio::time::timeout(Duration::from_secs(60), full).await.is_err());
        tasks.stop();
        assert_eq!(tasks.drained(Duration::from_secs(60)).await, 0);
        assert!(responses.recv().await.unwrap().is_ok());
        assert!(responses.recv().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_response_is_never_answered_ends_so_that_the_next_can_bring_it() {
        let (tasks, fanout) = (Tasks::new(), Fanout::new());
        let (requests, mut responses) = start(&tasks, &fanout);
        let clock = Clock::start();
        let url = ResourceType::Backend.type_url();
        let subscription = DeltaDiscoveryRequest { type_url: url.to_owned(), ..request().unwrap() };
        requests.send(Ok(subscription.clone())).await.unwrap();
        fanout.publish(Arc::new(Published::new(&Snapshot::default())));
        // One that is answered is no fault, however long the stream then rests.
        let response = responses.recv().await.unwrap().unwrap();
        let ack = DeltaDiscoveryRequest { response_nonce: response.nonce, ..subscription.clone() };
        requests.send(Ok(ack)).await.unwrap();
        clock.sleep(ANSWER_WAIT_MAX * 2).await;
        let again = DeltaDiscoveryRequest {
            resource_names_subscribe: vec!["penstock/ns/a".to_owned()],
            ..subscription
        };
        requests.send(Ok(again)).await.unwrap();
        assert!(responses.recv().await.unwrap().is_ok());
        let before = clock.now();
        let end = responses.recv().await.unwrap().unwrap_err();
        assert_eq!((end.code(), clock.now().since(before)), (tonic::Code::DeadlineExceeded, ANSWER_WAIT_MAX));
        assert!(responses.recv().await.is_none());
    }

    #[test]
    fn reasons_are_cut() {
        let refusal = |message: &str| {
            Arc::new(Refusal { nonce: "1".to_owned(), message: message.to_owned(), names: Vec::new() })
        };
        assert_eq!(reasons(&[]), None);
        assert_eq!(reasons(&[refusal("a\nb"), refusal("c")]).unwrap(), "a?b; c");
        let many = vec![refusal(&"x".repeat(5_000)); 12];
        let text = reasons(&many).unwrap();
        assert!(text.ends_with("x; and 2 more"));
        assert!(text.len() < 11 * REASON_CHARS_MAX, "{}", text.len());
    }
}
