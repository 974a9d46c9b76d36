//! The storage nodes of a cluster under test.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context;

use crate::binaries::binary;
use crate::fake_kubo::{FakeKubo, FakeOptions, Listen, PinKind};
use crate::kubo::KuboDaemon;
use crate::ports::free_address;

/// What the peers of a cluster drive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NodeKind {
    /// The node inside each peer.
    Embedded,
    /// A real Kubo daemon each.
    Kubo,
    /// A fake Kubo each, inside the test.
    #[default]
    Fake,
    /// A fake Kubo each, as a process of its own.
    FakeProcess,
    /// What is running already; dealt out to the peers in turn.
    Urls(Vec<String>),
    /// No storage node at all.
    None,
}

/// One storage node.
pub enum Node {
    /// The node inside a peer, and where other nodes reach it.
    Embedded(String),
    /// A real daemon.
    Kubo(Box<KuboDaemon>),
    /// A fake inside this process.
    Fake(FakeKubo),
    /// A fake as a process of its own.
    FakeProcess(FakeProcess),
    /// Somebody else's.
    Url(String),
}

/// A fake Kubo as a process. Killed when dropped.
pub struct FakeProcess {
    child: Child,
    address: String,
}

impl FakeProcess {
    /// Starts one at this address.
    pub fn start(listen: std::net::SocketAddr) -> anyhow::Result<Self> {
        let mut child = Command::new(binary("fake-kubo")?)
            .args(["--listen", &listen.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run fake-kubo")?;
        let mut line = String::new();
        let output = child.stdout.take().context("a pipe was asked for")?;
        BufReader::new(output).read_line(&mut line)?;
        let ready: serde_json::Value = serde_json::from_str(&line).context("fake-kubo did not start")?;
        let address = ready["address"].as_str().context("fake-kubo did not say its address")?;
        Ok(Self {
            address: address.to_owned(),
            child,
        })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its RPC.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for FakeProcess {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Node {
    /// Starts the node `name` with its state in `root/NAME`, at the address it had before when there is one.
    pub async fn start(kind: &NodeKind, root: &Path, name: &str, index: usize) -> anyhow::Result<Option<Self>> {
        let folder = root.join(name);
        Ok(Some(match kind {
            NodeKind::Embedded => {
                let port = address_of(&folder)?.port();
                Self::Embedded(format!("/ip4/127.0.0.1/tcp/{port}"))
            }
            NodeKind::Kubo => Self::Kubo(Box::new(KuboDaemon::start(&folder).await?)),
            NodeKind::Fake => {
                let options = FakeOptions {
                    listen: Listen::Tcp(address_of(&folder)?),
                    ..FakeOptions::default()
                };
                let fake = FakeKubo::start(options).await?;
                load_pins(&fake, &folder)?;
                Self::Fake(fake)
            }
            NodeKind::FakeProcess => Self::FakeProcess(FakeProcess::start(address_of(&folder)?)?),
            NodeKind::Urls(urls) => match urls.get(index) {
                Some(url) => Self::Url(url.clone()),
                None => return Ok(None),
            },
            NodeKind::None => return Ok(None),
        }))
    }

    /// Its RPC; of an embedded node, which has none, where other nodes connect.
    pub fn address(&self) -> &str {
        match self {
            Self::Embedded(address) => address,
            Self::Kubo(daemon) => daemon.address(),
            Self::Fake(fake) => fake.address(),
            Self::FakeProcess(fake) => &fake.address,
            Self::Url(url) => url,
        }
    }

    /// What it is, in the words of `up`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Embedded(_) => "embedded",
            Self::Kubo(_) => "kubo",
            Self::Fake(_) | Self::FakeProcess(_) => "fake",
            Self::Url(_) => "url",
        }
    }

    /// Its process, when it has one of its own.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Kubo(daemon) => daemon.pid(),
            Self::FakeProcess(fake) => Some(fake.pid()),
            Self::Embedded(_) | Self::Fake(_) | Self::Url(_) => None,
        }
    }

    /// Stops it in good order; what a fake holds is kept for the next start in the same folder.
    pub async fn stop(&mut self, root: &Path, name: &str) -> anyhow::Result<()> {
        match self {
            Self::Kubo(daemon) => daemon.stop().await,
            Self::Fake(fake) => {
                fake.down().await;
                save_pins(fake, &root.join(name))
            }
            // It stops with its peer.
            Self::Embedded(_) | Self::FakeProcess(_) | Self::Url(_) => Ok(()),
        }
    }
}

/// Lets every daemon know every other, so that they can fetch from each other.
pub async fn connect_all(nodes: &[(String, Node)]) -> anyhow::Result<()> {
    let daemons: Vec<_> = nodes
        .iter()
        .filter_map(|(_, node)| match node {
            Node::Kubo(daemon) => Some(daemon),
            _ => None,
        })
        .collect();
    for (at, daemon) in daemons.iter().enumerate() {
        for other in &daemons[..at] {
            daemon.connect(other).await?;
        }
    }
    Ok(())
}

fn address_of(folder: &Path) -> anyhow::Result<std::net::SocketAddr> {
    let file = folder.join("address");
    if let Ok(text) = fs::read_to_string(&file) {
        return Ok(text.trim().parse()?);
    }
    fs::create_dir_all(folder)?;
    let address = free_address()?;
    fs::write(file, address.to_string())?;
    Ok(address)
}

fn load_pins(fake: &FakeKubo, folder: &Path) -> anyhow::Result<()> {
    let Ok(text) = fs::read_to_string(folder.join("pins")) else {
        return Ok(());
    };
    for line in text.lines() {
        let mut parts = line.splitn(3, ' ');
        let cid = parts.next().unwrap_or_default();
        let kind = parts.next().context("a line of saved pins is CID KIND NAME")?;
        let name = parts.next().unwrap_or_default();
        let kind = if kind == "direct" {
            PinKind::Direct
        } else {
            PinKind::Recursive
        };
        fake.pin_by_hand_as(&cid.parse()?, kind, name);
    }
    Ok(())
}

fn save_pins(fake: &FakeKubo, folder: &Path) -> anyhow::Result<()> {
    use std::fmt::Write;
    let mut text = String::new();
    for (cid, kind) in fake.pins() {
        let kind = if kind == PinKind::Direct { "direct" } else { "recursive" };
        let name = fake.pin_name(&cid).unwrap_or_default();
        writeln!(text, "{cid} {kind} {name}")?;
    }
    Ok(fs::write(folder.join("pins"), text)?)
}
