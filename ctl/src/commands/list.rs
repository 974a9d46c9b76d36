//! `pin ls` and `pin status`

use std::collections::{BTreeSet, HashSet};

use cluster_proto::v1;
use node_core::Timestamp;

use super::invalid;
use crate::Context;
use crate::cli::{LsArgs, PinStatusArgs};
use crate::client::{Kind, service};
use crate::exit::{Exit, Failure};
use crate::lines::cids_of;
use crate::output::table::{Cell, Rows};
use crate::output::{Out, Tone, json, words};
use crate::spec::{check_namespace, check_node};

/// What a filter takes.
const CIDS_MAX: usize = 10_000;
/// Up to so many CIDs are asked one by one, which is linearizable and finds what is not pinned.
const CALLS_MAX: usize = 16;

/// `pin ls`
pub async fn ls(context: &mut Context, arguments: LsArgs) -> Result<Exit, Failure> {
    let named = cids_of(&arguments.cids, arguments.from.as_deref())?;
    let wanted: Vec<String> = named.iter().map(ToString::to_string).collect();
    check_count(wanted.len())?;
    check_namespace(&arguments.namespace).map_err(invalid)?;
    if let Some(node) = &arguments.node {
        check_node("node", node).map_err(invalid)?;
    }
    let moment = |time: Option<Timestamp>| time.map(words::proto_time);
    let filter = v1::PinFilter {
        namespace: arguments.namespace,
        name_prefix: arguments.name,
        metadata: arguments.metadata.into_iter().collect(),
        node: arguments.node.unwrap_or_default(),
        created_after: moment(arguments.created_after),
        created_before: moment(arguments.created_before),
        expires_before: moment(arguments.expires_before),
        unplaced: arguments.unplaced,
        cids: wanted.clone(),
    };
    // Who names a CID wants to see the pin that was just made.
    let consistency = if arguments.linearizable || !wanted.is_empty() {
        v1::Consistency::Linearizable
    } else {
        v1::Consistency::Unspecified
    };
    let request = v1::ListRequest {
        filter: Some(filter),
        limit: arguments.limit.unwrap_or(0),
        cursor: arguments.cursor,
        consistency: consistency.into(),
    };
    let mut rows = Rows::new(&["NAMESPACE", "CID", "NAME", "MODE", "WANTED", "NODES", "EXPIRES"])
        .flexible(&["NAME", "NODES", "NAMESPACE"])
        .droppable(&["EXPIRES", "MODE", "WANTED"]);
    let mut left = Left::new(arguments.limit);
    let mut found = HashSet::new();
    let mut count = 0;
    let Context { client, out, .. } = context;
    let send = |channel, request| async move { service!(pins_client::PinsClient, channel).list(request).await };
    let each = |request: &mut v1::ListRequest, answer: v1::ListResponse| {
        count += answer.pins.len() as u64;
        let go_on = left.take(answer.pins.len() as u64, &answer.cursor);
        (request.cursor, request.limit) = (answer.cursor, left.limit());
        for pin in answer.pins {
            if !wanted.is_empty() {
                found.insert(pin.cid.clone());
            }
            if arguments.count {
                continue;
            }
            if out.is_json() {
                out.object(&json::Pin::from(pin))?;
            } else {
                let row = pin_row(out, &pin);
                rows.push(out, row)?;
            }
        }
        rows.print(out)?;
        // The first chunk is to be seen while the next one is read.
        out.flush()?;
        Ok(go_on)
    };
    client.read_stream(request, send, each).await?;
    if arguments.count {
        if out.is_json() {
            out.object(&json::Count { count })?;
        } else {
            out.line(&count.to_string())?;
        }
    }
    left.say(context);
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|cid| !found.contains(*cid))
        .map(String::as_str)
        .collect();
    // With a limit the rest may just not have been read.
    if arguments.limit.is_some() {
        Ok(Exit::Ok)
    } else {
        not_pinned(&missing, wanted.len())
    }
}

fn pin_row(out: &Out, pin: &v1::Pin) -> Vec<Cell> {
    let nodes = match (pin.everywhere, pin.unplaced.as_str()) {
        (true, _) => Cell::from("all"),
        (false, "") => Cell::from(pin.nodes.join(", ")),
        (false, reason) if pin.nodes.is_empty() => Cell::toned(format!("unplaced: {reason}"), Tone::Warn),
        (false, reason) => Cell::toned(format!("{} (unplaced: {reason})", pin.nodes.join(", ")), Tone::Warn),
    };
    let cid = if pin.slot.is_empty() {
        out.id(&pin.cid)
    } else {
        format!("{} [{}]", out.id(&pin.cid), pin.slot)
    };
    vec![
        Cell::from(pin.namespace.as_str()),
        cid.into(),
        pin.name.as_str().into(),
        words::mode(pin.mode()).into(),
        words::replication(pin.replication_min, pin.replication_max).into(),
        nodes,
        words::time_short(pin.expire_at.as_ref()).into(),
    ]
}

/// `pin status`
pub async fn status(context: &mut Context, arguments: PinStatusArgs) -> Result<Exit, Failure> {
    let named = !arguments.cids.is_empty() || arguments.from.is_some();
    let mut wanted = Vec::new();
    if named {
        wanted = cids_of(&arguments.cids, arguments.from.as_deref())?
            .iter()
            .map(ToString::to_string)
            .collect();
    }
    check_namespace(&arguments.namespace).map_err(invalid)?;
    if let Some(node) = &arguments.node {
        check_node("node", node).map_err(invalid)?;
    }
    let is_plain = arguments.filter.is_empty()
        && arguments.namespace.is_empty()
        && arguments.node.is_none()
        && arguments.limit.is_none()
        && arguments.cursor.is_empty();
    let detail = arguments.detail || named;
    let mut list = StatusRows::new(detail);
    if named && is_plain && wanted.len() <= CALLS_MAX {
        return status_each(context, &wanted, list).await;
    }
    let whole_list = arguments.limit.is_none() && is_plain;
    let mut found = HashSet::new();
    let mut silent = BTreeSet::new();
    let mut left = Left::new(arguments.limit);
    let statuses: Vec<i32> = arguments
        .filter
        .iter()
        .map(|status| words::proto_status(*status).into())
        .collect();
    let chunks: Vec<&[String]> = if named {
        wanted.chunks(CIDS_MAX).collect()
    } else {
        vec![&[]]
    };
    let Context { client, out, .. } = context;
    for chunk in chunks {
        let request = v1::StatusAllRequest {
            filter: Some(v1::PinFilter {
                namespace: arguments.namespace.clone(),
                node: arguments.node.clone().unwrap_or_default(),
                cids: chunk.to_vec(),
                ..v1::PinFilter::default()
            }),
            statuses: statuses.clone(),
            limit: left.limit(),
            cursor: arguments.cursor.clone(),
            // The summary needs an error to show, so only the objects and the counts can do without.
            brief: false,
            peer_timeout_ms: 0,
        };
        let send =
            |channel, request| async move { service!(pins_client::PinsClient, channel).status_all(request).await };
        let each = |request: &mut v1::StatusAllRequest, answer: v1::StatusAllResponse| {
            let go_on = left.take(answer.statuses.len() as u64, &answer.cursor);
            (request.cursor, request.limit) = (answer.cursor, left.limit());
            silent.extend(answer.unreachable_nodes);
            for status in answer.statuses {
                if named {
                    found.insert(status.cid.clone());
                }
                list.push(out, status)?;
            }
            list.rows.print(out)?;
            out.flush()?;
            Ok(go_on)
        };
        client.read_stream(request, send, each).await?;
        if left.is_used_up() {
            break;
        }
    }
    left.say(context);
    if !silent.is_empty() {
        let names: Vec<String> = silent.into_iter().collect();
        context.talk.warn(&format!(
            "no answer from the peers of the nodes {}; what they last said is not known",
            names.join(", ")
        ));
    }
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|cid| !found.contains(*cid))
        .map(String::as_str)
        .collect();
    if whole_list {
        not_pinned(&missing, wanted.len())
    } else {
        Ok(Exit::Ok)
    }
}

async fn status_each(context: &mut Context, wanted: &[String], mut list: StatusRows) -> Result<Exit, Failure> {
    let mut missing = Vec::new();
    for cid in wanted {
        let request = v1::StatusRequest {
            cid: cid.clone(),
            consistency: v1::Consistency::Unspecified.into(),
        };
        let answer = context
            .client
            .call(Kind::Read, request, |channel, request| async move {
                service!(pins_client::PinsClient, channel).status(request).await
            })
            .await;
        match answer {
            Ok(status) => list.push(&mut context.out, status)?,
            Err(failure) if failure.exit == Exit::NotFound => missing.push(cid.as_str()),
            Err(failure) => {
                list.rows.print(&mut context.out)?;
                return Err(failure);
            }
        }
    }
    list.rows.print(&mut context.out)?;
    not_pinned(&missing, wanted.len())
}

/// Statuses as rows: one per CID, or one per node of each.
struct StatusRows {
    rows: Rows,
    detail: bool,
    now: Timestamp,
}

impl StatusRows {
    fn new(detail: bool) -> Self {
        let header: &[&str] = if detail {
            &[
                "CID", "NAME", "NODE", "STATUS", "TRIES", "BLOCKS", "SIZE", "NEXT TRY", "CHANGED", "ERROR",
            ]
        } else {
            &["CID", "NAME", "STATUS", "HELD", "WANTED", "ERROR"]
        };
        Self {
            rows: Rows::new(header)
                .flexible(&["NAME", "ERROR", "NODE"])
                .droppable(&["CHANGED", "BLOCKS", "NAME", "SIZE"]),
            detail,
            now: words::now(),
        }
    }

    fn push(&mut self, out: &mut Out, status: v1::PinStatus) -> Result<(), Failure> {
        if out.is_json() {
            return out.object(&json::PinStatus::from(status));
        }
        if !self.detail {
            return self.summary(out, &status);
        }
        let cid = out.id(&status.cid);
        if status.nodes.is_empty() {
            let (word, tone) = words::status(status.status());
            let mut row: Vec<Cell> = vec![cid.into(), status.name.into(), "-".into(), Cell::toned(word, tone)];
            row.extend([Cell::right(""), Cell::right(""), Cell::right(""), "".into(), "".into()]);
            row.push(status.unplaced.into());
            return self.rows.push(out, row);
        }
        for node in &status.nodes {
            let (word, tone) = words::status(node.status());
            let number = |number: u64| {
                if number == 0 {
                    Cell::right("")
                } else {
                    Cell::number(number)
                }
            };
            let size = if node.bytes == 0 {
                String::new()
            } else {
                words::bytes(node.bytes)
            };
            let error = match (node.error_class.as_str(), node.error.as_str()) {
                (_, "") => String::new(),
                ("", error) => error.to_owned(),
                (class, error) => format!("{class}: {error}"),
            };
            let row = vec![
                Cell::from(cid.as_str()),
                status.name.as_str().into(),
                node.node.as_str().into(),
                Cell::toned(word, tone),
                number(node.attempts.into()),
                number(node.blocks),
                Cell::right(size),
                words::distance(node.next_attempt.as_ref(), self.now).into(),
                words::distance(node.changed.as_ref(), self.now).into(),
                error.into(),
            ];
            self.rows.push(out, row)?;
        }
        Ok(())
    }

    fn summary(&mut self, out: &mut Out, status: &v1::PinStatus) -> Result<(), Failure> {
        let (word, tone) = words::status(status.status());
        let held = status
            .nodes
            .iter()
            .filter(|node| node.status() == v1::Status::Pinned)
            .count();
        let error = match status.nodes.iter().find(|node| !node.error.is_empty()) {
            Some(node) => format!("{}: {}", node.node, node.error),
            None => status.unplaced.clone(),
        };
        let row = vec![
            out.id(&status.cid).into(),
            status.name.as_str().into(),
            Cell::toned(word, tone),
            Cell::right(format!("{held}/{}", status.nodes.len())),
            words::replication(status.replication_min, status.replication_max).into(),
            error.into(),
        ];
        self.rows.push(out, row)
    }
}

/// What a limit leaves, also when a list is broken off and goes on elsewhere.
struct Left {
    limit: Option<u64>,
    cursor: String,
}

impl Left {
    fn new(limit: Option<u64>) -> Self {
        Self {
            limit,
            cursor: String::new(),
        }
    }

    /// For the next request; 0 stands for no limit.
    fn limit(&self) -> u64 {
        self.limit.unwrap_or(0)
    }

    /// Whether there is more to read.
    fn take(&mut self, count: u64, cursor: &str) -> bool {
        cursor.clone_into(&mut self.cursor);
        if let Some(limit) = &mut self.limit {
            *limit = limit.saturating_sub(count);
        }
        !self.is_used_up()
    }

    fn is_used_up(&self) -> bool {
        self.limit == Some(0)
    }

    fn say(&self, context: &Context) {
        if self.is_used_up() && !self.cursor.is_empty() {
            context
                .talk
                .note(&format!("there may be more: go on with --cursor {}", self.cursor));
        }
    }
}

fn check_count(count: usize) -> Result<(), Failure> {
    if count <= CIDS_MAX {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{count} CIDs are too many for one list, at most {CIDS_MAX} are taken"
    )))
}

fn not_pinned(missing: &[&str], asked: usize) -> Result<Exit, Failure> {
    let failure = match missing {
        [] => return Ok(Exit::Ok),
        [one] => Failure::new(Exit::NotFound, format!("{one} is not pinned")),
        [first, ..] => {
            let count = words::grouped(missing.len() as u64);
            Failure::new(
                Exit::NotFound,
                format!("{count} of the CIDs are not pinned, the first is {first}"),
            )
        }
    };
    let failure = failure.hint("a CID of version 0 (Qm…) and one of version 1 (bafy…) of the same block are two pins");
    Err(if missing.len() < asked {
        Failure {
            exit: Exit::Partial,
            ..failure
        }
    } else {
        failure
    })
}
