//! One add.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster_content::{AddOptions, AddedEntry, Adder, CarImporter, ContentError, Entry, NullSink, Progress, Sink};
use cluster_proto::peer::v1::Verdict;
use node_core::command::PinOutcome;
use node_core::{Cid, ErrorClass, Namespace, NodeId, PinKey, PinOptions, RequestId};

use super::targets::{Held, Open, Targets};
use crate::service::{Error, PinView, PinWish, Pins};

/// What is to be added, and as what it is pinned.
#[derive(Debug, Clone)]
pub struct AddWish {
    /// Whose pin it becomes.
    pub namespace: Namespace,
    /// Which of the pins of its CID.
    pub slot: String,
    /// How it is pinned.
    pub options: PinOptions,
    /// Makes repetition of the pin safe.
    pub request_id: Option<RequestId>,
    /// How it comes.
    pub format: Format,
    /// Only hand the blocks over.
    pub without_pin: bool,
    /// Pin every root, instead of refusing more than one.
    pub every_root: bool,
    /// Nodes to hand over to first, if they can take it. Not recorded, other than `options.nodes`.
    pub prefer: Vec<NodeId>,
}

/// How content comes.
#[derive(Debug, Clone)]
pub enum Format {
    /// Files and directories.
    UnixFs(AddOptions),
    /// A CAR file.
    Car,
}

/// What was added.
#[derive(Debug, Clone)]
pub struct Added {
    /// Its root; none for a CAR file that was only handed over and has not exactly one.
    pub root: Option<Cid>,
    /// All roots.
    pub roots: Vec<Cid>,
    /// Blocks, repeated ones counted as often as they came.
    pub blocks: u64,
    /// Bytes of content; of a CAR file those of its blocks.
    pub bytes: u64,
    /// Who holds it.
    pub held: Held,
    /// The pin, if it was to be pinned; with several roots that of the last.
    pub pin: Option<(PinOutcome, PinView)>,
}

/// An add that is under way. Dropped before its end, nothing is pinned.
pub struct Adding {
    pins: Arc<Pins>,
    wish: AddWish,
    /// None when only the CIDs are wanted.
    targets: Option<Arc<Targets>>,
    work: Work,
    /// Bytes taken.
    taken: u64,
}

enum Work {
    UnixFs(Box<Adder>),
    Car(Box<CarImporter>),
}

/// A CID that nobody has, to be placed instead of the one that is not known yet.
fn unknown_cid() -> Result<Cid, Error> {
    const RAW_SHA2_256: [u8; 4] = [0x01, 0x55, 0x12, 0x20];
    let random: [u8; 32] = rand::random();
    Ok(Cid::from_bytes(&[&RAW_SHA2_256[..], &random[..]].concat())?)
}

/// Words for what is wrong with the content, or with a node.
fn told(error: ContentError) -> Error {
    match error {
        ContentError::BadEntry { field, value, reason } => Error::invalid(field, value, reason),
        ContentError::Options(error) => Error::invalid("unixfs", "", error.to_string()),
        ContentError::Car(error) => Error::invalid("data", "", error.to_string()),
        error if error.class() == ErrorClass::Permanent => Error::invalid("data", "", error.to_string()),
        error => Error::precondition(error.to_string()),
    }
}

impl Pins {
    /// Chooses nodes and begins to hand over to them.
    pub async fn begin_add(
        self: &Arc<Self>,
        wish: AddWish,
        observe: impl FnMut(AddedEntry) + Send + 'static,
        wait: Duration,
    ) -> Result<Adding, Error> {
        let replication = wish.options.replication.resolve(self.shared.settings().replication)?;
        let mut placed = wish.options.clone();
        placed.nodes.splice(..0, wish.prefer.iter().copied());
        let explained = self.explain(unknown_cid()?, &placed, wait).await?;
        // Everywhere: one that holds it is enough to begin with, the others fetch it from there.
        let needed = usize::try_from(replication.min).unwrap_or(1).max(1);
        let (open, refused) = self.open_intakes(&explained.verdicts).await;
        if open.len() < needed {
            return Err(Error::precondition(format!(
                "{} of the {needed} nodes needed can take it: {}",
                open.len(),
                refused.join("; ")
            )));
        }
        let targets = Arc::new(Targets::begin(open, needed));
        let sink: Arc<dyn Sink> = targets.clone();
        let work = match &wish.format {
            Format::UnixFs(options) => Work::UnixFs(Box::new(
                Adder::new(options.clone(), sink).map_err(told)?.observe(observe),
            )),
            Format::Car => Work::Car(Box::new(CarImporter::new(sink))),
        };
        Ok(Adding {
            pins: self.clone(),
            wish,
            targets: Some(targets),
            work,
            taken: 0,
        })
    }

    /// Begins to find the CIDs that files and directories would have. Nothing is stored, and no node is asked.
    pub fn begin_hashing(
        self: &Arc<Self>,
        wish: AddWish,
        observe: impl FnMut(AddedEntry) + Send + 'static,
    ) -> Result<Adding, Error> {
        let Format::UnixFs(options) = &wish.format else {
            return Err(Error::invalid(
                "format",
                "car",
                "unixfs: a CAR file names its CIDs itself",
            ));
        };
        let adder = Adder::new(options.clone(), Arc::new(NullSink));
        let adder = adder.map_err(told)?.observe(observe);
        Ok(Adding {
            pins: self.clone(),
            work: Work::UnixFs(Box::new(adder)),
            wish,
            targets: None,
            taken: 0,
        })
    }
}

impl Pins {
    /// Begins to hand over to the nodes that were chosen, and instead of each that does not take it, to the next best: a
    /// node that has just died is noticed here first.
    async fn open_intakes(&self, verdicts: &[Verdict]) -> (Vec<Open>, Vec<String>) {
        let wanted = verdicts.iter().filter(|verdict| verdict.chosen).count();
        let mut candidates: Vec<_> = verdicts
            .iter()
            .filter(|verdict| verdict.chosen || verdict.rank > 0)
            .collect();
        candidates.sort_by_key(|verdict| (!verdict.chosen, verdict.rank));
        let unusable = verdicts.iter().filter(|verdict| !verdict.chosen && verdict.rank == 0);
        let mut refused: Vec<_> = unusable
            .map(|verdict| format!("{}: {}", verdict.name, verdict.reason))
            .collect();
        let mut open = Vec::new();
        let mut candidates = candidates.into_iter();
        while open.len() < wanted {
            let some: Vec<_> = candidates.by_ref().take(wanted - open.len()).collect();
            if some.is_empty() {
                break;
            }
            let opened = some.iter().map(|verdict| self.intake(NodeId(verdict.node)));
            let opened = futures::future::join_all(opened).await;
            for (verdict, opened) in some.into_iter().zip(opened) {
                match opened {
                    Ok(intake) => open.push((NodeId(verdict.node), verdict.name.clone(), intake)),
                    Err(error) => {
                        tracing::warn!(name = %verdict.name, error = %error.message, "a node takes no part in an add");
                        refused.push(format!("{}: {}", verdict.name, error.message));
                    }
                }
            }
        }
        (open, refused)
    }
}

impl Adding {
    /// Begins the next file, directory or symlink.
    pub async fn entry(&mut self, entry: Entry) -> Result<(), Error> {
        match &mut self.work {
            Work::UnixFs(adder) => adder.entry(entry).await.map_err(told),
            Work::Car(_) => Err(Error::invalid("entry", "", "a CAR file has no entries, only data")),
        }
    }

    /// Takes bytes of the file that was begun last, or of the CAR file.
    pub async fn data(&mut self, data: Bytes) -> Result<(), Error> {
        self.taken += data.len() as u64;
        match &mut self.work {
            Work::UnixFs(adder) => adder.write(data).await,
            Work::Car(importer) => importer.write(data).await,
        }
        .map_err(told)
    }

    /// The nodes that it is handed to. Some may fail before its end.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.targets.as_ref().map_or_else(Vec::new, |targets| targets.nodes())
    }

    /// Bytes taken so far, and how far the blocks of it are.
    pub fn progress(&self) -> (u64, Progress) {
        match &self.work {
            Work::UnixFs(adder) => (self.taken, adder.progress()),
            Work::Car(importer) => {
                let (blocks, block_bytes) = importer.progress();
                let progress = Progress {
                    blocks,
                    block_bytes,
                    ..Progress::default()
                };
                (self.taken, progress)
            }
        }
    }

    /// Ends it: all nodes have all blocks on disk, and the pin is recorded.
    pub async fn finish(self, wait: Duration) -> Result<Added, Error> {
        let (roots, has_root, blocks, bytes) = match self.work {
            Work::UnixFs(adder) => {
                let outcome = adder.finish().await.map_err(told)?;
                let roots: Vec<_> = outcome.roots.iter().map(|root| root.cid).collect();
                (roots, true, outcome.progress.blocks, outcome.progress.content_bytes)
            }
            Work::Car(importer) => {
                let imported = importer.finish().await.map_err(told)?;
                (imported.roots, imported.has_root, imported.blocks, imported.block_bytes)
            }
        };
        let root = match roots.as_slice() {
            [root] => Some(*root),
            _ => None,
        };
        let Some(targets) = self.targets else {
            return Ok(Added {
                root,
                roots,
                blocks,
                bytes,
                held: Held {
                    nodes: Vec::new(),
                    failures: Vec::new(),
                },
                pin: None,
            });
        };
        if root.is_none() && !self.wish.without_pin && !self.wish.every_root {
            let count = roots.len().to_string();
            return Err(match self.wish.format {
                Format::UnixFs(_) => Error::invalid(
                    "path",
                    count,
                    "entries at the top: a pin has one root, so wrap them in a directory",
                ),
                Format::Car => Error::invalid(
                    "roots",
                    count,
                    "roots in the CAR file: a pin has one; add it without a pin and pin what is wanted of it",
                ),
            });
        }
        // Other blocks of the DAG may be missing too; without this one nothing of it could ever be found.
        if let Some(root) = root.filter(|_| !has_root && !self.wish.without_pin) {
            return Err(Error::invalid(
                "root",
                root.to_string(),
                "named by the CAR file, but its block is not in it; add the parts of a DAG without a pin, and pin the root \
                 when all are there",
            ));
        }
        let kept = if self.wish.without_pin { &[][..] } else { &roots };
        let held = targets.finish(kept).await?;
        let mut pin = None;
        for cid in roots.iter().filter(|_| !self.wish.without_pin) {
            let key = PinKey {
                namespace: self.wish.namespace.clone(),
                cid: *cid,
                slot: self.wish.slot.clone(),
            };
            let wish = PinWish {
                key,
                options: self.wish.options.clone(),
                // One name stands for one operation.
                request_id: self.wish.request_id.clone().filter(|_| roots.len() == 1),
                allow_unplaced: false,
                held_by: held.nodes.iter().map(|(node, _)| *node).collect(),
                created: None,
            };
            pin = Some(self.pins.pin(wish, wait).await?);
        }
        tracing::info!(
            pin = root.map(tracing::field::display),
            bytes,
            blocks,
            nodes = held.nodes.len(),
            "content was added"
        );
        Ok(Added {
            root,
            roots,
            blocks,
            bytes,
            held,
            pin,
        })
    }
}
