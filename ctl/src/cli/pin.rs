//! `cluster-ctl pin …`

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use node_core::{ErrorClass, PinMode, Replication, Status, Timestamp};

use crate::spec::{Expiry, Spec, parse_duration, parse_pair, parse_time};

/// What can be done with pins.
#[derive(Debug, Subcommand)]
pub enum PinCommand {
    /// Record pins; the nodes fetch the content afterwards
    #[command(after_help = ADD_HELP)]
    Add(AddArgs),
    /// Remove pins; nodes let go of content that no other pin wants
    #[command(after_help = RM_HELP)]
    Rm(RmArgs),
    /// Pin a CID with the options and on the nodes of an existing pin
    #[command(after_help = UPDATE_HELP)]
    Update(UpdateArgs),
    /// List pins as recorded
    #[command(after_help = LS_HELP)]
    Ls(LsArgs),
    /// Show what the nodes say of pins
    #[command(after_help = STATUS_HELP)]
    Status(StatusArgs),
    /// Show why a CID is held where it is, or where it would go
    #[command(after_help = EXPLAIN_HELP)]
    Explain(ExplainArgs),
    /// Let nodes try again at once what they gave up or wait to retry
    #[command(after_help = RECOVER_HELP)]
    Recover(RecoverArgs),
    /// Pin a long list in one stream, with progress, resumable
    #[command(after_help = IMPORT_HELP)]
    Import(ImportArgs),
}

const ADD_HELP: &str = "\
Without --wait the command ends when the pin is recorded, which means synced to disk on a majority
of the voters. Follow the content with `cluster-ctl pin status CID`.

Examples:
  cluster-ctl pin add bafybei… --name photos --replicas 3
  cluster-ctl pin add bafybei… --meta owner=ann --expire-in 30d --wait
  cluster-ctl pin add --from cids.txt --namespace team-a
  ipfs refs -r bafybei… | cluster-ctl pin add - --mode direct";

const RM_HELP: &str = "\
Examples:
  cluster-ctl pin rm bafybei…
  cluster-ctl pin rm --from old.txt --ignore-missing --wait";

const UPDATE_HELP: &str = "\
Nodes that hold FROM fetch only what differs. The pin of FROM stays unless --unpin is given.

Examples:
  cluster-ctl pin update bafyold… bafynew… --unpin --wait";

const LS_HELP: &str = "\
All filters given must hold. A long list comes as it is read, in bounded memory on both sides.

Examples:
  cluster-ctl pin ls --name photos --meta owner=ann
  cluster-ctl pin ls --node kubo-3 --limit 100
  cluster-ctl pin ls --namespace team-a --count
  cluster-ctl pin ls --output json > backup.jsonl";

const STATUS_HELP: &str = "\
Words: queued, pinning, pinned, retrying, gave_up, unpinning, unreachable (the peer of the node
does not answer), unplaced (no node can take it yet). The state of the whole is pinned when at
least the smallest number of nodes asked for hold it.

Examples:
  cluster-ctl pin status bafybei…
  cluster-ctl pin status --filter gave_up,retrying --detail
  cluster-ctl pin status --node kubo-3 --filter queued --limit 20";

const EXPLAIN_HELP: &str = "\
The options are used when the CID is not pinned yet.

Examples:
  cluster-ctl pin explain bafybei…
  cluster-ctl pin explain bafybei… --replicas 5 --node kubo-3";

const RECOVER_HELP: &str = "\
Without --status, what gave up and what waits to be retried is tried again.

Examples:
  cluster-ctl pin recover bafybei…
  cluster-ctl pin recover --node kubo-3
  cluster-ctl pin recover --from cids.txt --status retrying
  cluster-ctl pin recover --all --status gave_up --class not_found";

const IMPORT_HELP: &str = "\
A line is `CID` or `CID NAME`, or a JSON object: the fields of `pin ls --output json`, or a line
of `ipfs-cluster-service state export`. Empty lines and lines that begin with # are passed over.
What a line does not say is taken from the options.

The journal (FILE.progress) says how far the cluster has acknowledged. After an interruption the
same command goes on from there; at the end the journal is removed. Pinning again what is pinned
changes nothing, so a line sent twice does no harm. Refused lines are counted, shown, and kept with
--rejects in a form that can be corrected and imported.

Examples:
  cluster-ctl pin import cids.txt --replicas 2 --rejects refused.txt
  ipfs-cluster-service state export | cluster-ctl pin import - --namespace old-cluster";

/// How much of the graph is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Mode {
    /// The CID and everything it links to
    #[default]
    Recursive,
    /// The one block only
    Direct,
}

/// What can be chosen about a pin.
#[derive(Debug, Args, Default)]
pub struct OptionArgs {
    /// Free text to find it by
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
    /// How many nodes shall hold it, no fewer and no more
    #[arg(long, short, value_name = "N", value_parser = replicas, conflicts_with_all = ["min", "max", "everywhere"])]
    pub replicas: Option<i32>,
    /// Fewest nodes that must take it [default: the cluster's]
    #[arg(long, value_name = "N", value_parser = replicas, conflicts_with = "everywhere")]
    pub min: Option<i32>,
    /// Nodes that shall hold it [default: the cluster's]
    #[arg(long, value_name = "N", value_parser = replicas, conflicts_with = "everywhere")]
    pub max: Option<i32>,
    /// Every node shall hold it, present and future
    #[arg(long)]
    pub everywhere: bool,
    /// How much of the graph is held
    #[arg(long, value_enum, default_value_t)]
    pub mode: Mode,
    /// Name or ID of a node to use first; repeatable
    #[arg(long = "node", value_name = "NODE")]
    pub nodes: Vec<String>,
    /// A pair to find it by; repeatable
    #[arg(long = "meta", value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub metadata: Vec<(String, String)>,
    /// Multiaddr (with /p2p/) of an IPFS node that has the content; repeatable
    #[arg(long = "origin", value_name = "MULTIADDR")]
    pub origins: Vec<String>,
    /// The pin goes by itself after this time, for example 12h or 30d
    #[arg(long, value_name = "TIME", value_parser = parse_duration, conflicts_with = "expire_at")]
    pub expire_in: Option<Duration>,
    /// The pin goes by itself at this moment, RFC 3339
    #[arg(long, value_name = "MOMENT", value_parser = parse_time)]
    pub expire_at: Option<Timestamp>,
}

fn replicas(text: &str) -> Result<i32, String> {
    match text.parse() {
        Ok(number @ 1..=1_000) => Ok(number),
        _ => Err("use 1 to 1000; --everywhere asks for every node".into()),
    }
}

impl OptionArgs {
    /// What was chosen.
    pub fn spec(&self) -> Spec {
        let replication = match (self.everywhere, self.replicas) {
            (true, _) => Replication::EVERYWHERE,
            (false, Some(both)) => Replication { min: both, max: both },
            (false, None) => Replication {
                min: self.min.unwrap_or(0),
                max: self.max.unwrap_or(0),
            },
        };
        Spec {
            name: self.name.clone().unwrap_or_default(),
            mode: match self.mode {
                Mode::Recursive => PinMode::Recursive,
                Mode::Direct => PinMode::Direct,
            },
            replication,
            nodes: self.nodes.clone(),
            metadata: self.metadata.iter().cloned().collect(),
            origins: self.origins.clone(),
            expiry: self.expire_in.map(Expiry::In).or(self.expire_at.map(Expiry::At)),
            ..Spec::default()
        }
    }
}

/// Waiting for the nodes.
#[derive(Debug, Args, Default)]
pub struct WaitArgs {
    /// Wait until the nodes have done it, showing their progress
    #[arg(long, short)]
    pub wait: bool,
    /// How long to wait at most [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "wait")]
    pub wait_timeout: Option<Duration>,
}

/// `pin add`
#[derive(Debug, Args)]
pub struct AddArgs {
    /// What to pin; `-` reads CIDs from stdin, one a line
    #[arg(value_name = "CID", required_unless_present = "from")]
    pub cids: Vec<String>,
    /// Read CIDs from a file, one a line
    #[arg(long, value_name = "FILE", conflicts_with = "cids")]
    pub from: Option<PathBuf>,
    /// What can be chosen.
    #[command(flatten)]
    pub options: OptionArgs,
    /// Whose pin it is [default: default]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub namespace: String,
    /// Tells several pins of one CID in one namespace apart
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub slot: String,
    /// Record the pin even when no node can take it now
    #[arg(long)]
    pub allow_unplaced: bool,
    /// Waiting.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// `pin rm`
#[derive(Debug, Args)]
pub struct RmArgs {
    /// What to unpin; `-` reads CIDs from stdin, one a line
    #[arg(value_name = "CID", required_unless_present = "from")]
    pub cids: Vec<String>,
    /// Read CIDs from a file, one a line
    #[arg(long, value_name = "FILE", conflicts_with = "cids")]
    pub from: Option<PathBuf>,
    /// Whose pin it is [default: default]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub namespace: String,
    /// The slot of the pin
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub slot: String,
    /// What is not pinned is no error
    #[arg(long)]
    pub ignore_missing: bool,
    /// Waiting until no node holds it.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// `pin update`
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// The pinned CID whose options and nodes are taken over
    pub from: String,
    /// The CID to pin
    pub to: String,
    /// Replaces the name
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
    /// The pin goes by itself after this time
    #[arg(long, value_name = "TIME", value_parser = parse_duration, conflicts_with = "expire_at")]
    pub expire_in: Option<Duration>,
    /// The pin goes by itself at this moment, RFC 3339
    #[arg(long, value_name = "MOMENT", value_parser = parse_time)]
    pub expire_at: Option<Timestamp>,
    /// Unpin FROM in the same step
    #[arg(long)]
    pub unpin: bool,
    /// Whose pin it is [default: default]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub namespace: String,
    /// The slot of the pin
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub slot: String,
    /// Waiting.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// `pin ls`
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Only these CIDs; `-` reads them from stdin, one a line
    #[arg(value_name = "CID")]
    pub cids: Vec<String>,
    /// Read CIDs from a file, one a line
    #[arg(long, value_name = "FILE", conflicts_with = "cids")]
    pub from: Option<PathBuf>,
    /// Only this namespace [default: all]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub namespace: String,
    /// Names that begin with this text
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    pub name: String,
    /// Only pins with this pair; repeatable
    #[arg(long = "meta", value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub metadata: Vec<(String, String)>,
    /// Only what this node shall hold; name or ID
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Recorded after this moment, RFC 3339
    #[arg(long, value_name = "MOMENT", value_parser = parse_time)]
    pub created_after: Option<Timestamp>,
    /// Recorded before this moment, RFC 3339
    #[arg(long, value_name = "MOMENT", value_parser = parse_time)]
    pub created_before: Option<Timestamp>,
    /// Expires before this moment, RFC 3339
    #[arg(long, value_name = "MOMENT", value_parser = parse_time)]
    pub expires_before: Option<Timestamp>,
    /// Only pins that lack nodes
    #[arg(long)]
    pub unplaced: bool,
    /// At most so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Go on behind the cursor that an earlier list ended with
    #[arg(long, value_name = "CURSOR", default_value = "", hide_default_value = true)]
    pub cursor: String,
    /// Only count them
    #[arg(long)]
    pub count: bool,
    /// See every write acknowledged before; needs a majority
    #[arg(long)]
    pub linearizable: bool,
}

/// `pin status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Only these CIDs; `-` reads them from stdin, one a line
    #[arg(value_name = "CID")]
    pub cids: Vec<String>,
    /// Read CIDs from a file, one a line
    #[arg(long, value_name = "FILE", conflicts_with = "cids")]
    pub from: Option<PathBuf>,
    /// CIDs that at least one node reports in one of these states
    #[arg(long, value_name = "STATUS,…", value_delimiter = ',', value_parser = parse_status)]
    pub filter: Vec<Status>,
    /// Only this namespace [default: all]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub namespace: String,
    /// Only what this node shall hold; name or ID
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// A line for every node of every CID
    #[arg(long)]
    pub detail: bool,
    /// At most so many CIDs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Go on behind the cursor that an earlier list ended with
    #[arg(long, value_name = "CURSOR", default_value = "", hide_default_value = true)]
    pub cursor: String,
}

/// `pin explain`
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The CID in question
    pub cid: String,
    /// What would be chosen.
    #[command(flatten)]
    pub options: OptionArgs,
}

/// `pin recover`
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("which").required(true).multiple(true).args(["cids", "from", "node", "all"])))]
pub struct RecoverArgs {
    /// Only these CIDs; `-` reads them from stdin, one a line
    #[arg(value_name = "CID", conflicts_with = "all")]
    pub cids: Vec<String>,
    /// Read CIDs from a file, one a line
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cids", "all"])]
    pub from: Option<PathBuf>,
    /// Only this node; name or ID
    #[arg(long, value_name = "NODE", conflicts_with = "all")]
    pub node: Option<String>,
    /// Everything on every node
    #[arg(long)]
    pub all: bool,
    /// Only entries in these states
    #[arg(long, value_name = "STATUS,…", value_delimiter = ',', value_parser = parse_recoverable)]
    pub status: Vec<Status>,
    /// Only entries whose last error is of this class
    #[arg(long, value_name = "CLASS", value_parser = parse_class)]
    pub class: Option<ErrorClass>,
}

/// What the lines of an import look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ImportFormat {
    /// Each line by its first character
    #[default]
    Auto,
    /// `CID` or `CID NAME`
    Lines,
    /// One JSON object a line
    Json,
}

/// `pin import`
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The list; `-` reads stdin
    pub file: PathBuf,
    /// What the lines look like
    #[arg(long, value_enum, default_value_t)]
    pub format: ImportFormat,
    /// What can be chosen, for lines that do not say otherwise.
    #[command(flatten)]
    pub options: OptionArgs,
    /// Whose pins they are [default: default]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub namespace: String,
    /// The slot of the pins
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub slot: String,
    /// Record pins even when no node can take them now
    #[arg(long)]
    pub allow_unplaced: bool,
    /// Where progress is kept [default: FILE.progress; none for stdin]
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
    /// Begin at the top, whatever the journal says
    #[arg(long)]
    pub restart: bool,
    /// Write refused lines with their reasons to this file
    #[arg(long, value_name = "FILE")]
    pub rejects: Option<PathBuf>,
}

fn words(all: impl Iterator<Item = &'static str>) -> String {
    all.collect::<Vec<_>>().join(", ")
}

fn parse_status(text: &str) -> Result<Status, String> {
    let known = || format!("use one of {}", words(Status::ALL.into_iter().map(Status::as_str)));
    Status::parse(&text.trim().to_ascii_lowercase()).ok_or_else(known)
}

fn parse_recoverable(text: &str) -> Result<Status, String> {
    match parse_status(text)? {
        status @ (Status::GaveUp | Status::Retrying | Status::Unpinning) => Ok(status),
        _ => Err("only gave_up, retrying and unpinning can be tried again".into()),
    }
}

fn parse_class(text: &str) -> Result<ErrorClass, String> {
    let known = || {
        format!(
            "use one of {}",
            words(ErrorClass::ALL.into_iter().map(ErrorClass::as_str))
        )
    };
    ErrorClass::parse(&text.trim().to_ascii_lowercase()).ok_or_else(known)
}
