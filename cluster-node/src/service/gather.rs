//! What the ledgers of all peers say, asked of those that drive the nodes in question.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use cluster_proto::peer::v1::{EntriesRequest, Entry, ScanEntriesRequest};
use cluster_worker::{View, Worker};
use node_core::{Cid, ErrorClass, NodeId, PeerId, PinMode, Status, Timestamp};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{Error, NodeEntry, NodeNames, PeerDirectory};

/// Entries in one message between peers: a page of a thousand and one more, which tells whether there is another.
pub const ENTRIES_CHUNK: usize = 1_024;

/// How long a single look-up waits for another peer before it names its nodes as unreachable, and how long one call to
/// it lasts.
pub const PEER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a look-up waits for a peer that did not answer the last one: long enough for the answer of a peer that is
/// back, so that it is noticed at once, and short enough that a hung peer does not slow every look-up down.
const SILENT_TIMEOUT: Duration = Duration::from_millis(100);

/// How long a peer counts as silent after the last look-up that it did not answer.
const SILENT_FOR: Duration = Duration::from_secs(10);

/// Look-ups that one call to another peer carries.
const ASK_MAX: usize = 512;

/// Look-ups that wait for one peer.
const ASK_QUEUE_MAX: usize = 8_192;

/// Entries by CID.
pub type Entries = HashMap<Cid, Vec<NodeEntry>>;

struct Ask {
    cids: Vec<Cid>,
    /// When its caller stops waiting.
    until: Instant,
    reply: oneshot::Sender<Option<Arc<Entries>>>,
}

/// The peers that did not answer of late.
#[derive(Clone, Default)]
struct SilentPeers(Arc<Mutex<BTreeMap<PeerId, Instant>>>);

impl SilentPeers {
    fn mark(&self, peer: PeerId) {
        self.0.lock().insert(peer, Instant::now() + SILENT_FOR);
    }

    fn clear(&self, peer: PeerId) {
        self.0.lock().remove(&peer);
    }

    fn contains(&self, peer: PeerId) -> bool {
        self.0.lock().get(&peer).is_some_and(|until| *until > Instant::now())
    }
}

/// Asks ledgers.
pub struct Gather {
    directory: Arc<PeerDirectory>,
    worker: Worker,
    askers: Mutex<BTreeMap<PeerId, mpsc::Sender<Ask>>>,
    silent: SilentPeers,
}

impl Gather {
    /// Asks nobody yet.
    pub fn new(directory: Arc<PeerDirectory>, worker: Worker) -> Self {
        Self {
            directory,
            worker,
            askers: Mutex::default(),
            silent: SilentPeers::default(),
        }
    }

    /// What this peer's own nodes say.
    pub fn own(&self, names: &NodeNames, cids: &[Cid]) -> Result<Entries, Error> {
        let mut found = Entries::with_capacity(cids.len());
        for node in names.of_peer(self.directory.own()) {
            let views = self.worker.status_many(node.id, cids).map_err(Error::Internal)?;
            for (cid, view) in cids.iter().zip(views) {
                if let Some(view) = view {
                    found.entry(*cid).or_default().push(entry_of(node.id, &view));
                }
            }
        }
        Ok(found)
    }

    /// What all nodes say of some CIDs. Peers in `silent` are not asked; who does not answer within `wait` is added.
    pub async fn all(
        &self,
        names: &NodeNames,
        cids: &[Cid],
        wait: Duration,
        silent: &mut BTreeSet<PeerId>,
    ) -> Result<Entries, Error> {
        let drivers = names.present().map(|node| node.peer).collect();
        self.from(names, drivers, cids, wait, silent).await
    }

    /// What the nodes of some peers say of some CIDs. Peers in `silent` are not asked; who does not answer within `wait`
    /// is added.
    pub async fn from(
        &self,
        names: &NodeNames,
        drivers: BTreeSet<PeerId>,
        cids: &[Cid],
        wait: Duration,
        silent: &mut BTreeSet<PeerId>,
    ) -> Result<Entries, Error> {
        let now = Instant::now();
        let own = self.directory.own();
        let mut asked = Vec::new();
        for peer in drivers {
            if peer == own || silent.contains(&peer) {
                continue;
            }
            let wait = if self.silent.contains(peer) {
                wait.min(SILENT_TIMEOUT)
            } else {
                wait
            };
            let (reply, answer) = oneshot::channel();
            let ask = Ask {
                cids: cids.to_vec(),
                until: now + wait,
                reply,
            };
            // A full queue means a peer that is far behind: to the caller it is as one that does not answer.
            let sent = self.asker(peer).try_send(ask).is_ok();
            asked.push((peer, wait, sent.then_some(answer)));
        }
        let mut entries = self.own(names, cids)?;
        for (peer, wait, answer) in asked {
            let answer = match answer {
                Some(answer) => tokio::time::timeout_at(now + wait, answer).await,
                None => Ok(Ok(None)),
            };
            // A peer that refuses at once is asked anew each time; only one that lets callers wait is remembered, and only
            // for a wait that it could have answered within.
            if answer.is_err() && wait >= PEER_TIMEOUT {
                self.silent.mark(peer);
            }
            let Ok(Ok(Some(found))) = answer else {
                silent.insert(peer);
                continue;
            };
            for cid in cids {
                if let Some(rows) = found.get(cid) {
                    entries.entry(*cid).or_default().extend(rows.iter().cloned());
                }
            }
        }
        Ok(entries)
    }

    /// One task a peer: what comes while a call is under way goes out together with the next.
    fn asker(&self, peer: PeerId) -> mpsc::Sender<Ask> {
        let mut askers = self.askers.lock();
        if let Some(asker) = askers.get(&peer).filter(|asker| !asker.is_closed()) {
            return asker.clone();
        }
        let (sender, queue) = mpsc::channel(ASK_QUEUE_MAX);
        tokio::spawn(ask_peer(peer, self.directory.clone(), self.silent.clone(), queue));
        askers.insert(peer, sender.clone());
        sender
    }
}

async fn ask_peer(peer: PeerId, directory: Arc<PeerDirectory>, silent: SilentPeers, mut queue: mpsc::Receiver<Ask>) {
    let mut asks: Vec<Ask> = Vec::new();
    loop {
        // Those that wait longer than one call lasts go out again, together with what has come since.
        if asks.is_empty() && queue.recv_many(&mut asks, ASK_MAX).await == 0 {
            return;
        }
        while asks.len() < ASK_MAX {
            match queue.try_recv() {
                Ok(ask) => asks.push(ask),
                Err(_) => break,
            }
        }
        // Whose caller went away, or stopped waiting, is not asked for: after a hang there may be thousands.
        asks.retain(|ask| !ask.reply.is_closed());
        if asks.is_empty() {
            continue;
        }
        let mut cids: Vec<Cid> = asks.iter().flat_map(|ask| ask.cids.iter().copied()).collect();
        cids.sort_unstable();
        cids.dedup();
        match ask_all(peer, &directory, &cids).await {
            Ok(found) => {
                silent.clear(peer);
                let found = Arc::new(found);
                for ask in asks.drain(..) {
                    // Nobody waits any more: the caller went away.
                    let _ = ask.reply.send(Some(found.clone()));
                }
            }
            Err(unheard) => {
                if unheard.was_slow {
                    silent.mark(peer);
                }
                tracing::debug!(%peer, error = %unheard.error, "a peer did not say what its nodes hold");
                let now = Instant::now();
                for ask in std::mem::take(&mut asks) {
                    if unheard.was_slow && ask.until > now {
                        asks.push(ask);
                    } else {
                        let _ = ask.reply.send(None);
                    }
                }
            }
        }
    }
}

/// Why a peer was not heard.
struct Unheard {
    error: Error,
    /// It let the call wait, whatever the words in the end; otherwise it said no at once.
    was_slow: bool,
}

async fn ask_all(peer: PeerId, directory: &PeerDirectory, cids: &[Cid]) -> Result<Entries, Unheard> {
    let mut found = Entries::new();
    for some in cids.chunks(ENTRIES_CHUNK) {
        let begun = Instant::now();
        // A hung process keeps its connections open and takes new ones, so the whole of it is limited.
        let asked = tokio::time::timeout(PEER_TIMEOUT, ask_once(peer, directory, some)).await;
        let asked = asked.unwrap_or_else(|_| Err(Error::NoLeader(format!("peer {peer} is silent"))));
        found.extend(asked.map_err(|error| Unheard {
            error,
            was_slow: begun.elapsed() >= SILENT_TIMEOUT,
        })?);
    }
    Ok(found)
}

async fn ask_once(peer: PeerId, directory: &PeerDirectory, cids: &[Cid]) -> Result<Entries, Error> {
    let mut link = directory.link(peer).await?;
    let cids = cids.iter().map(|cid| cid.to_bytes().into()).collect();
    let mut call = tonic::Request::new(EntriesRequest { cids });
    // For the other side; on this one the caller counts, and tells a timeout from an answer.
    call.set_timeout(PEER_TIMEOUT + Duration::from_millis(250));
    let answer = link
        .entries(call)
        .await
        .map_err(|status| Error::NoLeader(status.message().to_owned()))?;
    let mut found = Entries::new();
    for row in answer.into_inner().entries {
        let (cid, entry) = read_entry(row)?;
        found.entry(cid).or_default().push(entry);
    }
    Ok(found)
}

/// Entries in CID order, all nodes of a CID together.
pub type Rows = Vec<(Cid, NodeEntry)>;

/// Streams a whole peer's entries in CID order. `None` ends it; an error means that the peer is silent from here on.
pub async fn scan_peer(
    peer: PeerId,
    directory: Arc<PeerDirectory>,
    request: ScanEntriesRequest,
    timeout: Duration,
    out: mpsc::Sender<Result<Rows, Error>>,
) {
    let silent = |message: String| Error::NoLeader(format!("peer {peer} does not answer: {message}"));
    let begin = async {
        let mut link = directory.link(peer).await?;
        link.scan_entries(request)
            .await
            .map_err(|status| silent(status.message().to_owned()))
    };
    let mut stream = match tokio::time::timeout(timeout, begin).await {
        Ok(Ok(stream)) => stream.into_inner(),
        Ok(Err(error)) => return drop(out.send(Err(error)).await),
        Err(_) => return drop(out.send(Err(silent("it is silent".into()))).await),
    };
    loop {
        let rows = match tokio::time::timeout(timeout, stream.message()).await {
            Ok(Ok(Some(message))) => message
                .entries
                .into_iter()
                .map(read_entry)
                .collect::<Result<Rows, Error>>(),
            Ok(Ok(None)) => return,
            Ok(Err(status)) => Err(silent(status.message().to_owned())),
            Err(_) => Err(silent("it is silent".into())),
        };
        let failed = rows.is_err();
        if out.send(rows).await.is_err() || failed {
            return;
        }
    }
}

/// An entry as the worker sees it.
pub fn entry_of(node: NodeId, view: &View) -> NodeEntry {
    let progress = view.progress.unwrap_or_default();
    NodeEntry {
        node,
        status: view.status,
        mode: view.mode,
        attempts: view.attempts,
        error: view.error.clone().unwrap_or_default(),
        error_class: view.class,
        next_attempt: view.next_due.unwrap_or_default(),
        changed: view.changed,
        blocks: progress.blocks.max(view.blocks),
        bytes: progress.bytes.max(view.bytes),
    }
}

/// An entry for another peer.
pub fn put_entry(cid: &Cid, entry: &NodeEntry, brief: bool) -> Entry {
    let code = |position: usize| u32::try_from(position + 1).unwrap_or_default();
    let bare = Entry {
        cid: cid.to_bytes().into(),
        node: entry.node.0,
        status: code(entry.status as usize),
        direct: entry.mode == PinMode::Direct,
        ..Entry::default()
    };
    if brief {
        return bare;
    }
    Entry {
        attempts: entry.attempts,
        error: entry.error.clone(),
        error_class: entry.error_class.map_or(0, |class| code(class as usize)),
        next_attempt_ms: entry.next_attempt.as_millis(),
        changed_ms: entry.changed.as_millis(),
        blocks: entry.blocks,
        bytes: entry.bytes,
        ..bare
    }
}

/// Reads an entry of another peer.
pub fn read_entry(entry: Entry) -> Result<(Cid, NodeEntry), Error> {
    let cid = Cid::from_bytes(&entry.cid)?;
    let position = |code: u32| usize::try_from(code).ok().and_then(|code| code.checked_sub(1));
    let status = position(entry.status).and_then(|position| Status::ALL.get(position).copied());
    let status = status.ok_or_else(|| Error::Internal(format!("a peer sent the unknown state {}", entry.status)))?;
    let node_entry = NodeEntry {
        node: NodeId(entry.node),
        status,
        mode: match entry.direct {
            true => PinMode::Direct,
            false => PinMode::Recursive,
        },
        attempts: entry.attempts,
        error: entry.error,
        error_class: position(entry.error_class).and_then(|position| ErrorClass::ALL.get(position).copied()),
        next_attempt: Timestamp::from_millis(entry.next_attempt_ms),
        changed: Timestamp::from_millis(entry.changed_ms),
        blocks: entry.blocks,
        bytes: entry.bytes,
    };
    Ok((cid, node_entry))
}
