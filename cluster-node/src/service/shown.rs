//! CIDs as the HTTP APIs show them: one pin of a namespace, and where its nodes stand.
//!
//! A namespace may hold several pins of one CID, told apart by their slots; those APIs know one. Shown is the first in
//! the order of slots, which is the one without a slot if there is one.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use node_core::pinset::{self, KvError, KvRead, Table, keys};
use node_core::{Cid, Namespace, NodeId, Pin, PinKey, Placement, Status};

use super::chunks::Chunks;
use super::walk::{after, make_cursor, read_cursor};
use super::{Error, PinFilter, PinView, Pins, StatusAllRequest, StatusChunk, StatusView};

/// How long a silent peer is waited for in a list.
const PEER_TIMEOUT: Duration = Duration::from_secs(2);

/// Chunks of a list whose pins are read at the same time: the next one while the one before is written to the client.
const AHEAD: usize = 2;

/// What is shown of a CID.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// Where its nodes stand.
    pub status: StatusView,
    /// Its pin; none when it is only being let go of.
    pub pin: Option<Pin>,
}

/// A piece of a list.
#[derive(Debug)]
pub struct ShownChunk {
    /// In order.
    pub rows: Vec<Shown>,
    /// How much of the limit it took: what was found in the index, whether it is shown or not. Nothing of a list that goes
    /// through everything: it ends when there is no more, or nobody listens.
    pub used: u64,
    /// Where to go on.
    pub cursor: String,
    /// The list goes through everything, by CID.
    by_cid: bool,
}

impl ShownChunk {
    /// Where to go on behind a CID of this chunk; none where only its end is a place.
    pub fn cursor_behind(&self, cid: &Cid) -> Option<String> {
        self.by_cid.then(|| make_cursor(Table::Placements, &cid.to_bytes()))
    }
}

/// A list as asked for.
#[derive(Debug, Clone, Default)]
pub struct ShowRequest {
    /// Whose pins.
    pub namespace: Namespace,
    /// Which of them; its namespace is not looked at.
    pub filter: PinFilter,
    /// That at least one node reports so; empty = all.
    pub statuses: Vec<Status>,
    /// So many are wanted; 0 = all. A list along an index ends there; one through everything goes on until nobody listens,
    /// since how many CIDs of others lie between those that are shown is not known before.
    pub limit: u64,
    /// Behind this place.
    pub cursor: String,
    /// Ask the nodes of this peer alone.
    pub local: bool,
    /// Show also what is only being let go of. It belongs to no namespace any more.
    pub leaving: bool,
}

impl Pins {
    /// Lists CIDs with their pin and their status. The default namespace as a whole is merged with all ledgers in one pass, and
    /// so is whatever shows what is only being let go of, which no index of a namespace has. Others are looked up along their
    /// own index, since a small one may lie in a large pinset; so are pages of the default one.
    pub fn shown(
        &self,
        request: ShowRequest,
    ) -> Result<impl Stream<Item = Result<ShownChunk, Error>> + Send + use<>, Error> {
        let ShowRequest {
            namespace,
            mut filter,
            statuses,
            limit,
            cursor,
            local,
            leaving,
        } = request;
        filter.namespace = None;
        // States that are rare are found by the ledgers' own index. What was begun goes on along the index of its cursor.
        let whole = match cursor.as_str() {
            "" => leaving || !statuses.is_empty() || limit == 0,
            cursor => read_cursor(cursor, Table::Placements).is_ok(),
        };
        let by_cid = filter.is_empty() && namespace == Namespace::default() && whole;
        filter.namespace = (!by_cid).then(|| namespace.clone());
        let asked = StatusAllRequest {
            filter,
            statuses,
            // Begun anew for every few CIDs of others it would be a merge with all peers each time.
            limit: if by_cid { 0 } else { limit },
            cursor,
            brief: false,
            peer_timeout: PEER_TIMEOUT,
        };
        let names = match local {
            true => self.names().only(self.directory.own()),
            false => self.names(),
        };
        let chunks: Chunks<StatusChunk> = self.status_of(asked, names)?;
        let reads = self.reads.clone();
        let attached = chunks.map(move |chunk| {
            let (state, namespace) = (reads.stale(), namespace.clone());
            async move {
                let chunk = chunk?;
                let attach = move || with_pins(&*state, &namespace, chunk, leaving, by_cid);
                let attached = tokio::task::spawn_blocking(attach).await;
                attached.map_err(|error| Error::Internal(error.to_string()))?
            }
        });
        Ok(attached.buffered(AHEAD))
    }

    /// The same of one CID, with every write that was acknowledged before the call. None: the namespace has no pin of it, and
    /// no node lets go of it.
    pub async fn shown_cid(
        &self,
        namespace: &Namespace,
        cid: Cid,
        local: bool,
        wait: Duration,
    ) -> Result<Option<Shown>, Error> {
        let status = match local {
            true => self.own_status(cid, wait).await,
            false => self.status(cid, true, wait).await,
        };
        let status = match status {
            Ok(status) => status,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let pin = first_pin(&*self.reads.stale(), namespace, &cid)?;
        if pin.is_none() && status.placement.is_some() {
            return Ok(None);
        }
        Ok(Some(Shown { status, pin }))
    }

    /// What this peer's own nodes say of a CID.
    async fn own_status(&self, cid: Cid, wait: Duration) -> Result<StatusView, Error> {
        let state = self.reads.linearizable(wait).await?;
        let names = self.names().only(self.directory.own());
        let rows = self.gather.own(&names, &[cid])?.remove(&cid).unwrap_or_default();
        let placement = pinset::placement(&*state, &cid)?;
        if placement.is_none() && rows.is_empty() {
            return Err(Error::not_found(format!("{cid} is not pinned")));
        }
        let everyone = names.everyone();
        Ok(StatusView::fold(
            cid,
            String::new(),
            placement,
            rows,
            &everyone,
            &|_| false,
        ))
    }

    /// The pin of a CID that is shown.
    pub async fn first_pin(
        &self,
        namespace: &Namespace,
        cid: &Cid,
        linearizable: bool,
        wait: Duration,
    ) -> Result<Option<PinView>, Error> {
        let state = self.reads.with(linearizable, wait).await?;
        let Some(pin) = first_pin(&*state, namespace, cid)? else {
            return Ok(None);
        };
        let placement = pinset::placement(&*state, cid)?;
        Ok(Some(PinView { pin, placement }))
    }

    /// Removes the pin of a CID that is shown: a CID may be pinned under a slot only, by another API.
    pub async fn unpin_shown(&self, namespace: &Namespace, cid: Cid, wait: Duration) -> Result<PinView, Error> {
        let key = PinKey {
            namespace: namespace.clone(),
            cid,
            slot: String::new(),
        };
        let missing = match self.unpin(key, None, wait).await {
            Err(error) if error.is_not_found() => error,
            removed => return removed,
        };
        match self.first_pin(namespace, &cid, true, wait).await? {
            Some(found) => self.unpin(found.pin.key, None, wait).await,
            None => Err(missing),
        }
    }

    /// Tries again, at all nodes or at this peer's own, what they gave up of a CID or are waiting to retry. Answers how many
    /// nodes that are.
    pub async fn recover_cid(&self, cid: Cid, local: bool) -> Result<u64, Error> {
        let filter = super::RecoverFilter {
            cid: Some(cid),
            statuses: vec![Status::GaveUp, Status::Retrying, Status::Unpinning],
            ..super::RecoverFilter::default()
        };
        if !local {
            return Ok(self.recover(&filter).await?.0);
        }
        let own: BTreeSet<NodeId> = self.names().of_peer(self.directory.own()).map(|node| node.id).collect();
        let mut recovered = 0;
        for node in own {
            let filter = super::RecoverFilter {
                node: Some(node),
                ..filter.clone()
            };
            recovered += self.recover(&filter).await?.0;
        }
        Ok(recovered)
    }
}

/// Puts its pin to each CID of a chunk. What the namespace has no pin of is left out.
fn with_pins(
    kv: &dyn KvRead,
    namespace: &Namespace,
    chunk: StatusChunk,
    leaving: bool,
    by_cid: bool,
) -> Result<ShownChunk, Error> {
    let used = if by_cid { 0 } else { chunk.views.len() as u64 };
    let cids: Vec<Cid> = chunk.views.iter().map(|view| view.cid).collect();
    let mut pins = pins_in(kv, namespace, &cids)?;
    let rows = chunk.views.into_iter().filter_map(|status| {
        let pin = pins.remove(&status.cid);
        let is_leaving = status.placement.is_none() && leaving;
        (pin.is_some() || is_leaving).then_some(Shown { status, pin })
    });
    Ok(ShownChunk {
        rows: rows.collect(),
        used,
        cursor: chunk.cursor,
        by_cid,
    })
}

/// The first pin of each CID. CIDs in order are found by one scan, as pins lie in the same order; when others lie thick
/// between them, or they are in no order, each is looked up.
fn pins_in(kv: &dyn KvRead, namespace: &Namespace, cids: &[Cid]) -> Result<HashMap<Cid, Pin>, KvError> {
    let mut found = HashMap::with_capacity(cids.len());
    let mut reached = None;
    if let ([first, .., last], true) = (cids, cids.is_sorted()) {
        let mut budget = 2 * cids.len();
        let mut failed = None;
        let (start, end) = (prefix(namespace, first), keys::after_prefix(&prefix(namespace, last)));
        kv.scan(Table::Pins, &start, end.as_deref(), &mut |key, value| {
            match keys::read_pin(key).and_then(|key| pinset::decode_pin(key, value)) {
                Ok(pin) => {
                    reached = Some(pin.key.cid);
                    found.entry(pin.key.cid).or_insert(pin);
                }
                Err(error) => failed = Some(error),
            }
            budget -= 1;
            failed.is_none() && budget > 0
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        if budget > 0 {
            // It came to the end: what it did not find is not there.
            return Ok(found);
        }
    }
    for cid in cids {
        let is_known = found.contains_key(cid) || reached.is_some_and(|reached| *cid <= reached);
        if !is_known && let Some(pin) = first_pin(kv, namespace, cid)? {
            found.insert(*cid, pin);
        }
    }
    Ok(found)
}

/// What the keys of a CID's pins begin with.
fn prefix(namespace: &Namespace, cid: &Cid) -> Vec<u8> {
    keys::pin(&PinKey {
        namespace: namespace.clone(),
        cid: *cid,
        slot: String::new(),
    })
}

/// The first pin of a CID in the order of slots.
pub(super) fn first_pin(kv: &dyn KvRead, namespace: &Namespace, cid: &Cid) -> Result<Option<Pin>, KvError> {
    let prefix = prefix(namespace, cid);
    // Mostly it is the one without a slot, and a single look-up is cheaper than a scan.
    if let Some(value) = kv.get(Table::Pins, &prefix)? {
        return pinset::decode_pin(keys::read_pin(&prefix)?, &value).map(Some);
    }
    let mut found = None;
    kv.scan(
        Table::Pins,
        &after(&prefix),
        keys::after_prefix(&prefix).as_deref(),
        &mut |key, value| {
            found = Some(keys::read_pin(key).and_then(|key| pinset::decode_pin(key, value)));
            false
        },
    )?;
    found.transpose()
}

/// Who shall hold a CID.
pub fn allocated(placement: Option<&Placement>) -> &[NodeId] {
    match placement {
        Some(placement) if !placement.replication.is_everywhere() => &placement.nodes,
        _ => &[],
    }
}
