//! `cluster-ctl import` and `export`: pinsets of other clusters.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};
use node_core::PeerId;

use crate::spec::parse_pair;

pub(super) const IMPORT_HELP: &str = "\
FILE is what `ipfs-cluster-service state export` wrote, one pin a line. --from-url reads a cluster
that runs over its REST API, and keeps what it read in such a file first. Every field is taken over:
names, factors, metadata, origins, expiry, when a pin was made and what it was made from.

--map tells which storage node drives the IPFS daemon that a peer of the old cluster drove; pins then
stay where their content is. --from-url finds that out by itself, where the daemons of the old
cluster are storage nodes here already (`cluster-ctl node add`).

The same command goes on where an interrupted one ended. At the end the list is read again and
compared with the pinset, field by field; --verify-only does nothing but that. Exit code 7: something
was refused, is missing or differs.

Examples:
  ipfs-cluster-service state export -f pins.jsonl
  cluster-ctl import --from ipfs-cluster pins.jsonl --map 12D3KooWA…=kubo-1 --map 12D3KooWB…=kubo-2
  cluster-ctl import --from ipfs-cluster --from-url http://10.0.0.1:9094
  cluster-ctl import --from ipfs-cluster pins.jsonl --verify-only";

pub(super) const EXPORT_HELP: &str = "\
One pin a line, as `ipfs-cluster-service state export` writes them and `state import` reads them. Every
storage node is a peer there; --map gives it the ID of a peer of the other cluster. Where several
pins want one CID, the one without a slot is written, or else the first: the other cluster knows one.

For the content below a CID: `cluster-ctl get CID --car`.

Examples:
  cluster-ctl export --to ipfs-cluster pins.jsonl
  cluster-ctl export | gzip > pins.jsonl.gz";

/// A kind of cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Cluster {
    /// IPFS Cluster, version 1
    IpfsCluster,
}

/// What becomes of content that was added in shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Sharded {
    /// Refused, each with a word about it
    #[default]
    Refuse,
    /// One pin that holds it whole, on each of its nodes
    Whole,
}

/// `import`
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("source").required(true).args(["file", "from_url"])))]
pub struct ImportFrom {
    /// What kind of cluster the pins come from
    #[arg(long, value_enum)]
    pub from: Cluster,
    /// The list; `-` reads stdin, which can't be compared afterwards
    pub file: Option<PathBuf>,
    /// Read it from the REST API of a cluster that runs
    #[arg(long, value_name = "URL")]
    pub from_url: Option<String>,
    /// With --from-url: keep the list here [default: ipfs-cluster-HOST-PORT.jsonl]
    #[arg(long, value_name = "FILE", requires = "from_url")]
    pub list: Option<PathBuf>,
    /// With --from-url: a file with one line, `bearer:TOKEN` or `basic:USER:PASSWORD`
    #[arg(long, value_name = "FILE", requires = "from_url")]
    pub from_auth_file: Option<PathBuf>,
    /// This peer of the old cluster is that storage node; repeatable
    #[arg(long, value_name = "PEER_ID=NODE", value_parser = parse_member)]
    pub map: Vec<(PeerId, String)>,
    /// Whose pins they become [default: default]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub namespace: String,
    /// What becomes of content that was added in shards
    #[arg(long, value_enum, default_value_t)]
    pub sharded: Sharded,
    /// Record pins even when no node can take them now
    #[arg(long)]
    pub allow_unplaced: bool,
    /// Where progress is kept [default: FILE.progress; none for stdin]
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
    /// Begin at the top, whatever the journal says; with --from-url read the list anew
    #[arg(long)]
    pub restart: bool,
    /// Write refused lines with their reasons to this file
    #[arg(long, value_name = "FILE")]
    pub rejects: Option<PathBuf>,
    /// Do not compare the pinset with the list at the end
    #[arg(long)]
    pub no_verify: bool,
    /// Import nothing, only compare
    #[arg(long, conflicts_with_all = ["no_verify", "rejects", "journal"])]
    pub verify_only: bool,
    /// Write every difference to this file, one JSON object a line
    #[arg(long, value_name = "FILE", conflicts_with = "no_verify")]
    pub differences: Option<PathBuf>,
}

/// `export`
#[derive(Debug, Args)]
pub struct ExportTo {
    /// What kind of cluster it is for
    #[arg(long, value_enum, default_value = "ipfs-cluster")]
    pub to: Cluster,
    /// The file to write; `-` is stdout
    #[arg(default_value = "-", hide_default_value = true)]
    pub file: PathBuf,
    /// Whose pins [default: default]
    #[arg(long, value_name = "NAME", default_value = "default", hide_default_value = true)]
    pub namespace: String,
    /// This storage node is that peer of the other cluster; repeatable
    #[arg(long, value_name = "NODE=PEER_ID", value_parser = parse_node)]
    pub map: Vec<(String, PeerId)>,
    /// Replace a file that is there
    #[arg(long, short)]
    pub force: bool,
}

fn peer_id(text: &str) -> Result<PeerId, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is no peer ID; they begin with 12D3KooW or Qm"))
}

fn parse_member(text: &str) -> Result<(PeerId, String), String> {
    let (peer, node) = parse_pair(text)?;
    Ok((peer_id(&peer)?, node))
}

fn parse_node(text: &str) -> Result<(String, PeerId), String> {
    let (node, peer) = parse_pair(text)?;
    Ok((node, peer_id(&peer)?))
}
