//! Content on its way out of the cluster.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use cluster_proto::v1;
use cluster_proto::v1::fetch_response::Message;
use node_core::Cid;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tonic::{Status, Streaming};

use crate::client::{Client, Kind, Trouble, innermost_of, service, trouble};
use crate::exit::{Exit, Failure, human, retry_delay};
use crate::output::Talk;

/// Pieces on their way to who writes them. A piece is at most what one message holds, about 2 MiB.
pub const PIECES_AHEAD: usize = 2;
/// Between a broken stream and the next try, so that a peer that is starting is not hammered.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(200);
const PAUSE_MAX: std::time::Duration = std::time::Duration::from_secs(2);

/// What is asked for: `CID` or `CID/path`, also with `/ipfs/` in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// As the API takes it.
    pub path: String,
    /// What to call it on a disk: the last name, or the CID.
    pub name: String,
}

impl Asked {
    /// Reads what the user typed.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let path = text.strip_prefix("/ipfs/").unwrap_or(text);
        if text.starts_with("/ipns/") {
            return Err(
                Failure::usage(format!("{text} is a name that may lead elsewhere tomorrow"))
                    .hint(format!("`ipfs resolve {text}` prints what it leads to now")),
            );
        }
        let (root, below) = path.split_once('/').unwrap_or((path, ""));
        let cid: Cid = root.parse().map_err(|error: node_core::CidError| {
            Failure::usage(error.to_string()).hint("use CID or CID/PATH; a CID looks like bafybei… or Qm…")
        })?;
        let names: Vec<&str> = below.split('/').filter(|name| !name.is_empty()).collect();
        if names.iter().any(|name| matches!(*name, "." | "..")) || below.contains('\0') {
            return Err(Failure::usage(format!(
                "{text} has a name in it that no directory holds"
            )));
        }
        let mut path = cid.to_string();
        for name in &names {
            path.push('/');
            path += name;
        }
        let name = names.last().map_or_else(|| cid.to_string(), |name| (*name).to_owned());
        Ok(Self { path, name })
    }
}

/// A stream of content.
pub struct Fetching<'a> {
    client: &'a Client,
    talk: Talk,
    request: v1::FetchRequest,
    stream: Streaming<v1::FetchResponse>,
    /// What comes.
    pub head: v1::FetchHead,
    received: u64,
    /// Breaks without a byte in between. Every endpoint gets two tries.
    breaks: usize,
}

impl<'a> Fetching<'a> {
    /// Asks for content.
    pub async fn open(client: &'a Client, talk: Talk, request: v1::FetchRequest) -> Result<Self, Failure> {
        let mut breaks = 0;
        loop {
            let (head, stream) = match begin(client, request.clone()).await? {
                Ok(begun) => begun,
                Err(status) => {
                    again(client, talk, &status, &mut breaks).await?;
                    continue;
                }
            };
            return Ok(Self {
                client,
                talk,
                request,
                stream,
                head,
                received: 0,
                breaks: 0,
            });
        }
    }

    /// The next bytes; none when all have come. The bytes of a file go on at another peer when the stream breaks; an
    /// archive can't, for nobody can begin in its middle.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let status = match message(self.client, &mut self.stream).await {
                Ok(Some(Message::Data(data))) => {
                    self.breaks = 0;
                    self.received += data.len() as u64;
                    if self.head.bytes.is_some_and(|bytes| self.received > bytes) {
                        return Err(wrong_peer(self.client, "sends more bytes than it announced"));
                    }
                    return Ok(Some(data));
                }
                Ok(Some(Message::Head(_))) => return Err(wrong_peer(self.client, "begins its answer a second time")),
                Ok(None) if self.head.bytes.is_none_or(|bytes| bytes == self.received) => return Ok(None),
                Ok(None) => Status::unavailable("it ended before everything had come"),
                // Only the end of the stream is missing.
                Err(_) if self.is_complete() => return Ok(None),
                Err(status) => status,
            };
            if !self.goes_on() {
                let failure = match trouble(&status) {
                    Trouble::Final => Failure::from_status(&status, false),
                    _ => Failure::new(
                        Exit::Unavailable,
                        format!(
                            "{}: the stream broke off ({})",
                            self.client.address(),
                            innermost_of(&status)
                        ),
                    )
                    .hint("run the command again; --api names other peers"),
                };
                return Err(failure);
            }
            self.resume(status).await?;
        }
    }

    fn is_complete(&self) -> bool {
        let wanted = self.request.length;
        self.head.bytes == Some(self.received) || (wanted > 0 && wanted == self.received)
    }

    fn goes_on(&self) -> bool {
        matches!(
            self.request.format(),
            v1::FetchFormat::Unspecified | v1::FetchFormat::File
        )
    }

    async fn resume(&mut self, status: Status) -> Result<(), Failure> {
        let mut status = status;
        loop {
            again(self.client, self.talk, &status, &mut self.breaks).await?;
            let request = v1::FetchRequest {
                offset: self.request.offset + self.received,
                // Still 0 when all was asked for, and never 0 otherwise: that would be complete.
                length: self.request.length.saturating_sub(self.received),
                ..self.request.clone()
            };
            match begin(self.client, request).await? {
                Ok((head, stream)) => {
                    let left = self.head.bytes.map(|bytes| bytes - self.received);
                    if head.cid != self.head.cid || (left.is_some() && head.bytes != left) {
                        return Err(wrong_peer(self.client, "has something else under this path"));
                    }
                    self.stream = stream;
                    return Ok(());
                }
                Err(broken) => status = broken,
            }
        }
    }
}

type Begun = (v1::FetchHead, Streaming<v1::FetchResponse>);

/// Opens a stream and takes its head.
async fn begin(client: &Client, request: v1::FetchRequest) -> Result<Result<Begun, Status>, Failure> {
    let mut stream = client
        .call(Kind::Stream, request, |channel, request| async move {
            service!(content_client::ContentClient, channel).fetch(request).await
        })
        .await?;
    match message(client, &mut stream).await {
        Ok(Some(Message::Head(head))) => Ok(Ok((head, stream))),
        Ok(Some(Message::Data(_))) => Err(wrong_peer(client, "sends bytes without saying what they are")),
        Ok(None) => Ok(Err(Status::unavailable("it ended before it began"))),
        Err(status) => Ok(Err(status)),
    }
}

/// The next message that says something.
async fn message(client: &Client, stream: &mut Streaming<v1::FetchResponse>) -> Result<Option<Message>, Status> {
    loop {
        match timeout(client.timeout(), stream.message()).await {
            Ok(Ok(Some(v1::FetchResponse { message: Some(message) }))) => return Ok(Some(message)),
            // Of a newer version.
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None)) => return Ok(None),
            Ok(Err(status)) => return Err(status),
            Err(_) => {
                let silent = format!("silent for {}", human(client.timeout()));
                return Err(Status::deadline_exceeded(silent));
            }
        }
    }
}

/// Moves on to another peer after a break, or gives up.
async fn again(client: &Client, talk: Talk, status: &Status, breaks: &mut usize) -> Result<(), Failure> {
    *breaks += 1;
    if trouble(status) == Trouble::Final || *breaks > 2 * client.endpoints() {
        return Err(Failure::from_status(status, false));
    }
    talk.note(&format!(
        "{}: the stream broke off ({}), going on",
        client.address(),
        innermost_of(status)
    ));
    client.move_on();
    sleep(retry_delay(status).unwrap_or(PAUSE * *breaks as u32).min(PAUSE_MAX)).await;
    Ok(())
}

fn wrong_peer(client: &Client, what: &str) -> Failure {
    Failure::local(format!("the peer {} {what}", client.address()))
        .hint("the log of the peer says more; --api names other peers")
}

/// What goes through the channel of [`PieceReader`].
#[derive(Debug)]
pub enum Piece {
    /// Bytes.
    Data(Bytes),
    /// All have come.
    End,
}

/// Pieces as a reader, for a thread that may block. A channel that closes without [`Piece::End`] is an error: what was
/// cut off must not look complete.
pub struct PieceReader {
    pieces: mpsc::Receiver<Piece>,
    piece: Bytes,
    has_ended: bool,
}

impl PieceReader {
    /// A reader of what comes through the channel.
    pub fn new(pieces: mpsc::Receiver<Piece>) -> Self {
        Self {
            pieces,
            piece: Bytes::new(),
            has_ended: false,
        }
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.has_ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(data)) => self.piece = data,
                Some(Piece::End) => self.has_ended = true,
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the stream broke off")),
            }
        }
        let count = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: &str = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn";

    #[test]
    fn paths_have_several_forms() {
        for (given, below, name) in [
            (CID.to_owned(), "", CID),
            (format!("/ipfs/{CID}/"), "", CID),
            (format!("{CID}/a b/c"), "/a b/c", "c"),
            (format!("/ipfs/{CID}//a/"), "/a", "a"),
        ] {
            let asked = Asked::parse(&given).expect(&given);
            assert_eq!((asked.path, asked.name), (format!("{CID}{below}"), name.to_owned()));
        }
        for (bad, why) in [
            ("hello".to_owned(), "\"hello\" is not a CID"),
            ("/ipfs/".into(), "it is empty"),
            (format!("/ipns/{CID}"), "elsewhere tomorrow"),
            (format!("{CID}/../x"), "no directory holds"),
        ] {
            let failure = Asked::parse(&bad).expect_err(&bad);
            assert!(failure.message.contains(why), "{}", failure.message);
            assert_eq!(failure.exit, Exit::Usage);
        }
    }

    #[test]
    fn what_is_cut_off_does_not_look_complete() {
        let read = |pieces: Vec<Piece>| {
            let (sender, receiver) = mpsc::channel(8);
            pieces
                .into_iter()
                .for_each(|piece| sender.try_send(piece).expect("room"));
            drop(sender);
            let mut text = String::new();
            PieceReader::new(receiver).read_to_string(&mut text).map(|_| text)
        };
        let data = |text: &'static str| Piece::Data(Bytes::from_static(text.as_bytes()));
        let whole = read(vec![data("ab"), data(""), data("c"), Piece::End]);
        assert_eq!(whole.expect("complete"), "abc");
        read(vec![data("ab")]).expect_err("cut off");
        read(vec![]).expect_err("cut off");
    }
}
