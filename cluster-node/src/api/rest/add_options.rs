//! How content is added, as a query says it.

use cluster_content::AddOptions;
use cluster_dag::unixfs::{CidVersion, Layout, Options};
use cluster_http::{Failure, Query, invalid};

use crate::api::adding::{chunker, hash, refuse_nocopy};
use crate::service::Format;

/// What a query of `/add` says, but for the options of the pin.
#[derive(Debug, Clone)]
pub struct AddAsked {
    /// Files and directories, or a CAR file.
    pub format: Format,
    /// To the nodes of this peer first.
    pub local: bool,
    /// Only hand the blocks over.
    pub no_pin: bool,
    /// Tell how far it is.
    pub progress: bool,
    /// Answer while it goes on, rather than one array at the end.
    pub stream: bool,
}

/// Reads it.
pub fn read(query: &Query) -> Result<AddAsked, Failure> {
    let flag = |name: &str| Ok::<_, Failure>(query.bool(name)?.unwrap_or_default());
    // They steer how a client walks its folders; here only their form counts.
    flag("recursive")?;
    flag("hidden")?;
    if flag("shard")? {
        return Err(invalid(
            "shard",
            "Pinfleet does not split one DAG over several peers; leave it out, or add parts of it as pins of their own",
        ));
    }
    refuse_nocopy(query)?;
    let wrap = flag("wrap-with-directory")?;
    let unixfs = unixfs(query)?;
    let format = match query.get("format") {
        None | Some("unixfs") => {
            let mut options = AddOptions::new(unixfs);
            options.wrap = wrap;
            // What is hidden is for the client to leave out: it knows its folders.
            options.hidden = true;
            Format::UnixFs(options)
        }
        Some("car") if wrap => {
            return Err(invalid(
                "wrap-with-directory",
                "a CAR file holds its directories already",
            ));
        }
        Some("car") => Format::Car,
        Some(_) => return Err(invalid("format", "use unixfs or car")),
    };
    Ok(AddAsked {
        format,
        local: flag("local")?,
        no_pin: flag("no-pin")?,
        progress: flag("progress")?,
        stream: query.bool("stream-channels")?.unwrap_or(true),
    })
}

/// What makes the CIDs. The defaults are those of IPFS Cluster, which are Kubo's old ones: the same content has the same CID.
fn unixfs(query: &Query) -> Result<Options, Failure> {
    let mut options = Options::v0_2015();
    match query.get("layout") {
        None | Some("balanced") => {}
        Some("trickle") => options.layout = Layout::Trickle,
        Some(_) => return Err(invalid("layout", "use balanced or trickle")),
    }
    match query.int("cid-version")? {
        None | Some(0) => {}
        Some(1) => {
            options.cid_version = CidVersion::V1;
            options.raw_leaves = true;
        }
        Some(_) => return Err(invalid("cid-version", "use 0 or 1")),
    }
    if let Some(raw) = query.bool("raw-leaves")? {
        options.raw_leaves = raw;
    }
    options.hash = hash(query)?.unwrap_or(options.hash);
    options.chunker = chunker(query)?.unwrap_or(options.chunker);
    options.check().map_err(|error| Failure::bad(error.to_string()))?;
    Ok(options)
}

#[cfg(test)]
mod tests {
    use cluster_dag::unixfs::Chunker;

    use super::*;

    fn asked(query: &str) -> AddAsked {
        read(&Query::parse(query)).expect(query)
    }

    fn options(query: &str) -> AddOptions {
        match asked(query).format {
            Format::UnixFs(options) => options,
            Format::Car => panic!("{query} is a CAR"),
        }
    }

    #[test]
    fn the_defaults_are_those_of_old() {
        let add = asked("");
        assert!(add.stream && !add.progress && !add.no_pin && !add.local);
        assert_eq!(options("").unixfs, Options::v0_2015());
        assert!(!options("").wrap);
        // What npm clients send beside it is none of ours.
        assert_eq!(options("wrap=true&no-copy=true&repl_min=2"), options(""));
    }

    #[test]
    fn raw_leaves_follow_the_version_unless_told() {
        for (query, raw) in [
            ("", false),
            ("cid-version=1", true),
            ("cid-version=1&raw-leaves=false", false),
            ("raw-leaves=true", true),
            ("cid-version=0", false),
        ] {
            assert_eq!(options(query).unixfs.raw_leaves, raw, "{query}");
        }
    }

    #[test]
    fn options_are_read() {
        let options = options("layout=trickle&chunker=size-1024&hash=SHA2-512&cid-version=1&wrap-with-directory=1");
        assert_eq!(options.unixfs.layout, Layout::Trickle);
        assert_eq!(options.unixfs.chunker, Chunker::Size(1024));
        assert!(options.wrap);
        assert!(matches!(asked("format=car").format, Format::Car));
        assert!(!asked("stream-channels=false").stream);
    }

    #[test]
    fn nonsense_and_what_is_not_offered_is_refused_and_named() {
        for query in [
            "format=tar",
            "format=car&wrap-with-directory=true",
            "layout=flat",
            "cid-version=2",
            "cid-version=x",
            "raw-leaves=maybe",
            "hash=md5",
            "hash=sha2-512",
            "chunker=size-0",
            "shard=true",
            "nocopy=true",
            "hidden=perhaps",
            "stream-channels=2",
        ] {
            let failure = read(&Query::parse(query)).expect_err(query);
            assert_eq!(failure.status, 400, "{query}");
        }
    }
}
