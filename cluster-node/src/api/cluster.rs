//! `pinfleet.v1.Cluster`.

use std::pin::Pin as StdPin;
use std::sync::Arc;
use std::time::Duration;

use cluster_proto::v1;
use cluster_proto::v1::cluster_server::Cluster as ClusterService;
use futures::{Stream, StreamExt};
use node_core::pinset::Settings;
use node_core::{NodeId, NodeState, PeerIdError, Replication, StorageNode};
use tonic::{Request, Response, Status};

use super::convert;
use super::error::{deadline_of, status};
use crate::service::{
    ClusterView, Error, HeardNode, NodeView, NodeWish, PeerRole, PeerView, Pins, Severity, WAIT_DEFAULT, WAIT_MAX,
};

/// Handlers of `pinfleet.v1.Cluster`.
#[derive(Clone)]
pub struct ClusterApi(pub Arc<Pins>);

type Answered<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ClusterService for ClusterApi {
    type CollectGarbageStream = StdPin<Box<dyn Stream<Item = Result<v1::CollectGarbageResponse, Status>> + Send>>;

    async fn status(&self, _: Request<v1::ClusterStatusRequest>) -> Answered<v1::ClusterStatus> {
        let view = self.0.cluster().await.map_err(status)?;
        let ClusterView {
            header, raft, leader, ..
        } = &view;
        let health = view.problems.iter().map(|problem| problem.severity).max();
        let problems = view.problems.iter().map(|problem| v1::Problem {
            severity: health_code(Some(problem.severity)),
            subject: problem.subject.clone(),
            message: problem.message.clone(),
        });
        Ok(Response::new(v1::ClusterStatus {
            cluster_id: header.cluster_id.clone(),
            health: health_code(health),
            problems: problems.collect(),
            leader: leader.map(|leader| leader.to_string()).unwrap_or_default(),
            term: raft.term,
            committed_index: raft.committed.unwrap_or_default(),
            revision: header.revision,
            pins: header.pins,
            cids: header.cids,
            unplaced: header.unplaced,
            peers: view.peers.iter().map(peer).collect(),
            nodes: view
                .nodes
                .iter()
                .map(|(node, heard)| self.shown(node, heard.as_ref()))
                .collect(),
            answered_by: self.0.directory.own().to_string(),
        }))
    }

    async fn list_peers(&self, _: Request<v1::ListPeersRequest>) -> Answered<v1::ListPeersResponse> {
        let view = self.0.cluster().await.map_err(status)?;
        Ok(Response::new(v1::ListPeersResponse {
            peers: view.peers.iter().map(peer).collect(),
        }))
    }

    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Answered<v1::CreateJoinTokenResponse> {
        let wait = deadline_of(&request, WAIT_DEFAULT, WAIT_MAX);
        let valid_for = Duration::from_millis(request.into_inner().valid_for_ms);
        let (token, expires) = self.0.create_join_token(valid_for, wait).await.map_err(status)?;
        Ok(Response::new(v1::CreateJoinTokenResponse {
            token: token.to_text(),
            expires: Some(convert::time(expires)),
        }))
    }

    async fn remove_peer(&self, request: Request<v1::RemovePeerRequest>) -> Answered<v1::RemovePeerResponse> {
        let wait = deadline_of(&request, WAIT_DEFAULT, WAIT_MAX);
        let answer = async {
            let peer = request.into_inner().peer_id.parse().map_err(Error::from)?;
            self.0.remove_peer(peer, wait).await
        };
        answer.await.map_err(status)?;
        Ok(Response::new(v1::RemovePeerResponse {}))
    }

    async fn promote_peer(&self, request: Request<v1::PromotePeerRequest>) -> Answered<v1::PromotePeerResponse> {
        let wait = deadline_of(&request, WAIT_DEFAULT, WAIT_MAX);
        let answer = async {
            let peer = request.into_inner().peer_id.parse().map_err(Error::from)?;
            self.0.promote_peer(peer, wait).await
        };
        answer.await.map_err(status)?;
        Ok(Response::new(v1::PromotePeerResponse {}))
    }

    async fn list_nodes(&self, _: Request<v1::ListNodesRequest>) -> Answered<v1::ListNodesResponse> {
        let view = self.0.cluster().await.map_err(status)?;
        let nodes = view
            .nodes
            .iter()
            .map(|(node, heard)| self.shown(node, heard.as_ref()))
            .collect();
        Ok(Response::new(v1::ListNodesResponse { nodes }))
    }

    async fn add_node(&self, request: Request<v1::AddNodeRequest>) -> Answered<v1::StorageNode> {
        let wait = deadline_of(&request, WAIT_DEFAULT, WAIT_MAX);
        let request = request.into_inner();
        let answer = async {
            let peer = match request.peer.as_str() {
                "" => self.0.directory.own(),
                text => text
                    .parse()
                    .map_err(|error: PeerIdError| convert::renamed(error.into(), "peer"))?,
            };
            node_core::check_name("name", &request.name)?;
            check_tags(&request.tags)?;
            let weight = if request.weight == 0.0 { 1.0 } else { request.weight };
            if !(weight.is_finite() && weight > 0.0) {
                return Err(Error::invalid(
                    "weight",
                    request.weight.to_string(),
                    "use a number above 0",
                ));
            }
            let node = StorageNode {
                id: NodeId(0),
                name: request.name,
                peer,
                kind: "kubo".into(),
                api: request.api,
                tags: request.tags.into_iter().collect(),
                weight,
                state: NodeState::Active,
                auth_file: request.auth_file,
            };
            let wish = NodeWish {
                node,
                request_id: convert::request_id(&request.request_id)?,
            };
            self.0.add_node(wish, wait).await
        };
        let node = answer.await.map_err(status)?;
        Ok(Response::new(self.shown(&node, None)))
    }

    async fn remove_node(&self, request: Request<v1::RemoveNodeRequest>) -> Answered<v1::RemoveNodeResponse> {
        let wait = deadline_of(&request, WAIT_DEFAULT, WAIT_MAX);
        let name = request.into_inner().node;
        self.0
            .set_node_state(&name, NodeState::Gone, wait)
            .await
            .map_err(status)?;
        Ok(Response::new(v1::RemoveNodeResponse {}))
    }

    async fn set_node_state(&self, request: Request<v1::SetNodeStateRequest>) -> Answered<v1::StorageNode> {
        let wait = deadline_of(&request, WAIT_DEFAULT, WAIT_MAX);
        let request = request.into_inner();
        let answer = async {
            let state = match v1::NodeState::try_from(request.state) {
                Ok(v1::NodeState::Active) => NodeState::Active,
                Ok(v1::NodeState::Cordoned) => NodeState::Cordoned,
                Ok(v1::NodeState::Draining) => NodeState::Draining,
                _ => {
                    let remedy = "use active (1), cordoned (2) or draining (3); RemoveNode takes a node out for good";
                    return Err(Error::invalid("state", request.state.to_string(), remedy));
                }
            };
            self.0.set_node_state(&request.node, state, wait).await
        };
        let node = answer.await.map_err(status)?;
        Ok(Response::new(self.shown(&node, None)))
    }

    async fn node(&self, request: Request<v1::NodeRequest>) -> Answered<v1::NodeDetails> {
        let wait = deadline_of(&request, WAIT_DEFAULT, WAIT_MAX);
        let view = self.0.node(&request.into_inner().name, wait).await.map_err(status)?;
        let NodeView { node, report, details } = view;
        let report = report.map(|report| (report, Duration::ZERO));
        Ok(Response::new(v1::NodeDetails {
            node: Some(self.shown(&node, report.as_ref())),
            ..details
        }))
    }

    async fn collect_garbage(
        &self,
        request: Request<v1::CollectGarbageRequest>,
    ) -> Answered<Self::CollectGarbageStream> {
        let wait = deadline_of(&request, WAIT_DEFAULT, WAIT_MAX);
        let request = request.into_inner();
        let steps = self.0.collect_garbage(&request.node, request.estimate_only, wait).await;
        let steps = steps.map_err(status)?.map(|step| step.map_err(status));
        Ok(Response::new(Box::pin(steps)))
    }

    async fn update_settings(&self, request: Request<v1::UpdateSettingsRequest>) -> Answered<v1::Settings> {
        let wait = deadline_of(&request, WAIT_DEFAULT, WAIT_MAX);
        let wish = request.into_inner().settings.unwrap_or_default();
        let settings = self
            .0
            .settings(|settings| edit_settings(settings, &wish), wait)
            .await
            .map_err(status)?;
        Ok(Response::new(v1::Settings {
            replication_min: Some(settings.replication.min),
            replication_max: Some(settings.replication.max),
            spread_by: settings.spread_by.clone(),
        }))
    }
}

fn edit_settings(settings: &mut Settings, wish: &v1::Settings) -> Result<bool, Error> {
    let before = settings.clone();
    settings.replication = Replication {
        min: wish.replication_min.unwrap_or(before.replication.min),
        max: wish.replication_max.unwrap_or(before.replication.max),
    };
    if settings.replication.min == 0 || settings.replication.max == 0 {
        return Err(Error::invalid(
            "replication",
            "0",
            "use 1 or more, or -1 for every node",
        ));
    }
    settings.replication.resolve(before.replication)?;
    if !wish.spread_by.is_empty() {
        // One empty name clears the list, which an empty list can't say.
        let names = wish.spread_by.iter().filter(|name| !name.is_empty());
        settings.spread_by = names.cloned().collect();
    }
    if settings.spread_by.len() > 4 {
        return Err(Error::invalid(
            "spread_by",
            settings.spread_by.join(","),
            "at most 4 tag names",
        ));
    }
    Ok(*settings != before)
}

fn check_tags(tags: &std::collections::HashMap<String, String>) -> Result<(), Error> {
    if tags.len() > 32 {
        return Err(Error::invalid("tags", format!("{} tags", tags.len()), "at most 32"));
    }
    for (name, value) in tags {
        if name.is_empty() || name.len() > 64 || value.len() > 256 {
            let given = format!("{name}={value}");
            return Err(Error::invalid(
                "tags",
                given,
                "names of 1 to 64 bytes, values of at most 256 bytes",
            ));
        }
    }
    Ok(())
}

impl ClusterApi {
    fn shown(&self, node: &StorageNode, heard: Option<&(HeardNode, Duration)>) -> v1::StorageNode {
        let now = self.0.clock.now();
        let report = heard.map(|(heard, age)| {
            let [queued, pinning, pinned, retrying, gave_up, unpinning] = heard.counts;
            let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            let at = node_core::Timestamp::from_millis(now.as_millis().saturating_sub(age));
            v1::NodeReport {
                time: Some(convert::time(at)),
                reachable: heard.reachable,
                error: heard.error.clone(),
                free_bytes: heard.free_bytes.unwrap_or_default(),
                total_bytes: heard.total_bytes.unwrap_or_default(),
                version: heard.version.clone(),
                ipfs_peer_id: heard.ipfs_peer_id.clone(),
                queued,
                pinning,
                pinned,
                retrying,
                gave_up,
                unpinning,
                oldest_queued_ms: u64::try_from(heard.oldest_queued.as_millis()).unwrap_or(u64::MAX),
                pins_per_second: heard.pins_per_second,
                breaker: heard.breaker.clone(),
                concurrency: heard.concurrency,
            }
        });
        let state = match node.state {
            NodeState::Active => v1::NodeState::Active,
            NodeState::Cordoned => v1::NodeState::Cordoned,
            NodeState::Draining => v1::NodeState::Draining,
            NodeState::Gone => v1::NodeState::Gone,
        };
        v1::StorageNode {
            id: node.id.to_string(),
            name: node.name.clone(),
            peer: node.peer.to_string(),
            kind: node.kind.clone(),
            api: node.api.clone(),
            tags: node.tags.clone().into_iter().collect(),
            weight: node.weight,
            state: state.into(),
            report,
            member_id: self
                .0
                .members()
                .id_of(node.id)
                .map(|id| id.to_string())
                .unwrap_or_default(),
        }
    }
}

fn peer(view: &PeerView) -> v1::Peer {
    let role = match view.role {
        PeerRole::Voter => v1::PeerRole::Voter,
        PeerRole::Learner => v1::PeerRole::Learner,
        PeerRole::Joining => v1::PeerRole::Joining,
    };
    v1::Peer {
        peer_id: view.peer.id.to_string(),
        name: view.peer.name.clone(),
        raft_id: view.peer.raft_id,
        role: role.into(),
        leader: view.leader,
        reachable: view.reachable,
        addresses: view.peer.addresses.clone(),
        api_address: view.peer.api_address.clone(),
        version: view.peer.version.clone(),
        applied_index: view.applied_index,
        joined: Some(convert::time(view.peer.joined)),
    }
}

fn health_code(severity: Option<Severity>) -> i32 {
    match severity {
        None => v1::Health::Ok,
        Some(Severity::Degraded) => v1::Health::Degraded,
        Some(Severity::Failed) => v1::Health::Failed,
    }
    .into()
}
