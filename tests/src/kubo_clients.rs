//! Clients of Kubo's RPC that nobody here wrote, against any address that speaks it: the npm package `kubo-rpc-client` 7, and
//! Kubo's own command line.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::kubo::kubo_binary;
use crate::npm::Tools;

/// The scripts of `tests/tools/kubo-rpc-client`.
const SCRIPTS: [&str; 2] = ["drive.mjs", "gc.mjs"];

/// How long a run may take on a busy machine: some scripts make dozens of calls.
const LIMIT: Duration = Duration::from_secs(180);

/// Runs a script of `tests/tools/kubo-rpc-client` against `http://ADDRESS`, and returns its lines of JSON by their name.
pub async fn npm_client(script: &str, address: &str) -> anyhow::Result<serde_json::Map<String, Value>> {
    // Looks for packages and may install them, which blocks.
    let tools = tokio::task::spawn_blocking(|| Tools::install("kubo-rpc-client", &SCRIPTS)).await??;
    let ran = Command::from(tools.command(script))
        .arg(format!("http://{address}"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(LIMIT, ran).await;
    let output = output.context("the script did not end")?.context("cannot run node")?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(
        output.status.success(),
        "the script ended with {}:\n{out}\n{err}",
        output.status
    );
    let mut said = serde_json::Map::new();
    for line in out.lines() {
        let value: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        let name = value["name"].as_str().with_context(|| format!("no name: {line}"))?;
        said.insert(name.to_owned(), value["value"].clone());
    }
    Ok(said)
}

/// Kubo's own `ipfs` against an address.
pub struct Ipfs {
    api: String,
    /// `IPFS_PATH` without a repository, and where files are written.
    folder: tempfile::TempDir,
}

impl Ipfs {
    /// Against `127.0.0.1:PORT`.
    ///
    /// # Errors
    /// When it is another kind of address.
    pub fn new(address: &str) -> anyhow::Result<Self> {
        let port = address.strip_prefix("127.0.0.1:").context("an address on loopback")?;
        Ok(Self {
            api: format!("/ip4/127.0.0.1/tcp/{port}"),
            folder: tempfile::tempdir()?,
        })
    }

    /// Where it runs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs it, and returns how it ended with what it wrote.
    ///
    /// # Errors
    /// When it can't be run, or does not end.
    pub async fn try_run(&self, arguments: &[&str], input: &[u8]) -> anyhow::Result<std::process::Output> {
        let binary = tokio::task::spawn_blocking(kubo_binary).await??;
        let mut child = Command::new(binary)
            .arg("--api")
            .arg(&self.api)
            .args(arguments)
            .current_dir(self.folder.path())
            .env("IPFS_PATH", self.folder.path().join("no-repository"))
            .env("IPFS_TELEMETRY", "off")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot run ipfs")?;
        let mut stdin = child.stdin.take().context("a pipe was asked for")?;
        let input = input.to_vec();
        let feeding = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt as _;
            // Commands that read nothing may have ended.
            let _ = stdin.write_all(&input).await;
        });
        let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await;
        feeding.abort();
        output
            .with_context(|| format!("`ipfs {}` did not end", arguments.join(" ")))?
            .context("cannot run ipfs")
    }

    /// The same with a stdin, where it must end well. Gives its stdout.
    ///
    /// # Errors
    /// When it does not.
    pub async fn feed(&self, arguments: &[&str], input: &[u8]) -> anyhow::Result<Vec<u8>> {
        let output = self.try_run(arguments, input).await?;
        ensure!(
            output.status.success(),
            "`ipfs {}` ended with {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(output.stdout)
    }

    /// The same without a stdin, as text.
    ///
    /// # Errors
    /// When it does not end well.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.feed(arguments, b"").await?;
        Ok(String::from_utf8(output)?)
    }
}
