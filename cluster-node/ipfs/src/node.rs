//! The seam between Pinfleet and whatever holds the blocks.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cluster_dag::Block;
use node_core::{Cid, ErrorClass, PinMode};

use crate::{Error, Operation};

/// How far a pin has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Blocks fetched or found on the node.
    pub blocks: u64,
    /// Their bytes. Kubo reports them from 0.40 on; 0 before.
    pub bytes: u64,
}

impl Progress {
    /// Whether anything has moved since `earlier`.
    pub fn is_beyond(self, earlier: Self) -> bool {
        self.blocks > earlier.blocks || self.bytes > earlier.bytes
    }
}

/// Takes the progress of one call whenever it has grown. It is called from the task that reads the answer, so it must be
/// cheap and must not block.
pub type ProgressSink<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// Who a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its libp2p peer ID. It may be of any key type, so it stays a text.
    pub peer_id: String,
    /// Multiaddrs at which other nodes reach it.
    pub addresses: Vec<String>,
    /// What it calls itself, for example `kubo/0.43.0`.
    pub agent: String,
}

/// How full a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepoStat {
    /// Bytes its repository takes.
    pub used_bytes: u64,
    /// Bytes it is configured to take; none when there is no limit. The limit is soft: Kubo collects garbage at it and
    /// goes on.
    pub max_bytes: Option<u64>,
}

impl RepoStat {
    /// Bytes it may still take; none when there is no limit.
    pub fn free_bytes(&self) -> Option<u64> {
        self.max_bytes.map(|max| max.saturating_sub(self.used_bytes))
    }
}

/// What a node holds after [`IpfsNode::pin_add`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Added {
    /// Recursive, though direct was asked for, when it was held so already: recursive includes direct.
    pub held: PinMode,
    /// The last progress seen.
    pub progress: Progress,
}

/// What became of [`IpfsNode::pin_update`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Updated {
    /// The new CID is held recursively.
    Done(Progress),
    /// The old one is not held recursively, so there is nothing to start from: pin the new one from scratch.
    SourceNotPinned,
}

/// How a node holds a CID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Held {
    /// Pinned with everything below it.
    Recursive,
    /// The one block is pinned.
    Direct,
    /// It lies below another recursive pin, and goes when that one goes.
    Indirect,
}

impl Held {
    /// Whether this is enough for a pin of `mode`.
    pub fn satisfies(self, mode: PinMode) -> bool {
        match self {
            Self::Recursive => true,
            Self::Direct => mode == PinMode::Direct,
            Self::Indirect => false,
        }
    }
}

/// What the name begins with under which a cluster pins.
pub const PIN_NAME: &str = "pinfleet";

/// The name under which a cluster pins, so that its pins can be told from those made by hand, and from those of another
/// cluster that drives the same daemon, though all else is lost. Kubo keeps names of pins and shows them when it is asked
/// for one CID.
pub fn pin_name(cluster_id: &str) -> String {
    format!("{PIN_NAME}:{cluster_id}")
}

/// A pin as a node reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// How it is held.
    pub held: Held,
    /// The name it was given, empty when it was given none; `None` where names are not known, as below Kubo 0.24.
    pub name: Option<String>,
}

/// What a look at a node is after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookFor {
    /// A pin of any kind.
    Any,
    /// A recursive pin, which is one look-up less.
    Recursive,
}

/// What became of [`IpfsNode::swarm_connect`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connected {
    /// How many origins the node is connected to now.
    pub connected: usize,
    /// Why the others failed; each message names its origin.
    pub failures: Vec<Error>,
}

/// A node that holds blocks: a Kubo daemon, an embedded node, or a simulated one.
///
/// Every call ends by itself, and dropping its future cancels it on the node too.
#[async_trait]
pub trait IpfsNode: Send + Sync {
    /// Who are you; the cheapest proof of life.
    async fn id(&self) -> Result<Identity, Error>;

    /// The version of what runs there.
    async fn version(&self) -> Result<String, Error>;

    /// How full it is. Never counts objects, which would read the whole repository.
    async fn repo_stat(&self) -> Result<RepoStat, Error>;

    /// Fetches what is missing and holds it, under this name; empty is none. May take days as long as it moves.
    ///
    /// Kubo drops an existing recursive pin first, walks the whole graph, and pins again: when that is cut in between, the
    /// content is not pinned any more. So ask [`IpfsNode::pin_ls`] first wherever it may be pinned already.
    async fn pin_add(&self, cid: &Cid, mode: PinMode, name: &str, progress: ProgressSink<'_>) -> Result<Added, Error>;

    /// Holds `to` recursively, fetching only what `from` lacks, and goes on holding `from`.
    ///
    /// Kubo tells nothing until it is done, so this has a time limit where [`IpfsNode::pin_add`] has none. What was fetched
    /// until then stays, so after a stalled update `pin_add` goes on where it ended.
    async fn pin_update(&self, from: &Cid, to: &Cid, progress: ProgressSink<'_>) -> Result<Updated, Error>;

    /// Lets go of a pin, recursive or direct. False: there was none, which is as good.
    async fn pin_rm(&self, cid: &Cid) -> Result<bool, Error>;

    /// How it is held, as far as that is looked for.
    async fn pin_ls(&self, cid: &Cid, look_for: LookFor) -> Result<Option<Listed>, Error>;

    /// Connects to nodes that have some content.
    async fn swarm_connect(&self, origins: &[String]) -> Connected;

    /// Blocks that the node holds itself, in the order asked; none for those that it would have to look for elsewhere. Not
    /// checked against their CIDs.
    async fn blocks(&self, cids: &[Cid]) -> Result<Vec<Option<Bytes>>, Error> {
        let _ = cids;
        Err(Error::new(
            Operation::Blocks,
            ErrorClass::Permanent,
            "this kind of node gives no blocks",
            None,
        ))
    }

    /// Begins to hand blocks over that were made elsewhere, before they are pinned.
    async fn intake(&self) -> Result<Box<dyn Intake>, Error> {
        Err(Error::new(
            Operation::Intake,
            ErrorClass::Permanent,
            "this kind of node takes no blocks",
            None,
        ))
    }
}

/// Takes blocks for a node. Dropped without [`Intake::finish`], what it took is garbage sooner or later.
#[async_trait]
pub trait Intake: Send {
    /// Hands blocks over; done when the node is ready for more. They are on its disk after [`Intake::finish`] at the
    /// latest. After an error nothing more is taken.
    async fn put(&mut self, blocks: Vec<Block>) -> Result<(), Error>;

    /// All of it is on the node's disk. An embedded node keeps it for [`KEPT_FOR`], and what lies below `roots`, which are
    /// about to be pinned, until they are, restarts included, for [`KEPT_FOR_PIN`] at most. A daemon keeps what its own
    /// collections leave.
    async fn finish(self: Box<Self>, roots: &[Cid]) -> Result<(), Error>;
}

/// How long a node keeps blocks that were handed over and that nobody pins.
pub const KEPT_FOR: Duration = Duration::from_secs(600);

/// How long a node keeps content that is about to be pinned. The pin is recorded a moment later, but a node with a million
/// pins before it in its queue comes to it days later.
pub const KEPT_FOR_PIN: Duration = Duration::from_secs(7 * 24 * 3600);
