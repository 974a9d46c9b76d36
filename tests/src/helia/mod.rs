//! Helia, the JavaScript IPFS node, as a peer for interop tests: [`HeliaPeer`]; and @ipld/car, the JavaScript reader and
//! writer of CAR files: [`car`].
//!
//! The scripts are in `tests/tools/helia`. Nothing listens anywhere but at 127.0.0.1 on free ports, and nothing looks for
//! peers or providers: a peer knows whom it was connected to. Each peer is a process, steered by JSON lines; its calls may
//! run side by side.
//!
//! What is worth knowing of `@helia/bitswap` 4.0 when a test waits for something:
//!
//! - It asks all connected peers for every block at once, with want-block, and once only. It does nothing on DONT_HAVE, and
//!   waits until somebody sends the block.
//! - It sends no cancels, whatever its comments say.
//! - What it sent to a peer it does not send to it again for 5 s ([`HeliaOptions::resend_after`]).
//! - It takes messages of up to 4 MiB, and keeps 1024 wants of a peer.
//! - It hangs up on nobody by itself, here: libp2p's check of connections by ping is off. QUIC gives a silent peer up after
//!   60 s, or after the shorter time that the other end names.
//! - It opens a stream for each message, and collects wants and blocks for 10 ms before it sends them: a chain takes 20 ms
//!   and more a block.

pub mod car;
mod content;
mod install;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use node_core::Cid;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

pub use crate::npm::Tools;
pub use content::{Added, GraphCodec, Hash, Make, Profile, UnixfsOptions, file_name, seeded_files};
pub use install::tools;

use crate::json_lines::Process;

/// How long a command may take unless the call names another limit.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// A peer that has not ended by itself after this is killed.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// The transports that a peer can listen with. It dials with both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP with Noise and Yamux.
    Tcp,
    /// QUIC version 1.
    Quic,
}

impl Transport {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Quic];

    /// Whether a multiaddr is of this transport.
    pub fn is_of(self, multiaddr: &str) -> bool {
        let mut parts = multiaddr.split('/');
        match self {
            Self::Tcp => parts.any(|part| part == "tcp"),
            Self::Quic => parts.any(|part| part == "quic-v1"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
        }
    }
}

/// How a peer is set up.
#[derive(Debug, Clone)]
pub struct HeliaOptions {
    /// Where key, blocks and pins are kept; in memory when none.
    pub folder: Option<PathBuf>,
    /// What it listens with, each on a free port of 127.0.0.1.
    pub listen: Vec<Transport>,
    /// How long a block that was sent to a peer is not sent to it again. Helia's own value is 5 s.
    pub resend_after: Option<Duration>,
}

impl Default for HeliaOptions {
    fn default() -> Self {
        Self {
            folder: None,
            listen: Transport::ALL.to_vec(),
            resend_after: None,
        }
    }
}

/// A running peer. Killed when dropped.
pub struct HeliaPeer {
    process: Process,
    id: Identity,
}

#[derive(Debug, Deserialize)]
struct Identity {
    peer_id: String,
    addresses: Vec<String>,
}

/// A connection, as the peer sees it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Connection {
    /// The other one's peer ID.
    pub peer_id: String,
    /// The other one's multiaddr.
    pub address: String,
    /// Whether this peer dialled.
    pub outbound: bool,
    /// The other one's agent, by identify.
    pub agent: String,
    /// The other one's protocols, by identify.
    pub protocols: Vec<String>,
}

/// What a fetch brought.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Fetched {
    /// The DAG's blocks, each counted once.
    pub blocks: u64,
    /// Their sizes.
    pub bytes: u64,
    /// How many of them were not in the peer's store before.
    pub received_blocks: u64,
    /// Their sizes.
    pub received_bytes: u64,
    /// The number of its files; none when the root is neither dag-pb nor raw.
    pub files: Option<u64>,
    /// The sizes of their contents.
    pub content_bytes: Option<u64>,
    /// The SHA-256 over their contents, in the order of their paths; see [`Make::content_sha256`].
    #[serde(deserialize_with = "hash")]
    pub content_sha256: Option<[u8; 32]>,
    /// How long it took until all blocks were there.
    pub millis: f64,
}

impl HeliaPeer {
    /// Starts a peer that keeps everything in memory and listens with TCP and QUIC.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(HeliaOptions::default()).await
    }

    /// The same, set up otherwise.
    pub async fn start_with(options: HeliaOptions) -> anyhow::Result<Self> {
        // Looks for packages and may install them, which blocks.
        let tools = tokio::task::spawn_blocking(tools).await??;
        let mut setup = json!({
            "folder": options.folder,
            "listen": options.listen.iter().map(|transport| transport.name()).collect::<Vec<_>>(),
        });
        if let Some(time) = options.resend_after {
            setup["bitswap"] = json!({ "doNotResendBlockWindow": time.as_millis() });
        }
        let mut command = tools.command("peer.mjs");
        command.arg(setup.to_string());
        let (process, ready) = Process::start(command).await.context("cannot start a Helia peer")?;
        Ok(Self {
            process,
            id: serde_json::from_value(ready)?,
        })
    }

    /// Its libp2p peer ID.
    pub fn peer_id(&self) -> &str {
        &self.id.peer_id
    }

    /// The multiaddrs at which others reach it, with its peer ID.
    pub fn addresses(&self) -> &[String] {
        &self.id.addresses
    }

    /// The multiaddr of one transport; empty when it does not listen with that.
    pub fn address(&self, transport: Transport) -> &str {
        let mut addresses = self.id.addresses.iter();
        addresses
            .find(|address| transport.is_of(address))
            .map(String::as_str)
            .unwrap_or_default()
    }

    /// Dials a multiaddr that ends in a peer ID, and waits until the other one has said that it speaks Bitswap 1.2.0.
    pub async fn connect(&self, multiaddr: &str) -> anyhow::Result<Connection> {
        self.call("connect", json!({ "addr": multiaddr }), COMMAND_LIMIT).await
    }

    /// Closes all connections with a peer, and returns how many there were.
    pub async fn disconnect(&self, peer_id: &str) -> anyhow::Result<u64> {
        let answer: Value = self
            .call("disconnect", json!({ "peer_id": peer_id }), COMMAND_LIMIT)
            .await?;
        answer["closed"].as_u64().context("an answer without closed")
    }

    /// Its connections.
    pub async fn connections(&self) -> anyhow::Result<Vec<Connection>> {
        self.call("peers", json!({}), COMMAND_LIMIT).await
    }

    /// Makes something and keeps it in its store.
    pub async fn add(&self, what: &Make) -> anyhow::Result<Added> {
        self.call("add", serde_json::to_value(what)?, COMMAND_LIMIT).await
    }

    /// A block that it has; the network is not asked.
    pub async fn block(&self, cid: &Cid) -> anyhow::Result<Option<Vec<u8>>> {
        #[derive(Deserialize)]
        struct Block {
            #[serde(deserialize_with = "content::base64::deserialize")]
            data: Option<Vec<u8>>,
        }
        let block: Block = self.call("block", named(cid), COMMAND_LIMIT).await?;
        Ok(block.data)
    }

    /// Gets a whole DAG, 64 blocks at a time, from the peers that it is connected to. Its files are read too, in the end.
    pub async fn fetch(&self, cid: &Cid) -> anyhow::Result<Fetched> {
        self.fetch_within(cid, COMMAND_LIMIT, 64).await
    }

    /// The same, with another limit and number of blocks that are asked for at a time.
    pub async fn fetch_within(&self, cid: &Cid, limit: Duration, at_once: u32) -> anyhow::Result<Fetched> {
        let request = json!({ "cid": cid.to_string(), "at_once": at_once });
        self.call("fetch", request, limit).await
    }

    /// Pins a DAG, fetching what it lacks one block after the other, and returns the number of its blocks.
    pub async fn pin(&self, cid: &Cid) -> anyhow::Result<u64> {
        let answer: Value = self.call("pin", named(cid), COMMAND_LIMIT).await?;
        answer["blocks"].as_u64().context("an answer without blocks")
    }

    /// Takes a pin away.
    pub async fn unpin(&self, cid: &Cid) -> anyhow::Result<()> {
        self.call::<Value>("unpin", named(cid), COMMAND_LIMIT).await.map(drop)
    }

    /// Whether a block is held by a pin.
    pub async fn is_pinned(&self, cid: &Cid) -> anyhow::Result<bool> {
        let answer: Value = self.call("pinned", named(cid), COMMAND_LIMIT).await?;
        answer["pinned"].as_bool().context("an answer without pinned")
    }

    /// Deletes all blocks that no pin holds.
    pub async fn gc(&self) -> anyhow::Result<()> {
        self.call::<Value>("gc", json!({}), COMMAND_LIMIT).await.map(drop)
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// Freezes it: connections stay and are taken, nothing is answered.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.process.freeze()
    }

    /// Lets it go on after [`HeliaPeer::freeze`].
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.process.thaw()
    }

    /// Kills it at once.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.process.kill()
    }

    /// Asks it to stop, and waits until it has. One with a folder can be started again with the same peer ID, blocks and
    /// pins, at other ports.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.call::<Value>("stop", json!({}), STOP_LIMIT).await?;
        self.process.wait(STOP_LIMIT).await
    }

    /// What it wrote to stderr.
    pub fn log(&self) -> String {
        self.process.log()
    }

    async fn call<T: DeserializeOwned>(&self, command: &str, request: Value, limit: Duration) -> anyhow::Result<T> {
        let answer = self
            .process
            .call(command, request, limit)
            .await
            .with_context(|| format!("the Helia peer {}", self.id.peer_id))?;
        serde_json::from_value(answer).with_context(|| format!("the answer of the Helia peer to {command}"))
    }
}

fn named(cid: &Cid) -> Value {
    json!({ "cid": cid.to_string() })
}

/// A CID as text.
fn cid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cid, D::Error> {
    Cid::from_str(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// CIDs as text.
fn cids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Cid>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts
        .iter()
        .map(|text| Cid::from_str(text).map_err(D::Error::custom))
        .collect()
}

/// A SHA-256 in hex.
fn hash<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[u8; 32]>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    let parse = |text: String| {
        let (_, bytes) = multibase::decode(format!("f{text}")).map_err(D::Error::custom)?;
        <[u8; 32]>::try_from(bytes).map_err(|bytes| D::Error::custom(format!("{} bytes of a SHA-256", bytes.len())))
    };
    text.map(parse).transpose()
}
