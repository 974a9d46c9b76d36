//! `pinfleet.v1.Content`.

use std::pin::Pin as StdPin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster_content::{AddOptions, AddedEntry, Content, ContentError, Entry, EntryKind, Scope, WalkOptions};
use cluster_dag::unixfs::{Chunker, CidVersion, Layout, Metadata, Mtime, Node, Options, Sharding};
use cluster_proto::v1;
use cluster_proto::v1::content_server::Content as ContentService;
use futures::{Stream, StreamExt};
use node_core::{Cid, ErrorClass, Namespace, PinMode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::caller::{Caller, caller};
use super::convert;
use super::details::completed;
use super::error::status;
use super::pins::{PinsApi, outcome_code};
use crate::service::{AddWish, Adding, ClusterSource, Error, Format, Pins, SEND_LIMIT, WAIT_DEFAULT, chunks_within};

/// Adds that run at once on one peer. Each holds the batches that are under way to its nodes, about 10 MiB a node.
const ADDS_MAX: usize = 32;

/// Fetches that run at once on one peer. Each holds what it read ahead, up to 64 MiB of the largest blocks.
const FETCHES_MAX: usize = 32;

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// Messages that wait for a client: progress and complete entries.
const MESSAGES_WAITING_MAX: usize = 64;

/// How long a client may send nothing in the middle of an add before it is cut off: its nodes hold places for it.
const SILENCE_MAX: Duration = Duration::from_secs(300);

/// Longest piece of content in one message to a client: half of what a message may be by default.
const PIECE_BYTES_MAX: usize = 2 << 20;

/// Handlers of `pinfleet.v1.Content`.
#[derive(Clone)]
pub struct ContentApi {
    pins: Arc<Pins>,
    adds: Arc<Semaphore>,
    fetches: Arc<Semaphore>,
}

type Out<T> = StdPin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl ContentApi {
    /// Handlers over the service.
    pub fn new(pins: Arc<Pins>) -> Self {
        Self {
            pins,
            adds: Arc::new(Semaphore::new(ADDS_MAX)),
            fetches: Arc::new(Semaphore::new(FETCHES_MAX)),
        }
    }
}

fn place(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Status> {
    places.clone().try_acquire_owned().map_err(|_| {
        status(Error::Overloaded {
            retry_after: Duration::from_secs(1),
        })
    })
}

#[tonic::async_trait]
impl ContentService for ContentApi {
    type AddStream = Out<v1::AddResponse>;
    type FetchStream = Out<v1::FetchResponse>;

    async fn add(&self, request: Request<Streaming<v1::AddRequest>>) -> Result<Response<Self::AddStream>, Status> {
        let caller = caller(&request)?;
        let place = place(&self.adds)?;
        let (mut answers, queue) = chunks_within(MESSAGES_WAITING_MAX, SEND_LIMIT);
        let api = self.clone();
        tokio::spawn(async move {
            let (told, mut telling) = mpsc::channel(MESSAGES_WAITING_MAX);
            let adding = api.read_add(request.into_inner(), caller, told);
            tokio::pin!(adding);
            let outcome = loop {
                tokio::select! {
                    outcome = &mut adding => break outcome,
                    Some(message) = telling.recv() => if !answers.send(Ok(message)).await { return },
                    // Whoever went away wants nothing pinned any more.
                    () = answers.closed() => return,
                }
            };
            while let Ok(message) = telling.try_recv() {
                if !answers.send(Ok(message)).await {
                    return;
                }
            }
            let last = outcome.map(|done| add_message(v1::add_response::Message::Done(done)));
            answers.send(last).await;
            drop(place);
        });
        Ok(Response::new(Box::pin(queue.map(|message| message.map_err(status)))))
    }

    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let place = place(&self.fetches)?;
        let (head, bytes) = self.begin_fetch(request.into_inner()).await.map_err(status)?;
        let head = v1::FetchResponse {
            message: Some(v1::fetch_response::Message::Head(head)),
        };
        let (mut pieces, queue) = chunks_within(2, SEND_LIMIT);
        tokio::spawn(async move {
            let mut bytes = bytes;
            let mut going = pieces.send(Ok(head)).await;
            while going {
                let Some(piece) = bytes.next().await else { break };
                match piece {
                    Ok(mut piece) => {
                        while going && !piece.is_empty() {
                            let part = piece.split_to(piece.len().min(PIECE_BYTES_MAX));
                            let message = v1::FetchResponse {
                                message: Some(v1::fetch_response::Message::Data(part)),
                            };
                            going = pieces.send(Ok(message)).await;
                        }
                    }
                    Err(error) => {
                        pieces.send(Err(read_error(error))).await;
                        break;
                    }
                }
            }
            drop(place);
        });
        Ok(Response::new(Box::pin(queue.map(|piece| piece.map_err(status)))))
    }
}

fn add_message(message: v1::add_response::Message) -> v1::AddResponse {
    v1::AddResponse { message: Some(message) }
}

fn read_error(error: ContentError) -> Error {
    match error.class() {
        ErrorClass::NotFound => Error::not_found(error.to_string()),
        ErrorClass::Permanent => Error::invalid("path", "", error.to_string()),
        _ => Error::precondition(error.to_string()),
    }
}

impl ContentApi {
    /// Reads an add to its end.
    async fn read_add(
        &self,
        mut messages: Streaming<v1::AddRequest>,
        caller: Caller,
        told: mpsc::Sender<v1::AddResponse>,
    ) -> Result<v1::AddDone, Error> {
        use v1::add_request::Message;
        let Some(Message::Start(start)) = next(&mut messages).await? else {
            return Err(Error::invalid("start", "", "the first message of an add"));
        };
        let keep = metadata_kept(&start);
        let wish = self.wish(start, &caller).await?;
        let entries = told.clone();
        let observe = move |entry: AddedEntry| {
            // A client that is far behind misses entries rather than to hold up the add; the root comes in any case.
            let _ = entries.try_send(add_message(v1::add_response::Message::Added(v1::AddedEntry {
                path: String::from_utf8_lossy(&entry.path).into_owned(),
                cid: entry.cid.to_string(),
                tsize: entry.tsize,
            })));
        };
        let mut adding = self.pins.begin_add(wish, observe, WAIT_DEFAULT).await?;
        let mut told_at = Instant::now();
        loop {
            // A client that cancels looks like one that has ended its side, so only a word counts as the end.
            let Some(message) = next(&mut messages).await? else {
                return Err(Error::invalid(
                    "end",
                    "",
                    "the last message of an add: it was broken off, so nothing was pinned",
                ));
            };
            match message {
                Message::End(_) => break,
                Message::Start(_) => return Err(Error::invalid("start", "", "comes once, as the first message")),
                Message::Entry(entry) => adding.entry(read_entry(entry, keep)?).await?,
                Message::Data(data) => adding.data(data).await?,
            }
            if told_at.elapsed() >= PROGRESS_EVERY {
                told_at = Instant::now();
                // Progress that finds no room is out of date when there is room.
                let _ = told.try_send(progress(&adding));
            }
        }
        let _ = told.try_send(progress(&adding));
        let added = adding.finish(WAIT_DEFAULT).await?;
        let pin = added.pin.map(|(outcome, view)| v1::PinResponse {
            outcome: outcome_code(outcome),
            pin: Some(convert::pin(&view, &self.pins.names())),
        });
        Ok(v1::AddDone {
            cid: added.root.map(|cid| cid.to_string()).unwrap_or_default(),
            blocks: added.blocks,
            bytes: added.bytes,
            nodes: added.held.nodes.into_iter().map(|(_, name)| name).collect(),
            failures: added.held.failures,
            pin,
            roots: added.roots.iter().map(Cid::to_string).collect(),
        })
    }

    async fn wish(&self, start: v1::AddStart, caller: &Caller) -> Result<AddWish, Error> {
        let namespace = Namespace::new(&caller.namespace(&start.namespace)?)?;
        let options = start.options.unwrap_or_default();
        let names = self.pins.names_for(!options.nodes.is_empty(), WAIT_DEFAULT).await?;
        let options = PinsApi(self.pins.clone()).options(options, &names)?;
        if options.mode != PinMode::Recursive {
            return Err(Error::invalid(
                "options.mode",
                "direct",
                "what is added is pinned recursively",
            ));
        }
        node_core::check_slot(&start.slot)?;
        Ok(AddWish {
            namespace,
            slot: start.slot,
            options,
            request_id: convert::request_id(&start.request_id)?,
            format: match start.format {
                Some(v1::add_start::Format::Car(_)) => Format::Car,
                Some(v1::add_start::Format::Unixfs(options)) => Format::UnixFs(unixfs_options(&options)?),
                None => Format::UnixFs(AddOptions::v1_2025()),
            },
            every_root: false,
            without_pin: start.without_pin,
            prefer: Vec::new(),
        })
    }

    async fn begin_fetch(
        &self,
        request: v1::FetchRequest,
    ) -> Result<(v1::FetchHead, cluster_content::ByteStream), Error> {
        let path = request.path.strip_prefix("/ipfs/").unwrap_or(&request.path);
        let (root, below) = path.split_once('/').unwrap_or((path, ""));
        let root: Cid = root.parse()?;
        let content = Content::new(Arc::new(ClusterSource::new(&self.pins, root)?));
        let resolved = content.resolve(root, below.as_bytes()).await.map_err(read_error)?;
        let cid = resolved.cid;
        let head = |bytes, directory| v1::FetchHead {
            cid: cid.to_string(),
            bytes,
            directory,
        };
        use v1::FetchFormat::{Block, Car, File, Tar, Unspecified};
        let format = v1::FetchFormat::try_from(request.format);
        let format = format.map_err(|_| Error::invalid("format", request.format.to_string(), "use 1 to 4"))?;
        if format != File && format != Unspecified && (request.offset, request.length) != (0, 0) {
            return Err(Error::invalid(
                "offset",
                request.offset.to_string(),
                "a range is for the bytes of a file only",
            ));
        }
        Ok(match format {
            Unspecified | File => {
                let length = (request.length > 0).then_some(request.length);
                let file = content.cat(cid, request.offset, length).await.map_err(read_error)?;
                let rest = file.file_bytes.saturating_sub(request.offset);
                (
                    head(Some(length.map_or(rest, |length| length.min(rest))), false),
                    file.bytes,
                )
            }
            Tar => {
                let node = content.node(&cid).await.map_err(read_error)?;
                let name = below.rsplit('/').find(|part| !part.is_empty());
                let name = name.map_or_else(|| cid.to_string(), str::to_owned);
                (
                    head(None, matches!(node, Node::Directory { .. })),
                    content.tar(cid, &name),
                )
            }
            Car => {
                let options = WalkOptions {
                    scope: Scope::All,
                    duplicates: false,
                };
                (head(None, false), content.car(vec![cid], options))
            }
            Block => {
                let block = content.block(&cid).await.map_err(read_error)?;
                let bytes = block.bytes().clone();
                let size = bytes.len() as u64;
                let once = futures::stream::once(async move { Ok::<Bytes, ContentError>(bytes) });
                (head(Some(size), false), Box::pin(once))
            }
        })
    }
}

async fn next(messages: &mut Streaming<v1::AddRequest>) -> Result<Option<v1::add_request::Message>, Error> {
    let message = tokio::time::timeout(SILENCE_MAX, messages.message()).await;
    let silent = |_| {
        Error::precondition(format!(
            "nothing came for {} s, so the add was ended",
            SILENCE_MAX.as_secs()
        ))
    };
    let message = message.map_err(silent)?;
    let message =
        message.map_err(|error| Error::precondition(format!("the add broke off: {}", completed(error).message())))?;
    match message {
        None => Ok(None),
        Some(v1::AddRequest { message: Some(message) }) => Ok(Some(message)),
        Some(_) => Err(Error::invalid("message", "", "one of start, entry and data")),
    }
}

fn progress(adding: &Adding) -> v1::AddResponse {
    let (bytes, progress) = adding.progress();
    add_message(v1::add_response::Message::Progress(v1::AddProgress {
        bytes,
        blocks: progress.blocks,
        stored_bytes: progress.block_bytes,
    }))
}

/// Whether mode and mtime of entries are kept.
#[derive(Debug, Clone, Copy)]
struct Kept {
    mode: bool,
    mtime: bool,
}

fn metadata_kept(start: &v1::AddStart) -> Kept {
    match &start.format {
        Some(v1::add_start::Format::Unixfs(options)) => Kept {
            mode: options.preserve_mode,
            mtime: options.preserve_mtime,
        },
        _ => Kept {
            mode: false,
            mtime: false,
        },
    }
}

fn read_entry(entry: v1::AddEntry, keep: Kept) -> Result<Entry, Error> {
    use v1::add_entry::Kind;
    let kind = match Kind::try_from(entry.kind) {
        Ok(Kind::Directory) => EntryKind::Directory,
        Ok(Kind::Symlink) => EntryKind::Symlink(entry.target.into_bytes()),
        Ok(Kind::File | Kind::Unspecified) => EntryKind::File,
        Err(_) => return Err(Error::invalid("entry.kind", entry.kind.to_string(), "use 1 to 3")),
    };
    let mtime = Mtime {
        seconds: entry.mtime_seconds,
        nanos: entry.mtime_nanos,
    };
    Ok(Entry {
        path: entry.path.into_bytes(),
        kind,
        metadata: Metadata {
            mode: keep.mode.then_some(entry.mode),
            mtime: keep.mtime.then_some(mtime),
        },
    })
}

/// What Kubo's options mean. Each that is given replaces what the profile says.
fn unixfs_options(given: &v1::UnixFsOptions) -> Result<AddOptions, Error> {
    let mut options = match given.profile.as_str() {
        "" | "unixfs-v1-2025" => Options::v1_2025(),
        "legacy-cid-v0" | "unixfs-v0-2015" => Options::v0_2015(),
        other => {
            return Err(Error::invalid(
                "unixfs.profile",
                other,
                "use unixfs-v1-2025 or unixfs-v0-2015",
            ));
        }
    };
    match given.cid_version {
        None => {}
        Some(0) => options.cid_version = CidVersion::V0,
        Some(1) => {
            options.cid_version = CidVersion::V1;
            // As Kubo: version 1 without a word about leaves means raw ones.
            options.raw_leaves = true;
        }
        Some(other) => return Err(Error::invalid("unixfs.cid_version", other.to_string(), "use 0 or 1")),
    }
    if !given.hash.is_empty() {
        let unknown = |_| {
            Error::invalid(
                "unixfs.hash",
                &given.hash,
                "use sha2-256, sha2-512, sha3-256, sha3-512, blake2b-256 or blake3",
            )
        };
        options.hash = given.hash.parse().map_err(unknown)?;
        if given.cid_version.is_none() && options.hash != cluster_dag::HashFunction::Sha2_256 {
            options.cid_version = CidVersion::V1;
        }
    }
    if !given.chunker.is_empty() {
        let parsed = given.chunker.parse::<Chunker>();
        options.chunker =
            parsed.map_err(|error| Error::invalid("unixfs.chunker", &given.chunker, error.to_string()))?;
    }
    if given.trickle {
        options.layout = Layout::Trickle;
    }
    if let Some(raw) = given.raw_leaves {
        options.raw_leaves = raw;
    }
    if let Some(links) = given.file_links_max {
        options.file_links_max = links as usize;
    }
    if let Some(bytes) = given.directory_bytes_max {
        options.sharding = Sharding {
            above: (bytes > 0).then_some(bytes),
            ..options.sharding
        };
    }
    if let Some(fanout) = given.hamt_fanout {
        let wide = |_| Error::invalid("unixfs.hamt_fanout", fanout.to_string(), "a power of two, 8 to 1024");
        options.sharding.fanout = u16::try_from(fanout).map_err(wide)?;
    }
    let mut add = AddOptions::new(options);
    if given.preserve_mode || given.preserve_mtime {
        if given.raw_leaves == Some(true) {
            return Err(Error::invalid(
                "unixfs.raw_leaves",
                "true",
                "raw leaves have no place for mode and mtime: leave it out",
            ));
        }
        add = add.keeping_metadata();
    }
    add.wrap = given.wrap;
    // What is hidden is for the client to leave out: it knows its folders.
    add.hidden = true;
    let checked = add.unixfs.check();
    checked.map_err(|error| Error::invalid("unixfs", "", error.to_string()))?;
    Ok(add)
}
