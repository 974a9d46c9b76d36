//! Prints where the IPFS programs are that demo, tests and bench run, and builds or installs what is missing. Needs
//! Go or npm then.

use clap::{Parser, ValueEnum};
use cluster_tests::kubo::{ipfs_cluster_binaries, kubo_binary};
use cluster_tests::{clients, helia, python};

/// Which programs.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Tool {
    /// `ipfs`, the node.
    Kubo,
    /// `ipfs-cluster-service` and `ipfs-cluster-ctl`, to be compared with, and to ask with.
    IpfsCluster,
    /// Helia, the JavaScript node, to be talked to: its Node.js and the folder of its scripts.
    Helia,
    /// The client libraries of IPFS Cluster's REST API, and schemathesis: the folder of the scripts, and the Pythons.
    Clients,
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
        Tool::Helia => {
            let tools = helia::tools()?;
            println!("{}\n{}", tools.node().display(), tools.scripts().display());
        }
        Tool::Clients => {
            let (libraries, fuzzer) = (python::environment("clients")?, python::environment("schemathesis")?);
            println!("{}", clients::npm_tools()?.scripts().display());
            println!("{}\n{}", libraries.display(), fuzzer.display());
        }
    }
    Ok(())
}
