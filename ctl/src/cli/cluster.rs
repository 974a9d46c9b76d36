//! `cluster-ctl peer|node|status|watch|settings …`

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::spec::{parse_duration, parse_pair};

/// What can be done with peers.
#[derive(Debug, Subcommand)]
pub enum PeerCommand {
    /// List the peers
    #[command(after_help = "Examples:\n  cluster-ctl peer ls")]
    Ls,
    /// Make a single-use token with which one new peer can join
    #[command(after_help = "\
The token alone is printed on stdout. It is shown once; the cluster keeps only its hash.

Examples:
  cluster-ctl peer join-token --valid-for 10m
  cluster-node init --join \"$(cluster-ctl peer join-token)\"")]
    JoinToken {
        /// How long it can be used
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_valid_for)]
        valid_for: Duration,
    },
    /// Remove a peer for good; it is refused from then on, and its nodes are gone
    #[command(after_help = "Examples:\n  cluster-ctl peer rm peer-c\n  cluster-ctl peer rm 12D3KooW…")]
    Rm {
        /// Peer ID, or name when only one peer has it
        peer: String,
    },
    /// Make a learner a voter
    #[command(after_help = "Examples:\n  cluster-ctl peer promote peer-d")]
    Promote {
        /// Peer ID, or name when only one peer has it
        peer: String,
    },
}

fn parse_valid_for(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        time if time < Duration::from_secs(1) => Err("at least 1s".into()),
        time if time > Duration::from_secs(7 * 24 * 3_600) => Err("at most 7d".into()),
        time => Ok(time),
    }
}

/// What can be done with storage nodes.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List the storage nodes with their queues
    #[command(after_help = "Examples:\n  cluster-ctl node ls\n  cluster-ctl node ls --output json")]
    Ls,
    /// Show everything that is known of a node
    #[command(after_help = "\
An embedded node tells of its blocks and pins, its disk and when intake stops, whom it is connected
to, what it fetches and from where, garbage, scrubbing, and how far behind its announcements are. Of
an attached daemon only version, addresses and the size of its repository are known. The peer that
drives the node is asked, whichever peer --api names.

Examples:
  cluster-ctl node show node-1
  cluster-ctl node show node-1 --output json | jq .embedded.announcing")]
    Show {
        /// Name or ID
        node: String,
    },
    /// Delete the blocks of an embedded node that nothing refers to
    #[command(after_help = "\
Embedded nodes collect by themselves when their disk fills; this frees the space now. Pins, adds and
reads go on beside it. What is pinned, or below a pin, stays. An interruption ends it: what was
deleted by then is gone, and the rest stays until the next time. An attached daemon collects with a
command of its own, `ipfs repo gc`.

Examples:
  cluster-ctl node gc node-1 --estimate
  cluster-ctl node gc node-1")]
    Gc(NodeGc),
    /// Attach a storage node to a peer
    #[command(after_help = "\
Examples:
  cluster-ctl node add kubo-3 http://10.0.0.3:5001 --tag zone=b --tag host=h3
  cluster-ctl node add kubo-4 /unix/run/kubo.sock --peer peer-b --auth-file /etc/pinfleet/kubo-4")]
    Add(NodeAdd),
    /// Take a node out for good; what only it held is placed elsewhere when possible
    #[command(after_help = "Examples:\n  cluster-ctl node drain kubo-3\n  cluster-ctl node rm kubo-3")]
    Rm {
        /// Name or ID
        node: String,
    },
    /// Place nothing new on a node; it keeps what it has
    #[command(after_help = "Examples:\n  cluster-ctl node cordon kubo-3")]
    Cordon {
        /// Name or ID
        node: String,
    },
    /// Make a cordoned or draining node active again
    #[command(after_help = "Examples:\n  cluster-ctl node uncordon kubo-3")]
    Uncordon {
        /// Name or ID
        node: String,
    },
    /// Empty a node: what it holds is placed elsewhere
    #[command(after_help = "Examples:\n  cluster-ctl node drain kubo-3")]
    Drain {
        /// Name or ID
        node: String,
    },
}

/// `node gc`
#[derive(Debug, Args)]
pub struct NodeGc {
    /// Name or ID
    pub node: String,
    /// Delete nothing; say what would be freed
    #[arg(long)]
    pub estimate: bool,
}

/// `node add`
#[derive(Debug, Args)]
pub struct NodeAdd {
    /// A new name
    pub name: String,
    /// Kubo's RPC as the driving peer reaches it: URL, multiaddr or unix socket
    pub address: String,
    /// The peer that shall drive it, ID or name [default: the peer asked]
    #[arg(long, value_name = "PEER")]
    pub peer: Option<String>,
    /// A fact such as zone=b that placement can look at; repeatable
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub tags: Vec<(String, String)>,
    /// Share relative to other nodes
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0, value_parser = parse_weight)]
    pub weight: f64,
    /// A file on the driving peer: one line, `bearer:TOKEN` or `basic:USER:PASSWORD`
    #[arg(long, value_name = "FILE")]
    pub auth_file: Option<String>,
}

fn parse_weight(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(weight) if weight.is_finite() && weight > 0.0 => Ok(weight),
        _ => Err("use a number above 0".into()),
    }
}

/// `status`
#[derive(Debug, Args)]
#[command(after_help = "\
ok: everything works. degraded: everything asked for is still done, but something needs attention.
failed: some of it can't be done now.

Examples:
  cluster-ctl status
  cluster-ctl status --check --quiet || alert")]
pub struct StatusArgs {
    /// Exit with 9 when the cluster is degraded or failed
    #[arg(long)]
    pub check: bool,
}

/// `watch`
#[derive(Debug, Args)]
#[command(after_help = "\
Runs until it is interrupted, and goes on at another peer when one is lost, without a gap.

Examples:
  cluster-ctl watch --namespace team-a
  cluster-ctl watch --after 120034 --output json")]
pub struct WatchArgs {
    /// Changes after this revision [default: from now on]
    #[arg(long, value_name = "REVISION")]
    pub after: Option<u64>,
    /// Only this namespace [default: all]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub namespace: String,
    /// End after so many changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
}

pub(super) const SETTINGS_HELP: &str = "\
Examples:
  cluster-ctl settings
  cluster-ctl settings set --replicas 3 --spread region,zone,host
  cluster-ctl settings set --no-spread";

/// What can be done with settings.
#[derive(Debug, Subcommand)]
pub enum SettingsCommand {
    /// Show the settings
    #[command(after_help = "Examples:\n  cluster-ctl settings show")]
    Show,
    /// Change settings; what is not named stays
    #[command(after_help = SETTINGS_HELP)]
    Set(SettingsSet),
}

/// `settings set`
#[derive(Debug, Args)]
#[command(
    override_usage = "cluster-ctl settings set [--replicas N | --min N --max N | --everywhere]\n                                [--spread TAG,… | --no-spread]"
)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true)
    .args(["replicas", "min", "max", "everywhere", "spread", "no_spread"])))]
pub struct SettingsSet {
    /// How many nodes hold a pin that does not say, no fewer and no more
    #[arg(long, short, value_name = "N", conflicts_with_all = ["min", "max", "everywhere"])]
    #[arg(value_parser = clap::value_parser!(i32).range(1..=1000))]
    pub replicas: Option<i32>,
    /// Fewest nodes that must take a pin that does not say
    #[arg(long, value_name = "N", conflicts_with = "everywhere", value_parser = clap::value_parser!(i32).range(1..=1000))]
    pub min: Option<i32>,
    /// Nodes that hold a pin that does not say
    #[arg(long, value_name = "N", conflicts_with = "everywhere", value_parser = clap::value_parser!(i32).range(1..=1000))]
    pub max: Option<i32>,
    /// Every node holds a pin that does not say
    #[arg(long)]
    pub everywhere: bool,
    /// Tags whose values are failure domains, widest first, at most 4
    #[arg(long, value_name = "TAG,…", value_delimiter = ',')]
    pub spread: Vec<String>,
    /// No failure domains any more
    #[arg(long, conflicts_with = "spread")]
    pub no_spread: bool,
}
