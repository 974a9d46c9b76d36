//! Large content through the proxy, both ways: the peer holds pieces of it and never the whole.

use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_tests::cluster::Cluster;
use cluster_tests::content::{fresh_bytes, sha256};
use futures::StreamExt as _;
use serde_json::Value;

use super::{BOUNDARY, Proxy, embedded, kubo};

const CONTENT_BYTES: usize = 100 << 20;

/// How much a peer may grow meanwhile.
const GROWTH_MAX: u64 = 64 << 20;

/// A line of `/proc/PID/status`, in bytes.
pub fn memory(pid: u32, line: &str) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let found = text
        .lines()
        .find_map(|text| text.strip_prefix(line))
        .context("no such line")?;
    let kib = found.trim().trim_end_matches("kB").trim();
    Ok(kib.parse::<u64>()? * 1024)
}

/// The most that a process has in RAM while something goes on.
pub async fn peak_while(pid: u32, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<u64> {
    tokio::pin!(work);
    let mut peak = 0;
    loop {
        peak = peak.max(memory(pid, "VmRSS:")?);
        tokio::select! {
            done = &mut work => return done.map(|()| peak),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
}

fn client() -> anyhow::Result<reqwest::Client> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(reqwest::Client::builder().no_proxy().tls_certs_only([]).build()?)
}

/// What a call answers, read piece by piece into what counts and hashes it.
async fn read(proxy: &Proxy, call: &str) -> anyhow::Result<Vec<u8>> {
    let answer = client()?
        .post(format!("http://{}/api/v0/{call}", proxy.0))
        .send()
        .await?;
    ensure!(answer.status().is_success(), "{}", answer.status());
    let mut pieces = answer.bytes_stream();
    let mut whole = Vec::new();
    while let Some(piece) = pieces.next().await {
        whole.extend_from_slice(&piece?);
    }
    Ok(whole)
}

/// One file, sent in pieces of unknown number.
async fn send(proxy: &Proxy, call: &str, content: &[u8]) -> anyhow::Result<String> {
    let head = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"large\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    let tail = format!("\r\n--{BOUNDARY}--\r\n");
    let mut pieces: Vec<Result<Vec<u8>, std::io::Error>> = vec![Ok(head.into_bytes())];
    pieces.extend(content.chunks(1 << 20).map(|piece| Ok(piece.to_vec())));
    pieces.push(Ok(tail.into_bytes()));
    let answer = client()?
        .post(format!("http://{}/api/v0/{call}", proxy.0))
        .header("content-type", format!("multipart/form-data; boundary={BOUNDARY}"))
        .body(reqwest::Body::wrap_stream(futures::stream::iter(pieces)))
        .send()
        .await?;
    ensure!(answer.status().is_success(), "{}", answer.status());
    Ok(answer.text().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_to_kubo_and_back() -> anyhow::Result<()> {
    let cluster = Cluster::start(kubo(1)).await?;
    let (proxy, pid) = (Proxy::of(&cluster, 0), cluster.peer(0).info().pid);
    let content = fresh_bytes(CONTENT_BYTES);
    let before = memory(pid, "VmRSS:")?;
    let peak = peak_while(pid, async {
        send(&proxy, "files/write?arg=/large&create=true&truncate=true", &content).await?;
        let back = read(&proxy, "files/read?arg=/large").await?;
        ensure!(sha256(&back) == sha256(&content), "{} bytes came back", back.len());
        Ok(())
    });
    let grown = peak.await?.saturating_sub(before);
    assert!(grown < GROWTH_MAX, "the peer grew by {grown} bytes");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_an_embedded_node() -> anyhow::Result<()> {
    let cluster = Cluster::start(embedded(1)).await?;
    let (proxy, pid) = (Proxy::of(&cluster, 0), cluster.peer(0).info().pid);
    let content = fresh_bytes(CONTENT_BYTES);
    let told = send(&proxy, "add?cid-version=1", &content).await?;
    let last: Value = serde_json::from_str(told.lines().last().context("a line")?)?;
    let cid = last["Hash"].as_str().context("a CID")?;
    // What the add itself holds is bounded elsewhere; reading comes on top of what is there now.
    let before = memory(pid, "VmRSS:")?;
    let peak = peak_while(pid, async {
        let back = read(&proxy, &format!("cat?arg={cid}")).await?;
        ensure!(sha256(&back) == sha256(&content), "{} bytes came back", back.len());
        let tar = read(&proxy, &format!("get?arg={cid}")).await?;
        ensure!(tar.len() > CONTENT_BYTES, "{} bytes of an archive", tar.len());
        Ok(())
    });
    let grown = peak.await?.saturating_sub(before);
    assert!(grown < GROWTH_MAX, "the peer grew by {grown} bytes");
    Ok(())
}
