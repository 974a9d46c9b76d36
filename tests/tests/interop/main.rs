//! The embedded node beside what nobody here wrote: Kubo and Helia, which fetch from it and are fetched from over TCP and
//! QUIC, the CIDs of `ipfs add`, and CAR files of other programs.

mod car;
mod cids;
mod helia;
mod kubo;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_proto::v1;
use cluster_tests::car::rs_read;
use cluster_tests::client::{Client, replicas_of};
use cluster_tests::cluster::{Cluster, ClusterOptions};
use cluster_tests::helia::Transport;
use cluster_tests::node::NodeKind;
use node_core::Cid;

/// 100 MiB or ten thousand blocks, in a debug build on a busy machine: 12 seconds where it is not.
const FETCH_LIMIT: Duration = Duration::from_secs(240);

/// A size that needs many messages, and several windows of every transport.
const LARGE: usize = 100 << 20;

/// A directory that is large for one.
const MANY_FILES: u32 = 10_000;

/// A cluster of one peer with an embedded node.
struct Ours {
    cluster: Cluster,
}

impl Ours {
    async fn start() -> anyhow::Result<Self> {
        let options = ClusterOptions {
            peers: 1,
            node: NodeKind::Embedded,
            ..ClusterOptions::default()
        };
        let cluster = Cluster::start(options.with("embedded.free_min", "1MiB")).await?;
        Ok(Self { cluster })
    }

    fn client(&self) -> Client {
        self.cluster.client(0)
    }

    /// Where others reach the node, with its peer ID.
    async fn address(&self, transport: Transport) -> anyhow::Result<String> {
        let status = self.client().cluster_status().await?;
        let report = status.nodes.first().and_then(|node| node.report.as_ref());
        let id = &report.context("the node has reported")?.ipfs_peer_id;
        let tcp = self.cluster.embedded_address(0).context("an embedded node")?;
        let port = tcp.rsplit('/').next().context("a port")?;
        Ok(match transport {
            Transport::Tcp => format!("{tcp}/p2p/{id}"),
            Transport::Quic => format!("/ip4/127.0.0.1/udp/{port}/quic-v1/p2p/{id}"),
        })
    }

    /// Pins what a peer has, and waits until it is here.
    async fn pin_from(&self, cid: &Cid, origin: &str) -> anyhow::Result<v1::NodeStatus> {
        let request = v1::PinRequest {
            cid: cid.to_string(),
            options: Some(v1::PinOptions {
                origins: vec![origin.to_owned()],
                ..replicas_of(1)
            }),
            ..v1::PinRequest::default()
        };
        let client = self.client();
        client.pin_as(request).await?;
        let waited = self
            .cluster
            .wait_until("it is pinned", FETCH_LIMIT, async || client.pinned_on(cid, 1).await);
        waited.await?.nodes.pop().context("one node")
    }

    /// Adds a CAR file.
    async fn add_car(&self, car: &[u8]) -> Result<v1::AddDone, tonic::Status> {
        use v1::add_request::Message;
        let start = v1::AddStart {
            options: Some(replicas_of(1)),
            format: Some(v1::add_start::Format::Car(v1::CarOptions {})),
            ..v1::AddStart::default()
        };
        let pieces = car.chunks(1 << 20).map(|piece| Message::Data(piece.to_vec().into()));
        let messages = std::iter::once(Message::Start(start)).chain(pieces);
        self.client().add_messages(messages.collect()).await
    }

    /// The blocks below a CID, as a CAR file.
    async fn export(&self, cid: &Cid) -> Result<Vec<u8>, tonic::Status> {
        let request = v1::FetchRequest {
            path: cid.to_string(),
            format: v1::FetchFormat::Car.into(),
            ..v1::FetchRequest::default()
        };
        self.client().fetch(request).await
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        self.cluster.stop().await
    }
}

/// How an add begins.
fn unixfs(options: v1::UnixFsOptions) -> v1::AddStart {
    v1::AddStart {
        options: Some(replicas_of(1)),
        format: Some(v1::add_start::Format::Unixfs(options)),
        ..v1::AddStart::default()
    }
}

/// What stands in a CAR file, as the crate rs-car reads it, which checks all hashes: the root, and the blocks by CID.
async fn blocks_of(car: &[u8]) -> anyhow::Result<(Cid, BTreeMap<Cid, Vec<u8>>)> {
    let (roots, blocks) = rs_read(car).await?;
    ensure!(roots.len() == 1, "{roots:?}");
    let count = blocks.len();
    let blocks: BTreeMap<_, _> = blocks.into_iter().collect();
    ensure!(blocks.len() == count, "each block stands there once");
    Ok((roots[0], blocks))
}

/// That two CAR files hold the same, byte for byte.
async fn same_blocks(ours: &[u8], theirs: &[u8], what: &str) -> anyhow::Result<usize> {
    let (ours, theirs) = (blocks_of(ours).await?, blocks_of(theirs).await?);
    ensure!(ours.0 == theirs.0, "{what}: roots {} and {}", ours.0, theirs.0);
    ensure!(ours.1 == theirs.1, "{what}: other blocks");
    Ok(ours.1.len())
}
