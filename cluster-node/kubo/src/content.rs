//! Blocks in and out of a daemon, without pinning.

use async_trait::async_trait;
use bytes::Bytes;
use cluster_dag::Block;
use cluster_dag::car::CarWriter;
use cluster_ipfs::{Error, Intake, Operation};
use futures::StreamExt;
use node_core::{Cid, ErrorClass};
use reqwest::header::CONTENT_TYPE;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::client::{KuboClient, Refused};
use crate::judge::Verdict;

/// Blocks asked of a daemon at the same time: each is a call of its own.
const GETS_MAX: usize = 16;

/// Parts of the file that wait for the daemon to read on. A part is a batch of blocks of the caller.
const PARTS_WAITING_MAX: usize = 2;

/// Between the parts of the form. No block can be mistaken for it: what counts is a line that begins with it, and CAR has no
/// lines; and a collision by chance is one in 2^128.
const BOUNDARY: &str = "pinfleet-2f6d0c1e9a7b45e3b8d1f0a69c5e7243";

impl KuboClient {
    /// One block that the daemon has. `offline` keeps it from asking the network, so it answers at once.
    pub(crate) async fn block(&self, cid: &Cid) -> Result<Option<Bytes>, Error> {
        const OPERATION: Operation = Operation::Blocks;
        let text = cid.to_string();
        let asked = async {
            let mut answer = self
                .open(OPERATION, &[("arg", text.as_str()), ("offline", "true")])
                .await?;
            answer.whole().await.map_err(|broken| self.broken(OPERATION, broken))
        };
        let limit = self.options().request_timeout;
        match timeout(limit, asked).await {
            Ok(Ok(bytes)) => Ok(Some(bytes)),
            Ok(Err(Refused {
                verdict: Verdict::Failed(ErrorClass::NotFound),
                ..
            })) => Ok(None),
            Ok(Err(refused)) => Err(refused.into()),
            Err(_) => {
                let words = format!("{} did not answer within {limit:?}", self.address());
                Err(Error::new(OPERATION, ErrorClass::Unreachable, words, None))
            }
        }
    }

    pub(crate) async fn many_blocks(&self, cids: &[Cid]) -> Result<Vec<Option<Bytes>>, Error> {
        let calls = cids.iter().map(|cid| self.block(cid)).collect::<Vec<_>>();
        let mut answers = futures::stream::iter(calls).buffered(GETS_MAX);
        let mut found = Vec::with_capacity(cids.len());
        while let Some(answer) = answers.next().await {
            found.push(answer?);
        }
        Ok(found)
    }

    /// Opens `dag/import`, which takes blocks as they come and answers at the end.
    pub(crate) fn import(&self) -> Result<KuboIntake, Error> {
        const OPERATION: Operation = Operation::Intake;
        // A CAR file names roots. They are not pinned, so any does; this one carries its empty block in itself.
        let nothing: Cid = "bafkqaaa"
            .parse()
            .map_err(|_| Error::new(OPERATION, ErrorClass::Permanent, "the empty CID can't be read", None))?;
        let mut begin = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"blocks.car\"\r\n\
             Content-Type: application/vnd.ipld.car\r\n\r\n"
        )
        .into_bytes();
        let car = CarWriter::new(&[nothing], &mut begin)
            .map_err(|error| Error::new(OPERATION, ErrorClass::Permanent, error.to_string(), None))?;
        let (parts, body) = mpsc::channel::<Result<Bytes, std::io::Error>>(PARTS_WAITING_MAX);
        // There is room: the channel is new.
        let _ = parts.try_send(Ok(begin.into()));
        let body = futures::stream::unfold(body, |mut body| async move { Some((body.recv().await?, body)) });
        let request = self
            .request(OPERATION, &[("pin-roots", "false"), ("silent", "true")])
            .header(CONTENT_TYPE, format!("multipart/form-data; boundary={BOUNDARY}"))
            .body(reqwest::Body::wrap_stream(body));
        let (client, stall) = (self.clone(), self.options().stall_timeout);
        let call = tokio::spawn(async move {
            let mut answer = client.answer(OPERATION, request).await?;
            answer
                .whole()
                .await
                .map(drop)
                .map_err(|broken| client.broken(OPERATION, broken).into())
        });
        Ok(KuboIntake {
            parts: Some(parts),
            car,
            call: Some(call),
            stall,
        })
    }
}

/// An import that is under way.
pub(crate) struct KuboIntake {
    /// None when the file is complete.
    parts: Option<mpsc::Sender<Result<Bytes, std::io::Error>>>,
    car: CarWriter,
    /// None when its outcome was taken.
    call: Option<JoinHandle<Result<(), Error>>>,
    stall: std::time::Duration,
}

impl KuboIntake {
    async fn send(&mut self, part: Vec<u8>) -> Result<(), Error> {
        let stalled = || {
            let words = format!("the daemon took no more blocks for {:?}", self.stall);
            Error::new(Operation::Intake, ErrorClass::Stalled, words, None)
        };
        let Some(parts) = &self.parts else { return Err(ended()) };
        match timeout(self.stall, parts.send(Ok(part.into()))).await {
            Ok(Ok(())) => Ok(()),
            Err(_) => Err(stalled()),
            // The call is over before the file: the daemon said why.
            Ok(Err(_)) => {
                self.parts = None;
                self.outcome().await?;
                Err(ended())
            }
        }
    }

    async fn outcome(&mut self) -> Result<(), Error> {
        let Some(call) = self.call.as_mut() else {
            return Err(ended());
        };
        let outcome = timeout(self.stall, call).await;
        let Ok(outcome) = outcome else {
            let words = format!("the daemon did not say within {:?} that it has all blocks", self.stall);
            return Err(Error::new(Operation::Intake, ErrorClass::Stalled, words, None));
        };
        self.call = None;
        outcome.unwrap_or_else(|error| {
            Err(Error::new(
                Operation::Intake,
                ErrorClass::Temporary,
                error.to_string(),
                None,
            ))
        })
    }
}

fn ended() -> Error {
    Error::new(
        Operation::Intake,
        ErrorClass::Temporary,
        "the daemon ended the import before it was complete",
        None,
    )
}

impl Drop for KuboIntake {
    fn drop(&mut self) {
        if let Some(call) = &self.call {
            call.abort();
        }
    }
}

#[async_trait]
impl Intake for KuboIntake {
    async fn put(&mut self, blocks: Vec<Block>) -> Result<(), Error> {
        let bytes: usize = blocks.iter().map(|block| block.bytes().len() + 64).sum();
        let mut part = Vec::with_capacity(bytes);
        for block in &blocks {
            self.car.block(block, &mut part);
        }
        self.send(part).await
    }

    async fn finish(mut self: Box<Self>, _: &[Cid]) -> Result<(), Error> {
        self.send(format!("\r\n--{BOUNDARY}--\r\n").into_bytes()).await?;
        self.parts = None;
        self.outcome().await
    }
}
