//! A network in memory: links with latency and bandwidth, and everything that can happen to a link.
//!
//! ```text
//! dial ──► listener?  refuse · hole · accept
//!            │
//!          link: two ways ─► [ segment due at t | segment … ] ─► reader
//!                  └ after byte n: cut · stall · close one half
//! ```
//!
//! It reads the runtime's clock alone, so that under a paused clock a link of 40 ms takes no time at all, and nothing in it is
//! drawn: what happens follows from who calls first.

mod link;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use penstock_proxy::network::{Accept, Accepted, Network};
use penstock_proxy::upstream::dial::{Dial, Wire};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

pub use self::link::{Cut, Link, PROBED, Pipe, Plan, Way};

/// Connections that wait to be accepted.
const BACKLOG: usize = 1_024;
/// Ports that the network chooses; those of callers are above.
const PORT_FIRST: u16 = 20_000;
const SOURCE_PORT_FIRST: u16 = 40_000;

/// A network. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Memory {
    net: Arc<Mutex<Net>>,
}

/// What meets a caller at an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Door {
    /// The listener, if there is one.
    #[default]
    Open,
    /// A refusal.
    Refuses,
    /// Nothing, for ever.
    Hole,
}

#[derive(Debug)]
struct Net {
    begun: Instant,
    listeners: BTreeMap<SocketAddr, mpsc::Sender<Arrived>>,
    doors: BTreeMap<SocketAddr, Door>,
    names: BTreeMap<SocketAddr, String>,
    /// In the order in which they were made, each for the first connection to any of its addresses.
    plans: Vec<(Vec<SocketAddr>, Plan)>,
    usual: BTreeMap<SocketAddr, Plan>,
    links: BTreeMap<u64, (SocketAddr, Link)>,
    next_link: u64,
    next_port: u16,
    next_source: u16,
    cuts: u64,
    log: Option<Vec<String>>,
}

#[derive(Debug)]
struct Arrived {
    pipe: Pipe,
    source: SocketAddr,
}

impl Default for Memory {
    fn default() -> Self {
        let net = Net {
            begun: Instant::now(),
            listeners: BTreeMap::new(),
            doors: BTreeMap::new(),
            names: BTreeMap::new(),
            plans: Vec::new(),
            usual: BTreeMap::new(),
            links: BTreeMap::new(),
            next_link: 1,
            next_port: PORT_FIRST,
            next_source: SOURCE_PORT_FIRST,
            cuts: 0,
            log: None,
        };
        Self { net: Arc::new(Mutex::new(net)) }
    }
}

impl Memory {
    fn net(&self) -> MutexGuard<'_, Net> {
        self.net.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls an address by a name in the log.
    pub fn name(&self, address: SocketAddr, name: &str) {
        self.net().names.insert(address, name.to_owned());
    }

    /// What the next connection to any of `addresses` that has no plan yet is like.
    pub fn plan(&self, addresses: &[SocketAddr], plan: Plan) {
        self.net().plans.push((addresses.to_vec(), plan));
    }

    /// What connections to `address` without a plan of their own are like.
    pub fn usually(&self, address: SocketAddr, plan: Plan) {
        self.net().usual.insert(address, plan);
    }

    /// Forgets the plans of connections that were not made.
    pub fn unplan(&self) {
        self.net().plans.clear();
    }

    /// What meets callers of `address` from now on. Connections that are open go on.
    pub fn door(&self, address: SocketAddr, door: Door) {
        self.net().doors.insert(address, door);
    }

    /// The links to `address` that are open, the oldest first.
    pub fn links(&self, address: SocketAddr) -> Vec<Link> {
        let net = self.net();
        net.links.values().filter(|(to, _)| *to == address).map(|(_, link)| link.clone()).collect()
    }

    /// How many links are open, to whatever address.
    pub fn open(&self) -> usize {
        self.net().links.len()
    }

    /// Separates `address` from everybody: nothing passes and nobody connects, until it is [`joined`](Self::join) again.
    pub fn part(&self, address: SocketAddr) {
        self.door(address, Door::Hole);
        for link in self.links(address) {
            link.stall();
        }
    }

    /// Ends a separation: what was on its way arrives now.
    pub fn join(&self, address: SocketAddr) {
        self.door(address, Door::Open);
        for link in self.links(address) {
            link.flow();
        }
    }

    /// Keeps a log from now on, with times counted from now.
    pub fn record(&self) {
        let mut net = self.net();
        net.begun = Instant::now();
        net.log = Some(Vec::new());
    }

    /// Adds a line to the log, with the time.
    pub fn note(&self, line: &str) {
        self.net().note(line);
    }

    /// The log so far.
    pub fn log(&self) -> Vec<String> {
        self.net().log.clone().unwrap_or_default()
    }

    /// Opens a listener; port 0 lets the network choose.
    ///
    /// # Errors
    /// When somebody listens there already.
    pub fn listen_on(&self, mut address: SocketAddr) -> io::Result<Listener> {
        let mut net = self.net();
        if address.port() == 0 {
            address.set_port(net.next_port);
            net.next_port += 1;
        }
        if net.listeners.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (arrive, arrived) = mpsc::channel(BACKLOG);
        net.listeners.insert(address, arrive);
        Ok(Listener { address, arrived, memory: self.clone() })
    }

    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<Pipe> {
        let met = self.net().meets(address);
        let latency = match met {
            Met::Listener(latency) => latency,
            Met::Refusal => {
                let named = self.net().named(address);
                self.note(&format!("refused at {named}"));
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            Met::Nothing => std::future::pending().await,
        };
        if !latency.is_zero() {
            sleep(latency).await;
        }
        self.join_up(address)
    }

    fn join_up(&self, address: SocketAddr) -> io::Result<Pipe> {
        let mut net = self.net();
        let Some(listener) = net.listeners.get(&address).cloned() else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let plan = net.planned(address);
        net.plans.retain({
            let mut is_first = true;
            move |(addresses, _)| !(addresses.contains(&address) && std::mem::take(&mut is_first))
        });
        let number = net.next_link;
        net.next_link += 1;
        let source = SocketAddr::from(([127, 0, 0, 1], net.next_source));
        // Ports are used again, far later.
        net.next_source = net.next_source.checked_add(1).unwrap_or(SOURCE_PORT_FIRST);
        let (near, far, link) = link::pair(plan, number, self.clone());
        net.links.insert(number, (address, link));
        let named = net.named(address);
        net.note(&format!("link {number} to {named}"));
        drop(net);
        // A full backlog refuses, as a kernel may.
        let arrived = Arrived { pipe: far, source };
        listener.try_send(arrived).map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        Ok(near)
    }

    /// How many planned troubles have happened.
    pub fn cuts(&self) -> u64 {
        self.net().cuts
    }

    fn has_cut(&self) {
        self.net().cuts += 1;
    }

    /// A link has ended at both its ends.
    fn ended(&self, number: u64, bytes: Option<[u64; 2]>) {
        let mut net = self.net();
        let Some((address, _)) = net.links.remove(&number) else { return };
        let named = net.named(address);
        let bytes =
            bytes.map_or_else(String::new, |[there, back]| format!(": {there} bytes there, {back} back"));
        net.note(&format!("link {number} to {named} has ended{bytes}"));
    }
}

enum Met {
    Listener(Duration),
    Refusal,
    Nothing,
}

impl Net {
    fn meets(&self, address: SocketAddr) -> Met {
        match self.doors.get(&address).copied().unwrap_or_default() {
            Door::Hole => Met::Nothing,
            Door::Open if self.listeners.contains_key(&address) => {
                // There and back.
                Met::Listener(self.planned(address).latency * 2)
            }
            Door::Open | Door::Refuses => Met::Refusal,
        }
    }

    fn planned(&self, address: SocketAddr) -> Plan {
        let planned = self.plans.iter().find(|(addresses, _)| addresses.contains(&address));
        let planned = planned.map(|(_, plan)| plan).or_else(|| self.usual.get(&address));
        planned.copied().unwrap_or_default()
    }

    fn named(&self, address: SocketAddr) -> String {
        self.names.get(&address).cloned().unwrap_or_else(|| address.to_string())
    }

    fn note(&mut self, line: &str) {
        if let Some(log) = &mut self.log {
            log.push(format!("{:>10.3} {line}", self.begun.elapsed().as_secs_f64() * 1_000.0));
        }
    }
}

/// A listening socket of the network. Dropping it closes it.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    arrived: mpsc::Receiver<Arrived>,
    memory: Memory,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.memory.net().listeners.remove(&self.address);
    }
}

impl Listener {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    async fn next(&mut self) -> Arrived {
        match self.arrived.recv().await {
            Some(arrived) => arrived,
            None => std::future::pending().await,
        }
    }
}

impl Accept for Listener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>> {
        Box::pin(async move {
            let local = self.address;
            let Arrived { pipe, source } = self.next().await;
            Ok(Accepted { wire: Box::new(pipe), source, local })
        })
    }

    fn local(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl axum::serve::Listener for Listener {
    type Io = Pipe;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Pipe, SocketAddr) {
        let Arrived { pipe, source, .. } = self.next().await;
        (pipe, source)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Dial for Memory {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Wire>>> {
        let memory = self.clone();
        Box::pin(async move { Ok(Box::new(memory.connect(address).await?) as Box<dyn Wire>) })
    }
}

impl Network for Memory {
    fn dial_name(&self, name: &str) -> BoxFuture<'static, io::Result<Box<dyn Wire>>> {
        match name.parse() {
            Ok(address) => self.dial(address),
            Err(_) => Box::pin(async { Err(io::Error::other("there are no names in this network")) }),
        }
    }

    fn listen(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Accept>>> {
        let listener = self.listen_on(address);
        Box::pin(async move { Ok(Box::new(listener?) as Box<dyn Accept>) })
    }
}
