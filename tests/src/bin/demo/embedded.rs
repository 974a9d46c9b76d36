//! The story without any daemon: content goes straight into the cluster, and comes back from it.

use std::path::Path;

use anyhow::{Context, ensure};
use cluster_tests::cluster::Cluster;
use cluster_tests::content::fresh_bytes;
use cluster_tests::ctl::Ctl;
use node_core::Cid;

use crate::kubo::Prepared;
use crate::{Asked, Story};

/// A file and a folder.
pub async fn first(story: &mut Story, ctl: &Ctl, size: usize) -> anyhow::Result<Vec<Asked>> {
    let folder = tempfile::tempdir()?;
    let bytes = fresh_bytes(size);
    let file = folder.path().join("file");
    std::fs::write(&file, &bytes)?;
    let tree = folder.path().join("tree");
    std::fs::create_dir(&tree)?;
    for name in ["one", "two", "three"] {
        std::fs::write(tree.join(name), fresh_bytes(100 << 10))?;
    }
    let file = Asked {
        cid: put(ctl, &file, "demo-file").await?,
        bytes: Some(bytes),
    };
    let tree = Asked {
        cid: put(ctl, &tree, "demo-folder").await?,
        bytes: None,
    };
    story.done(&format!(
        "`cluster-ctl add --replicas 2 --wait` took a file of {} MiB and a folder of three files; both are pinned",
        size >> 20
    ));
    Ok(vec![file, tree])
}

/// Makes so many small files.
pub fn prepare(count: usize) -> anyhow::Result<Vec<Prepared>> {
    Ok((0..count).map(|_| Prepared::Bytes(fresh_bytes(512 << 10))).collect())
}

/// Adds a file.
pub async fn add(ctl: &Ctl, content: Prepared, name: &str) -> anyhow::Result<Asked> {
    let Prepared::Bytes(bytes) = content else {
        anyhow::bail!("there are no bytes to add");
    };
    let folder = tempfile::tempdir()?;
    let file = folder.path().join(name);
    std::fs::write(&file, &bytes)?;
    Ok(Asked {
        cid: put(ctl, &file, name).await?,
        bytes: Some(bytes),
    })
}

async fn put(ctl: &Ctl, path: &Path, name: &str) -> anyhow::Result<Cid> {
    let path = path.to_str().context("the path is no text")?;
    let line = [
        "add",
        path,
        "--name",
        name,
        "--replicas",
        "2",
        "--wait",
        "--cid-only",
        "--quiet",
    ];
    let printed = ctl.run(&line).await?;
    Ok(printed.trim().parse()?)
}

/// Every peer gives the bytes back; and over HTTP, where a node serves only what it has itself, exactly the holders do.
pub async fn verify(cluster: &Cluster, asked: &Asked, holders: &[String]) -> anyhow::Result<()> {
    let cid = asked.cid.to_string();
    for (index, peer) in cluster.peers().iter().enumerate().filter(|(_, peer)| peer.runs()) {
        if let Some(bytes) = &asked.bytes {
            let back = Ctl::new(peer.info().grpc.clone())?.bytes(&["cat", &cid]).await?;
            ensure!(back == *bytes, "{} gave other bytes back for {cid}", peer.name());
        }
        let (name, _) = &cluster.nodes()[index];
        let url = format!("{}/ipfs/{cid}?format=raw", cluster.gateway(index)?);
        let status = reqwest::get(url).await?.status().as_u16();
        let holds = holders.contains(name);
        ensure!(
            (status == 200) == holds,
            "the gateway of {name} answers {status} for {cid}, which it {} hold",
            if holds { "shall" } else { "shall not" }
        );
    }
    Ok(())
}
