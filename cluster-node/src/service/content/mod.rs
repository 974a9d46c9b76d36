//! Content straight into the cluster and back out of it.
//!
//! | file | what |
//! |---|---|
//! | `add.rs` | one add: nodes are chosen, blocks go to them as they are made, the pin is recorded at the end |
//! | `targets.rs` | the nodes of an add, and what became of them |
//! | `intake.rs` | handing blocks to a node, here or behind another peer |
//! | `source.rs` | blocks from whichever node has them |

mod add;
mod intake;
mod source;
mod targets;

pub use add::{AddWish, Added, Adding, Format};
pub use intake::{INGEST_BLOCKS_MAX, take_in};
pub use source::{BLOCKS_ASKED_MAX, ClusterSource, own_blocks};
