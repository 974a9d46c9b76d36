//! What the ledgers of all peers say, asked of those that drive the nodes in question.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use cluster_proto::peer::v1::{EntriesRequest, Entry, ScanEntriesRequest};
use cluster_worker::{View, Worker};
use node_core::{Cid, ErrorClass, NodeId, PeerId, Status, Timestamp};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::{Error, NodeEntry, NodeNames, PeerDirectory};

/// Entries in one message between peers.
pub const ENTRIES_CHUNK: usize = 1_000;

/// How long a single look-up waits for another peer before it names its nodes as unreachable.
pub const PEER_TIMEOUT: Duration = Duration::from_secs(2);

/// CIDs that one call to another peer asks for.
const ASK_MAX: usize = 512;

/// Look-ups that wait for one peer.
const ASK_QUEUE_MAX: usize = 8_192;

/// Entries by CID.
pub type Entries = HashMap<Cid, Vec<NodeEntry>>;

type Ask = (Vec<Cid>, oneshot::Sender<Option<Arc<Entries>>>);

/// Asks ledgers.
pub struct Gather {
    directory: Arc<PeerDirectory>,
    worker: Worker,
    askers: Mutex<BTreeMap<PeerId, mpsc::Sender<Ask>>>,
}

impl Gather {
    /// Asks nobody yet.
    pub fn new(directory: Arc<PeerDirectory>, worker: Worker) -> Self {
        Self {
            directory,
            worker,
            askers: Mutex::default(),
        }
    }

    /// What this peer's own nodes say.
    pub fn own(&self, names: &NodeNames, cids: &[Cid]) -> Result<Entries, Error> {
        let mut found = Entries::new();
        for node in names.of_peer(self.directory.own()) {
            for cid in cids {
                if let Some(view) = self.worker.status(node.id, cid).map_err(Error::Internal)? {
                    found.entry(*cid).or_default().push(entry_of(node.id, &view));
                }
            }
        }
        Ok(found)
    }

    /// What all nodes say of some CIDs, and the peers that did not answer.
    pub async fn all(&self, names: &NodeNames, cids: Vec<Cid>) -> Result<(Entries, BTreeSet<PeerId>), Error> {
        let drivers = names.present().map(|node| node.peer).collect();
        self.from(names, drivers, cids).await
    }

    /// What the nodes of some peers say of some CIDs, and the peers that did not answer.
    pub async fn from(
        &self,
        names: &NodeNames,
        drivers: BTreeSet<PeerId>,
        cids: Vec<Cid>,
    ) -> Result<(Entries, BTreeSet<PeerId>), Error> {
        let mut asked = Vec::new();
        for peer in drivers.into_iter().filter(|peer| *peer != self.directory.own()) {
            let (reply, answer) = oneshot::channel();
            // A full queue means a peer that is far behind: to the caller it is as one that does not answer.
            let sent = self.asker(peer).try_send((cids.clone(), reply)).is_ok();
            asked.push((peer, sent.then_some(answer)));
        }
        let mut entries = self.own(names, &cids)?;
        let mut silent = BTreeSet::new();
        let until = tokio::time::Instant::now() + PEER_TIMEOUT;
        for (peer, answer) in asked {
            let answer = match answer {
                Some(answer) => tokio::time::timeout_at(until, answer)
                    .await
                    .ok()
                    .and_then(Result::ok)
                    .flatten(),
                None => None,
            };
            match answer {
                Some(found) => {
                    for cid in &cids {
                        if let Some(rows) = found.get(cid) {
                            entries.entry(*cid).or_default().extend(rows.iter().cloned());
                        }
                    }
                }
                None => {
                    silent.insert(peer);
                }
            }
        }
        Ok((entries, silent))
    }

    /// One task a peer: what comes while a call is under way goes out together with the next.
    fn asker(&self, peer: PeerId) -> mpsc::Sender<Ask> {
        let mut askers = self.askers.lock();
        if let Some(asker) = askers.get(&peer).filter(|asker| !asker.is_closed()) {
            return asker.clone();
        }
        let (sender, queue) = mpsc::channel(ASK_QUEUE_MAX);
        tokio::spawn(ask_peer(peer, self.directory.clone(), queue));
        askers.insert(peer, sender.clone());
        sender
    }
}

async fn ask_peer(peer: PeerId, directory: Arc<PeerDirectory>, mut queue: mpsc::Receiver<Ask>) {
    let mut asks: Vec<Ask> = Vec::new();
    loop {
        if queue.recv_many(&mut asks, ASK_MAX).await == 0 {
            return;
        }
        let mut cids: Vec<Cid> = asks.iter().flat_map(|(cids, _)| cids.iter().copied()).collect();
        cids.sort_unstable();
        cids.dedup();
        let mut found = Some(Entries::new());
        for some in cids.chunks(ENTRIES_CHUNK) {
            match (ask_once(peer, &directory, some).await, &mut found) {
                (Ok(rows), Some(found)) => found.extend(rows),
                (Err(error), _) => {
                    tracing::debug!(%peer, %error, "a peer did not say what its nodes hold");
                    found = None;
                    break;
                }
                (Ok(_), None) => break,
            }
        }
        let found = found.map(Arc::new);
        for (_, reply) in asks.drain(..) {
            // Nobody waits any more: the caller went away.
            let _ = reply.send(found.clone());
        }
    }
}

async fn ask_once(peer: PeerId, directory: &PeerDirectory, cids: &[Cid]) -> Result<Entries, Error> {
    let mut link = directory.link(peer).await?;
    let cids = cids.iter().map(|cid| cid.to_bytes().into()).collect();
    let mut call = tonic::Request::new(EntriesRequest { cids });
    call.set_timeout(PEER_TIMEOUT);
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
        let mut link = directory.scan_link(peer).await?;
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
