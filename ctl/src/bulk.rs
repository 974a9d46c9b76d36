//! Many pins over one stream, across broken connections.
//!
//! Items are kept until they are answered. When the stream breaks, what is unanswered is sent again to the next
//! endpoint: recording a pin twice changes nothing. The sink sees every line once, in the order of the source.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

use cluster_proto::v1;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::client::{Client, Kind, Trouble, innermost_of, service, trouble};
use crate::exit::{Exit, Failure, human, retry_delay};
use crate::lines::Line;
use crate::output::Talk;

/// What the API takes in one message.
const MESSAGE_ITEMS_MAX: usize = 1_000;
/// Well below the 4 MiB that a gRPC server takes by default.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Lines on the way. A peer commits about 20,000 a second and answers within some ten milliseconds, so this never makes
/// it wait, and it bounds the memory.
const WINDOW_LINES_MAX: usize = 16 * MESSAGE_ITEMS_MAX;
const WINDOW_BYTES_MAX: usize = 16 << 20;
/// Messages between here and the connection, which has its own flow control.
const MESSAGES_AHEAD: usize = 2;
/// After an answer that says "not now", and between connections.
const PAUSE: Duration = Duration::from_millis(200);
/// How often the sink may draw and save.
const TICK: Duration = Duration::from_millis(250);

/// What became of a line.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// On disk, on a majority.
    Recorded(v1::PinOutcome),
    /// It never will be.
    Refused {
        /// `INVALID_ARGUMENT` when it was refused here.
        code: Code,
        /// Why.
        error: String,
    },
}

/// Takes the verdicts.
pub trait Sink {
    /// A line is settled. Called once for every line, in order.
    fn settled(&mut self, line: Line, verdict: Verdict) -> Result<(), Failure>;
    /// Time to draw or to save.
    fn tick(&mut self) -> Result<(), Failure>;
}

struct Entry {
    line: Line,
    bytes: usize,
    verdict: Option<Verdict>,
}

/// Lines that are not settled yet. `base` is the sequence number of the first.
#[derive(Default)]
struct Window {
    entries: VecDeque<Entry>,
    base: u64,
    bytes: usize,
    to_send: VecDeque<u64>,
    sent: VecDeque<u64>,
}

impl Window {
    fn has_room(&self) -> bool {
        self.entries.len() < WINDOW_LINES_MAX && self.bytes < WINDOW_BYTES_MAX
    }

    fn push(&mut self, line: Line) {
        let sequence = self.base + self.entries.len() as u64;
        let (bytes, verdict) = match &line.parsed {
            Ok(item) => {
                self.to_send.push_back(sequence);
                (item.encoded_len() + line.text.len(), None)
            }
            Err(error) => {
                let verdict = Verdict::Refused {
                    code: Code::InvalidArgument,
                    error: error.clone(),
                };
                (line.text.len(), Some(verdict))
            }
        };
        self.bytes += bytes;
        self.entries.push_back(Entry { line, bytes, verdict });
    }

    fn entry(&mut self, sequence: u64) -> &mut Entry {
        let index = usize::try_from(sequence - self.base).expect("the window is small");
        &mut self.entries[index]
    }

    /// Everything unanswered goes out again, in order.
    fn resend(&mut self) {
        self.sent.clear();
        let unanswered = self
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.verdict.is_none());
        self.to_send = unanswered.map(|(index, _)| self.base + index as u64).collect();
    }

    fn message(&mut self) -> v1::BulkPinRequest {
        let mut items = Vec::new();
        let mut bytes = 0;
        while let Some(sequence) = self.to_send.front().copied() {
            let Ok(item) = self.entry(sequence).line.parsed.clone() else {
                self.to_send.pop_front();
                continue;
            };
            let length = item.encoded_len() + 8;
            if !items.is_empty() && (items.len() >= MESSAGE_ITEMS_MAX || bytes + length > MESSAGE_BYTES_MAX) {
                break;
            }
            bytes += length;
            items.push(item);
            self.to_send.pop_front();
            self.sent.push_back(sequence);
        }
        v1::BulkPinRequest { items }
    }

    /// Takes one result; tells whether it settles its line or the item must be sent again.
    fn answer(&mut self, result: v1::BulkPinResult) -> Result<bool, Failure> {
        let sequence = self.sent.pop_front().ok_or_else(|| {
            Failure::local("the peer answered more items than were sent").hint("report this as a bug")
        })?;
        let outcome = result.outcome();
        let verdict = match Code::from(result.code) {
            Code::Ok => Verdict::Recorded(outcome),
            // Not a word about the item itself: it may go well in a moment. `Unknown` says that it may have been recorded
            // already; recording it again changes nothing.
            Code::Unavailable
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown => {
                self.to_send.push_back(sequence);
                return Ok(false);
            }
            code => Verdict::Refused {
                code,
                error: result.error,
            },
        };
        self.entry(sequence).verdict = Some(verdict);
        Ok(true)
    }

    /// Hands over the lines at the front that are settled.
    fn settle(&mut self, sink: &mut dyn Sink) -> Result<(), Failure> {
        while self.entries.front().is_some_and(|entry| entry.verdict.is_some()) {
            let Some(Entry {
                line,
                bytes,
                verdict: Some(verdict),
            }) = self.entries.pop_front()
            else {
                break;
            };
            self.base += 1;
            self.bytes -= bytes;
            sink.settled(line, verdict)?;
        }
        Ok(())
    }
}

/// How a connection ended.
enum End {
    Done,
    /// The stream is gone; what is unanswered is sent again.
    Broken(Status),
    /// The peer closed the stream while something was unanswered.
    Closed,
}

/// Sends lines until the source ends and every one is settled.
pub async fn run(
    client: &Client,
    talk: Talk,
    mut source: mpsc::Receiver<Result<Vec<Line>, Failure>>,
    sink: &mut dyn Sink,
) -> Result<(), Failure> {
    let mut window = Window::default();
    let mut ended = false;
    // Without a settled line for so long, somebody should look.
    let patience = client.timeout();
    let mut moved = Instant::now();
    loop {
        window.resend();
        // Nothing is opened before there is something to say: a peer may wait for the first message before it answers.
        while window.to_send.is_empty() && !ended {
            match source.recv().await {
                Some(batch) => batch?.into_iter().for_each(|line| window.push(line)),
                None => ended = true,
            }
            window.settle(sink)?;
            moved = Instant::now();
        }
        if window.entries.is_empty() {
            return sink.tick();
        }
        let end = match open(client, &mut window).await {
            Ok((sender, stream)) => {
                connection(
                    stream,
                    sender,
                    &mut window,
                    &mut source,
                    &mut ended,
                    &mut moved,
                    patience,
                    sink,
                )
                .await?
            }
            Err(failure) => {
                let may_pass = matches!(failure.exit, Exit::Unavailable | Exit::Unknown);
                if !may_pass || moved.elapsed() >= patience {
                    return Err(failure);
                }
                talk.note(&format!("{}; trying again", failure.message));
                wait(PAUSE, sink).await?;
                continue;
            }
        };
        let (reason, delay) = match end {
            End::Done => return sink.tick(),
            End::Closed => ("it ended before every item was recorded".to_owned(), None),
            End::Broken(status) => {
                if trouble(&status) == Trouble::Final {
                    return Err(Failure::from_status(&status, true));
                }
                (innermost_of(&status), retry_delay(&status))
            }
        };
        if moved.elapsed() >= patience {
            return Err(Failure::new(
                Exit::Unavailable,
                format!("nothing was recorded for {} ({reason})", human(patience)),
            )
            .hint("`cluster-ctl status` shows what is missing"));
        }
        talk.note(&format!(
            "{}: the stream broke off ({reason}), going on",
            client.address()
        ));
        client.move_on();
        wait(delay.unwrap_or(PAUSE).min(patience), sink).await?;
    }
}

/// Passes time while the sink goes on drawing.
async fn wait(time: Duration, sink: &mut dyn Sink) -> Result<(), Failure> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        sink.tick()?;
        sleep(TICK.min(end.saturating_duration_since(Instant::now()))).await;
    }
    Ok(())
}

type Opened = (mpsc::Sender<v1::BulkPinRequest>, Streaming<v1::BulkPinResponse>);

async fn open(client: &Client, window: &mut Window) -> Result<Opened, Failure> {
    let first = window.message();
    let slot = Mutex::new(None);
    let stream = client
        .call(Kind::Stream, (), |channel, _| {
            let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD);
            let queued = sender.try_send(first.clone());
            if let Ok(mut slot) = slot.lock() {
                *slot = Some(sender);
            }
            async move {
                queued.map_err(|_| Status::internal("a fresh channel is full"))?;
                service!(pins_client::PinsClient, channel)
                    .bulk_pin(ReceiverStream::new(receiver))
                    .await
            }
        })
        .await?;
    let sender = slot
        .into_inner()
        .ok()
        .flatten()
        .ok_or_else(|| Failure::local("the stream has no sender"))?;
    Ok((sender, stream))
}

#[allow(clippy::too_many_arguments, reason = "the state of one connection, used once")]
async fn connection(
    mut stream: Streaming<v1::BulkPinResponse>,
    sender: mpsc::Sender<v1::BulkPinRequest>,
    window: &mut Window,
    source: &mut mpsc::Receiver<Result<Vec<Line>, Failure>>,
    ended: &mut bool,
    moved: &mut Instant,
    patience: Duration,
    sink: &mut dyn Sink,
) -> Result<End, Failure> {
    let mut sender = Some(sender);
    let mut pause_until = Instant::now();
    // Short enough that another peer gets its turn before patience ends.
    let silence = patience / 3;
    let mut heard = Instant::now();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // The end of the list is told at once: a peer may hold answers back until its batch is full.
        if *ended && window.to_send.is_empty() {
            sender = None;
        }
        let has_items = !window.to_send.is_empty();
        if sender.is_none() && has_items {
            // An item came back after the end of the list was told; it needs a new stream.
            if window.sent.is_empty() {
                return Ok(End::Closed);
            }
        }
        tokio::select! {
            answer = stream.message() => match answer {
                Ok(Some(response)) => {
                    heard = Instant::now();
                    let mut settled = false;
                    for result in response.results {
                        if window.answer(result)? {
                            settled = true;
                        } else {
                            pause_until = Instant::now() + PAUSE;
                        }
                    }
                    if settled {
                        *moved = Instant::now();
                    }
                    window.settle(sink)?;
                }
                Ok(None) if *ended && window.entries.is_empty() => return Ok(End::Done),
                Ok(None) => return Ok(End::Closed),
                Err(status) => return Ok(End::Broken(status)),
            },
            permit = reserve(&sender, pause_until), if has_items && sender.is_some() => {
                // A closed channel means that the connection is gone; the stream says why.
                match permit {
                    Some(permit) => {
                        permit.send(window.message());
                    }
                    None => sender = None,
                }
            }
            batch = source.recv(), if !*ended && window.has_room() => {
                if window.entries.is_empty() {
                    // Time spent waiting for the list is no fault of the peer.
                    *moved = Instant::now();
                    heard = Instant::now();
                }
                match batch {
                    Some(batch) => batch?.into_iter().for_each(|line| window.push(line)),
                    None => *ended = true,
                }
                window.settle(sink)?;
            }
            _ = tick.tick() => {
                sink.tick()?;
                if !window.entries.is_empty() && heard.elapsed() >= silence {
                    return Ok(End::Broken(Status::deadline_exceeded(format!("no answer within {}", human(silence)))));
                }
            }
        }
    }
}

/// A place in the channel, once the pause is over.
fn reserve(
    sender: &Option<mpsc::Sender<v1::BulkPinRequest>>,
    pause_until: Instant,
) -> impl Future<Output = Option<mpsc::OwnedPermit<v1::BulkPinRequest>>> + use<> {
    let sender = sender.clone();
    async move {
        tokio::time::sleep_until(pause_until).await;
        sender?.reserve_owned().await.ok()
    }
}
