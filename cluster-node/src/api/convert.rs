//! Between the types of the public API and those of the core. Decides nothing; refuses what is not well formed.

use std::time::{Duration, UNIX_EPOCH};

use cluster_proto::v1;
use node_core::pinset::{Change, ChangeKind};
use node_core::{
    Cid, CidError, EXPIRE_IN_MIN, ErrorClass, Namespace, NodeId, Pin, PinKey, PinMode, PinOptions, Placement,
    Replication, RequestId, Status, Timestamp, check_slot, limits,
};

use crate::service::{Error, NodeEntry, NodeNames, PINNING_REQUESTS, PinFilter, PinView, PinWish, StatusView};

/// Parses the three parts that name a pin.
pub fn pin_key(namespace: &str, cid: &str, slot: &str) -> Result<PinKey, Error> {
    check_slot(slot)?;
    Ok(PinKey {
        namespace: Namespace::new(namespace)?,
        cid: cid.parse()?,
        slot: slot.to_owned(),
    })
}

/// Parses a request ID; the empty text is none.
pub fn request_id(text: &str) -> Result<Option<RequestId>, Error> {
    if text.is_empty() {
        Ok(None)
    } else {
        if text.starts_with(PINNING_REQUESTS) {
            return Err(Error::invalid(
                "request_id",
                text,
                format!("those that begin with {PINNING_REQUESTS:?} are the Pinning Services API's; use another"),
            ));
        }
        let id = RequestId::new(text).map_err(|error| renamed(error.into(), "request_id"))?;
        Ok(Some(id))
    }
}

/// A time of the API, to the millisecond.
pub fn read_time(field: &'static str, time: &prost_types::Timestamp) -> Result<Timestamp, Error> {
    let invalid = || {
        let value = format!("{}.{:09} s", time.seconds, time.nanos);
        Error::invalid(
            field,
            value,
            "use a time between 1970 and 9999 with 0 to 999999999 nanoseconds",
        )
    };
    let seconds = u64::try_from(time.seconds).map_err(|_| invalid())?;
    let nanos = u64::try_from(time.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000)
        .ok_or_else(invalid)?;
    // The end of the year 9999, where RFC 3339 ends.
    if seconds > 253_402_300_799 {
        return Err(invalid());
    }
    Ok(Timestamp::from_millis(seconds * 1_000 + nanos / 1_000_000))
}

/// A time for the API.
pub fn time(time: Timestamp) -> prost_types::Timestamp {
    (UNIX_EPOCH + Duration::from_millis(time.as_millis())).into()
}

fn optional_time(at: Timestamp) -> Option<prost_types::Timestamp> {
    (at != Timestamp::ZERO).then(|| time(at))
}

/// Options as a user gives them. `node` finds a storage node by name or ID.
pub fn pin_options(
    options: v1::PinOptions,
    now: Timestamp,
    node: impl FnMut(&str) -> Option<NodeId>,
) -> Result<PinOptions, Error> {
    let expire_at = match options.expiry {
        None => None,
        Some(v1::pin_options::Expiry::ExpireAt(at)) => Some(read_time("expire_at", &at)?),
        Some(v1::pin_options::Expiry::ExpireInMs(millis)) => {
            let after = Duration::from_millis(millis);
            if after < EXPIRE_IN_MIN {
                return Err(Error::invalid("expire_in_ms", millis.to_string(), "at least 1000"));
            }
            Some(now.plus(after))
        }
    };
    let nodes = read_nodes("nodes", &options.nodes, node)?;
    let converted = PinOptions {
        name: options.name,
        mode: read_mode(options.mode)?,
        replication: Replication {
            min: options.replication_min,
            max: options.replication_max,
        },
        nodes,
        metadata: options.metadata.into_iter().collect(),
        origins: options.origins,
        expire_at,
        updated_from: None,
    };
    converted.check()?;
    converted.check_expiry(now)?;
    Ok(converted)
}

fn read_nodes(
    field: &str,
    names: &[String],
    mut node: impl FnMut(&str) -> Option<NodeId>,
) -> Result<Vec<NodeId>, Error> {
    // Before they are looked up, one by one.
    if names.len() > limits::NODES {
        return Err(Error::invalid(field, format!("{} nodes", names.len()), "at most 100"));
    }
    let mut nodes = Vec::with_capacity(names.len());
    for name in names {
        let id = node(name).ok_or_else(|| {
            Error::invalid(
                field,
                name,
                "there is no such storage node; `cluster-ctl node ls` shows them",
            )
        })?;
        if !nodes.contains(&id) {
            nodes.push(id);
        }
    }
    Ok(nodes)
}

/// What is known of a pin of another cluster, put into the wish. `node` finds a storage node by name or ID.
pub fn former(former: v1::Former, wish: &mut PinWish, node: impl FnMut(&str) -> Option<NodeId>) -> Result<(), Error> {
    if let Some(created) = &former.created {
        wish.created = Some(read_time("former.created", created)?);
    }
    if !former.updated_from.is_empty() {
        let from = former.updated_from.parse();
        wish.options.updated_from = Some(from.map_err(|error: CidError| renamed(error.into(), "former.updated_from"))?);
    }
    wish.held_by = read_nodes("former.held_by", &former.held_by, node)?;
    Ok(())
}

fn read_mode(mode: i32) -> Result<PinMode, Error> {
    match v1::PinMode::try_from(mode) {
        Ok(v1::PinMode::Unspecified | v1::PinMode::Recursive) => Ok(PinMode::Recursive),
        Ok(v1::PinMode::Direct) => Ok(PinMode::Direct),
        Err(_) => Err(Error::invalid(
            "mode",
            mode.to_string(),
            "use recursive (1) or direct (2)",
        )),
    }
}

fn mode(mode: PinMode) -> v1::PinMode {
    match mode {
        PinMode::Recursive => v1::PinMode::Recursive,
        PinMode::Direct => v1::PinMode::Direct,
    }
}

/// A pin with its placement.
pub fn pin(view: &PinView, names: &NodeNames) -> v1::Pin {
    let Pin {
        key,
        options,
        created,
        ordinal: _,
        modified,
        revision,
    } = &view.pin;
    let (nodes, everywhere, unplaced) = match &view.placement {
        Some(placement) => (
            placement.nodes.iter().map(|id| names.name(*id)).collect(),
            placement.replication.is_everywhere(),
            placement.unplaced.clone().unwrap_or_default(),
        ),
        None => (Vec::new(), false, String::new()),
    };
    v1::Pin {
        namespace: key.namespace.to_string(),
        cid: key.cid.to_string(),
        slot: key.slot.clone(),
        name: options.name.clone(),
        mode: mode(options.mode).into(),
        replication_min: options.replication.min,
        replication_max: options.replication.max,
        requested_nodes: options.nodes.iter().map(|id| names.name(*id)).collect(),
        metadata: options.metadata.clone().into_iter().collect(),
        origins: options.origins.clone(),
        expire_at: options.expire_at.map(time),
        updated_from: options.updated_from.map(|cid| cid.to_string()).unwrap_or_default(),
        created: Some(time(*created)),
        modified: Some(time(*modified)),
        nodes,
        everywhere,
        unplaced,
        revision: *revision,
    }
}

/// The status of a CID.
pub fn pin_status(view: &StatusView, names: &NodeNames, brief: bool) -> v1::PinStatus {
    let placement: &Option<Placement> = &view.placement;
    let replication = placement
        .as_ref()
        .map(|placement| placement.replication)
        .unwrap_or_default();
    v1::PinStatus {
        cid: view.cid.to_string(),
        name: view.name.clone(),
        status: status(view.status).into(),
        nodes: view
            .entries
            .iter()
            .map(|entry| node_status(entry, names, brief))
            .collect(),
        replication_min: replication.min,
        replication_max: replication.max,
        pins: placement.as_ref().map_or(0, |placement| placement.pins),
        unplaced: placement
            .as_ref()
            .and_then(|placement| placement.unplaced.clone())
            .unwrap_or_default(),
    }
}

fn node_status(entry: &NodeEntry, names: &NodeNames, brief: bool) -> v1::NodeStatus {
    if brief {
        return v1::NodeStatus {
            node: names.name(entry.node),
            status: status(entry.status).into(),
            ..v1::NodeStatus::default()
        };
    }
    v1::NodeStatus {
        node: names.name(entry.node),
        node_id: entry.node.to_string(),
        peer: names.peer(entry.node),
        status: status(entry.status).into(),
        attempts: entry.attempts,
        error: entry.error.clone(),
        error_class: entry
            .error_class
            .map(|class| class.as_str().to_owned())
            .unwrap_or_default(),
        next_attempt: optional_time(entry.next_attempt),
        changed: optional_time(entry.changed),
        blocks: entry.blocks,
        bytes: entry.bytes,
    }
}

/// A status of the API.
pub fn status(status: Status) -> v1::Status {
    match status {
        Status::Queued => v1::Status::Queued,
        Status::Pinning => v1::Status::Pinning,
        Status::Pinned => v1::Status::Pinned,
        Status::Retrying => v1::Status::Retrying,
        Status::GaveUp => v1::Status::GaveUp,
        Status::Unpinning => v1::Status::Unpinning,
        Status::Unreachable => v1::Status::Unreachable,
        Status::Unplaced => v1::Status::Unplaced,
    }
}

/// Reads a list of states.
pub fn read_statuses(codes: &[i32]) -> Result<Vec<Status>, Error> {
    let read = |code: &i32| {
        let position = usize::try_from(*code).ok().and_then(|code| code.checked_sub(1));
        position
            .and_then(|position| Status::ALL.get(position).copied())
            .ok_or_else(|| {
                Error::invalid(
                    "statuses",
                    code.to_string(),
                    "use the codes 1 to 8 of pinfleet.v1.Status",
                )
            })
    };
    codes.iter().map(read).collect()
}

/// Reads the states of entries to try again: those that wait for nothing but time, or for somebody to say so.
pub fn read_recoverable(codes: &[i32]) -> Result<Vec<Status>, Error> {
    let statuses = read_statuses(codes)?;
    let wrong = statuses
        .iter()
        .find(|status| !matches!(status, Status::GaveUp | Status::Retrying | Status::Unpinning));
    wrong.map_or(Ok(statuses.clone()), |wrong| {
        let remedy = "nothing to try again there; use gave_up (5), retrying (4) or unpinning (6)";
        Err(Error::invalid("statuses", wrong.as_str(), remedy))
    })
}

/// Reads a class of errors; the empty text is none.
pub fn read_error_class(word: &str) -> Result<Option<ErrorClass>, Error> {
    if word.is_empty() {
        return Ok(None);
    }
    let words: Vec<_> = ErrorClass::ALL.iter().map(|class| class.as_str()).collect();
    ErrorClass::parse(word)
        .map(Some)
        .ok_or_else(|| Error::invalid("error_class", word, format!("use one of {}", words.join(", "))))
}

/// A change.
pub fn change(change: &Change) -> v1::Change {
    let kind = match change.kind {
        ChangeKind::PinCreated => v1::ChangeKind::PinCreated,
        ChangeKind::PinUpdated => v1::ChangeKind::PinUpdated,
        ChangeKind::PinRemoved => v1::ChangeKind::PinRemoved,
        ChangeKind::PinExpired => v1::ChangeKind::PinExpired,
        ChangeKind::PlacementChanged => v1::ChangeKind::PlacementChanged,
    };
    let key = change.key.as_ref();
    v1::Change {
        revision: change.revision,
        kind: kind.into(),
        namespace: key.map(|key| key.namespace.to_string()).unwrap_or_default(),
        cid: change.cid.to_string(),
        slot: key.map(|key| key.slot.clone()).unwrap_or_default(),
        time: Some(time(change.time)),
    }
}

/// Reads a filter; its node was looked up.
pub fn pin_filter(filter: v1::PinFilter, node: Option<NodeId>) -> Result<PinFilter, Error> {
    let namespace = match filter.namespace.as_str() {
        "" => None,
        name => Some(Namespace::new(name).map_err(|error| renamed(error.into(), "filter.namespace"))?),
    };
    // What no pin can have is a mistake, not a list without rows.
    let options = PinOptions {
        name: filter.name_prefix,
        metadata: filter.metadata.into_iter().collect(),
        ..PinOptions::default()
    };
    options.check().map_err(|invalid| {
        let field = match invalid.field.as_str() {
            "name" => "filter.name_prefix".to_owned(),
            field => format!("filter.{field}"),
        };
        Error::invalid(field, invalid.value, invalid.remedy)
    })?;
    let time = |field, at: &Option<prost_types::Timestamp>| at.as_ref().map(|at| read_time(field, at)).transpose();
    Ok(PinFilter {
        namespace,
        name_prefix: options.name,
        node,
        created_after: time("filter.created_after", &filter.created_after)?,
        created_before: time("filter.created_before", &filter.created_before)?,
        expires_before: time("filter.expires_before", &filter.expires_before)?,
        unplaced: filter.unplaced,
        cids: read_cids(&filter.cids)?,
        metadata: options.metadata,
    })
}

fn read_cids(texts: &[String]) -> Result<Vec<Cid>, Error> {
    const CIDS_MAX: usize = 10_000;
    if texts.len() > CIDS_MAX {
        return Err(Error::invalid(
            "filter.cids",
            format!("{} CIDs", texts.len()),
            "at most 10000 in one call",
        ));
    }
    let read = |text: &String| {
        text.parse()
            .map_err(|error: CidError| renamed(error.into(), "filter.cids"))
    };
    texts.iter().map(read).collect()
}

/// The same refusal under the name that the field has in this request.
pub fn renamed(error: Error, field: &str) -> Error {
    match error {
        Error::Invalid(invalid) => Error::invalid(field, invalid.value, invalid.remedy),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_states_agree() {
        for (position, core) in Status::ALL.into_iter().enumerate() {
            assert_eq!(status(core) as usize, position + 1);
            assert_eq!(read_statuses(&[status(core) as i32]), Ok(vec![core]));
        }
        assert!(read_statuses(&[0]).is_err() && read_statuses(&[9]).is_err());
    }

    #[test]
    fn times_keep_their_milliseconds() {
        let at = Timestamp::from_millis(1_700_000_000_123);
        assert_eq!(read_time("expire_at", &time(at)), Ok(at));
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, 0)] {
            assert!(read_time("expire_at", &prost_types::Timestamp { seconds, nanos }).is_err());
        }
    }
}
