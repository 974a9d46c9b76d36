//! Members.

use std::sync::Arc;

use axum::extract::State;
use cluster_http::{Failure, Whole, json, ndjson};
use http::StatusCode;
use node_core::NodeState;
use serde::Deserialize;

use super::options::read_peer;
use super::types::{Id, IpfsId, RPC_PROTOCOL, Token, VERSION, Version};
use super::{Answer, Call, Rest, Segment, nothing};
use crate::api::failure::failure;
use crate::service::{MemberView, WAIT_DEFAULT, ipfs_node};

/// `GET /id`
pub async fn id(State(rest): State<Arc<Rest>>) -> Answer {
    let own = rest.pins.directory.own();
    let members = rest.pins.members();
    let views = rest.pins.own_member_views();
    let face = members.face_of(own);
    let view = views
        .iter()
        .find(|view| Some(view.member.id) == face.map(|face| face.id));
    // A peer that was just removed from its cluster and still runs.
    let gone = || Failure::new(StatusCode::GONE, "this peer belongs to no cluster any more");
    Ok(json(&rest.id_of(view.ok_or_else(gone)?)))
}

/// `GET /version`
pub async fn version() -> Answer {
    Ok(json(&Version { version: VERSION }))
}

/// `GET /peers`
pub async fn list(State(rest): State<Arc<Rest>>) -> Answer {
    let views = rest.pins.member_views().await;
    let ids: Vec<Result<Id, Failure>> = views.iter().map(|view| Ok(rest.id_of(view))).collect();
    Ok(ndjson(futures::stream::iter(ids)).await)
}

#[derive(Deserialize)]
struct PeerAdd {
    peer_id: String,
}

/// `POST /peers`. A peer is admitted by the token that it brings, so there is nothing to add from here: who is a member
/// already is shown, as after an add, and for anybody else it is said what to do.
pub async fn add(State(rest): State<Arc<Rest>>, body: Whole) -> Answer {
    let body: PeerAdd = body.json().map_err(|_| Failure::bad("error decoding request body"))?;
    let id = read_peer(&body.peer_id).map_err(|_| Failure::bad("error decoding peer_id"))?;
    let views = rest.pins.member_views().await;
    match views.iter().find(|view| view.member.id == id) {
        Some(view) => Ok(json(&rest.id_of(view))),
        None => Err(Failure::bad(format!(
            "{id} is no peer of this cluster: a peer joins with a token, from `cluster-ctl peer join-token` to \
             `cluster-node init --join TOKEN`"
        ))),
    }
}

/// `DELETE /peers/{peer}`. The ID of a peer takes the peer out with all its nodes, that of one of its further nodes only the
/// node. Their pins move to others.
pub async fn remove(State(rest): State<Arc<Rest>>, Segment(peer): Segment) -> Answer {
    let id = read_peer(&peer)?;
    let members = rest.pins.members();
    let known = rest.pins.directory.get(id).is_some_and(|peer| !peer.removed);
    if known {
        rest.pins.remove_peer(id, WAIT_DEFAULT).await.map_err(failure)?;
        return Ok(nothing());
    }
    let node = members.find(id).and_then(|member| member.node);
    let unknown = || Failure::not_found(format!("{id} is no peer of this cluster"));
    let node = node.ok_or_else(unknown)?.to_string();
    let changed = rest.pins.set_node_state(&node, NodeState::Gone, WAIT_DEFAULT).await;
    changed.map_err(failure)?;
    Ok(nothing())
}

/// `POST /token`
pub async fn token(State(rest): State<Arc<Rest>>, call: Call) -> Answer {
    let none = || Failure::new(StatusCode::UNAUTHORIZED, "unauthorized");
    let issuer = rest
        .tokens
        .as_ref()
        .filter(|_| call.principal.name.is_some())
        .ok_or_else(none)?;
    let token = issuer.issue(&call.principal).await?;
    Ok(json(&Token { token }))
}

impl Rest {
    /// What is shown of a member. Of one that does not answer, only who it is.
    fn id_of(&self, view: &MemberView) -> Id {
        let MemberView {
            member,
            addresses,
            reachable,
            heard,
        } = view;
        let mut id = Id {
            id: member.text.clone(),
            addresses: Vec::new(),
            cluster_peers: Vec::new(),
            cluster_peers_addresses: Vec::new(),
            version: VERSION,
            commit: "",
            rpc_protocol_version: RPC_PROTOCOL,
            error: String::new(),
            ipfs: IpfsId::default(),
            peername: member.name.clone(),
        };
        if !reachable {
            id.error = "the peer does not answer".into();
            return id;
        }
        let members = self.pins.members();
        id.addresses.clone_from(addresses);
        id.cluster_peers = members.iter().map(|member| member.text.clone()).collect();
        let others = self
            .pins
            .directory
            .present()
            .into_iter()
            .filter(|peer| peer.id != member.peer);
        id.cluster_peers_addresses = others.flat_map(|peer| self.pins.addresses_of(peer.id)).collect();
        id.ipfs = match (member.node, heard) {
            (None, _) => IpfsId {
                error: "this peer drives no storage node".into(),
                ..IpfsId::default()
            },
            (Some(_), None) => IpfsId {
                error: "the storage node has not been heard of yet".into(),
                ..IpfsId::default()
            },
            (Some(_), Some((heard, _))) => {
                let (node, addresses) = match ipfs_node(heard) {
                    Some(node) => (Some(node.id), node.addresses),
                    None => (None, Vec::new()),
                };
                IpfsId {
                    id: node,
                    addresses,
                    error: match (heard.reachable, heard.error.as_str()) {
                        (true, _) => String::new(),
                        (false, "") => "the storage node does not answer".into(),
                        (false, error) => error.to_owned(),
                    },
                }
            }
        };
        id
    }
}
