//! Prints where the IPFS programs are that demo, tests and bench run, and builds what is missing. Needs Go then.

use clap::{Parser, ValueEnum};
use cluster_tests::kubo::{ipfs_cluster_binaries, kubo_binary};

/// Which programs.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Tool {
    /// `ipfs`, the node.
    Kubo,
    /// `ipfs-cluster-service` and `ipfs-cluster-ctl`, to be compared with.
    IpfsCluster,
}

/// Prints where IPFS programs are, after building what is missing.
#[derive(Parser)]
#[command(name = "ipfs-tools", version)]
struct Arguments {
    /// Which
    tool: Tool,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().tool {
        Tool::Kubo => println!("{}", kubo_binary()?.display()),
        Tool::IpfsCluster => {
            let (service, ctl) = ipfs_cluster_binaries()?;
            println!("{}\n{}", service.display(), ctl.display());
        }
    }
    Ok(())
}
