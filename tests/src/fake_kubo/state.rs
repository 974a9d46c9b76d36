//! What a fake knows: its pins, its faults, its counts.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use node_core::{Cid, PeerId};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::{Fault, Rule};

/// Origins remembered.
const ORIGINS_MAX: usize = 1_000;

/// Kinds of calls, as counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// `id`
    Id,
    /// `version`
    Version,
    /// `repo/stat`
    RepoStat,
    /// `pin/add`
    PinAdd,
    /// `pin/update`
    PinUpdate,
    /// `pin/rm`
    PinRm,
    /// `pin/ls`
    PinLs,
    /// `swarm/connect`
    SwarmConnect,
    /// Any other.
    Other,
}

impl Call {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Id,
        Self::Version,
        Self::RepoStat,
        Self::PinAdd,
        Self::PinUpdate,
        Self::PinRm,
        Self::PinLs,
        Self::SwarmConnect,
        Self::Other,
    ];
}

/// How a fake holds a CID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PinKind {
    /// With everything below it.
    Recursive,
    /// The one block.
    Direct,
}

impl PinKind {
    /// The word of Kubo's RPC.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recursive => "recursive",
            Self::Direct => "direct",
        }
    }
}

/// A pin: how, and under which name.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) kind: PinKind,
    pub(super) name: Box<str>,
}

/// What can be changed at run time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Milliseconds that each call waits before it is answered.
    pub delay_millis: u64,
    /// The `Authorization` header that is asked for, whole.
    pub authorization: Option<String>,
    /// Bytes that the repository takes without its pins.
    pub used_bytes: u64,
    /// Bytes that each pin adds.
    pub bytes_per_pin: u64,
    /// Bytes that the repository is configured to take.
    pub max_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            delay_millis: 0,
            authorization: None,
            used_bytes: 20_000,
            bytes_per_pin: 256 * 1024,
            // As much as Kubo would report without a limit is not a number that sums well; a petabyte is.
            max_bytes: 1_000_000_000_000_000,
        }
    }
}

/// What happened to one kind of call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallCount {
    /// Came in.
    pub received: u64,
    /// Are being answered.
    pub in_flight: u64,
    /// Most that were being answered at the same time.
    pub in_flight_max: u64,
}

/// What a fake tells about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Where it listens.
    pub address: String,
    /// Its libp2p peer ID.
    pub peer_id: String,
    /// How many pins it has.
    pub pins: u64,
    /// Calls by kind.
    pub calls: BTreeMap<Call, CallCount>,
    /// Rules in force.
    pub rules: u64,
    /// Settings in force.
    pub settings: Settings,
}

#[derive(Default)]
struct Counter {
    received: AtomicU64,
    in_flight: AtomicU64,
    in_flight_max: AtomicU64,
}

/// Rules, those for one CID apart so that thousands of them cost nothing.
#[derive(Default)]
struct Rules {
    of_cid: HashMap<String, Vec<Rule>>,
    of_all: Vec<Rule>,
}

pub(super) struct State {
    peer_id: RwLock<String>,
    address: String,
    pins: Mutex<HashMap<Box<str>, Held>>,
    rules: Mutex<Rules>,
    /// Whether there are any: the bench's way past the lock.
    has_rules: AtomicBool,
    settings: RwLock<Arc<Settings>>,
    counters: [Counter; Call::ALL.len()],
    origins: Mutex<VecDeque<String>>,
    changes: Notify,
}

impl State {
    pub(super) fn new(settings: Settings, address: String) -> Self {
        Self {
            peer_id: RwLock::new(random_peer_id()),
            address,
            pins: Mutex::default(),
            rules: Mutex::default(),
            has_rules: AtomicBool::new(false),
            settings: RwLock::new(Arc::new(settings)),
            counters: Default::default(),
            origins: Mutex::default(),
            changes: Notify::new(),
        }
    }

    pub(super) fn peer_id(&self) -> String {
        self.peer_id.read().clone()
    }

    /// Another identity and no pins.
    pub(super) fn replace(&self) {
        *self.peer_id.write() = random_peer_id();
        self.wipe();
    }

    pub(super) fn changed(&self) {
        self.changes.notify_waiters();
    }

    pub(super) fn next_change(&self) -> Notified<'_> {
        self.changes.notified()
    }

    pub(super) fn add_rule(&self, rule: Rule) {
        let mut rules = self.rules.lock();
        match &rule.cid {
            Some(cid) => rules.of_cid.entry(canonical(cid)).or_default().push(rule),
            None => rules.of_all.push(rule),
        }
        self.has_rules.store(true, Relaxed);
    }

    pub(super) fn clear_rules(&self) {
        *self.rules.lock() = Rules::default();
        self.has_rules.store(false, Relaxed);
    }

    /// The fault that befalls a call, used up by one where it is counted.
    pub(super) fn fault(&self, call: Call, cid: Option<&str>) -> Option<Fault> {
        if !self.has_rules.load(Relaxed) {
            return None;
        }
        let mut rules = self.rules.lock();
        let of_cid = cid
            .and_then(|cid| rules.of_cid.get_mut(cid))
            .and_then(|of_cid| take(of_cid, call));
        of_cid.or_else(|| take(&mut rules.of_all, call))
    }

    pub(super) fn settings(&self) -> Arc<Settings> {
        self.settings.read().clone()
    }

    pub(super) fn set(&self, change: impl FnOnce(&mut Settings)) {
        change(Arc::make_mut(&mut self.settings.write()));
    }

    pub(super) fn pin(&self, cid: &str) -> Option<PinKind> {
        self.pins.lock().get(cid).map(|held| held.kind)
    }

    pub(super) fn held(&self, cid: &str) -> Option<Held> {
        self.pins.lock().get(cid).cloned()
    }

    pub(super) fn insert(&self, cid: String, kind: PinKind, name: &str) {
        let name = name.into();
        self.pins.lock().insert(cid.into_boxed_str(), Held { kind, name });
        self.changed();
    }

    /// Pins as Kubo does: recursive replaces direct, direct does not replace recursive, the last name counts.
    pub(super) fn add(&self, cid: &str, kind: PinKind, name: &str) -> bool {
        let mut pins = self.pins.lock();
        let held = pins.get_mut(cid);
        if kind == PinKind::Direct && held.as_ref().is_some_and(|held| held.kind == PinKind::Recursive) {
            return false;
        }
        let name = name.into();
        match held {
            Some(held) => *held = Held { kind, name },
            None => drop(pins.insert(cid.into(), Held { kind, name })),
        }
        true
    }

    pub(super) fn remove(&self, cid: &str) -> bool {
        self.pins.lock().remove(cid).is_some()
    }

    pub(super) fn wipe(&self) {
        self.pins.lock().clear();
        self.changed();
    }

    pub(super) fn pins(&self) -> BTreeMap<Cid, PinKind> {
        let pins = self.pins.lock();
        pins.iter()
            .filter_map(|(cid, held)| Some((cid.parse().ok()?, held.kind)))
            .collect()
    }

    /// The pins as texts, unordered: for listings.
    pub(super) fn list(&self, kind: Option<PinKind>) -> Vec<(Box<str>, Held)> {
        let pins = self.pins.lock();
        pins.iter()
            .filter(|(_, held)| kind.is_none_or(|kind| kind == held.kind))
            .map(|(cid, held)| (cid.clone(), held.clone()))
            .collect()
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let settings = self.settings();
        settings.used_bytes + settings.bytes_per_pin * self.pins.lock().len() as u64
    }

    pub(super) fn connected(&self, origin: &str) {
        let mut origins = self.origins.lock();
        if origins.len() == ORIGINS_MAX {
            origins.pop_front();
        }
        origins.push_back(origin.to_owned());
    }

    pub(super) fn origins(&self) -> Vec<String> {
        self.origins.lock().iter().cloned().collect()
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let rules = self.rules.lock();
        let rules = rules.of_all.len() + rules.of_cid.values().map(Vec::len).sum::<usize>();
        let count = |call: Call| {
            let counter = &self.counters[call as usize];
            let count = CallCount {
                received: counter.received.load(Relaxed),
                in_flight: counter.in_flight.load(Relaxed),
                in_flight_max: counter.in_flight_max.load(Relaxed),
            };
            (call, count)
        };
        Snapshot {
            address: self.address.clone(),
            peer_id: self.peer_id(),
            pins: self.pins.lock().len() as u64,
            calls: Call::ALL.into_iter().map(count).collect(),
            rules: rules as u64,
            settings: self.settings().as_ref().clone(),
        }
    }

    pub(super) fn reset_counters(&self) {
        for counter in &self.counters {
            counter.received.store(0, Relaxed);
            counter.in_flight_max.store(counter.in_flight.load(Relaxed), Relaxed);
        }
    }
}

fn take(rules: &mut Vec<Rule>, call: Call) -> Option<Fault> {
    let at = rules.iter().rposition(|rule| rule.fits(call))?;
    let fault = rules[at].fault.clone();
    if let Some(times) = &mut rules[at].times {
        *times = times.saturating_sub(1);
        if *times == 0 {
            rules.remove(at);
        }
    }
    Some(fault)
}

/// A call being answered; dropped when the answer is out, or when the caller has gone.
pub(super) struct InFlight {
    state: Arc<State>,
    call: Call,
}

impl InFlight {
    pub(super) fn new(state: &Arc<State>, call: Call) -> Self {
        let counter = &state.counters[call as usize];
        counter.received.fetch_add(1, Relaxed);
        let now = counter.in_flight.fetch_add(1, Relaxed) + 1;
        counter.in_flight_max.fetch_max(now, Relaxed);
        state.changed();
        Self {
            state: state.clone(),
            call,
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.state.counters[self.call as usize].in_flight.fetch_sub(1, Relaxed);
        self.state.changed();
    }
}

/// A CID as Kubo prints it: version 1 in base32, whatever base it was given in.
pub(super) fn canonical(cid: &str) -> String {
    let bare = cid.strip_prefix("/ipfs/").unwrap_or(cid);
    bare.parse::<Cid>()
        .map_or_else(|_| bare.to_owned(), |cid| cid.to_string())
}

/// The identity multihash of an Ed25519 public key in libp2p's encoding: what a real daemon's peer ID is made of.
fn random_peer_id() -> String {
    let mut bytes = vec![0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
    bytes.extend_from_slice(&rand::random::<[u8; 32]>());
    PeerId::from_bytes(&bytes)
        .expect("an identity multihash of 36 bytes is a peer ID")
        .to_string()
}
