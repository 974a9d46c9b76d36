//! Client libraries of IPFS Cluster's REST API that nobody here wrote, as they come from npm and PyPI: a process of Node.js
//! or Python that calls their methods when it is told to. The scripts are in `tests/tools/clients`.

use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::binaries::repository;
use crate::json_lines::Process;
use crate::npm::Tools;
use crate::python;

/// How long a method may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The npm package `@nftstorage/ipfs-cluster` 5.0.1.
pub const NFT_STORAGE: &str = "nftstorage";
/// The npm package `ipfs-cluster-api` 0.0.9.
pub const IPFS_CLUSTER_API: &str = "ipfs-cluster-api";
/// The PyPI package `ipfscluster` 0.2.0.
pub const IPFS_CLUSTER: &str = "ipfscluster";
/// The PyPI package `asyncipfscluster` 0.1.2.
pub const ASYNC_IPFS_CLUSTER: &str = "asyncipfscluster";

/// A process with libraries.
pub struct Libraries {
    process: Process,
}

/// A client that one of them made.
pub struct ForeignClient<'a> {
    libraries: &'a Libraries,
    number: u64,
}

/// What a method threw.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Thrown {
    /// Its class.
    pub name: String,
    /// Its words.
    pub message: String,
    /// The status of the answer, where the library shows it.
    pub status: Option<u16>,
    /// The body of the answer, where the library shows it.
    pub body: Option<String>,
}

/// What a method gave.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// What it returned.
    Value(Value),
    /// What it threw.
    Thrown(Thrown),
}

/// The npm packages and a Node.js that runs them, installed when they are missing.
pub fn npm_tools() -> anyhow::Result<Tools> {
    static TOOLS: OnceLock<Result<Tools, String>> = OnceLock::new();
    let tools = TOOLS.get_or_init(|| Tools::install("clients", &["drive.mjs"]).map_err(|error| format!("{error:#}")));
    tools
        .clone()
        .map_err(|error| anyhow::anyhow!("the npm clients: {error}"))
}

impl Libraries {
    /// Those from npm, installed when they are missing.
    pub async fn npm() -> anyhow::Result<Self> {
        let tools = tokio::task::spawn_blocking(npm_tools).await??;
        Self::start(tools.command("drive.mjs")).await
    }

    /// Those from PyPI, installed when they are missing.
    pub async fn python() -> anyhow::Result<Self> {
        let python = tokio::task::spawn_blocking(|| python::environment("clients")).await?;
        let mut command = Command::new(python.context("the PyPI clients")?);
        command.arg(repository().join("tests/tools/clients/drive.py"));
        // A proxy of the machine knows no port of ours.
        for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        Self::start(command).await
    }

    async fn start(command: Command) -> anyhow::Result<Self> {
        let (process, _) = Process::start(command).await?;
        Ok(Self { process })
    }

    /// A client for this address.
    pub async fn open(&self, library: &str, address: &str) -> anyhow::Result<ForeignClient<'_>> {
        self.open_with(library, address, json!({})).await
    }

    /// The same with more of what the script takes: `headers`, or `auth` as a user and a password.
    pub async fn open_with(&self, library: &str, address: &str, more: Value) -> anyhow::Result<ForeignClient<'_>> {
        let mut request = more;
        request["library"] = json!(library);
        request["url"] = json!(format!("http://{address}/"));
        let answer = self.process.call("open", request, LIMIT).await?;
        let number = answer["client"].as_u64();
        Ok(ForeignClient {
            libraries: self,
            number: number.with_context(|| format!("{library} can't be opened: {answer}"))?,
        })
    }
}

impl ForeignClient<'_> {
    /// Calls a method, whatever comes of it.
    pub async fn call(&self, method: &str, args: Value) -> anyhow::Result<Outcome> {
        self.call_named(method, args, json!({})).await
    }

    /// The same with arguments by name, as Python has them.
    pub async fn call_named(&self, method: &str, args: Value, named: Value) -> anyhow::Result<Outcome> {
        ensure!(args.is_array(), "{method}: arguments are a list");
        let request = json!({ "client": self.number, "method": method, "args": args, "named": named });
        let answer = self.libraries.process.call("call", request, LIMIT).await?;
        Ok(serde_json::from_value(answer)?)
    }

    /// Calls a method that must return, and gives what.
    pub async fn gives(&self, method: &str, args: Value) -> anyhow::Result<Value> {
        match self.call(method, args).await? {
            Outcome::Value(value) => Ok(value),
            Outcome::Thrown(thrown) => bail!("{method} threw {thrown:?}"),
        }
    }

    /// Calls a method that must throw, and gives what.
    pub async fn throws(&self, method: &str, args: Value) -> anyhow::Result<Thrown> {
        match self.call(method, args).await? {
            Outcome::Value(value) => bail!("{method} returned {value}"),
            Outcome::Thrown(thrown) => Ok(thrown),
        }
    }
}

/// Bytes as the scripts take them, under the name of what they become: `$buffer`, `$blob`, `$file` or `$bytes`.
pub fn bytes(kind: &str, bytes: &[u8]) -> Value {
    json!({ kind: multibase::Base::Base64Pad.encode(bytes) })
}

/// A File of the browser with a name.
pub fn file(name: &str, content: &[u8]) -> Value {
    let mut file = bytes("$file", content);
    file["name"] = json!(name);
    file
}
