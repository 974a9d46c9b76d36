//! `up` and the demo as they are run: one JSON line, a cluster that works, and nothing left behind.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_tests::binaries::binary;
use cluster_tests::client::{Client, pin_replicas};
use cluster_tests::content::cid;
use cluster_tests::wait::wait_until;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};

/// A cluster on a busy machine takes a while to start.
const LIMIT: Duration = Duration::from_secs(90);

struct Up {
    child: Child,
    /// Kept open: a closed pipe would be a reason to end.
    _stdout: BufReader<ChildStdout>,
    said: Value,
}

async fn up(arguments: &[&str]) -> anyhow::Result<Up> {
    let mut child = Command::new(binary("up")?)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdout = BufReader::new(child.stdout.take().context("a pipe")?);
    let mut line = String::new();
    tokio::time::timeout(LIMIT, stdout.read_line(&mut line))
        .await
        .context("it is never ready")??;
    let said = serde_json::from_str(&line).with_context(|| format!("{line:?} is no JSON"))?;
    Ok(Up {
        child,
        _stdout: stdout,
        said,
    })
}

impl Up {
    fn peers(&self) -> &[Value] {
        self.said["peers"].as_array().map_or(&[], Vec::as_slice)
    }

    fn client(&self, at: usize) -> anyhow::Result<Client> {
        Client::new(self.peers()[at]["grpc"].as_str().context("an address")?, LIMIT)
    }

    /// All processes that it named.
    fn processes(&self) -> Vec<Pid> {
        let nodes = self.said["nodes"].as_array().map_or(&[][..], Vec::as_slice);
        let pids = self.peers().iter().chain(nodes).filter_map(|one| one["pid"].as_i64());
        pids.filter_map(|pid| Pid::from_raw(pid as i32)).collect()
    }

    /// SIGTERM; nothing may be left.
    async fn stop(mut self) -> anyhow::Result<()> {
        let pid = self
            .child
            .id()
            .and_then(|pid| Pid::from_raw(pid as i32))
            .context("it runs")?;
        let processes = self.processes();
        ensure!(
            processes.len() >= self.peers().len(),
            "each peer has a process: {}",
            self.said
        );
        kill_process(pid, Signal::TERM)?;
        let status = tokio::time::timeout(LIMIT, self.child.wait())
            .await
            .context("it does not end")??;
        ensure!(status.success(), "it ended with {status}");
        for process in processes {
            ensure!(test_kill_process(process).is_err(), "{process:?} is still there");
        }
        Ok(())
    }
}

fn fields(said: &Value) -> anyhow::Result<()> {
    let peers = said["peers"].as_array().context("peers")?;
    for peer in peers {
        for key in [
            "id", "name", "grpc", "rest", "proxy", "pinning", "metrics", "peer", "config",
        ] {
            ensure!(
                peer[key].as_str().is_some_and(|text| !text.is_empty()),
                "{key} of {peer}"
            );
        }
        ensure!(
            Path::new(peer["config"].as_str().unwrap_or_default()).is_file(),
            "{peer}"
        );
    }
    for node in said["nodes"].as_array().context("nodes")? {
        ensure!(
            node["address"].as_str().is_some_and(|text| text.starts_with("http")),
            "{node}"
        );
        ensure!(peers.iter().any(|peer| peer["id"] == node["peer"]), "{node}");
    }
    Ok(())
}

#[tokio::test]
async fn up_runs_until_it_is_told_and_keeps_its_folder() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("kept").display().to_string();
    let arguments = [
        "--peers",
        "3",
        "--node",
        "fake",
        "--dir",
        &dir,
        "--set",
        "raft.heartbeat=100ms",
    ];
    let first = up(&arguments).await?;
    fields(&first.said)?;
    assert_eq!(first.peers().len(), 3);
    let ids: Vec<_> = first.peers().iter().map(|peer| peer["id"].clone()).collect();
    let config = std::fs::read_to_string(first.peers()[0]["config"].as_str().context("a file")?)?;
    ensure!(config.contains("100ms"), "{config}");
    let client = first.client(1)?;
    client.pin_as(pin_replicas(&cid(1), 2)).await?;
    wait_until("it is pinned", LIMIT, async || client.pinned_on(&cid(1), 2).await).await?;
    first.stop().await?;

    let second = up(&arguments).await?;
    let again: Vec<_> = second.peers().iter().map(|peer| peer["id"].clone()).collect();
    assert_eq!(again, ids, "the same peers");
    let client = second.client(2)?;
    wait_until("it is pinned as before", LIMIT, async || {
        client.pinned_on(&cid(1), 2).await
    })
    .await?;
    second.stop().await
}

/// A signal before it is ready ends it as well.
#[tokio::test]
async fn up_that_is_stopped_early_leaves_nothing() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("early");
    let mut child = Command::new(binary("up")?)
        .args(["--node", "fake", "--dir"])
        .arg(&dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let log = dir.join("peer-1.log");
    wait_until("a peer was started", LIMIT, async || {
        ensure!(log.is_file(), "there is no log yet");
        Ok(())
    })
    .await?;
    let pid = child
        .id()
        .and_then(|pid| Pid::from_raw(pid as i32))
        .context("it runs")?;
    kill_process(pid, Signal::TERM)?;
    tokio::time::timeout(LIMIT, child.wait())
        .await
        .context("it does not end")??;
    let dir = std::fs::canonicalize(&dir)?;
    for entry in std::fs::read_dir("/proc")? {
        let command = std::fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        ensure!(!command.contains(&*dir.to_string_lossy()), "{command:?} is still there");
    }
    Ok(())
}

/// The README's first command, over real Kubo.
#[tokio::test]
async fn the_demo_succeeds() -> anyhow::Result<()> {
    let demo = Command::new(binary("demo")?)
        .args(["--size", "2"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(240), demo)
        .await
        .context("it does not end")??;
    ensure!(
        output.status.success(),
        "{}:\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
