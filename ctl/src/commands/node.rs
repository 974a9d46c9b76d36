//! `node ls|show|gc|add|rm|cordon|uncordon|drain`

mod gc;
mod show;

use cluster_proto::v1;
use node_core::check_name;

use super::{invalid, peer};
use crate::Context;
use crate::cli::{NodeAdd, NodeCommand};
use crate::client::{Kind, request_id, service};
use crate::exit::{Exit, Failure};
use crate::output::table::{Cell, Rows};
use crate::output::{Out, Tone, json, words};
use crate::spec::check_node;

pub use gc::run as gc;

/// Carries out a command about storage nodes.
pub async fn run(context: &mut Context, command: NodeCommand) -> Result<Exit, Failure> {
    match command {
        NodeCommand::Ls => {
            let answer = context
                .client
                .call(Kind::Read, v1::ListNodesRequest {}, |channel, request| async move {
                    service!(cluster_client::ClusterClient, channel)
                        .list_nodes(request)
                        .await
                })
                .await?;
            print(&mut context.out, answer.nodes)?;
        }
        NodeCommand::Show { node } => show::run(context, node).await?,
        NodeCommand::Gc(arguments) => return gc(context, arguments).await,
        NodeCommand::Add(arguments) => add(context, arguments).await?,
        NodeCommand::Rm { node } => {
            check_node("node", &node).map_err(invalid)?;
            let request = v1::RemoveNodeRequest { node: node.clone() };
            context
                .client
                .call(Kind::Write, request, |channel, request| async move {
                    service!(cluster_client::ClusterClient, channel)
                        .remove_node(request)
                        .await
                })
                .await?;
            if context.out.is_json() {
                context.out.object(&json::Done {
                    subject: node,
                    outcome: "removed",
                })?;
            } else {
                context.out.line(&format!("removed {node}"))?;
                context
                    .talk
                    .note("what only it held is placed elsewhere when possible; see `cluster-ctl pin ls --unplaced`");
            }
        }
        NodeCommand::Cordon { node } => set_state(context, node, v1::NodeState::Cordoned).await?,
        NodeCommand::Uncordon { node } => set_state(context, node, v1::NodeState::Active).await?,
        NodeCommand::Drain { node } => set_state(context, node, v1::NodeState::Draining).await?,
    }
    Ok(Exit::Ok)
}

async fn add(context: &mut Context, arguments: NodeAdd) -> Result<(), Failure> {
    check_name("node", &arguments.name).map_err(|e| Failure::usage(e.to_string()))?;
    check_address(&arguments.address)?;
    let peer = match &arguments.peer {
        Some(given) => peer::resolve(&context.client, given).await?,
        None => String::new(),
    };
    let request = v1::AddNodeRequest {
        name: arguments.name,
        peer,
        api: arguments.address,
        tags: arguments.tags.into_iter().collect(),
        weight: arguments.weight,
        auth_file: arguments.auth_file.unwrap_or_default(),
        request_id: request_id(),
    };
    let node = context
        .client
        .call(Kind::Write, request, |channel, request| async move {
            service!(cluster_client::ClusterClient, channel).add_node(request).await
        })
        .await?;
    print(&mut context.out, vec![node])
}

/// Only the form: whether the node answers is for the peer that drives it to find out.
fn check_address(api: &str) -> Result<(), Failure> {
    let url = api.strip_prefix("http://").or(api.strip_prefix("https://"));
    let ok = match url {
        Some(rest) => !rest.is_empty() && !rest.starts_with('/') && !rest.contains(char::is_whitespace),
        None => {
            let multiaddr = ["/ip4/", "/ip6/", "/dns/", "/dns4/", "/dns6/", "/unix/", "unix://"];
            multiaddr
                .iter()
                .any(|start| api.len() > start.len() && api.starts_with(start))
        }
    };
    if ok {
        return Ok(());
    }
    Err(Failure::usage(format!("{api:?} is not the address of an RPC"))
        .hint("use a URL (http://host:5001), a multiaddr (/ip4/10.0.0.3/tcp/5001) or a unix socket (/unix/path, unix:///path)"))
}

async fn set_state(context: &mut Context, node: String, state: v1::NodeState) -> Result<(), Failure> {
    check_node("node", &node).map_err(invalid)?;
    let request = v1::SetNodeStateRequest {
        node,
        state: state.into(),
    };
    let node = context
        .client
        .call(Kind::Write, request, |channel, request| async move {
            service!(cluster_client::ClusterClient, channel)
                .set_node_state(request)
                .await
        })
        .await?;
    print(&mut context.out, vec![node])
}

/// Nodes as a table or as objects.
pub fn print(out: &mut Out, nodes: Vec<v1::StorageNode>) -> Result<(), Failure> {
    let header = [
        "NAME",
        "ID",
        "STATE",
        "IPFS",
        "FREE",
        "QUEUED",
        "PINNING",
        "PINNED",
        "RETRYING",
        "GAVE UP",
        "UNPINNING",
        "PINS/S",
        "TAGS",
        "API",
    ];
    let mut rows = Rows::new(&header)
        .flexible(&["NAME", "IPFS", "TAGS", "API"])
        .droppable(&["API", "TAGS", "PINS/S", "UNPINNING", "ID", "FREE"]);
    for node in nodes {
        if out.is_json() {
            out.object(&json::Node::from(node))?;
            continue;
        }
        let (state, tone) = words::node_state(node.state());
        let mut tags: Vec<String> = node.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
        tags.sort();
        let mut row = vec![Cell::from(node.name), node.id.into(), Cell::toned(state, tone)];
        match node.report {
            None => {
                row.push(Cell::toned("unknown", Tone::Warn));
                row.extend((0..8).map(|_| Cell::right("-")));
            }
            Some(report) => {
                row.push(match (report.reachable, report.error.as_str()) {
                    (true, _) if report.breaker == "open" => Cell::toned("paused", Tone::Warn),
                    (true, _) => Cell::toned("ok", Tone::Good),
                    (false, "") => Cell::toned("down", Tone::Bad),
                    (false, error) => Cell::toned(format!("down: {error}"), Tone::Bad),
                });
                row.push(Cell::right(words::bytes(report.free_bytes)));
                row.extend([
                    Cell::number(report.queued),
                    Cell::number(report.pinning),
                    Cell::number(report.pinned),
                    Cell::number(report.retrying).tone_unless_zero(Tone::Warn),
                    Cell::number(report.gave_up).tone_unless_zero(Tone::Bad),
                    Cell::number(report.unpinning),
                ]);
                row.push(Cell::right(format!("{:.1}", report.pins_per_second)));
            }
        }
        row.extend([Cell::from(tags.join(" ")), node.api.into()]);
        rows.push(out, row)?;
    }
    rows.print(out)
}
