//! How content is added, as a query says it: Kubo's options, and those of IPFS Cluster beside them.

use cluster_content::AddOptions;
use cluster_dag::HashFunction;
use cluster_dag::unixfs::{CidVersion, INLINE_BYTES_MAX, Layout, Metadata, Mtime, Options};
use cluster_http::{Failure, Query, invalid};

use crate::api::adding::{chunker, hash, refuse_nocopy};
use crate::service::Format;

/// Bytes of a block that is put into its CID, unless the query says how many.
const INLINE_DEFAULT: u64 = 32;

/// What a query of `add` says, but for the options of the pin.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub unixfs: Option<AddOptions>,
    /// To the nodes of this peer first.
    pub local: bool,
    pub no_pin: bool,
    pub only_hash: bool,
    pub progress: bool,
    pub silent: bool,
    /// Answer while it goes on, rather than one array at the end.
    pub stream: bool,
    /// Take the modes of the parts over.
    pub preserve_mode: bool,
    /// Take the times of the parts over.
    pub preserve_mtime: bool,
    /// Of every entry.
    pub metadata: Metadata,
    /// Of the pin, over that of IPFS Cluster's options.
    pub pin_name: Option<String>,
}

impl Asked {
    /// How it comes.
    pub fn format(&self) -> Format {
        self.unixfs.clone().map_or(Format::Car, Format::UnixFs)
    }
}

/// Reads it.
pub fn read(query: &Query) -> Result<Asked, Failure> {
    let flag = |name: &str| Ok::<_, Failure>(query.bool(name)?.unwrap_or_default());
    refuse_nocopy(query)?;
    if query.all("to-files").next().is_some() {
        return Err(invalid(
            "to-files",
            "content goes to the nodes of the cluster, whose mutable file systems are their own; add it, then use files/cp",
        ));
    }
    if flag("shard")? {
        return Err(invalid(
            "shard",
            "Pinfleet does not split one DAG over several peers; leave it out, or add parts of it as pins of their own",
        ));
    }
    if query.bool("empty-dirs")? == Some(false) {
        return Err(invalid(
            "empty-dirs",
            "empty directories are kept; leave them out of what is sent",
        ));
    }
    // They steer how a client walks its folders; here only their form counts.
    flag("recursive")?;
    flag("hidden")?;
    let metadata = metadata(query)?;
    let (preserve_mode, preserve_mtime) = (flag("preserve-mode")?, flag("preserve-mtime")?);
    let keeps = preserve_mode || preserve_mtime || metadata != Metadata::default();
    let only_hash = flag("only-hash")?;
    let unixfs = match query.get("format") {
        None | Some("unixfs") => {
            let mut options = AddOptions::new(unixfs(query, keeps)?);
            options.wrap = flag("wrap-with-directory")?;
            options.unnamed_metadata = metadata;
            // What is hidden is for the client to leave out: it knows its folders.
            options.hidden = true;
            Some(options)
        }
        Some("car") if flag("wrap-with-directory")? => {
            return Err(invalid(
                "wrap-with-directory",
                "a CAR file holds its directories already",
            ));
        }
        Some("car") if only_hash => return Err(invalid("only-hash", "a CAR file names its CIDs itself")),
        Some("car") => None,
        Some(_) => return Err(invalid("format", "use unixfs or car")),
    };
    let no_pin = flag("no-pin")? || query.bool("pin")? == Some(false);
    let pin_name = query.get("pin-name").map(str::to_owned);
    if pin_name.is_some() && (no_pin || only_hash) {
        return Err(Failure::bad("pin-name option requires pin to be set"));
    }
    Ok(Asked {
        unixfs,
        local: flag("local")?,
        no_pin,
        only_hash,
        progress: flag("progress")?,
        silent: flag("silent")?,
        stream: query.bool("stream-channels")?.unwrap_or(true),
        preserve_mode,
        preserve_mtime,
        metadata,
        pin_name,
    })
}

/// What makes the CIDs. The defaults are Kubo's, and the same content has the same CID as there.
fn unixfs(query: &Query, keeps_metadata: bool) -> Result<Options, Failure> {
    let mut options = Options::v0_2015();
    let trickle = query.bool("trickle")?.unwrap_or_default();
    match query.get("layout") {
        None | Some("balanced") if !trickle => {}
        None | Some("trickle") => options.layout = Layout::Trickle,
        Some(_) => return Err(invalid("layout", "use balanced or trickle")),
    }
    options.hash = hash(query)?.unwrap_or(options.hash);
    let version = match query.int("cid-version")? {
        // Only these CIDs can name such blocks.
        None if options.hash != HashFunction::Sha2_256 => 1,
        None => 0,
        Some(version) => version,
    };
    match version {
        0 => {}
        1 => {
            options.cid_version = CidVersion::V1;
            options.raw_leaves = true;
        }
        _ => return Err(invalid("cid-version", "use 0 or 1")),
    }
    match query.bool("raw-leaves")? {
        Some(true) if keeps_metadata => {
            return Err(invalid(
                "raw-leaves",
                "raw leaves can't be used with UnixFS metadata like mode or modification time",
            ));
        }
        Some(raw) => options.raw_leaves = raw,
        None if keeps_metadata => options.raw_leaves = false,
        None => {}
    }
    options.chunker = chunker(query)?.unwrap_or(options.chunker);
    if query.bool("inline")?.unwrap_or_default() {
        let limit = query.uint("inline-limit")?.unwrap_or(INLINE_DEFAULT);
        let limit = usize::try_from(limit).ok().filter(|limit| *limit <= INLINE_BYTES_MAX);
        options.inline = Some(limit.ok_or_else(|| invalid("inline-limit", "use at most 128"))?);
    }
    if let Some(links) = count(query, "max-file-links")? {
        options.file_links_max = links;
    }
    options.sharding.entries_max = count(query, "max-directory-links")?;
    if let Some(fanout) = count(query, "max-hamt-fanout")? {
        let fits = u16::try_from(fanout);
        options.sharding.fanout = fits.map_err(|_| invalid("max-hamt-fanout", "use a power of two, 8 to 1024"))?;
    }
    options.check().map_err(|error| Failure::bad(error.to_string()))?;
    Ok(options)
}

/// A number of things; 0 is as good as none, as in Kubo.
fn count(query: &Query, key: &str) -> Result<Option<usize>, Failure> {
    let given = query.uint(key)?.filter(|count| *count > 0);
    given
        .map(|count| usize::try_from(count).map_err(|_| invalid(key, "it is out of range")))
        .transpose()
}

/// Mode and time for every entry. Zeros stand for none, as in Kubo.
fn metadata(query: &Query) -> Result<Metadata, Failure> {
    // IPFS Cluster's word for how a pin is held has the same name, and no digits.
    let mode = query
        .get("mode")
        .filter(|mode| mode.starts_with(|c: char| c.is_ascii_digit()));
    let mode = mode.map(|text| {
        // As Go reads numbers: a leading zero makes them octal.
        let read = match text.strip_prefix("0o").or_else(|| text.strip_prefix('0')) {
            Some(octal) if !octal.is_empty() => u32::from_str_radix(octal, 8),
            _ => text.parse(),
        };
        read.map_err(|_| invalid("mode", "use the number of a Unix mode, as 0644"))
    });
    let seconds = query.int("mtime")?.filter(|seconds| *seconds != 0);
    let nanos = query.uint("mtime-nsecs")?.filter(|nanos| *nanos != 0);
    let mtime = match (seconds, nanos) {
        (None, Some(_)) => return Err(invalid("mtime-nsecs", "it requires mtime to be provided as well")),
        (None, None) => None,
        (Some(seconds), nanos) => {
            let nanos = u32::try_from(nanos.unwrap_or_default())
                .ok()
                .filter(|nanos| *nanos < 1_000_000_000);
            let nanos = nanos.ok_or_else(|| invalid("mtime-nsecs", "use less than a second"))?;
            Some(Mtime { seconds, nanos })
        }
    };
    Ok(Metadata {
        mode: mode.transpose()?.filter(|mode| *mode != 0),
        mtime,
    })
}

#[cfg(test)]
mod tests {
    use cluster_dag::unixfs::Chunker;
    use proptest::prelude::*;

    use super::*;

    fn asked(query: &str) -> Asked {
        read(&Query::parse(query)).expect(query)
    }

    fn options(query: &str) -> Options {
        asked(query).unixfs.expect("no CAR").unixfs
    }

    #[test]
    fn what_kubos_command_sends_by_default_is_the_default() {
        let sent = "chunker=size-262144&empty-dirs=true&encoding=json&hash=sha2-256&inline=false&inline-limit=32&pin=true\
                    &progress=false&stream-channels=true&mode=recursive";
        assert_eq!(asked(sent), asked(""));
        assert_eq!(options(""), Options::v0_2015());
        assert!(!asked("").no_pin && asked("").stream);
    }

    #[test]
    fn versions_leaves_and_hashes_are_as_in_kubo() {
        for (query, version, raw) in [
            ("", CidVersion::V0, false),
            ("cid-version=1", CidVersion::V1, true),
            ("cid-version=1&raw-leaves=false", CidVersion::V1, false),
            ("raw-leaves=true", CidVersion::V0, true),
            ("hash=sha2-512", CidVersion::V1, true),
            ("hash=BLAKE2b-256&raw-leaves=false", CidVersion::V1, false),
            ("cid-version=1&preserve-mode=true", CidVersion::V1, false),
            ("cid-version=1&mtime=5", CidVersion::V1, false),
        ] {
            let options = options(query);
            assert_eq!((options.cid_version, options.raw_leaves), (version, raw), "{query}");
        }
    }

    #[test]
    fn all_options_are_read() {
        let query = "trickle=true&chunker=size-100&inline=true&inline-limit=64&max-file-links=10&max-directory-links=20\
                     &max-hamt-fanout=16&mode=0640&mtime=-5&mtime-nsecs=7&wrap-with-directory=1&pin-name=x&local=1&silent=1";
        let asked = asked(query);
        let unixfs = asked.unixfs.as_ref().expect("no CAR");
        let options = &unixfs.unixfs;
        assert_eq!((options.layout, options.chunker), (Layout::Trickle, Chunker::Size(100)));
        assert_eq!((options.inline, options.file_links_max), (Some(64), 10));
        assert_eq!((options.sharding.entries_max, options.sharding.fanout), (Some(20), 16));
        let mtime = Mtime { seconds: -5, nanos: 7 };
        let metadata = Metadata {
            mode: Some(0o640),
            mtime: Some(mtime),
        };
        assert_eq!((asked.metadata, unixfs.unnamed_metadata), (metadata, metadata));
        assert_eq!(asked.pin_name.as_deref(), Some("x"));
        assert!(unixfs.wrap && asked.local && asked.silent);
        // The command line reads the number itself.
        assert_eq!(
            read(&Query::parse("mode=420")).expect("valid").metadata.mode,
            Some(0o644)
        );
        assert!(read(&Query::parse("format=car")).expect("valid").unixfs.is_none());
    }

    #[test]
    fn nonsense_and_what_is_not_offered_is_refused_and_named() {
        for query in [
            "nocopy=true",
            "to-files=/a",
            "to-files=",
            "shard=true",
            "empty-dirs=false",
            "format=tar",
            "format=car&only-hash=true",
            "format=car&wrap-with-directory=true",
            "layout=flat",
            "layout=balanced&trickle=true",
            "cid-version=0&hash=sha2-512",
            "cid-version=2",
            "hash=md5",
            "chunker=size-0",
            "inline=true&inline-limit=129",
            "max-file-links=1",
            "max-hamt-fanout=100",
            "max-hamt-fanout=100000",
            "raw-leaves=true&mode=0644",
            "mtime-nsecs=5",
            "mtime=1&mtime-nsecs=1000000000",
            "mode=9x",
            "pin-name=x&pin=false",
            "progress=perhaps",
        ] {
            let failure = read(&Query::parse(query)).expect_err(query);
            assert!(failure.message.len() > 10, "{query}: {failure}");
        }
    }

    proptest! {
        #[test]
        fn no_query_does_harm(query in "([a-z-]{0,20}=[ -~]{0,12}&){0,6}") {
            let _ = read(&Query::parse(&query));
        }
    }
}
