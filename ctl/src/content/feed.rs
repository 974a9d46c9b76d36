//! Files on their way into the cluster.
//!
//! The end of an add is a word of its own, since a stream that was cancelled looks to a peer like one that has ended: half of
//! the content would be pinned. So the stream that [`outgoing`] gives says it, and ends, for [`Outgoing::End`] only. Whoever
//! drops its sender leaves it open, until the connection goes. [`Outgoing::Abort`] sends a message that no peer takes: the
//! peer refuses the whole add at once.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use cluster_proto::v1;
use cluster_proto::v1::add_entry::Kind as EntryKind;
use cluster_proto::v1::add_request::Message;
use futures::Stream;
use rustix::fs::OFlags;
use tokio::sync::mpsc;

use super::tree::{Entry, Kind, Root, Rules, Walk, unreadable};
use crate::exit::Failure;

/// Bytes of a file in one message, at most.
pub const MESSAGE_BYTES: usize = 1 << 20;
/// Messages between here and the connection, which has its own flow control.
pub const MESSAGES_AHEAD: usize = 2;
/// What is read of a pipe at once, at most. It is sent as it comes: a slow writer must not look like a dead client.
const PIPE_BYTES: usize = 256 << 10;
/// First read of a file whose length says nothing.
const SMALL_BYTES: usize = 4 << 10;

/// What goes to the connection.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there are only as many as the channel holds")]
pub enum Outgoing {
    /// A message.
    Message(v1::AddRequest),
    /// All was sent.
    End,
    /// Nothing shall come of it.
    Abort,
}

/// How far the connection has got.
#[derive(Debug, Default)]
pub struct Sent {
    messages: AtomicU64,
    ended: AtomicBool,
}

impl Sent {
    /// Messages that the connection has taken.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Whether the end was sent: from here on the pin may be recorded.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// What a peer gets of what comes through the channel.
pub fn outgoing(
    receiver: mpsc::Receiver<Outgoing>,
    sent: Arc<Sent>,
) -> impl Stream<Item = v1::AddRequest> + Send + 'static {
    futures::stream::unfold((Some(receiver), sent), |(receiver, sent)| async move {
        let mut receiver = receiver?;
        let (message, receiver) = match receiver.recv().await {
            Some(Outgoing::Message(message)) => (Some(message), Some(receiver)),
            Some(Outgoing::End) => {
                sent.ended.store(true, Ordering::Release);
                (Some(end()), None)
            }
            Some(Outgoing::Abort) => (None, Some(receiver)),
            None => std::future::pending().await,
        };
        sent.messages.fetch_add(1, Ordering::Relaxed);
        Some((message.unwrap_or_default(), (receiver, sent)))
    })
}

/// The word that all was sent.
fn end() -> v1::AddRequest {
    v1::AddRequest {
        message: Some(Message::End(v1::AddEnd {})),
    }
}

/// One thing to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// What lies under a path.
    Tree(Root),
    /// Standard input, as a file without a name.
    Stdin,
}

/// All that is sent behind the start.
#[derive(Debug, Clone)]
pub enum Source {
    /// Files, directories and symlinks.
    Parts {
        /// In their order.
        parts: Vec<Part>,
        /// What is left out.
        rules: Rules,
    },
    /// The bytes of a CAR file.
    Car(PathBuf),
    /// The same from standard input.
    CarFromStdin,
}

/// Why feeding ended early.
enum Stop {
    /// The connection takes no more; it knows why.
    Gone,
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Reads everything and sends it, with the end behind it. Blocks. It ends early without an error when the connection
/// takes no more.
pub fn feed(source: &Source, sender: &mpsc::Sender<Outgoing>) -> Result<(), Failure> {
    let feeder = Feeder { sender };
    match feeder.all(source) {
        Ok(()) | Err(Stop::Gone) => Ok(()),
        Err(Stop::Failed(failure)) => Err(failure),
    }
}

struct Feeder<'a> {
    sender: &'a mpsc::Sender<Outgoing>,
}

impl Feeder<'_> {
    fn all(&self, source: &Source) -> Result<(), Stop> {
        match source {
            Source::Parts { parts, rules } => {
                for part in parts {
                    match part {
                        Part::Stdin => {
                            self.message(Message::Entry(v1::AddEntry {
                                kind: EntryKind::File.into(),
                                ..v1::AddEntry::default()
                            }))?;
                            self.stdin()?;
                        }
                        Part::Tree(root) => {
                            for entry in Walk::new(root, rules) {
                                self.entry(&entry?)?;
                            }
                        }
                    }
                }
            }
            Source::Car(place) => {
                let file = File::open(place).map_err(|error| unreadable(place, &error))?;
                self.file(place, file)?;
            }
            Source::CarFromStdin => self.stdin()?,
        }
        self.sender.blocking_send(Outgoing::End).map_err(|_| Stop::Gone)
    }

    fn message(&self, message: Message) -> Result<(), Stop> {
        let request = v1::AddRequest { message: Some(message) };
        let sent = self.sender.blocking_send(Outgoing::Message(request));
        sent.map_err(|_| Stop::Gone)
    }

    fn entry(&self, entry: &Entry) -> Result<(), Stop> {
        let (kind, target) = match &entry.kind {
            Kind::File { .. } => (EntryKind::File, ""),
            Kind::Directory => (EntryKind::Directory, ""),
            Kind::Symlink { target } => (EntryKind::Symlink, target.as_str()),
        };
        // Opened before it is announced: what can't be opened is told sooner by one message.
        let file = match kind {
            EntryKind::File => Some(open_again(entry)?),
            _ => None,
        };
        self.message(Message::Entry(v1::AddEntry {
            path: entry.path.clone(),
            kind: kind.into(),
            target: target.to_owned(),
            mode: entry.mode,
            mtime_seconds: entry.mtime_seconds,
            mtime_nanos: entry.mtime_nanos,
        }))?;
        match file {
            Some(file) => self.file(&entry.place, file),
            None => Ok(()),
        }
    }

    /// Sends a file that must stay as it is while it is read.
    fn file(&self, place: &Path, mut file: File) -> Result<(), Stop> {
        let failed = |error: io::Error| Stop::Failed(unreadable(place, &error));
        let before = file.metadata().map_err(failed)?;
        let length = before.len();
        let mut read: u64 = 0;
        loop {
            // One byte more than is left, so that the end is seen without another read. Files of /proc say 0.
            let room = match (length, read) {
                (0, 0) => SMALL_BYTES,
                (0, _) => MESSAGE_BYTES,
                _ => usize::try_from(length - read + 1).map_or(MESSAGE_BYTES, |left| left.min(MESSAGE_BYTES)),
            };
            let mut buffer = vec![0; room];
            let count = fill(&mut file, &mut buffer).map_err(failed)?;
            read += count as u64;
            if length > 0 && read > length {
                return Err(changed(place).into());
            }
            buffer.truncate(count);
            if count > 0 {
                self.message(Message::Data(Bytes::from(buffer)))?;
            }
            if count < room {
                break;
            }
        }
        let after = file.metadata().map_err(failed)?;
        let state = |data: &std::fs::Metadata| (data.len(), data.mtime(), data.mtime_nsec());
        if state(&before) != state(&after) || (length > 0 && read != length) {
            return Err(changed(place).into());
        }
        Ok(())
    }

    fn stdin(&self) -> Result<(), Stop> {
        let mut input = io::stdin().lock();
        loop {
            let mut buffer = vec![0; PIPE_BYTES];
            let count = match input.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::local(format!("can't read standard input: {error}")).into()),
            };
            buffer.truncate(count);
            // A short read must not hold the whole buffer while it waits.
            buffer.shrink_to_fit();
            self.message(Message::Data(Bytes::from(buffer)))?;
        }
    }
}

/// Opens the file that the walk saw, and no other that took its place.
fn open_again(entry: &Entry) -> Result<File, Failure> {
    let place = &entry.place;
    // Never through a symlink, and never waiting for the writer of a pipe.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags as i32)
        .open(place)
        .and_then(|file| file.metadata().map(|data| (file, data)));
    let (file, data) = opened.map_err(|error| unreadable(place, &error))?;
    if !data.is_file() || (data.dev(), data.ino()) != entry.identity {
        return Err(changed(place));
    }
    Ok(file)
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn changed(place: &Path) -> Failure {
    Failure::local(format!("{} changed while it was added", place.display()))
        .hint("add it when nothing writes to it, or a copy of it")
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    #[tokio::test]
    async fn only_the_end_ends_the_stream() {
        let sent = Arc::new(Sent::default());
        let (sender, receiver) = mpsc::channel(4);
        let mut stream = std::pin::pin!(outgoing(receiver, Arc::clone(&sent)));
        let data = v1::AddRequest {
            message: Some(Message::Data(Bytes::from_static(b"x"))),
        };
        sender.try_send(Outgoing::Message(data.clone())).expect("room");
        sender.try_send(Outgoing::Abort).expect("room");
        assert_eq!(stream.next().await, Some(data));
        assert_eq!(stream.next().await, Some(v1::AddRequest { message: None }));
        drop(sender);
        assert!(
            futures::poll!(stream.next()).is_pending(),
            "a lost sender is not the end"
        );
        assert_eq!((sent.messages(), sent.has_ended()), (2, false));

        let (sender, receiver) = mpsc::channel(1);
        let mut stream = std::pin::pin!(outgoing(receiver, Arc::clone(&sent)));
        sender.try_send(Outgoing::End).expect("room");
        assert_eq!(stream.next().await, Some(end()));
        assert_eq!(stream.next().await, None);
        assert!(sent.has_ended());
    }

    fn feed_file(place: &Path, during: impl FnOnce()) -> (Result<(), Failure>, u64) {
        let (sender, mut receiver) = mpsc::channel(1);
        let source = Source::Car(place.to_owned());
        let thread = std::thread::spawn(move || feed(&source, &sender));
        let (mut bytes, mut during) = (0, Some(during));
        while let Some(Outgoing::Message(message)) = receiver.blocking_recv() {
            if let Some(Message::Data(data)) = message.message {
                assert!(data.len() <= MESSAGE_BYTES);
                bytes += data.len() as u64;
            }
            if let Some(during) = during.take() {
                during();
            }
        }
        (thread.join().expect("no panic"), bytes)
    }

    #[test]
    fn lengths_around_that_of_a_message() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("file");
        for length in [
            0,
            1,
            MESSAGE_BYTES - 1,
            MESSAGE_BYTES,
            MESSAGE_BYTES + 1,
            3 * MESSAGE_BYTES,
        ] {
            std::fs::write(&place, vec![7; length]).expect("written");
            let (fed, bytes) = feed_file(&place, || ());
            fed.expect("readable");
            assert_eq!(bytes, length as u64);
        }
    }

    #[test]
    fn a_file_that_changes_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("file");
        // Longer than what is read ahead, so that the change comes in the middle.
        let length = 16 * MESSAGE_BYTES;
        for change in [length - 1, length + 1, 0] {
            std::fs::write(&place, vec![7; length]).expect("written");
            let file = OpenOptions::new().write(true).open(&place).expect("there");
            let (fed, _) = feed_file(&place, || file.set_len(change as u64).expect("changed"));
            let failure = fed.expect_err("it changed");
            assert!(failure.message.contains("file changed while"), "{}", failure.message);
        }
    }

    #[test]
    fn a_file_that_another_took_the_place_of_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("file");
        std::fs::write(&place, "old").expect("written");
        let root = Root::new(&place).expect("there");
        let entry = Walk::new(&root, &Rules::default())
            .next()
            .expect("one")
            .expect("readable");
        open_again(&entry).expect("the same");
        std::fs::write(folder.path().join("new"), "new").expect("written");
        std::fs::rename(folder.path().join("new"), &place).expect("renamed");
        assert!(open_again(&entry).expect_err("another").message.contains("changed"));
        std::fs::remove_file(&place).expect("removed");
        std::os::unix::fs::symlink("/etc/hostname", &place).expect("made");
        assert!(
            open_again(&entry)
                .expect_err("a symlink")
                .message
                .contains("can't read")
        );
    }
}
