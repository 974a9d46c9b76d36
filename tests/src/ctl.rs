//! `cluster-ctl` as a user runs it.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::binaries::binary;

/// How long a run may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The command with the addresses that it asks.
#[derive(Debug, Clone)]
pub struct Ctl {
    program: PathBuf,
    api: String,
}

/// What a run gave, with stdout as bytes.
struct RawOutput {
    code: i32,
    stdout: Vec<u8>,
    stderr: String,
}

/// What a run gave.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit code; -1 when it was killed.
    pub code: i32,
    /// Data.
    pub stdout: String,
    /// Everything else.
    pub stderr: String,
}

impl Ctl {
    /// For these addresses, separated by commas.
    pub fn new(api: impl Into<String>) -> anyhow::Result<Self> {
        Ok(Self {
            program: binary("cluster-ctl")?,
            api: api.into(),
        })
    }

    /// Runs it, with whatever exit code.
    pub async fn try_run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let RawOutput { code, stdout, stderr } = self.raw(arguments).await?;
        Ok(Output {
            code,
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr,
        })
    }

    async fn raw(&self, arguments: &[&str]) -> anyhow::Result<RawOutput> {
        let child = Command::new(&self.program)
            .args(["--api", &self.api])
            .args(arguments)
            .env_remove("PINFLEET_API")
            .env_remove("PINFLEET_TOKEN")
            .env_remove("PINFLEET_TOKEN_FILE")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(LIMIT, child)
            .await
            .with_context(|| format!("`cluster-ctl {}` did not end within {LIMIT:?}", arguments.join(" ")))?
            .context("cannot run cluster-ctl")?;
        Ok(RawOutput {
            code: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs it; it must succeed. Returns what it wrote, which may be no text.
    pub async fn bytes(&self, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
        let output = self.raw(arguments).await?;
        ensure!(
            output.code == 0,
            "`cluster-ctl {}` ended with {}: {}",
            arguments.join(" "),
            output.code,
            output.stderr
        );
        Ok(output.stdout)
    }

    /// Runs it; it must succeed. Returns its stdout.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.try_run(arguments).await?;
        ensure!(
            output.code == 0,
            "`cluster-ctl {}` ended with {}: {}{}",
            arguments.join(" "),
            output.code,
            output.stdout,
            output.stderr
        );
        Ok(output.stdout)
    }

    /// Runs it with `--output json`; it must succeed. Returns the objects.
    pub async fn json(&self, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
        let text = self.run(&[&["--output", "json"], arguments].concat()).await?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}
