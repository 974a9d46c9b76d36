//! Waiting until the nodes have done what was recorded, with their progress on stderr.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use cluster_proto::v1;
use futures::StreamExt;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep};

use crate::Context;
use crate::client::{Client, Kind, service};
use crate::exit::{Exit, Failure, human};
use crate::output::{Talk, words};

/// How often the status is asked for: soon at first, for what is done at once, then once a second.
const POLL_MIN: Duration = Duration::from_millis(200);
const POLL_MAX: Duration = Duration::from_secs(1);
/// CIDs that are asked for in one round, and at the same time. A longer list waits for its turn, so the load on the
/// cluster does not grow with the list.
const ROUND: usize = 256;
const AT_ONCE: usize = 16;
/// Up to so many CIDs get a bar each and a line per node; more get one bar for all.
const DETAIL_MAX: usize = 4;

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Enough nodes hold it.
    Pinned,
    /// No node holds it any more.
    Released,
}

/// How it ended, by CID: a word of a state, `released`, `kept` (another pin wants it) or `unpinned` (somebody removed
/// it while we waited).
pub type Ends = HashMap<String, &'static str>;

/// Waits for every CID. The second value says why it ended early.
pub async fn wait(
    context: &Context,
    cids: Vec<String>,
    goal: Goal,
    limit: Option<Duration>,
) -> Result<(Ends, Option<Failure>), Failure> {
    let total = cids.len();
    let started = Instant::now();
    let mut pending: VecDeque<String> = cids.into();
    let mut ends = Ends::new();
    let mut display = Display::new(context.talk, total, goal);
    let mut poll = POLL_MIN;
    loop {
        let round: Vec<String> = pending.drain(..pending.len().min(ROUND)).collect();
        let remaining = limit.map(|limit| limit.saturating_sub(started.elapsed()));
        let asked = futures::stream::iter(round.iter().cloned())
            .map(|cid| async move { (ask(&context.client, &cid).await, cid) })
            .buffered(AT_ONCE)
            .collect::<Vec<_>>();
        let answers = match remaining {
            Some(remaining) => tokio::time::timeout(remaining, asked).await.ok(),
            None => Some(asked.await),
        };
        let late = answers.is_none();
        let mut left = VecDeque::new();
        for (answer, cid) in answers.into_iter().flatten() {
            match end_of(&answer?, goal, &mut display, &cid) {
                Some(word) => {
                    ends.insert(cid, word);
                }
                None => left.push_back(cid),
            }
        }
        if late {
            left.extend(round);
        }
        // What is not done yet is asked for first in the next round.
        let all_settled = left.is_empty();
        left.append(&mut pending);
        pending = left;
        display.counted(ends.len());
        if pending.is_empty() {
            break;
        }
        if late || limit.is_some_and(|limit| started.elapsed() >= limit) {
            display.clear();
            let done = total - pending.len();
            let what = if goal == Goal::Pinned { "pinned" } else { "released" };
            let failure = Failure::new(
                Exit::Unknown,
                format!(
                    "not all is {what} after {}: {done} of {total}",
                    human(limit.unwrap_or_default())
                ),
            )
            .hint(format!(
                "the cluster goes on with it; follow with `cluster-ctl pin status {}`",
                if pending.len() == 1 {
                    pending[0].as_str()
                } else {
                    "CID…"
                }
            ));
            return Ok((ends, Some(failure)));
        }
        if !all_settled {
            let left = limit.map_or(poll, |limit| limit.saturating_sub(started.elapsed()));
            sleep(poll.min(left)).await;
            poll = (poll * 3 / 2).min(POLL_MAX);
        }
    }
    display.clear();
    let count = |word: &str| ends.values().filter(|end| **end == word).count();
    let failure = if count("gave_up") > 0 {
        let doing = if goal == Goal::Pinned { "pinning" } else { "unpinning" };
        Some(
            Failure::new(
                Exit::GaveUp,
                format!("the nodes gave up {doing} {} of {total} CIDs", count("gave_up")),
            )
            .hint("`cluster-ctl pin status CID` shows why; `cluster-ctl pin recover CID` lets them try again"),
        )
    } else if count("unpinned") > 0 && goal == Goal::Pinned {
        Some(Failure::new(
            Exit::NotFound,
            format!("{} of {total} CIDs were unpinned meanwhile", count("unpinned")),
        ))
    } else {
        None
    };
    Ok((ends, failure))
}

async fn ask(client: &Client, cid: &str) -> Result<Option<v1::PinStatus>, Failure> {
    let request = v1::StatusRequest {
        cid: cid.to_owned(),
        consistency: v1::Consistency::Unspecified.into(),
    };
    let answer = client
        .call(Kind::Read, request, |channel, request| async move {
            service!(pins_client::PinsClient, channel).status(request).await
        })
        .await;
    match answer {
        Ok(status) => Ok(Some(status)),
        Err(failure) if failure.exit == Exit::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn end_of(status: &Option<v1::PinStatus>, goal: Goal, display: &mut Display, cid: &str) -> Option<&'static str> {
    let Some(status) = status else {
        return Some(if goal == Goal::Pinned { "unpinned" } else { "released" });
    };
    display.show(cid, status);
    match goal {
        Goal::Pinned => match status.status() {
            v1::Status::Pinned => Some("pinned"),
            v1::Status::GaveUp => Some("gave_up"),
            _ => None,
        },
        Goal::Released if status.pins > 0 => Some("kept"),
        Goal::Released if status.nodes.is_empty() => Some("released"),
        Goal::Released => status
            .nodes
            .iter()
            .all(|node| node.status() == v1::Status::GaveUp)
            .then_some("gave_up"),
    }
}

/// What the person at the terminal sees meanwhile.
enum Display {
    /// A bar per CID, over its nodes, and a line per node.
    Nodes {
        talk: Talk,
        bars: Option<MultiProgress>,
        wholes: BTreeMap<String, ProgressBar>,
        nodes: BTreeMap<(String, String), Seen>,
        show_cid: bool,
        goal: Goal,
    },
    /// One bar for all CIDs, with the bytes that their nodes hold by now.
    Bar {
        bar: ProgressBar,
        /// Of each CID, over its nodes, when it was last looked at.
        bytes: HashMap<String, u64>,
        sum: u64,
        begun: Instant,
    },
    /// A line now and then: stderr is no terminal.
    Lines {
        talk: Talk,
        total: usize,
        said: usize,
        at: Instant,
    },
}

struct Seen {
    bar: Option<ProgressBar>,
    status: v1::Status,
    bytes: u64,
    at: Instant,
}

fn whole_bar(bars: &MultiProgress, goal: Goal) -> ProgressBar {
    let bar = bars.add(ProgressBar::new(0));
    let word = if goal == Goal::Pinned {
        "hold it"
    } else {
        "let go of it"
    };
    let template = format!("{{bar:20}} {{pos}} of {{len}} nodes {word}  {{elapsed}}  {{msg}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(POLL_MIN);
    bar
}

impl Display {
    fn new(talk: Talk, total: usize, goal: Goal) -> Self {
        if total <= DETAIL_MAX {
            let bars = talk.can_draw().then(MultiProgress::new);
            return Self::Nodes {
                talk,
                bars,
                wholes: BTreeMap::new(),
                nodes: BTreeMap::new(),
                show_cid: total > 1,
                goal,
            };
        }
        if !talk.can_draw() {
            return Self::Lines {
                talk,
                total,
                said: 0,
                at: Instant::now(),
            };
        }
        let bar = ProgressBar::new(total as u64);
        let word = if goal == Goal::Pinned { "pinned" } else { "released" };
        let template = format!("{{bar:30}} {{human_pos}} of {{human_len}} {word}  {{elapsed}}  {{msg}}");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(POLL_MIN);
        Self::Bar {
            bar,
            bytes: HashMap::new(),
            sum: 0,
            begun: Instant::now(),
        }
    }

    /// Adds what the nodes of a CID hold by now to the sum over all, and shows it with the mean rate.
    fn sum_up(&mut self, cid: &str, status: &v1::PinStatus) {
        let Self::Bar { bar, bytes, sum, begun } = self else {
            return;
        };
        let now: u64 = status.nodes.iter().map(|node| node.bytes).sum();
        let before = bytes.insert(cid.to_owned(), now).unwrap_or(0);
        *sum = sum.saturating_add(now).saturating_sub(before);
        let seconds = begun.elapsed().as_secs_f64();
        if *sum > 0 && seconds > 0.0 {
            let rate = words::bytes((*sum as f64 / seconds) as u64);
            bar.set_message(format!("{}, {rate}/s", words::bytes(*sum)));
        }
    }

    fn show(&mut self, cid: &str, status: &v1::PinStatus) {
        let Self::Nodes {
            talk,
            bars,
            wholes,
            nodes,
            show_cid,
            goal,
        } = self
        else {
            return self.sum_up(cid, status);
        };
        if let Some(bars) = bars {
            let whole = wholes.entry(cid.to_owned()).or_insert_with(|| whole_bar(bars, *goal));
            let done = status.nodes.iter().filter(|node| node.status() == v1::Status::Pinned);
            let done = done.count() as u64;
            let all = status.nodes.len() as u64;
            whole.set_length(all);
            whole.set_position(if *goal == Goal::Pinned { done } else { all - done });
            let (blocks, bytes) = status.nodes.iter().fold((0, 0), |(blocks, bytes), node| {
                (blocks + node.blocks, bytes + node.bytes)
            });
            let held = format!("{} blocks, {}", words::grouped(blocks), words::bytes(bytes));
            let name = if *show_cid { format!("{cid}  ") } else { String::new() };
            whole.set_message(if blocks + bytes > 0 { name + &held } else { name });
        }
        for node in &status.nodes {
            let now = Instant::now();
            let seen = nodes
                .entry((cid.to_owned(), node.node.clone()))
                .or_insert_with(|| Seen {
                    bar: bars.as_ref().map(|bars| {
                        let bar = bars.add(ProgressBar::new_spinner());
                        bar.enable_steady_tick(Duration::from_millis(100));
                        bar
                    }),
                    status: v1::Status::Unspecified,
                    bytes: node.bytes,
                    at: now,
                });
            let (word, _) = words::status(node.status());
            let prefix = if *show_cid { format!("{cid} ") } else { String::new() };
            let mut text = format!("{prefix}{}: {word}", words::printable(&node.node));
            if node.blocks > 0 || node.bytes > 0 {
                text += &format!(", {} blocks, {}", words::grouped(node.blocks), words::bytes(node.bytes));
            }
            if !node.error.is_empty() {
                text += &format!(" ({})", words::printable(&node.error));
            }
            if let Some(bar) = &seen.bar {
                let seconds = now.duration_since(seen.at).as_secs_f64();
                if node.bytes > seen.bytes && seconds > 0.0 {
                    let rate = (node.bytes - seen.bytes) as f64 / seconds;
                    text += &format!(", {}/s", words::bytes(rate as u64));
                }
                bar.set_message(text);
            } else if seen.status != node.status() {
                talk.note(&text);
            }
            (seen.status, seen.bytes, seen.at) = (node.status(), node.bytes, now);
        }
    }

    fn counted(&mut self, done: usize) {
        match self {
            Self::Nodes { .. } => {}
            Self::Bar { bar, .. } => bar.set_position(done as u64),
            Self::Lines { talk, total, said, at } => {
                if done != *said && (done == *total || at.elapsed() >= Duration::from_secs(5)) {
                    talk.note(&format!(
                        "{} of {}",
                        words::grouped(done as u64),
                        words::grouped(*total as u64)
                    ));
                    (*said, *at) = (done, Instant::now());
                }
            }
        }
    }

    fn clear(&self) {
        match self {
            Self::Nodes { bars: Some(bars), .. } => {
                // The answer on stdout says how it ended.
                let _ = bars.clear();
            }
            Self::Bar { bar, .. } => bar.finish_and_clear(),
            Self::Nodes { .. } | Self::Lines { .. } => {}
        }
    }
}
