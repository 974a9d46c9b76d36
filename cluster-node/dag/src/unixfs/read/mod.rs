//! Reading DAGs whose blocks the caller fetches.
//!
//! Every reader works the same way: it says which blocks it will need ([`FileReader::wanted`]), takes them in any order
//! ([`FileReader::supply`]), and steps on ([`FileReader::step`]), which gives something, or names the block without
//! which it can't go on.

mod ahead;
mod directory;
mod file;
mod node;
mod path;

pub use ahead::BLOCKS_AHEAD;
pub use directory::{DirectoryEntry, DirectoryReader, ListStep};
pub use file::{FileReader, ReadStep};
pub use node::Node;
pub use path::{PathResolver, ResolveStep};
