//! The task that owns the engine: tells it what happens, and does what it says.

mod peers;
mod sessions;
mod store;

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cid::Cid;
use cluster_bitswap::{Action, Config, Engine, Event, Incoming, Lane, Message, Peer, Served, SessionId, Version};
use libp2p::PeerId;
use tokio::sync::{mpsc, oneshot};

use crate::bitswap::{Arrived, Control, Shared};
use crate::blocks::Blocks;
use crate::fetch::{FetchEvent, FetchReport, Unread};
use crate::hasher::Hasher;
use crate::host::Order;
use peers::{Came, Gone, Peers};
use sessions::Sessions;
use store::{Question, Store};

/// How often the driver looks for what nothing else wakes it for.
const UPKEEP: Duration = Duration::from_secs(5);

/// Breaches of the protocol after which a peer is shunned: messages that are none, stalls, floods of streams.
const BREACHES_MAX: u64 = 4;

/// Peers that are let go at a time when there are too many.
const LET_GO_MAX: usize = 32;

/// What the handle asks of the driver. 256 of them wait at most, then whoever asks waits too.
#[derive(Debug)]
pub(crate) enum Command {
    Open {
        session: SessionId,
        candidates: Vec<PeerId>,
        events: mpsc::UnboundedSender<FetchEvent>,
        unread: Arc<Unread>,
    },
    Candidates {
        session: SessionId,
        candidates: Vec<PeerId>,
    },
    Want {
        session: SessionId,
        cids: Vec<Cid>,
        roots: bool,
    },
    Unwant {
        session: SessionId,
        cids: Vec<Cid>,
    },
    Resume(SessionId),
    Stored(Vec<(Cid, usize)>),
    FetchReport {
        session: SessionId,
        answer: oneshot::Sender<FetchReport>,
    },
    Report(oneshot::Sender<DriverReport>),
}

/// The driver's part of the report.
#[derive(Debug, Default)]
pub(crate) struct DriverReport {
    pub(crate) peers: Vec<(PeerId, RemoteReport)>,
    pub(crate) offences: u64,
    pub(crate) fetches: usize,
    pub(crate) wanted: usize,
    pub(crate) wants_of_others: usize,
}

#[derive(Debug)]
pub(crate) struct RemoteReport {
    pub(crate) version: Version,
    pub(crate) latency: Option<Duration>,
    pub(crate) rate: Option<f64>,
    pub(crate) offences: u64,
}

/// The receiving ends of the driver's channels.
pub(crate) struct Inbox {
    pub(crate) control: mpsc::UnboundedReceiver<Control>,
    pub(crate) messages: mpsc::Receiver<Arrived>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) closings: mpsc::UnboundedReceiver<SessionId>,
}

pub(crate) struct Driver {
    engine: Engine,
    epoch: Instant,
    shared: Arc<Shared>,
    peers: Peers,
    sessions: Sessions,
    store: Store,
    answers: mpsc::UnboundedReceiver<Event>,
    /// What the swarm has to do. At most a few for each connection.
    orders: mpsc::UnboundedSender<Order>,
    high_water: usize,
    offences: u64,
}

impl Driver {
    pub(crate) fn new(
        config: Config,
        high_water: usize,
        blocks: Arc<dyn Blocks>,
        shared: Arc<Shared>,
        orders: mpsc::UnboundedSender<Order>,
    ) -> Self {
        let denier = blocks.clone();
        let deny = Box::new(move |_: Peer, cid: &Cid| denier.is_denied(cid));
        let (store, answers) = Store::new(blocks);
        Self {
            engine: Engine::new(config, rand::random(), deny),
            epoch: Instant::now(),
            shared,
            peers: Peers::default(),
            sessions: Sessions::default(),
            store,
            answers,
            orders,
            high_water,
            offences: 0,
        }
    }

    /// Runs until the node stops, which it does when the last handle is gone.
    pub(crate) async fn run(mut self, mut inbox: Inbox) {
        let stop = self.shared.stop.clone();
        let mut upkeep = tokio::time::interval(UPKEEP);
        upkeep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let deadline = self.engine.next_deadline().map(|at| self.epoch + at);
            let deadline = deadline.into_iter().chain(self.peers.next_gone()).min();
            tokio::select! {
                // Connections first: a message must not come before its peer is known.
                biased;
                () = stop.cancelled() => return,
                Some(control) = inbox.control.recv() => self.control(control),
                Some(session) = inbox.closings.recv() => self.close(session),
                Some(answer) = self.answers.recv() => {
                    self.store.answered();
                    self.handle(answer);
                }
                command = inbox.commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => {
                        stop.cancel();
                        return;
                    }
                },
                () = until(deadline) => self.tick(),
                _ = upkeep.tick() => self.upkeep(),
                Some(arrived) = inbox.messages.recv() => self.arrived(arrived),
            }
            while let Some(event) = self.sessions.feed() {
                self.handle(event);
            }
        }
    }

    fn tick(&mut self) {
        while let Some(peer) = self.peers.take_gone(Instant::now()) {
            self.handle(Event::Disconnected { peer });
        }
        self.handle(Event::Tick);
    }

    /// Tells the engine, and does what it says.
    fn handle(&mut self, event: Event) {
        self.engine.handle(event, self.epoch.elapsed());
        // What can't be done is an event in turn.
        let mut failed = Vec::new();
        loop {
            while let Some(action) = self.engine.poll_action() {
                failed.extend(self.act(action));
            }
            let Some(event) = failed.pop() else { return };
            self.engine.handle(event, self.epoch.elapsed());
        }
    }

    fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Send { peer, lane, frame } => {
                if lane == Lane::Wants {
                    self.expect(peer);
                }
                // Who is not connected has been reported so, and the engine knows no such peer any more.
                if !self.peers.send(peer, lane, frame, &self.shared) {
                    return Some(Event::Failed { peer, lane });
                }
            }
            Action::Block {
                sessions,
                cid,
                data,
                peer,
            } => {
                if let Some(remote) = self.peers.remotes.get_mut(&peer) {
                    remote.active = Instant::now();
                    let event = FetchEvent::Block {
                        cid,
                        data,
                        peer: remote.id,
                    };
                    self.sessions.block(&sessions, &event, &cid);
                }
            }
            Action::Held { sessions, cid } => self.sessions.block(&sessions, &FetchEvent::Held(cid), &cid),
            Action::NobodyHas { session, cids } => self.sessions.nobody_has(session, cids),
            Action::Refused { session, cids, reason } => self.sessions.refused(session, cids, reason),
            Action::PeerRefused { peer } => {
                if let Some(id) = self.peers.id(peer) {
                    tracing::warn!(peer = %id, "there is no room for another peer");
                    self.order(Order::Disconnect(id));
                }
            }
            Action::Misbehaved { peer, offence, shunned } => {
                let remote = self.peers.remotes.get_mut(&peer)?;
                remote.offences += 1;
                self.offences += 1;
                let id = remote.id;
                tracing::warn!(peer = %id, ?offence, shunned, "a peer sent what it was not asked for");
                if shunned {
                    self.order(Order::Shun(id));
                }
            }
            Action::LookUp { ticket, cids } => self.store.ask(Question::LookUp(ticket, cids)),
            Action::Read { ticket, cids } => self.store.ask(Question::Read(ticket, cids)),
        }
        None
    }

    fn control(&mut self, control: Control) {
        match control {
            Control::Up {
                link,
                peer: id,
                version,
                relayed,
                opener,
            } => match self.peers.up(link, id, version, relayed, opener) {
                Came::New(peer) => self.handle(Event::Connected { peer, version }),
                Came::Back { peer, wants, answers } => self.lost(peer, wants, answers),
                Came::Another => {}
                Came::Taken => self.order(Order::Disconnect(id)),
            },
            Control::Down { link } => match self.peers.down(link, Instant::now()) {
                Gone::Unknown => {}
                Gone::Partly { peer, wants, answers } => self.lost(peer, wants, answers),
                // What it wants it will say again when it comes back; as if it had said that it wants nothing.
                Gone::Away { peer } => self.handle(Event::Received {
                    peer,
                    message: nothing_wanted(&self.shared.hasher),
                }),
            },
            Control::Sent { link, lane } => {
                if let Some(peer) = self.peers.done(link, lane) {
                    self.handle(Event::Sent { peer, lane });
                }
            }
            Control::Failed { link, lane, hopeless } => {
                if let Some(peer) = self.peers.done(link, lane) {
                    if hopeless && let Some(id) = self.peers.id(peer) {
                        tracing::debug!(peer = %id, ?lane, "a peer takes no messages of Bitswap");
                        self.order(Order::Disconnect(id));
                    }
                    self.handle(Event::Failed { peer, lane });
                }
            }
            Control::Broke { link, peer: id, how } => {
                self.offences += 1;
                let remote = self
                    .peers
                    .of_link(link)
                    .and_then(|peer| self.peers.remotes.get_mut(&peer));
                let breaches = remote.map_or(1, |remote| {
                    remote.offences += 1;
                    remote.offences
                });
                let shunned = breaches >= BREACHES_MAX;
                tracing::warn!(peer = %id, how, shunned, "a peer broke the Bitswap protocol");
                if shunned {
                    self.order(Order::Shun(id));
                }
            }
        }
    }

    /// A connection is gone, or was, and with it these frames of ours. What the peer had sent by it may be lost as well, so
    /// everything is asked for again in any case.
    fn lost(&mut self, peer: Peer, wants: usize, answers: usize) {
        for (lane, frames) in [(Lane::Wants, wants.max(1)), (Lane::Answers, answers)] {
            for _ in 0..frames {
                self.handle(Event::Failed { peer, lane });
            }
        }
    }

    fn arrived(&mut self, arrived: Arrived) {
        let peer = self.peers.numbers.of(&arrived.peer);
        match arrived.message {
            None => self.handle(Event::Arriving { peer }),
            Some(message) => {
                self.peers.heard(peer, arrived.link);
                self.expect(peer);
                self.handle(Event::Received { peer, message });
            }
        }
    }

    /// Lets what a peer is asked for come, however many others send something.
    fn expect(&self, peer: Peer) {
        let asked = self.engine.peer(peer).is_some_and(|report| report.asked > 0);
        if let Some(id) = self.peers.id(peer).filter(|_| asked) {
            self.shared.room.asked(id);
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Open {
                session,
                candidates,
                events,
                unread,
            } => {
                self.sessions.open(session, events, unread);
                let candidates = self.numbers(&candidates);
                self.handle(Event::Open { session, candidates });
            }
            Command::Candidates { session, candidates } => {
                let peers = self.numbers(&candidates);
                self.handle(Event::Candidates { session, peers });
            }
            Command::Want { session, cids, roots } => self.sessions.want(session, cids, roots),
            Command::Unwant { session, cids } => {
                let cids = self.sessions.unwant(session, cids);
                if !cids.is_empty() {
                    self.handle(Event::Unwant { session, cids });
                }
            }
            Command::Resume(session) => self.sessions.resume(session),
            Command::Stored(blocks) => self.handle(Event::Stored { blocks }),
            Command::FetchReport { session, answer } => {
                let _ = answer.send(self.fetch_report(session));
            }
            Command::Report(answer) => {
                let _ = answer.send(self.report());
            }
        }
    }

    fn close(&mut self, session: SessionId) {
        if self.sessions.close(session) {
            self.handle(Event::Close { session });
        }
    }

    fn upkeep(&mut self) {
        // Whoever took something may have found the queue of commands full.
        self.sessions.resume_held();
        self.shared.room.tidy();
        let excess = self.peers.remotes.len().saturating_sub(self.high_water);
        if excess == 0 {
            return;
        }
        let mut idle: Vec<_> = self
            .peers
            .remotes
            .values()
            .map(|remote| (remote.active, remote.id))
            .collect();
        idle.sort_unstable_by_key(|(active, _)| *active);
        for (_, id) in idle.into_iter().take(excess.min(LET_GO_MAX)) {
            tracing::debug!(peer = %id, "let go, because there are too many peers");
            self.order(Order::Disconnect(id));
        }
    }

    fn numbers(&self, peers: &[PeerId]) -> Vec<Peer> {
        peers.iter().map(|peer| self.peers.numbers.of(peer)).collect()
    }

    fn fetch_report(&self, session: SessionId) -> FetchReport {
        let session = self.engine.session(session).unwrap_or_default();
        let peers = |(peer, served): &(Peer, Served)| Some((self.peers.id(*peer)?, *served));
        FetchReport {
            peers: session.served.iter().filter_map(peers).collect(),
            session,
        }
    }

    fn report(&self) -> DriverReport {
        let peers = self.peers.remotes.iter().map(|(peer, remote)| {
            let report = self.engine.peer(*peer).unwrap_or_default();
            let remote_report = RemoteReport {
                version: remote.version,
                latency: report.latency,
                rate: report.rate,
                offences: remote.offences,
            };
            (remote.id, remote_report)
        });
        DriverReport {
            peers: peers.collect(),
            offences: self.offences,
            fetches: self.sessions.len(),
            wanted: self.sessions.wanted(),
            wants_of_others: self.engine.usage().server.wants,
        }
    }

    fn order(&self, order: Order) {
        // Fails only when the swarm has ended, and the connections with it.
        let _ = self.orders.send(order);
    }
}

/// A message that says that its sender wants nothing.
fn nothing_wanted(hasher: &Hasher) -> Incoming {
    let message = Message {
        full: true,
        ..Message::default()
    };
    message.identify(hasher)
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => pending().await,
    }
}
