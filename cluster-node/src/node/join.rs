//! Joining a cluster: a new peer shows its token to a member, is led to the leader, and learns its number.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use cluster_proto::peer::v1::peers_client::PeersClient;
use cluster_proto::peer::v1::{JoinRequest, MemberAddress};
use cluster_security::{JoinToken, PeerConnector, secret_file};
use node_core::PeerId;
use node_core::command::NewPeer;
use tonic::Code;

use super::standing::{self, Standing};

/// How long a peer tries to join before it gives up. Long enough for an election and a slow start of the others.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);

/// What joining came to.
pub struct Joined {
    /// Where the peer stands from now on.
    pub standing: Standing,
    /// The members it was told, until its own state names them.
    pub members: Vec<(PeerId, Vec<String>)>,
}

/// Joins with the token in `token_file`. The attempt's random name is kept beside the data, so that an answer that was
/// lost is given again, and a peer that lost its disk is not taken for the one it was.
pub async fn join(
    token_file: &Path,
    cluster: &Path,
    connector: &PeerConnector,
    introduce: &NewPeer,
) -> anyhow::Result<Joined> {
    let token: JoinToken = secret_file::read(token_file)
        .with_context(|| format!("the join token {} can't be read", token_file.display()))?
        .trim()
        .parse()
        .with_context(|| format!("the join token {} can't be used", token_file.display()))?;
    let attempt = attempt(cluster)?;
    let request = JoinRequest {
        wire_version: cluster_proto::WIRE_VERSION,
        attempt: attempt.into(),
        token_secret: token.secret.expose().to_vec().into(),
        name: introduce.name.clone(),
        addresses: introduce.addresses.clone(),
        api_address: introduce.api_address.clone(),
        version: introduce.version.clone(),
    };
    let mut ask: Vec<(PeerId, Vec<String>)> = token
        .peers
        .iter()
        .map(|member| (member.peer, member.addresses.clone()))
        .collect();
    let deadline = tokio::time::Instant::now() + JOIN_TIMEOUT;
    let mut last = String::from("the token names no peers");
    let mut place = 0;
    while tokio::time::Instant::now() < deadline && !ask.is_empty() {
        let (peer, addresses) = ask[place % ask.len()].clone();
        place += 1;
        match ask_one(connector, peer, &addresses, &request).await {
            Ok(Answer::Admitted(joined)) => {
                if joined.standing.cluster_id != token.cluster_id {
                    bail!(
                        "the token is for the cluster {}, and {peer} is of another",
                        token.cluster_id
                    );
                }
                standing::write_members(cluster, &joined.members)?;
                standing::write(cluster, &joined.standing)?;
                secret_file::remove(token_file).context("the used join token can't be removed")?;
                return Ok(joined);
            }
            Ok(Answer::Ask(leader)) => {
                // The leader is asked next.
                ask.retain(|(known, _)| *known != leader.0);
                ask.insert(0, leader);
                place = 0;
                last = "no leader took the request".into();
            }
            Err(Failure::Refused(reason)) => bail!("the cluster refused this peer: {reason}"),
            Err(Failure::Silent(reason)) => {
                last = format!("peer {peer} at {}: {reason}", addresses.join(", "));
                tracing::info!(%peer, %reason, "a peer of the cluster did not admit this one yet");
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bail!(
        "no peer of the cluster admitted this one within {} s; the last said: {last}",
        JOIN_TIMEOUT.as_secs()
    )
}

enum Answer {
    Admitted(Joined),
    Ask((PeerId, Vec<String>)),
}

enum Failure {
    Refused(String),
    Silent(String),
}

async fn ask_one(
    connector: &PeerConnector,
    peer: PeerId,
    addresses: &[String],
    request: &JoinRequest,
) -> Result<Answer, Failure> {
    let channel = connector
        .connect(peer, addresses)
        .await
        .map_err(|error| Failure::Silent(error.to_string()))?;
    let mut call = tonic::Request::new(request.clone());
    call.set_timeout(Duration::from_secs(15));
    let answer = PeersClient::new(channel)
        .join(call)
        .await
        .map_err(|status| match status.code() {
            Code::PermissionDenied
            | Code::InvalidArgument
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::Unimplemented => Failure::Refused(status.message().to_owned()),
            _ => Failure::Silent(status.message().to_owned()),
        })?;
    let answer = answer.into_inner();
    if let Some(leader) = answer.leader {
        return member(leader).map(Answer::Ask).map_err(Failure::Silent);
    }
    let members = answer.members.into_iter().filter_map(|one| member(one).ok()).collect();
    let standing = Standing {
        cluster_id: answer.cluster_id,
        raft_id: answer.raft_id,
        started: false,
    };
    Ok(Answer::Admitted(Joined { standing, members }))
}

fn member(address: MemberAddress) -> Result<(PeerId, Vec<String>), String> {
    let peer = address
        .peer_id
        .parse()
        .map_err(|error| format!("a peer was named that is none: {error}"))?;
    Ok((peer, address.addresses))
}

fn attempt(cluster: &Path) -> anyhow::Result<Vec<u8>> {
    let path = cluster.join("join.attempt");
    match std::fs::read(&path) {
        Ok(bytes) if bytes.len() == 16 => return Ok(bytes),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("{} can't be read", path.display())),
    }
    let bytes = uuid::Uuid::new_v4().into_bytes().to_vec();
    standing::replace_file(&path, &bytes)?;
    Ok(bytes)
}
