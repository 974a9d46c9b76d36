//! Where this peer stands: which cluster it belongs to, and under which number.
//!
//! A peer begins a cluster or joins one exactly once. The file that says so lies with the data: a disk that was lost
//! takes it along, and a peer that has a key and no standing begins nothing by itself. Otherwise a wiped peer would
//! come back under its old number and could make up a majority that never was.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use node_core::PeerId;
use serde::{Deserialize, Serialize};

/// What a peer is to its cluster. Only ever added to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// The cluster's name; empty while the peer that begins it has not yet named it.
    pub cluster_id: String,
    /// The peer's number in Raft.
    pub raft_id: u64,
    /// Raft has run under this number: a log that nobody ever ran on is then one that was lost, and with it how the peer
    /// voted.
    #[serde(default)]
    pub started: bool,
}

/// The file of the standing in the folder of the data.
fn file(cluster: &Path) -> PathBuf {
    cluster.join("standing.json")
}

/// Reads the standing; none when the peer has none yet.
pub fn read(cluster: &Path) -> anyhow::Result<Option<Standing>> {
    let path = file(cluster);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("{} can't be read", path.display())),
    };
    let standing = serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
    Ok(Some(standing))
}

/// Writes the standing, so that it is either wholly there after a crash or not at all.
pub fn write(cluster: &Path, standing: &Standing) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(standing)?;
    replace_file(&file(cluster), text.as_bytes())
}

/// A member as it is kept until the state names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptMember {
    peer: String,
    addresses: Vec<String>,
}

fn members_file(cluster: &Path) -> PathBuf {
    cluster.join("members.json")
}

/// The members that this peer was told when it joined; none when it began the cluster.
pub fn read_members(cluster: &Path) -> anyhow::Result<Vec<(PeerId, Vec<String>)>> {
    let path = members_file(cluster);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("{} can't be read", path.display())),
    };
    let damaged = || format!("{} is damaged", path.display());
    let kept: Vec<KeptMember> = serde_json::from_str(&text).with_context(damaged)?;
    kept.into_iter()
        .map(|member| Ok((member.peer.parse().with_context(damaged)?, member.addresses)))
        .collect()
}

/// Keeps the members that this peer was told. Before the standing: a peer that knows its number and nobody to listen to
/// would refuse everybody for ever.
pub fn write_members(cluster: &Path, members: &[(PeerId, Vec<String>)]) -> anyhow::Result<()> {
    let kept: Vec<_> = members
        .iter()
        .map(|(peer, addresses)| KeptMember {
            peer: peer.to_string(),
            addresses: addresses.clone(),
        })
        .collect();
    let text = serde_json::to_string_pretty(&kept)?;
    replace_file(&members_file(cluster), text.as_bytes())
}

/// Replaces a file atomically: written beside it, synced, renamed, and the folder synced.
pub fn replace_file(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    use std::io::Write;
    let folder = path.parent().context("a file without a folder")?;
    let mut beside = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("no file can be made in {}", folder.display()))?;
    beside.write_all(content)?;
    beside.as_file().sync_all()?;
    beside
        .persist(path)
        .with_context(|| format!("{} can't be replaced", path.display()))?;
    std::fs::File::open(folder)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standing_is_kept_and_a_damaged_one_is_said_to_be() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(read(folder.path()).expect("none"), None);
        let standing = Standing {
            cluster_id: "c".into(),
            raft_id: 7,
            started: true,
        };
        write(folder.path(), &standing).expect("written");
        assert_eq!(read(folder.path()).expect("read"), Some(standing));
        std::fs::write(file(folder.path()), "{").expect("written");
        assert!(
            read(folder.path())
                .expect_err("damaged")
                .to_string()
                .contains("is damaged")
        );
    }

    #[test]
    fn members_are_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(read_members(folder.path()).expect("none"), []);
        let peer = cluster_security::Identity::generate().peer_id();
        let members = vec![(peer, vec!["10.0.0.1:9096".to_owned()])];
        write_members(folder.path(), &members).expect("written");
        assert_eq!(read_members(folder.path()).expect("read"), members);
        std::fs::write(members_file(folder.path()), "[{\"peer\":\"x\",\"addresses\":[]}]").expect("written");
        assert!(read_members(folder.path()).is_err());
    }
}
