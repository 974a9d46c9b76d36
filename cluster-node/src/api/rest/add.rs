//! Adding content: parts of a body in, one object for each file and directory out, the root last.
//!
//! The add runs as a task beside its answer. Many clients read nothing before they have sent everything, so what they have
//! not read yet waits in a queue; only when that is full the add waits too.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use cluster_content::{AddedEntry, Entry};
use cluster_http::multipart::{Part, PartKind, Parts};
use cluster_http::{Failure, json, ndjson};
use http::{HeaderName, HeaderValue, header};
use node_core::PinMode;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::add_options::{self, AddAsked};
use super::failure::failure;
use super::options::Asked;
use super::types::AddedOutput;
use super::{Answer, Call, Rest};
use crate::service::{AddWish, Adding, Error, Format, WAIT_DEFAULT};

/// Objects that wait for a client that sends first and reads later: a directory of so many files can be added by one. At 200
/// bytes each these are 3 MiB.
const OUTPUT_AHEAD: usize = 16_384;

/// Objects of an answer that is one array, which is made at the end.
const OUTPUT_MAX: usize = 100_000;

/// How often a file under way is told of, in bytes, as IPFS Cluster does.
const PROGRESS_EVERY: u64 = 256 << 10;

/// Bytes of a symlink's target: what Linux takes.
const TARGET_BYTES_MAX: usize = 4_096;

/// How long what a client still sends is read after an add has failed: most clients read the answer only when they have sent
/// all, and a connection that is closed before loses it.
const DRAIN_TIME: Duration = Duration::from_secs(30);

type Output = Result<AddedOutput, Failure>;

/// `POST /add`
pub async fn add(State(rest): State<Arc<Rest>>, call: Call, parts: Parts) -> Answer {
    let mut answer = begin(rest, call, parts).await?;
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Old Go clients are upset by a connection that goes on after an answer that came before the end of the request.
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(answer)
}

async fn begin(rest: Arc<Rest>, call: Call, parts: Parts) -> Answer {
    let asked = add_options::read(&call.query)?;
    let pin = rest.asked(&call).await?;
    let place = rest.adds.clone().try_acquire_owned();
    let place = place.map_err(|_| Failure::busy("too many adds are under way at this peer", Duration::from_secs(1)))?;
    let is_stream = asked.stream;
    let (out, output) = mpsc::channel(OUTPUT_AHEAD);
    tokio::spawn(async move {
        let mut add = Add {
            rest,
            namespace: call.namespace().clone(),
            parts,
            out: out.clone(),
        };
        let outcome = tokio::select! {
            outcome = add.run(asked, pin) => outcome,
            // Whoever went away wants nothing pinned any more.
            () = out.closed() => return,
        };
        drop(place);
        if let Err(failure) = outcome {
            let told = out.send(Err(failure)).await;
            drop(out);
            if told.is_ok() {
                add.drain().await;
            }
        }
    });
    match is_stream {
        true => Ok(streamed(output).await),
        false => collected(output).await,
    }
}

async fn streamed(output: mpsc::Receiver<Output>) -> Response {
    let mut answer = ndjson(ReceiverStream::new(output)).await;
    let chunked = HeaderName::from_static("x-chunked-output");
    answer.headers_mut().insert(chunked, HeaderValue::from_static("1"));
    answer
}

async fn collected(mut output: mpsc::Receiver<Output>) -> Answer {
    let mut objects = Vec::new();
    while let Some(object) = output.recv().await {
        if objects.len() == OUTPUT_MAX {
            return Err(Failure::bad(format!(
                "more than {OUTPUT_MAX} entries are answered only with stream-channels=true"
            )));
        }
        objects.push(object?);
    }
    Ok(json(&objects))
}

/// One add.
struct Add {
    rest: Arc<Rest>,
    namespace: node_core::Namespace,
    parts: Parts,
    out: mpsc::Sender<Output>,
}

/// What is complete and was not told yet: the observer of an add can't wait.
type Complete = Arc<Mutex<Vec<AddedEntry>>>;

impl Add {
    async fn run(&mut self, asked: AddAsked, pin: Asked) -> Result<(), Failure> {
        let is_car = matches!(asked.format, Format::Car);
        let complete = Complete::default();
        let wish = self.wish(&asked, pin);
        let noted = complete.clone();
        let begun = self
            .rest
            .pins
            .begin_add(wish, move |entry| noted.lock().push(entry), WAIT_DEFAULT)
            .await;
        let adding = begun.map_err(failure)?;
        let members = self.rest.pins.members();
        let ids = adding.nodes().into_iter().filter_map(|node| members.id_of(node));
        let mut allocations: Vec<String> = ids.map(|id| id.to_string()).collect();
        allocations.sort_unstable();
        match is_car {
            true => self.car(adding, allocations).await,
            false => self.files(adding, &complete, &allocations, asked.progress).await,
        }
    }

    fn wish(&self, asked: &AddAsked, pin: Asked) -> AddWish {
        let mut options = pin.options;
        options.mode = PinMode::Recursive;
        let own = self.rest.pins.directory.own();
        let names = self.rest.pins.names();
        let prefer = match asked.local && options.nodes.is_empty() {
            true => names.of_peer(own).map(|node| node.id).collect(),
            false => Vec::new(),
        };
        AddWish {
            namespace: self.namespace.clone(),
            slot: String::new(),
            options,
            request_id: None,
            format: asked.format.clone(),
            without_pin: asked.no_pin,
            prefer,
        }
    }

    /// Files and directories.
    async fn files(
        &mut self,
        mut adding: Adding,
        complete: &Complete,
        allocations: &[String],
        progress: bool,
    ) -> Result<(), Failure> {
        while let Some(part) = self.parts.next().await? {
            match part.kind {
                PartKind::Directory => {
                    // The top of the upload has no name, and is made by wrapping.
                    if !part.path.is_empty() {
                        adding.entry(Entry::directory(&part.path)).await.map_err(failure)?;
                    }
                }
                PartKind::Symlink => {
                    let target = self.parts.text(TARGET_BYTES_MAX).await?;
                    adding
                        .entry(Entry::symlink(&part.path, target))
                        .await
                        .map_err(failure)?;
                }
                PartKind::File => {
                    adding.entry(Entry::file(&part.path)).await.map_err(failure)?;
                    self.tell(complete, allocations).await;
                    self.file(&mut adding, &part, progress).await?;
                }
            }
            self.tell(complete, allocations).await;
        }
        adding.finish(WAIT_DEFAULT).await.map_err(failure)?;
        self.tell(complete, allocations).await;
        Ok(())
    }

    /// The bytes of a file.
    async fn file(&mut self, adding: &mut Adding, part: &Part, progress: bool) -> Result<(), Failure> {
        let (mut taken, mut told) = (0, 0);
        while let Some(bytes) = self.parts.chunk().await? {
            taken += bytes.len() as u64;
            adding.data(bytes).await.map_err(failure)?;
            if progress && taken >= told + PROGRESS_EVERY {
                told = taken;
                self.tell_progress(part, taken).await;
            }
        }
        if progress {
            self.tell_progress(part, taken).await;
        }
        Ok(())
    }

    async fn tell_progress(&mut self, part: &Part, bytes: u64) {
        // Below the entry at the top, as in IPFS Cluster.
        let below = part.path.split_once('/').map_or("", |(_, below)| below);
        let object = AddedOutput {
            name: below.to_owned(),
            bytes,
            ..AddedOutput::default()
        };
        // Nobody listens any more: the task is about to end.
        let _ = self.out.send(Ok(object)).await;
    }

    /// Tells what has become complete.
    async fn tell(&mut self, complete: &Complete, allocations: &[String]) {
        let entries = std::mem::take(&mut *complete.lock());
        for entry in entries {
            let object = AddedOutput {
                name: String::from_utf8_lossy(&entry.path).into_owned(),
                cid: Some(entry.cid.to_string()),
                bytes: 0,
                size: entry.tsize,
                allocations: allocations.to_vec(),
            };
            // Nobody listens any more: the task is about to end.
            let _ = self.out.send(Ok(object)).await;
        }
    }

    /// The first part as a CAR file; others are passed over.
    async fn car(&mut self, mut adding: Adding, allocations: Vec<String>) -> Result<(), Failure> {
        let part = self.parts.next().await?;
        let part = part.filter(|part| part.kind == PartKind::File);
        let part = part.ok_or_else(|| Failure::bad("the first part must be a file: a CAR of version 1"))?;
        while let Some(bytes) = self.parts.chunk().await? {
            adding.data(bytes).await.map_err(failure)?;
        }
        let added = adding.finish(WAIT_DEFAULT).await.map_err(failure)?;
        let count = added.roots.len().to_string();
        let several = || {
            failure(Error::invalid(
                "roots",
                count,
                "roots in the CAR file: it must have exactly one",
            ))
        };
        let root = added.root.ok_or_else(several)?;
        let object = AddedOutput {
            name: part.path,
            cid: Some(root.to_string()),
            bytes: added.bytes,
            size: 0,
            allocations,
        };
        // Nobody listens any more: the task is about to end.
        let _ = self.out.send(Ok(object)).await;
        Ok(())
    }

    /// Reads what still comes and drops it.
    async fn drain(mut self) {
        let rest = async { while let Ok(Some(_)) = self.parts.next().await {} };
        // What is sent for longer is cut off.
        let _ = tokio::time::timeout(DRAIN_TIME, rest).await;
    }
}
