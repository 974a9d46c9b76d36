//! `peer ls|join-token|rm|promote`

use cluster_proto::v1;
use node_core::PeerId;

use crate::Context;
use crate::cli::PeerCommand;
use crate::client::{Client, Kind, service};
use crate::exit::{Exit, Failure};
use crate::output::table::{Cell, Rows};
use crate::output::{Out, Tone, json, words};

/// Carries out a command about peers.
pub async fn run(context: &mut Context, command: PeerCommand) -> Result<Exit, Failure> {
    match command {
        PeerCommand::Ls => {
            let peers = peers(&context.client).await?;
            print(&mut context.out, peers)?;
        }
        PeerCommand::JoinToken { valid_for } => {
            let valid_for_ms = u64::try_from(valid_for.as_millis()).unwrap_or(u64::MAX);
            let request = v1::CreateJoinTokenRequest { valid_for_ms };
            let answer = context
                .client
                .call(Kind::Write, request, |channel, request| async move {
                    service!(cluster_client::ClusterClient, channel)
                        .create_join_token(request)
                        .await
                })
                .await?;
            let expires = words::time(answer.expires.as_ref());
            if context.out.is_json() {
                context.out.object(&json::JoinToken {
                    token: answer.token,
                    expires,
                })?;
            } else {
                context.out.line(&words::printable(&answer.token))?;
                let until = expires.map(|expires| format!(" until {expires}")).unwrap_or_default();
                context.talk.note(&format!(
                    "one peer can join with it{until}: cluster-node init --join TOKEN"
                ));
            }
        }
        PeerCommand::Rm { peer } => {
            let peer_id = resolve(&context.client, &peer).await?;
            let request = v1::RemovePeerRequest {
                peer_id: peer_id.clone(),
            };
            context
                .client
                .call(Kind::Write, request, |channel, request| async move {
                    service!(cluster_client::ClusterClient, channel)
                        .remove_peer(request)
                        .await
                })
                .await?;
            done(context, peer_id, "removed")?;
        }
        PeerCommand::Promote { peer } => {
            let peer_id = resolve(&context.client, &peer).await?;
            let request = v1::PromotePeerRequest {
                peer_id: peer_id.clone(),
            };
            context
                .client
                .call(Kind::Write, request, |channel, request| async move {
                    service!(cluster_client::ClusterClient, channel)
                        .promote_peer(request)
                        .await
                })
                .await?;
            done(context, peer_id, "promoted")?;
        }
    }
    Ok(Exit::Ok)
}

fn done(context: &mut Context, subject: String, outcome: &'static str) -> Result<(), Failure> {
    if context.out.is_json() {
        return context.out.object(&json::Done { subject, outcome });
    }
    context.out.line(&format!("{outcome} {subject}"))
}

async fn peers(client: &Client) -> Result<Vec<v1::Peer>, Failure> {
    let answer = client
        .call(Kind::Read, v1::ListPeersRequest {}, |channel, request| async move {
            service!(cluster_client::ClusterClient, channel)
                .list_peers(request)
                .await
        })
        .await?;
    Ok(answer.peers)
}

/// The ID of a peer given by its ID or its name.
pub async fn resolve(client: &Client, given: &str) -> Result<String, Failure> {
    if let Ok(id) = given.parse::<PeerId>() {
        return Ok(id.to_string());
    }
    node_core::check_name("peer", given).map_err(|e| Failure::usage(e.to_string()))?;
    let hint = "`cluster-ctl peer ls --full` shows names and IDs";
    let mut matching = peers(client).await?.into_iter().filter(|peer| peer.name == given);
    match (matching.next(), matching.next()) {
        (Some(peer), None) => Ok(peer.peer_id),
        (None, _) => Err(Failure::new(Exit::NotFound, format!("there is no peer {given:?}")).hint(hint)),
        (Some(_), Some(_)) => {
            Err(Failure::usage(format!("several peers have the name {given:?}; give the peer ID")).hint(hint))
        }
    }
}

/// Peers as a table or as objects.
pub fn print(out: &mut Out, peers: Vec<v1::Peer>) -> Result<(), Failure> {
    let mut rows = Rows::new(&[
        "NAME",
        "PEER",
        "ROLE",
        "STATE",
        "APPLIED",
        "VERSION",
        "API",
        "ADDRESSES",
    ])
    .flexible(&["NAME", "API", "ADDRESSES"])
    .droppable(&["ADDRESSES", "API", "VERSION", "APPLIED"]);
    for peer in peers {
        if out.is_json() {
            out.object(&json::Peer::from(peer))?;
            continue;
        }
        let role = words::role(peer.role());
        let state = match (peer.reachable, peer.leader) {
            (_, true) => Cell::toned("leader", Tone::Good),
            (true, false) => Cell::toned("reachable", Tone::Good),
            (false, false) => Cell::toned("unreachable", Tone::Bad),
        };
        let row = vec![
            Cell::from(peer.name),
            out.id(&peer.peer_id).into(),
            role.into(),
            state,
            Cell::number(peer.applied_index),
            peer.version.into(),
            peer.api_address.into(),
            peer.addresses.join(", ").into(),
        ];
        rows.push(out, row)?;
    }
    rows.print(out)
}
