//! What a fake does instead of answering.

use node_core::Cid;
use serde::{Deserialize, Serialize};

use super::Call;

/// What to do instead of answering. In JSON: `{"kind":"stall","after_blocks":3}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// Takes the call and never says a word.
    Hang,
    /// Answers as usual, later.
    Delay {
        /// How much later.
        millis: u64,
    },
    /// Pins slowly, and says how far it is; other calls are answered after the same time.
    Drip {
        /// Blocks of the whole.
        blocks: u64,
        /// Blocks that come with each tick.
        #[serde(default = "one")]
        blocks_per_tick: u64,
        /// Bytes of each block.
        #[serde(default = "quarter_mib")]
        bytes_per_block: u64,
        /// Time between ticks.
        #[serde(default = "half_a_second")]
        tick_millis: u64,
    },
    /// Pins some blocks, then goes on talking without getting further, as Kubo does when nobody has the next block.
    Stall {
        /// Blocks that come, one a tick.
        #[serde(default)]
        after_blocks: u64,
        /// Time between ticks.
        #[serde(default = "half_a_second")]
        tick_millis: u64,
    },
    /// Says how far it is once, and never says a word again.
    Mute {
        /// Blocks it speaks of.
        #[serde(default)]
        after_blocks: u64,
    },
    /// Answers with a status and, as Kubo does, a message in JSON.
    Error {
        /// The HTTP status.
        #[serde(default = "internal_error")]
        status: u16,
        /// The message.
        message: String,
    },
    /// Answers with a status and any body.
    Body {
        /// The HTTP status.
        #[serde(default = "ok")]
        status: u16,
        /// The body.
        body: String,
    },
    /// Begins as if all were well, then reports an error in the trailer.
    LateError {
        /// The message.
        message: String,
    },
    /// Begins as if all were well, then sends an error as a line.
    ErrorLine {
        /// The message.
        message: String,
    },
    /// Answers with something that is not JSON.
    Malformed,
    /// Says how far it is once, and ends the answer as if that were all.
    Truncated,
    /// Cuts the connection; before the first word when no block is to come first.
    Reset {
        /// Blocks that come first.
        #[serde(default)]
        after_blocks: u64,
    },
    /// The words of a full disk.
    DiskFull,
    /// The words of wrong credentials.
    Unauthorized,
    /// The words of a node that works offline and lacks the block.
    NotFound,
}

fn one() -> u64 {
    1
}

fn quarter_mib() -> u64 {
    256 * 1024
}

fn half_a_second() -> u64 {
    500
}

fn internal_error() -> u16 {
    500
}

fn ok() -> u16 {
    200
}

/// Which calls a fault befalls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What happens.
    pub fault: Fault,
    /// Only to this kind of call. Without it: to every kind but `id` and `version`.
    #[serde(default)]
    pub call: Option<Call>,
    /// Only to calls about this CID.
    #[serde(default)]
    pub cid: Option<String>,
    /// Only so many times.
    #[serde(default)]
    pub times: Option<u64>,
}

impl Rule {
    /// A fault for all calls but `id` and `version`.
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            call: None,
            cid: None,
            times: None,
        }
    }

    /// Only for this kind of call.
    pub fn of_call(mut self, call: Call) -> Self {
        self.call = Some(call);
        self
    }

    /// Only for this CID.
    pub fn of_cid(mut self, cid: &Cid) -> Self {
        self.cid = Some(cid.to_string());
        self
    }

    /// Only so many times.
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    pub(super) fn fits(&self, call: Call) -> bool {
        match self.call {
            Some(only) => only == call,
            None => !matches!(call, Call::Id | Call::Version),
        }
    }
}
