//! `add`: files and directories straight into the cluster.

mod job;
mod report;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster_proto::v1;
use cluster_proto::v1::add_response::Message;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tonic::{Status, Streaming};

use self::job::Job;
use self::report::Report;
use super::interrupted;
use crate::Context;
use crate::cli::ContentAdd;
use crate::client::{Client, Kind, Trouble, innermost_of, service, trouble};
use crate::content::feed::{MESSAGES_AHEAD, Outgoing, Sent, feed, outgoing};
use crate::exit::{Exit, Failure, human};
use crate::output::meter::Meter;
use crate::output::words;

/// How often it is drawn and looked whether anything moves.
const TICK: Duration = Duration::from_millis(250);
/// How long the peer may take to confirm that it gave an add up. It does so at once, unless it hangs.
const ABORT_TIME: Duration = Duration::from_secs(2);

const NOTHING_PINNED: &str = "nothing was pinned";

/// `add`
pub async fn run(context: &mut Context, arguments: ContentAdd) -> Result<Exit, Failure> {
    let job = Job::new(&arguments)?;
    let mut report = Report::new(&arguments, job.top.clone());
    let mut meter = Meter::new(context.talk, job.total);
    let done = transfer(context, job, &mut report, &mut meter).await;
    // What was complete before an error is shown too.
    let printed = meter.suspend(|| report.print(&mut context.out));
    drop(meter);
    let done = done?;
    printed?;
    report.finish(context, done, &arguments.wait).await
}

/// An open add.
struct Call {
    sender: mpsc::Sender<Outgoing>,
    sent: Arc<Sent>,
    answers: Streaming<v1::AddResponse>,
}

/// Opens an add at a peer that answers. Nothing but the start was sent when another peer is tried.
async fn open(client: &Client, start: v1::AddStart) -> Result<Call, Failure> {
    let start = v1::AddRequest {
        message: Some(v1::add_request::Message::Start(start)),
    };
    let slot = Mutex::new(None);
    let answers = client
        .call(Kind::Stream, (), |channel, _| {
            let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD);
            let sent = Arc::new(Sent::default());
            let queued = sender.try_send(Outgoing::Message(start.clone()));
            let messages = outgoing(receiver, Arc::clone(&sent));
            if let Ok(mut slot) = slot.lock() {
                *slot = Some((sender, sent));
            }
            async move {
                queued.map_err(|_| Status::internal("a fresh channel is full"))?;
                service!(content_client::ContentClient, channel).add(messages).await
            }
        })
        .await
        .map_err(|failure| plain(failure).hint(NOTHING_PINNED))?;
    let (sender, sent) = slot
        .into_inner()
        .ok()
        .flatten()
        .ok_or_else(|| Failure::local("the stream has no sender"))?;
    Ok(Call { sender, sent, answers })
}

/// Sends everything and follows the answers to the last.
async fn transfer(
    context: &mut Context,
    job: Job,
    report: &mut Report,
    meter: &mut Meter,
) -> Result<v1::AddDone, Failure> {
    let Context { client, out, .. } = context;
    let interrupt = interrupted();
    tokio::pin!(interrupt);
    let mut call = tokio::select! {
        call = open(client, job.start) => call?,
        () = &mut interrupt => return Err(Failure::new(Exit::Interrupted, "interrupted").hint(NOTHING_PINNED)),
    };
    let (source, sender) = (job.source, call.sender.clone());
    let mut feeding = spawn_blocking(move || feed(&source, &sender));
    let mut is_fed = false;
    let mut watch = Watch::new(client.timeout());
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            answer = call.answers.message() => {
                watch.moved();
                let message = match answer {
                    Ok(Some(answer)) => answer.message,
                    Ok(None) => return Err(broken(client, &call, report, None)),
                    Err(status) => return Err(broken(client, &call, report, Some(status))),
                };
                match message {
                    Some(Message::Progress(progress)) => {
                        meter.set(progress.bytes);
                        meter.extra(format!("{} stored", words::bytes(progress.stored_bytes)));
                    }
                    Some(Message::Added(entry)) => {
                        if let Err(failure) = meter.suspend(|| report.added(out, entry)) {
                            return Err(call.give_up(report, failure).await);
                        }
                    }
                    Some(Message::Done(done)) if call.sent.has_ended() => return Ok(done),
                    Some(Message::Done(_)) => {
                        return Err(Failure::local(format!(
                            "the peer {} says that it has everything before everything was sent",
                            client.address()
                        ))
                        .hint("the log of the peer says more"));
                    }
                    // Of a newer version.
                    None => {}
                }
            }
            fed = &mut feeding, if !is_fed => {
                is_fed = true;
                let fed = fed.unwrap_or_else(|error| {
                    Err(Failure::local(format!("the reading thread ended early: {error}")).hint("report this as a bug"))
                });
                if let Err(failure) = fed {
                    return Err(call.give_up(report, failure).await);
                }
            }
            () = &mut interrupt => {
                let failure = Failure::new(Exit::Interrupted, "interrupted");
                return Err(call.give_up(report, failure).await);
            }
            _ = tick.tick() => {
                meter.tick();
                if let Err(failure) = meter.suspend(|| report.tick(out)) {
                    return Err(call.give_up(report, failure).await);
                }
                if watch.is_stuck(&call) {
                    let silence = format!("nothing moves for {}", human(watch.patience(&call)));
                    return Err(broken(client, &call, report, Some(Status::deadline_exceeded(silence))));
                }
            }
        }
    }
}

impl Call {
    /// Ends it from this side, with what that means for the content.
    async fn give_up(&mut self, report: &Report, failure: Failure) -> Failure {
        if !self.sent.has_ended() {
            self.abort().await;
        }
        // The end may have been on its way already.
        match self.sent.has_ended() {
            true => report.unknown(failure),
            false => failure.hint(NOTHING_PINNED),
        }
    }

    /// Makes the peer give it up, and waits until it says so.
    async fn abort(&mut self) {
        let give_up = async {
            if self.sender.send(Outgoing::Abort).await.is_ok() {
                while let Ok(Some(_)) = self.answers.message().await {}
            }
        };
        // A peer that does not answer gets no end either: the connection breaks with this process.
        let _ = timeout(ABORT_TIME, give_up).await;
    }
}

/// Tells a peer that takes nothing from a source that gives nothing.
struct Watch {
    timeout: Duration,
    at: Instant,
    messages: u64,
}

impl Watch {
    fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            at: Instant::now(),
            messages: 0,
        }
    }

    fn moved(&mut self) {
        self.at = Instant::now();
    }

    /// After the end the nodes store what is left, and then the pin is recorded: two steps that may take the time each.
    fn patience(&self, call: &Call) -> Duration {
        if call.sent.has_ended() {
            self.timeout * 2
        } else {
            self.timeout
        }
    }

    fn is_stuck(&mut self, call: &Call) -> bool {
        let messages = call.sent.messages();
        let has_nothing_to_take = call.sender.capacity() == MESSAGES_AHEAD && !call.sent.has_ended();
        if messages != self.messages || has_nothing_to_take {
            self.messages = messages;
            self.moved();
        }
        self.at.elapsed() >= self.patience(call)
    }
}

/// The stream is over without a last word.
fn broken(client: &Client, call: &Call, report: &Report, status: Option<Status>) -> Failure {
    // An error that the peer sent says that nothing was pinned, unless it says that it does not know.
    let is_answer = |status: &Status| {
        matches!(trouble(status), Trouble::Final | Trouble::Busy) && std::error::Error::source(status).is_none()
    };
    match status {
        Some(status) if is_answer(&status) => plain(Failure::from_status(&status, false)).hint(NOTHING_PINNED),
        status => {
            let reason = match &status {
                Some(status) => innermost_of(status),
                None => "the peer ended it before its last word".into(),
            };
            let message = format!("{}: the stream broke off ({reason})", client.address());
            let is_uncertain = status.is_some_and(|status| trouble(&status) == Trouble::Uncertain);
            if call.sent.has_ended() || is_uncertain {
                return report.unknown(Failure::new(Exit::Unknown, message));
            }
            Failure::new(Exit::Unavailable, message).hint(format!(
                "{NOTHING_PINNED}; run the command again, --api names other peers"
            ))
        }
    }
}

/// Without hints that name options of `pin add`.
fn plain(mut failure: Failure) -> Failure {
    for hint in &mut failure.hints {
        if hint.contains("--allow-unplaced") {
            *hint =
                "`cluster-ctl node ls` shows which nodes there are and how full they are; content needs nodes that \
                     can take it now, or fewer --replicas"
                    .into();
        }
    }
    failure
}
