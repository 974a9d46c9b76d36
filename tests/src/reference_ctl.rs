//! The command line of IPFS Cluster 1.1.6, `ipfs-cluster-ctl`, as it is.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::ctl::Output;
use crate::kubo::ipfs_cluster_binaries;

/// How long a run may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The command with the address that it asks.
#[derive(Debug, Clone)]
pub struct ReferenceCtl {
    program: PathBuf,
    host: String,
    global: Vec<String>,
    credentials: Option<String>,
}

/// An address as this command takes it.
pub fn multiaddr(address: &str) -> anyhow::Result<String> {
    let address: SocketAddr = address.parse()?;
    Ok(format!("/ip4/{}/tcp/{}", address.ip(), address.port()))
}

impl ReferenceCtl {
    /// For these REST APIs, tried in their order. The program is built when it is missing.
    pub async fn new(addresses: &[&str]) -> anyhow::Result<Self> {
        let (_, program) = tokio::task::spawn_blocking(ipfs_cluster_binaries).await??;
        let hosts: Vec<String> = addresses
            .iter()
            .map(|address| multiaddr(address))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            program,
            host: hosts.join(","),
            global: Vec::new(),
            credentials: None,
        })
    }

    /// The same with these options before every command.
    pub fn with(mut self, options: &[&str]) -> Self {
        self.global.extend(options.iter().map(|option| (*option).to_owned()));
        self
    }

    /// The same with a user and a password in the environment.
    pub fn credentials(mut self, credentials: &str) -> Self {
        self.credentials = Some(credentials.to_owned());
        self
    }

    /// Runs it, with whatever exit code.
    pub async fn try_run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(&self.program);
        command
            .args(["--host", &self.host])
            .args(&self.global)
            .args(arguments)
            .env_remove("CLUSTER_CREDENTIALS")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if let Some(credentials) = &self.credentials {
            command.env("CLUSTER_CREDENTIALS", credentials);
        }
        let words = arguments.join(" ");
        let output = tokio::time::timeout(LIMIT, command.output())
            .await
            .with_context(|| format!("`ipfs-cluster-ctl {words}` did not end within {LIMIT:?}"))?
            .context("cannot run ipfs-cluster-ctl")?;
        Ok(Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs it; it must succeed. Returns its stdout.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.try_run(arguments).await?;
        ensure!(
            output.code == 0,
            "`ipfs-cluster-ctl {}` ended with {}: {}{}",
            arguments.join(" "),
            output.code,
            output.stdout,
            output.stderr
        );
        Ok(output.stdout)
    }

    /// Runs it with `--enc=json`; it must succeed. Returns the values that it printed one after the other.
    pub async fn json(&self, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
        let text = self.run(&[&["--enc=json"], arguments].concat()).await?;
        let values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
        let values: Result<Vec<Value>, _> = values.collect();
        values.with_context(|| format!("`ipfs-cluster-ctl {}` printed {text}", arguments.join(" ")))
    }

    /// Runs it with `--enc=json`; it must print one value.
    pub async fn one(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut values = self.json(arguments).await?;
        ensure!(values.len() == 1, "`{}` printed {values:?}", arguments.join(" "));
        values.pop().context("one value")
    }

    /// Runs it; it must end with this code. Returns all that it wrote.
    pub async fn fails(&self, code: i32, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.try_run(arguments).await?;
        ensure!(
            output.code == code,
            "`ipfs-cluster-ctl {}` ended with {} instead of {code}: {}{}",
            arguments.join(" "),
            output.code,
            output.stdout,
            output.stderr
        );
        Ok(output.stdout + &output.stderr)
    }
}
