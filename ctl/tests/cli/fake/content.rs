//! Content: adds are written down as they come, fetches give out what a test put there.

use std::sync::Arc;

use bytes::Bytes;
use cluster_proto::v1;
use cluster_proto::v1::add_entry::Kind;
use cluster_proto::v1::add_request::Message;
use cluster_proto::v1::add_response::Message as Answer_;
use cluster_proto::v1::content_server::Content;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Answer, BulkEnd, Chunks, Fake, Service, not_found};
use crate::runner::cid;

/// How the client's side of an add ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ended {
    /// With the word that it is the end.
    #[default]
    Clean,
    /// Without it.
    Cut,
    /// With a message that is none.
    Refused,
    /// With an error of the connection.
    Broken,
}

/// An entry as it came.
#[derive(Debug, Clone, Default)]
pub struct Added {
    pub entry: v1::AddEntry,
    pub data: Vec<u8>,
    /// Bytes of the longest message.
    pub longest: usize,
}

/// An add as it came.
#[derive(Debug, Clone, Default)]
pub struct Add {
    pub start: v1::AddStart,
    pub entries: Vec<Added>,
    pub ended: Ended,
}

/// Content that can be fetched.
#[derive(Debug, Clone, Default)]
pub struct Served {
    pub cid: String,
    pub directory: bool,
    /// Whether the head says how many bytes come.
    pub is_sized: bool,
    pub data: Vec<u8>,
}

impl Add {
    pub fn paths(&self) -> Vec<String> {
        self.entries.iter().map(|added| added.entry.path.clone()).collect()
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Start(start) => self.start = start,
            Message::Entry(entry) => self.entries.push(Added {
                entry,
                ..Added::default()
            }),
            Message::Data(data) => {
                // A CAR file has no entries.
                if self.entries.is_empty() {
                    self.entries.push(Added::default());
                }
                let last = self.entries.last_mut().expect("pushed above");
                last.longest = last.longest.max(data.len());
                last.data.extend_from_slice(&data);
            }
            Message::End(_) => {}
        }
    }

    /// The entries in the order in which they are complete: what is in a directory comes before it.
    fn complete(&self) -> Vec<(String, u64)> {
        let mut open: Vec<String> = Vec::new();
        let mut complete = Vec::new();
        for added in &self.entries {
            let path = &added.entry.path;
            while open.last().is_some_and(|above| !path.starts_with(&format!("{above}/"))) {
                complete.push((open.pop().expect("not empty"), 100));
            }
            if added.entry.kind() == Kind::Directory {
                open.push(path.clone());
            } else {
                complete.push((path.clone(), added.data.len() as u64));
            }
        }
        complete.extend(open.into_iter().rev().map(|path| (path, 100)));
        if matches!(&self.start.format, Some(v1::add_start::Format::Unixfs(options)) if options.wrap) {
            complete.push((String::new(), 1_000));
        }
        complete
    }
}

impl Fake {
    /// Waits until so many adds have ended.
    pub fn ended_adds(&self, count: usize) -> Vec<Add> {
        self.until_calls("add_ended", count);
        self.adds.lock().expect("not poisoned").clone()
    }

    pub(super) fn note(&self, method: &'static str, what: &str) {
        self.calls.lock().expect("not poisoned").push((method, what.to_owned()));
        self.called.notify_all();
    }

    async fn read_add(
        &self,
        mut messages: Streaming<v1::AddRequest>,
        answers: mpsc::Sender<Result<v1::AddResponse, Status>>,
    ) {
        let end = self.script.lock().expect("not poisoned").add_end.take();
        let mut add = Add::default();
        let mut count = 0;
        add.ended = loop {
            match messages.message().await {
                Ok(Some(v1::AddRequest {
                    message: Some(Message::End(_)),
                })) => break Ended::Clean,
                Ok(Some(v1::AddRequest { message: Some(message) })) => {
                    let is_data = matches!(message, Message::Data(_));
                    add.take(message);
                    count += 1;
                    if is_data {
                        self.note("data", "");
                    }
                }
                Ok(Some(_)) => break Ended::Refused,
                Ok(None) => break Ended::Cut,
                Err(_) => break Ended::Broken,
            }
            if let Some((Some(after), what)) = &end
                && count >= *after
            {
                return self.fail(what, &answers).await;
            }
        };
        self.adds.lock().expect("not poisoned").push(add.clone());
        self.note("add_ended", "");
        if add.ended != Ended::Clean {
            let status = Status::invalid_argument("message: one of start, entry and data");
            // Nobody is left to tell when the connection broke.
            let _ = answers.send(Err(status)).await;
            return;
        }
        let is_car = matches!(add.start.format, Some(v1::add_start::Format::Car(_)));
        let complete = if is_car { vec![] } else { add.complete() };
        let answer = async |message| {
            // As above.
            let _ = answers.send(Ok(v1::AddResponse { message: Some(message) })).await;
        };
        let bytes: usize = add.entries.iter().map(|added| added.data.len()).sum();
        let bytes = bytes as u64;
        answer(Answer_::Progress(v1::AddProgress {
            bytes,
            blocks: 1,
            stored_bytes: bytes,
        }))
        .await;
        let mut number = 0;
        for (path, tsize) in complete {
            number += 1;
            let cid = cid(number);
            answer(Answer_::Added(v1::AddedEntry { path, cid, tsize })).await;
        }
        if let Some((None, what)) = &end {
            return self.fail(what, &answers).await;
        }
        let root = cid(number);
        let failures = self.script.lock().expect("not poisoned").add_failures.clone();
        let options = add.start.options.unwrap_or_default();
        let pin = (!add.start.without_pin).then(|| {
            let (outcome, pin) = self.record(add.start.namespace, &root, add.start.slot, options);
            v1::PinResponse {
                outcome: outcome.into(),
                pin: Some(pin),
            }
        });
        answer(Answer_::Done(v1::AddDone {
            cid: root.clone(),
            blocks: u64::from(number) + 1,
            bytes,
            nodes: vec!["node-1".into(), "node-2".into()],
            failures,
            pin,
            roots: if is_car { vec![root] } else { vec![] },
        }))
        .await;
    }

    async fn fail<T>(&self, what: &BulkEnd, answers: &mpsc::Sender<Result<T, Status>>) {
        match what {
            // Nobody is left to tell when the client went away.
            BulkEnd::Break(status) => drop(answers.send(Err(status.clone())).await),
            BulkEnd::Stall => {
                self.note("stalled", "");
                std::future::pending().await
            }
            BulkEnd::Kill(tell) => {
                tell.send(()).expect("the test waits");
                std::future::pending().await
            }
        }
    }

    async fn give_out(
        &self,
        served: Served,
        request: &v1::FetchRequest,
        answers: mpsc::Sender<Result<v1::FetchResponse, Status>>,
    ) {
        let end = self.script.lock().expect("not poisoned").fetch_ends.pop_front();
        let offset = usize::try_from(request.offset).expect("small").min(served.data.len());
        let mut data = &served.data[offset..];
        if request.length > 0 {
            data = &data[..data.len().min(usize::try_from(request.length).expect("small"))];
        }
        let head = v1::FetchHead {
            cid: served.cid,
            bytes: served.is_sized.then_some(data.len() as u64),
            directory: served.directory,
        };
        let send = async |message| {
            let message = v1::FetchResponse { message: Some(message) };
            answers.send(Ok(message)).await.is_ok()
        };
        if !send(v1::fetch_response::Message::Head(head)).await {
            return;
        }
        let (cut, what) = match end {
            Some((after, what)) => (after.min(data.len()), Some(what)),
            None => (data.len(), None),
        };
        for piece in data[..cut].chunks(1_000) {
            let piece = Bytes::copy_from_slice(piece);
            if !send(v1::fetch_response::Message::Data(piece)).await {
                return;
            }
        }
        if let Some(what) = what {
            self.fail(&what, &answers).await;
        }
    }
}

#[tonic::async_trait]
impl Content for Service {
    type AddStream = Chunks<v1::AddResponse>;

    async fn add(&self, request: Request<Streaming<v1::AddRequest>>) -> Answer<Self::AddStream> {
        self.0.called("add", "").await?;
        let (sender, receiver) = mpsc::channel(4);
        let fake = Arc::clone(&self.0);
        // By itself, so that an add whose client went away is read to its end, however it ends.
        tokio::spawn(async move { fake.read_add(request.into_inner(), sender).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type FetchStream = Chunks<v1::FetchResponse>;

    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Answer<Self::FetchStream> {
        let request = request.into_inner();
        let (offset, length) = (request.offset, request.length);
        self.0
            .called("fetch", &format!("{} {offset} {length}", request.path))
            .await?;
        let key = (request.path.clone(), request.format());
        let served = self.0.script.lock().expect("not poisoned").served.get(&key).cloned();
        let served = served.ok_or_else(|| not_found(format!("no node that can be asked has {}", request.path)))?;
        let (sender, receiver) = mpsc::channel(4);
        let fake = Arc::clone(&self.0);
        tokio::spawn(async move { fake.give_out(served, &request, sender).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
