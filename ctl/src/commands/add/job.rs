//! What an add is asked to do.

use std::collections::HashSet;
use std::path::Path;

use cluster_proto::v1;

use crate::cli::{ContentAdd, Mode, UnixFsArgs};
use crate::client::request_id;
use crate::commands::invalid;
use crate::content::feed::{Part, Source};
use crate::content::tree::{Root, Rules, plan, unreadable};
use crate::exit::{Exit, Failure};
use crate::output::words;
use crate::spec::Spec;

/// What was asked for, checked as far as it can be.
pub(super) struct Job {
    /// The first message.
    pub start: v1::AddStart,
    /// What follows it.
    pub source: Source,
    /// Bytes of all files, where that is known.
    pub total: Option<u64>,
    /// Path of the entry that becomes the root, where that is known.
    pub top: Option<String>,
}

impl Job {
    /// Reads the arguments, and looks at every file.
    pub fn new(arguments: &ContentAdd) -> Result<Self, Failure> {
        if arguments.options.mode != Mode::Recursive {
            return Err(Failure::usage("what is added is pinned recursively; leave --mode out"));
        }
        let spec = Spec {
            namespace: arguments.namespace.clone(),
            slot: arguments.slot.clone(),
            ..arguments.options.spec()
        };
        spec.check(words::now()).map_err(invalid)?;
        let (source, total, top) = if arguments.car {
            car(arguments)?
        } else {
            parts(arguments)?
        };
        let format = match arguments.car {
            true => v1::add_start::Format::Car(v1::CarOptions {}),
            false => v1::add_start::Format::Unixfs(unixfs(&arguments.unixfs)?),
        };
        Ok(Self {
            start: v1::AddStart {
                namespace: spec.namespace.clone(),
                slot: spec.slot.clone(),
                options: Some(spec.options()),
                request_id: request_id(),
                without_pin: arguments.no_pin,
                format: Some(format),
            },
            source,
            total,
            top,
        })
    }
}

type Found = (Source, Option<u64>, Option<String>);

fn car(arguments: &ContentAdd) -> Result<Found, Failure> {
    let [path] = arguments.paths.as_slice() else {
        return Err(Failure::usage("--car takes one PATH").hint("add CAR files one by one"));
    };
    if path.as_os_str() == "-" {
        return Ok((Source::CarFromStdin, None, None));
    }
    let data = std::fs::metadata(path).map_err(|error| unreadable(path, &error).exit(Exit::Usage))?;
    if !data.is_file() {
        return Err(Failure::usage(format!("{} is no file", path.display()))
            .hint("`cluster-ctl add --car -` reads a pipe from standard input"));
    }
    Ok((Source::Car(path.clone()), Some(data.len()), None))
}

fn parts(arguments: &ContentAdd) -> Result<Found, Failure> {
    let paths = &arguments.paths;
    let wrap = arguments.unixfs.wrap;
    if paths.len() > 1 && !wrap {
        return Err(
            Failure::usage(format!("{} PATHs would become {} roots", paths.len(), paths.len()))
                .hint("--wrap puts them into one directory; or add them one by one"),
        );
    }
    let mut names = HashSet::new();
    let mut parts = Vec::new();
    let mut roots = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            if parts.contains(&Part::Stdin) {
                return Err(Failure::usage("`-` is given twice"));
            }
            parts.push(Part::Stdin);
            continue;
        }
        let root = Root::new(path)?;
        if !names.insert(root.name.clone()) {
            return Err(taken_twice(path, &root.name));
        }
        roots.push(root.clone());
        parts.push(Part::Tree(root));
    }
    let rules = Rules {
        hidden: arguments.unixfs.hidden,
        ignore: arguments.unixfs.ignore.clone(),
    };
    let plan = plan(&roots, &rules)?;
    let total = (roots.len() == parts.len()).then_some(plan.bytes);
    let top = match roots.first() {
        Some(root) if !wrap => root.name.clone(),
        _ => String::new(),
    };
    Ok((Source::Parts { parts, rules }, total, Some(top)))
}

fn taken_twice(path: &Path, name: &str) -> Failure {
    Failure::usage(format!(
        "{} would be called {name:?} in the directory, as another PATH is",
        path.display()
    ))
    .hint("rename one of them, or add a directory that holds both")
}

fn unixfs(arguments: &UnixFsArgs) -> Result<v1::UnixFsOptions, Failure> {
    let hash = arguments.hash.clone().unwrap_or_default();
    if arguments.cid_version == Some(0) && !matches!(hash.as_str(), "" | "sha2-256") {
        return Err(Failure::usage(format!("--hash {hash} has no CIDs of version 0")).hint("leave --cid-version out"));
    }
    if arguments.raw_leaves == Some(true) && (arguments.preserve_mode || arguments.preserve_mtime) {
        return Err(Failure::usage("raw leaves have no place for mode and mtime").hint("leave --raw-leaves out"));
    }
    Ok(v1::UnixFsOptions {
        profile: arguments
            .profile
            .map(|profile| profile.as_str().to_owned())
            .unwrap_or_default(),
        cid_version: arguments.cid_version,
        hash,
        chunker: arguments.chunker.clone().unwrap_or_default(),
        raw_leaves: arguments.raw_leaves,
        trickle: arguments.trickle,
        file_links_max: arguments.max_file_links,
        directory_bytes_max: arguments.hamt_threshold,
        hamt_fanout: arguments.max_hamt_fanout,
        preserve_mode: arguments.preserve_mode,
        preserve_mtime: arguments.preserve_mtime,
        wrap: arguments.wrap,
    })
}
