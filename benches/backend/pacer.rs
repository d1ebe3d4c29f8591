//! Writes every event of every stream when it is due.
//!
//! One task with one exact timer: a timer for each stream would cost two system calls an event, on the core that the client needs too.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BinaryHeap;
use std::io::ErrorKind;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use penstock_benches::{clock, event};

use super::http1::framed;

/// Streams that begin between two turns of the loop.
const ORDERS_WAITING_MAX: usize = 1_024;
/// A stream that does not take what is due is tried again after this.
const BLOCKED_PAUSE_NS: u64 = 200_000;

/// A stream to be written.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) stream: Arc<TcpStream>,
    pub(super) begun_ns: u64,
    pub(super) interval_ns: u64,
    pub(super) chunks: u64,
}

/// Where orders go.
#[derive(Clone, Debug)]
pub(super) struct Pacer(mpsc::Sender<(Order, oneshot::Sender<bool>)>);

impl Pacer {
    /// Has a stream written; says whether it was written to its end.
    pub(super) async fn send(&self, order: Order) -> anyhow::Result<bool> {
        let (done, ended) = oneshot::channel();
        self.0.send((order, done)).await.ok().context("nobody writes streams")?;
        ended.await.context("a stream was dropped")
    }
}

pub(super) fn start(tasks: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<Pacer> {
    let (sender, orders) = mpsc::channel(ORDERS_WAITING_MAX);
    let alarm = clock::Alarm::new()?;
    tasks.spawn_local(run(alarm, orders));
    Ok(Pacer(sender))
}

/// A stream being written.
#[derive(Debug)]
struct Paced {
    order: Order,
    done: oneshot::Sender<bool>,
    sent: u64,
    /// What the socket would not take.
    rest: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
enum After {
    DueAt(u64),
    Ended,
    Broken,
}

async fn run(
    alarm: clock::Alarm,
    mut orders: mpsc::Receiver<(Order, oneshot::Sender<bool>)>,
) -> anyhow::Result<()> {
    let mut streams = BTreeMap::new();
    let mut due = BinaryHeap::new();
    let mut number = 0_u64;
    loop {
        let next_ns = due.peek().map(|Reverse((at_ns, _))| *at_ns);
        tokio::select! {
            order = orders.recv() => {
                let Some((order, done)) = order else { return Ok(()) };
                number += 1;
                due.push(Reverse((order.begun_ns + order.interval_ns, number)));
                streams.insert(number, Paced { order, done, sent: 0, rest: Vec::new() });
            }
            waited = alarm.wait_until(next_ns.unwrap_or(u64::MAX)), if next_ns.is_some() => waited?,
        }
        let now_ns = clock::now_ns();
        while let Some(Reverse((at_ns, number))) =
            due.peek().copied().filter(|Reverse((at_ns, _))| *at_ns <= now_ns)
        {
            due.pop();
            let Some(paced) = streams.get_mut(&number) else { continue };
            match paced.turn(at_ns, now_ns) {
                After::DueAt(at_ns) => due.push(Reverse((at_ns, number))),
                after => {
                    if let Some(paced) = streams.remove(&number) {
                        // The connection's task may have gone.
                        let _gone = paced.done.send(after == After::Ended);
                    }
                }
            }
        }
    }
}

impl Paced {
    /// Writes what was due at `at_ns`.
    fn turn(&mut self, at_ns: u64, now_ns: u64) -> After {
        let Order { begun_ns, interval_ns, chunks, .. } = self.order;
        if self.rest.is_empty() {
            self.sent += 1;
            let due_ns = begun_ns + self.sent * interval_ns;
            self.rest = framed(&event::write(due_ns)).into_bytes();
            if self.sent == chunks {
                self.rest.extend_from_slice(framed(event::DONE).as_bytes());
                self.rest.extend_from_slice(b"0\r\n\r\n");
            }
        }
        match self.order.stream.try_write(&self.rest) {
            Ok(written) => drop(self.rest.drain(..written)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return After::Broken,
        }
        if !self.rest.is_empty() {
            return After::DueAt(now_ns + BLOCKED_PAUSE_NS);
        }
        if self.sent == chunks {
            After::Ended
        } else {
            After::DueAt((begun_ns + (self.sent + 1) * interval_ns).max(at_ns))
        }
    }
}
