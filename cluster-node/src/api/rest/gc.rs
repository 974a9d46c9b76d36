//! Collecting garbage, one member after another.

use std::sync::Arc;

use axum::extract::State;
use cluster_http::json;
use cluster_proto::v1::collect_garbage_response::Message;
use node_core::NodeId;

use super::types::{GlobalRepoGc, RepoGc};
use super::{Answer, Call, Rest};
use crate::service::{Error, WAIT_DEFAULT};

/// `POST /ipfs/gc`. What can't be done at a member is said there, and the answer is 200 all the same.
pub async fn collect(State(rest): State<Arc<Rest>>, call: Call) -> Answer {
    let own = call.is_local()?.then(|| rest.pins.directory.own());
    let members = rest.pins.members();
    let mut all = GlobalRepoGc::default();
    for member in members.iter().filter(|member| own.is_none_or(|own| member.peer == own)) {
        let collected = match member.node {
            Some(node) => rest.collect(node).await.map_err(|error| error.to_string()),
            None => Err("this peer drives no storage node".to_owned()),
        };
        let gc = RepoGc {
            peer: member.text.clone(),
            peername: member.name.clone(),
            keys: Vec::new(),
            error: collected.err().unwrap_or_default(),
        };
        all.peer_map.insert(member.text.clone(), gc);
    }
    Ok(json(&all))
}

impl Rest {
    /// Collects until nothing is left. It ends when nobody listens.
    async fn collect(&self, node: NodeId) -> Result<(), Error> {
        let mut steps = self
            .pins
            .collect_garbage(&node.to_string(), false, WAIT_DEFAULT)
            .await?;
        while let Some(step) = steps.next().await {
            if matches!(step?.message, Some(Message::Done(_))) {
                return Ok(());
            }
        }
        Err(Error::precondition("the collection ended before its time"))
    }
}
