//! How content becomes a DAG. The same options make the same CIDs, here and in Kubo.

use std::fmt;
use std::str::FromStr;

use node_core::DIGEST_BYTES_MAX;

use crate::HashFunction;

/// Most links that a node of a file may be given. With the longest names of blocks it then still fits into a block, and
/// the levels of a file that is being built fit into memory: a few megabytes.
pub const FILE_LINKS_MAX: usize = 8192;

/// Longest block that is put into its CID, in bytes: what Kubo takes of identity CIDs (boxo, package `verifcid`).
pub const INLINE_BYTES_MAX: usize = DIGEST_BYTES_MAX;

/// Longest chunk, in bytes: a block less what Kubo keeps free for the frame around it (boxo, package `chunker`).
pub(crate) const CHUNK_BYTES_MAX: usize = crate::BLOCK_BYTES_MAX - 256;

/// How content becomes a DAG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Version of the CIDs of dag-pb blocks. Raw leaves are of version 1 in any case.
    pub cid_version: CidVersion,
    /// What names blocks.
    pub hash: HashFunction,
    /// Where files are cut.
    pub chunker: Chunker,
    /// How the nodes above the chunks are arranged.
    pub layout: Layout,
    /// Whether chunks are blocks as they are, without a frame around them.
    pub raw_leaves: bool,
    /// Most links of a node of a file, 2 to [`FILE_LINKS_MAX`].
    pub file_links_max: usize,
    /// When and how large directories are split over many blocks.
    pub sharding: Sharding,
    /// Blocks of at most so many bytes are put into their CIDs and stored nowhere; none of them. At most
    /// [`INLINE_BYTES_MAX`].
    pub inline: Option<usize>,
}

/// The version of a CID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CidVersion {
    /// `Qm…`: sha2-256 and dag-pb only.
    V0,
    /// `bafy…` and all others.
    V1,
}

/// How the nodes above the chunks of a file are arranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// All chunks equally deep.
    Balanced,
    /// The first chunks right below the root, later ones deeper: better for reading from the beginning.
    Trickle,
}

/// When and how a directory is split over many blocks (a HAMT).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sharding {
    /// Directories that are estimated larger than this many bytes are split; none = never, and a directory that does not
    /// fit into a block is an error.
    pub above: Option<u64>,
    /// How they are estimated.
    pub estimate: SizeEstimate,
    /// Directories of more entries than this are split too, however small they are; none = the size alone counts.
    pub entries_max: Option<usize>,
    /// Links of a shard: 8, 16, 32, 64, 128, 256, 512 or 1024.
    pub fanout: u16,
}

/// How the size of a directory is estimated for [`Sharding::above`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SizeEstimate {
    /// Names and binary CIDs, nothing else: what Kubo always did.
    Links,
    /// The block that a plain directory would be.
    Block,
}

/// Where files are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Chunker {
    /// After every so many bytes.
    Size(u32),
    /// By content, with a Rabin fingerprint.
    Rabin {
        /// Shortest chunk in bytes, at least 16.
        min: u32,
        /// Average of the chunk sizes in bytes; what counts is the largest power of two in it.
        avg: u32,
        /// Longest chunk in bytes.
        max: u32,
    },
    /// By content, with a cyclic polynomial: 128 to 512 KiB.
    Buzhash,
}

/// Options that make no DAG.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option} {value} {reason}")]
pub struct InvalidOptions {
    option: &'static str,
    value: String,
    reason: &'static str,
}

/// A text that is no chunker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no chunker: {reason}; take size-BYTES, rabin, rabin-AVG, rabin-MIN-AVG-MAX or buzhash")]
pub struct UnknownChunker {
    text: String,
    reason: String,
}

impl Options {
    /// `unixfs-v0-2015` of IPIP-499: what Kubo made by default until 0.39, with CIDs that begin with `Qm`.
    pub fn v0_2015() -> Self {
        Self {
            cid_version: CidVersion::V0,
            hash: HashFunction::Sha2_256,
            chunker: Chunker::Size(256 * 1024),
            layout: Layout::Balanced,
            raw_leaves: false,
            file_links_max: 174,
            sharding: Sharding {
                above: Some(256 * 1024),
                estimate: SizeEstimate::Links,
                entries_max: None,
                fanout: 256,
            },
            inline: None,
        }
    }

    /// `unixfs-v1-2025` of IPIP-499: what to take for new content.
    pub fn v1_2025() -> Self {
        Self {
            cid_version: CidVersion::V1,
            hash: HashFunction::Sha2_256,
            chunker: Chunker::Size(1024 * 1024),
            layout: Layout::Balanced,
            raw_leaves: true,
            file_links_max: 1024,
            sharding: Sharding {
                above: Some(256 * 1024),
                estimate: SizeEstimate::Block,
                entries_max: None,
                fanout: 256,
            },
            inline: None,
        }
    }

    /// Checks what types can't: ranges, and options that exclude each other.
    pub fn check(&self) -> Result<(), InvalidOptions> {
        let invalid = |option, value: String, reason| Err(InvalidOptions { option, value, reason });
        if !self.hash.is_valid() {
            return invalid(
                "hash function",
                self.hash.to_string(),
                "does not exist: BLAKE2b has 160 to 512 bits",
            );
        }
        if self.cid_version == CidVersion::V0 && self.hash != HashFunction::Sha2_256 {
            return invalid(
                "hash function",
                self.hash.to_string(),
                "has no CIDs of version 0: take version 1, or sha2-256",
            );
        }
        self.chunker.check()?;
        if !(2..=FILE_LINKS_MAX).contains(&self.file_links_max) {
            return invalid(
                "links per node of a file:",
                self.file_links_max.to_string(),
                "is out of range: it must be 2 to 8192",
            );
        }
        if let Some(limit) = self.inline.filter(|limit| *limit > INLINE_BYTES_MAX) {
            return invalid(
                "bytes of blocks that are put into their CIDs:",
                limit.to_string(),
                "is out of range: it must be at most 128",
            );
        }
        if !(8..=1024).contains(&self.sharding.fanout) || !self.sharding.fanout.is_power_of_two() {
            return invalid(
                "fanout of sharded directories:",
                self.sharding.fanout.to_string(),
                "is out of range: it must be a power of two, 8 to 1024",
            );
        }
        Ok(())
    }

    /// 0 or 1.
    pub(crate) fn version(&self) -> u64 {
        match self.cid_version {
            CidVersion::V0 => 0,
            CidVersion::V1 => 1,
        }
    }
}

impl InvalidOptions {
    pub(crate) fn new(option: &'static str, value: impl Into<String>, reason: &'static str) -> Self {
        Self {
            option,
            value: value.into(),
            reason,
        }
    }
}

impl Chunker {
    /// Kubo's `rabin-AVG`: from a third of the average to one and a half of it.
    fn rabin(avg: u32) -> Self {
        Self::Rabin {
            min: avg / 3,
            avg,
            max: avg.saturating_add(avg / 2),
        }
    }

    fn check(&self) -> Result<(), InvalidOptions> {
        let invalid = |reason| Err(InvalidOptions::new("chunker", self.to_string(), reason));
        let longest = match *self {
            Self::Size(0) => return invalid("makes no chunks: the size must be 1 or more"),
            Self::Size(size) => size,
            // Sixteen bytes are the window of the fingerprint.
            Self::Rabin { min: 0..16, .. } => return invalid("has a shortest chunk of less than 16 bytes"),
            Self::Rabin { min, avg, max } if min >= avg || avg >= max => {
                return invalid(
                    "is out of order: the shortest chunk must be less than the average, that less than the longest",
                );
            }
            Self::Rabin { max, .. } => max,
            Self::Buzhash => return Ok(()),
        };
        if longest as usize > CHUNK_BYTES_MAX {
            return invalid("makes chunks that are too long for a block: at most 2096896 bytes are possible");
        }
        Ok(())
    }
}

impl fmt::Display for Chunker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(size) => write!(f, "size-{size}"),
            Self::Rabin { min, avg, max } => write!(f, "rabin-{min}-{avg}-{max}"),
            Self::Buzhash => f.write_str("buzhash"),
        }
    }
}

impl FromStr for Chunker {
    type Err = UnknownChunker;

    /// Kubo's `--chunker`: `size-N`, `rabin` (an average of 256 KiB), `rabin-AVG`, `rabin-MIN-AVG-MAX` or `buzhash`.
    fn from_str(text: &str) -> Result<Self, UnknownChunker> {
        let unknown = |reason: String| UnknownChunker {
            text: text.chars().take(80).collect(),
            reason,
        };
        let number = |part: &str| {
            part.parse::<u32>().map_err(|_| {
                unknown(format!(
                    "{:?} is no number of bytes",
                    part.chars().take(20).collect::<String>()
                ))
            })
        };
        // Kubo also takes `rabin-min:16-avg:32-max:64`.
        let labelled = |part: &str, label: &str| number(part.strip_prefix(label).unwrap_or(part));
        let parts: Vec<&str> = text.split('-').take(5).collect();
        let chunker = match parts[..] {
            ["size", size] => Self::Size(number(size)?),
            ["rabin"] => Self::rabin(256 * 1024),
            ["rabin", avg] => Self::rabin(number(avg)?),
            ["rabin", min, avg, max] => Self::Rabin {
                min: labelled(min, "min:")?,
                avg: labelled(avg, "avg:")?,
                max: labelled(max, "max:")?,
            },
            ["buzhash"] => Self::Buzhash,
            _ => return Err(unknown("there is none of this form".into())),
        };
        chunker.check().map_err(|error| unknown(error.reason.into()))?;
        Ok(chunker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunkers_are_read_as_kubo_reads_them() {
        let read = |text: &str| text.parse::<Chunker>().map(|chunker| chunker.to_string());
        for text in [
            "size-1",
            "size-2096896",
            "rabin-16-17-18",
            "rabin-512-1024-2048",
            "buzhash",
        ] {
            assert_eq!(read(text).as_deref(), Ok(text));
        }
        assert_eq!(read("rabin").as_deref(), Ok("rabin-87381-262144-393216"));
        assert_eq!(read("rabin-1000").as_deref(), Ok("rabin-333-1000-1500"));
        assert_eq!(read("rabin-min:20-avg:30-max:40").as_deref(), Ok("rabin-20-30-40"));
        for text in [
            "",
            "size",
            "size-",
            "size-0",
            "size--1",
            "size-2096897",
            "size-1-2",
            "rabin-40",
            "rabin-1-2-3",
            "rabin-16-16-18",
            "rabin-16-18-18",
            "rabin-16-18-2096897",
            "rabin-1-2",
            "buzhash-1",
            "fixed",
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.starts_with(&format!("{text:?} is no chunker: ")), "{error}");
        }
    }

    #[test]
    fn profiles_are_valid_and_nonsense_is_not() {
        Options::v0_2015().check().expect("a profile");
        Options::v1_2025().check().expect("a profile");
        let refused = |change: fn(&mut Options)| {
            let mut options = Options::v0_2015();
            change(&mut options);
            options.check().expect_err("nonsense").to_string()
        };
        assert!(refused(|o| o.hash = HashFunction::Blake3).contains("version 1"));
        assert!(refused(|o| o.hash = HashFunction::Blake2b(65)).contains("512 bits"));
        assert!(refused(|o| o.chunker = Chunker::Size(0)).contains("size-0"));
        assert!(refused(|o| o.file_links_max = 1).contains("2 to 8192"));
        assert!(refused(|o| o.file_links_max = 8193).contains("8193"));
        assert!(refused(|o| o.inline = Some(129)).contains("at most 128"));
        assert!(refused(|o| o.sharding.fanout = 100).contains("power of two"));
    }
}
