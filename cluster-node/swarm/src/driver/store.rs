//! Questions to the block store, answered on blocking threads.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;
use cluster_bitswap::{Event, Ticket};
use tokio::sync::mpsc;

use crate::STORE_CALLS_MAX;
use crate::blocks::Blocks;
use crate::error::StoreError;

#[derive(Debug)]
pub(super) enum Question {
    LookUp(Ticket, Vec<Cid>),
    Read(Ticket, Vec<Cid>),
}

/// Asks the store, [`STORE_CALLS_MAX`] questions at a time. What waits is bounded by the engine, which has only so many
/// questions open.
pub(super) struct Store {
    blocks: Arc<dyn Blocks>,
    waiting: VecDeque<Question>,
    running: usize,
    answers: mpsc::UnboundedSender<Event>,
}

impl Store {
    /// Answers come by the channel, each to be followed by [`Self::answered`].
    pub(super) fn new(blocks: Arc<dyn Blocks>) -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (answers, receiver) = mpsc::unbounded_channel();
        let store = Self {
            blocks,
            waiting: VecDeque::new(),
            running: 0,
            answers,
        };
        (store, receiver)
    }

    pub(super) fn ask(&mut self, question: Question) {
        self.waiting.push_back(question);
        self.start();
    }

    /// An answer was taken, so that the next question may be asked.
    pub(super) fn answered(&mut self) {
        self.running -= 1;
        self.start();
    }

    fn start(&mut self) {
        while self.running < STORE_CALLS_MAX
            && let Some(question) = self.waiting.pop_front()
        {
            self.running += 1;
            let asked = Asked {
                question: Some(question),
                answers: self.answers.clone(),
            };
            let blocks = self.blocks.clone();
            tokio::task::spawn_blocking(move || asked.answer(&*blocks));
        }
    }
}

/// A question that is answered in any case, also when the store panics: else the engine would wait for ever.
struct Asked {
    question: Option<Question>,
    answers: mpsc::UnboundedSender<Event>,
}

impl Asked {
    fn answer(mut self, blocks: &dyn Blocks) {
        let event = match &self.question {
            Some(Question::LookUp(ticket, cids)) => Event::LookedUp {
                ticket: *ticket,
                sizes: complete(blocks.sizes(cids), cids.len()),
            },
            Some(Question::Read(ticket, cids)) => Event::Read {
                ticket: *ticket,
                blocks: complete(blocks.read(cids), cids.len()),
            },
            None => return,
        };
        self.question = None;
        let _ = self.answers.send(event);
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let event = match self.question.take() {
            Some(Question::LookUp(ticket, cids)) => Event::LookedUp {
                ticket,
                sizes: vec![None; cids.len()],
            },
            Some(Question::Read(ticket, cids)) => Event::Read {
                ticket,
                blocks: vec![None::<Bytes>; cids.len()],
            },
            None => return,
        };
        let _ = self.answers.send(event);
    }
}

/// An answer for each block, whatever the store said.
fn complete<T: Clone>(answer: Result<Vec<Option<T>>, StoreError>, count: usize) -> Vec<Option<T>> {
    let mut answer = answer.unwrap_or_else(|error| {
        tracing::error!(%error, "blocks can't be served");
        Vec::new()
    });
    answer.resize(count, None);
    answer
}
