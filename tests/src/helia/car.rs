//! CAR files, made and read by @ipld/car.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context, ensure};
use node_core::Cid;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Added, Make, Tools, tools};

/// What a CAR file holds, as far as it could be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Report {
    /// 1 or 2; none when there is no header.
    pub version: Option<u64>,
    /// The roots that the header names.
    #[serde(deserialize_with = "super::cids")]
    pub roots: Vec<Cid>,
    /// The number of blocks.
    pub blocks: u64,
    /// Their sizes.
    pub bytes: u64,
    /// Their CIDs, in their order.
    #[serde(deserialize_with = "super::cids")]
    pub cids: Vec<Cid>,
    /// Those whose content is another's.
    #[serde(deserialize_with = "super::cids")]
    pub wrong: Vec<Cid>,
    /// Those whose hash @ipld's hashers don't know.
    #[serde(deserialize_with = "super::cids")]
    pub unchecked: Vec<Cid>,
    /// What the header or a block names and the file lacks.
    #[serde(deserialize_with = "super::cids")]
    pub missing: Vec<Cid>,
    /// Why reading ended before the end.
    pub error: Option<String>,
}

impl Report {
    /// Whether it is a CAR file with whole DAGs below its roots, and nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.error.is_none() && self.wrong.is_empty() && self.unchecked.is_empty() && self.missing.is_empty()
    }
}

/// Makes a CAR file of version 1 with one root: depth-first, parents before their children, each block once.
pub async fn make(what: &Make) -> anyhow::Result<(Vec<u8>, Added)> {
    let mut request = serde_json::to_value(what)?;
    run(move |tools| {
        let out = tempfile::NamedTempFile::new()?;
        request["out"] = json!(out.path());
        let added = answer(tools, &["make", &request.to_string()], &[])?;
        Ok((fs::read(out.path())?, added))
    })
    .await
}

/// Reads a CAR file of version 1 or 2. What is wrong with it is in the report.
pub async fn read(car: &[u8]) -> anyhow::Result<Report> {
    let car = car.to_vec();
    run(move |tools| answer(tools, &["read"], &car)).await
}

async fn run<T: Send + 'static>(work: impl FnOnce(&Tools) -> anyhow::Result<T> + Send + 'static) -> anyhow::Result<T> {
    // Processes are waited for, and packages may be installed.
    tokio::task::spawn_blocking(move || work(&tools()?)).await?
}

fn answer<T: DeserializeOwned>(tools: &Tools, arguments: &[&str], input: &[u8]) -> anyhow::Result<T> {
    // In a file: a pipe would have to be filled while the answer is read.
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(input)?;
    let output = tools
        .command("car.mjs")
        .args(arguments)
        .stdin(Stdio::from(file.reopen()?))
        .output()
        .context("cannot run Node.js")?;
    ensure!(
        output.status.success(),
        "car.mjs {} ended with {}:\n{}",
        arguments[0],
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}
