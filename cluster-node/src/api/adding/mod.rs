//! Adding content over HTTP, for all APIs that take it: parts of a body in, one object for each file and directory out, the
//! root last. What the objects look like is up to each API ([`Form`]).
//!
//! The add runs as a task beside its answer. Many clients read nothing before they have sent everything, so what they have
//! not read yet waits in a queue; only when that is full the add waits too.

mod options;

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use cluster_content::{AddedEntry, Entry};
use cluster_dag::unixfs::Metadata;
use cluster_http::multipart::{Part, PartKind, Parts};
use cluster_http::{Failure, json, ndjson};
use http::{HeaderName, HeaderValue, header};
use node_core::Cid;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

pub use options::{chunker, hash, refuse_nocopy};

use super::failure::failure;
use crate::service::{AddWish, Adding, Error, Format, Pins, WAIT_DEFAULT};

/// Adds that run at once on one peer, over one API. Each holds the batches that are under way to its nodes, about 10 MiB a
/// node, and what the client has not read yet of its answer. A further one waits, which costs its request only: its body is
/// not read meanwhile, so the client waits too. How many wait is bounded by `requests_max`.
const ADDS_MAX: usize = 32;

/// When it is worth asking again after no place was free for a whole wait.
const ADD_RETRY_AFTER: Duration = Duration::from_secs(5);

/// Objects that wait for a client that sends first and reads later: a directory of so many files can be added by one. At 200
/// bytes each these are 3 MiB.
const OUTPUT_AHEAD: usize = 16_384;

/// Objects of an answer that is one array, which is made at the end.
const OUTPUT_MAX: usize = 100_000;

/// How often a file under way is told of, in bytes, as IPFS Cluster and Kubo do.
const PROGRESS_EVERY: u64 = 256 << 10;

/// Bytes of a symlink's target: what Linux takes.
const TARGET_BYTES_MAX: usize = 4_096;

/// How long what a client still sends is read after an add has failed: most clients read the answer only when they have sent
/// all, and a connection that is closed before loses it.
const DRAIN_TIME: Duration = Duration::from_secs(30);

/// What the objects of an answer look like, and what is taken over from parts.
pub trait Form: Send + 'static {
    /// An object.
    type Output: Serialize + Send + 'static;

    /// Is told once, before anything is added, what it is added to.
    fn begun(&mut self, pins: &Pins, adding: &Adding);
    /// So many bytes of a file were taken; nothing where that is not told.
    fn progress(&self, part: &Part, bytes: u64) -> Option<Self::Output>;
    /// A file, symlink or directory is complete.
    fn entry(&self, entry: &AddedEntry) -> Option<Self::Output>;
    /// A CAR file was taken in.
    fn car(&self, name: String, root: Cid, block_bytes: u64) -> Option<Self::Output>;
    /// What is kept of a part beside its content.
    fn metadata(&self, part: &Part) -> Metadata;
}

/// The places for adds over one API.
#[derive(Clone)]
pub struct Adds(Arc<Semaphore>);

impl Default for Adds {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ADDS_MAX)))
    }
}

impl Adds {
    /// A place for one more, in the order in which they are asked for; waits for one so long.
    pub async fn place(&self, limit: Duration) -> Result<OwnedSemaphorePermit, Failure> {
        match timeout(limit, self.0.clone().acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            // The semaphore is never closed, so this is the end of the time.
            _ => Err(Failure::busy(
                format!(
                    "{ADDS_MAX} adds are under way at this peer, and none of them ended within {}; try again later, or add at \
                     another peer",
                    humantime::format_duration(limit)
                ),
                ADD_RETRY_AFTER,
            )),
        }
    }
}

/// Objects of an add.
pub type Output<F> = mpsc::Receiver<Result<<F as Form>::Output, Failure>>;

/// What an add is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be stored.
    Store,
    /// To learn its CIDs.
    Hash,
}

/// Begins an add. It ends when nobody listens any more.
pub fn begin<F: Form>(
    pins: Arc<Pins>,
    place: OwnedSemaphorePermit,
    wish: AddWish,
    purpose: Purpose,
    parts: Parts,
    form: F,
) -> Output<F> {
    let (out, output) = mpsc::channel(OUTPUT_AHEAD);
    tokio::spawn(async move {
        let mut add = Add {
            pins,
            parts,
            form,
            out: out.clone(),
        };
        let outcome = tokio::select! {
            outcome = add.run(wish, purpose) => outcome,
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
    output
}

/// The objects as they come, one a line.
pub async fn streamed<F: Form>(output: Output<F>) -> Response {
    let mut answer = ndjson(ReceiverStream::new(output)).await;
    let chunked = HeaderName::from_static("x-chunked-output");
    answer.headers_mut().insert(chunked, HeaderValue::from_static("1"));
    closing(answer)
}

/// All objects as one array, at the end.
pub async fn collected<F: Form>(mut output: Output<F>) -> Result<Response, Failure> {
    let mut objects = Vec::new();
    while let Some(object) = output.recv().await {
        if objects.len() == OUTPUT_MAX {
            return Err(Failure::bad(format!(
                "more than {OUTPUT_MAX} entries are answered only with stream-channels=true"
            )));
        }
        objects.push(object?);
    }
    Ok(closing(json(&objects)))
}

fn closing(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Old Go clients are upset by a connection that goes on after an answer that came before the end of the request.
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// One add.
struct Add<F: Form> {
    pins: Arc<Pins>,
    parts: Parts,
    form: F,
    out: mpsc::Sender<Result<F::Output, Failure>>,
}

/// What is complete and was not told yet: the observer of an add can't wait.
type Complete = Arc<Mutex<Vec<AddedEntry>>>;

impl<F: Form> Add<F> {
    async fn run(&mut self, wish: AddWish, purpose: Purpose) -> Result<(), Failure> {
        let is_car = matches!(wish.format, Format::Car);
        let complete = Complete::default();
        let noted = complete.clone();
        let observe = move |entry| noted.lock().push(entry);
        let begun = match purpose {
            Purpose::Store => self.pins.begin_add(wish, observe, WAIT_DEFAULT).await,
            Purpose::Hash => self.pins.begin_hashing(wish, observe),
        };
        let adding = begun.map_err(failure)?;
        self.form.begun(&self.pins, &adding);
        match is_car {
            true => self.car(adding).await,
            false => self.files(adding, &complete).await,
        }
    }

    /// Files and directories.
    async fn files(&mut self, mut adding: Adding, complete: &Complete) -> Result<(), Failure> {
        while let Some(part) = self.parts.next().await? {
            let metadata = self.form.metadata(&part);
            match part.kind {
                PartKind::Directory => {
                    // The top of the upload has no name, and is made by wrapping.
                    if !part.path.is_empty() {
                        let entry = Entry::directory(&part.path).with(metadata);
                        adding.entry(entry).await.map_err(failure)?;
                    }
                }
                PartKind::Symlink => {
                    let target = self.parts.text(TARGET_BYTES_MAX).await?;
                    let entry = Entry::symlink(&part.path, target).with(metadata);
                    adding.entry(entry).await.map_err(failure)?;
                }
                PartKind::File => {
                    let entry = Entry::file(&part.path).with(metadata);
                    adding.entry(entry).await.map_err(failure)?;
                    self.tell(complete).await;
                    self.file(&mut adding, &part).await?;
                }
            }
            self.tell(complete).await;
        }
        adding.finish(WAIT_DEFAULT).await.map_err(failure)?;
        self.tell(complete).await;
        Ok(())
    }

    /// The bytes of a file.
    async fn file(&mut self, adding: &mut Adding, part: &Part) -> Result<(), Failure> {
        let (mut taken, mut told) = (0, 0);
        while let Some(bytes) = self.parts.chunk().await? {
            taken += bytes.len() as u64;
            adding.data(bytes).await.map_err(failure)?;
            if taken >= told + PROGRESS_EVERY {
                told = taken;
                let object = self.form.progress(part, taken);
                self.send(object).await;
            }
        }
        let object = self.form.progress(part, taken);
        self.send(object).await;
        Ok(())
    }

    async fn send(&mut self, object: Option<F::Output>) {
        if let Some(object) = object {
            // Nobody listens any more: the task is about to end.
            let _ = self.out.send(Ok(object)).await;
        }
    }

    /// Tells what has become complete.
    async fn tell(&mut self, complete: &Complete) {
        let entries = std::mem::take(&mut *complete.lock());
        for entry in entries {
            let object = self.form.entry(&entry);
            self.send(object).await;
        }
    }

    /// The first part as a CAR file; others are passed over.
    async fn car(&mut self, mut adding: Adding) -> Result<(), Failure> {
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
        let object = self.form.car(part.path, root, added.bytes);
        self.send(object).await;
        Ok(())
    }

    /// Reads what still comes and drops it.
    async fn drain(mut self) {
        let rest = async { while let Ok(Some(_)) = self.parts.next().await {} };
        // What is sent for longer is cut off.
        let _ = tokio::time::timeout(DRAIN_TIME, rest).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_more_waits_for_a_place_and_is_told_what_to_do_in_the_end() {
        let adds = Adds::default();
        let limit = Duration::from_millis(10);
        let mut held = Vec::new();
        for _ in 0..ADDS_MAX {
            held.push(adds.place(limit).await.expect("free"));
        }
        let failure = adds.place(limit).await.expect_err("none is free");
        assert_eq!(
            (failure.status.as_u16(), failure.retry_after),
            (503, Some(ADD_RETRY_AFTER))
        );
        assert!(failure.message.contains("within 10ms; try again later"), "{failure}");
        let (waiting, ()) = tokio::join!(adds.place(Duration::from_secs(60)), async { drop(held.pop()) });
        assert!(waiting.is_ok());
    }
}
