//! UnixFS: files, directories and symlinks as DAGs.
//!
//! <https://specs.ipfs.tech/unixfs/>. What is made here has, byte for byte, the CIDs that Kubo makes of the same content
//! with the same [`Options`]; `tests/kubo.rs` asks a real Kubo. Two sets of options have names and are meant to stay:
//! [`Options::v0_2015`] and [`Options::v1_2025`] (IPIP-499).
//!
//! | to | take |
//! |---|---|
//! | add a file | [`FileBuilder`]: bytes in, blocks out, in bounded memory |
//! | add a directory, wrap a file | [`DirectoryBuilder`]: names and what was [`Added`] in, blocks out |
//! | add a symlink | [`symlink`] |
//! | read a file or a range of it | [`FileReader`]: asks for blocks, gives bytes in order |
//! | list a directory | [`DirectoryReader`] |
//! | follow a path | [`PathResolver`] |
//! | see what a block is | [`Node`] |

mod chunker;
mod data;
mod murmur3;
mod options;
mod read;
mod slots;
mod write;

pub use data::Mtime;
pub use options::{
    Chunker, CidVersion, FILE_LINKS_MAX, INLINE_BYTES_MAX, InvalidOptions, Layout, Options, Sharding, SizeEstimate,
    UnknownChunker,
};
pub use read::{
    BLOCKS_AHEAD, DirectoryEntry, DirectoryReader, FileReader, ListStep, Node, PathResolver, ReadStep, ResolveStep,
};
pub use write::{Added, DIRECTORY_ENTRIES_MAX, DirectoryBuilder, FileBuilder, Metadata, NAME_BYTES_MAX, symlink};
