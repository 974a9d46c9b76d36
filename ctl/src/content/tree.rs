//! What lies under a path, in the order in which it is added.
//!
//! Names are sorted by their bytes, and a directory comes before what is in it. The order is part of the result: the
//! same tree is sent in the same way from every machine. Of each directory that the walk is inside of, the names are
//! held (they must be sorted), and nothing else.

use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::exit::{Exit, Failure};

/// What is left out.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Names that begin with a dot are taken too.
    pub hidden: bool,
    /// Left out.
    pub ignore: Vec<Ignore>,
}

/// A pattern of `--ignore`.
#[derive(Debug, Clone)]
pub struct Ignore {
    pattern: glob::Pattern,
    /// For the path below the root, not for the name alone.
    whole: bool,
    directories: bool,
}

/// Reads a pattern: `*.tmp` for names, `build/out` for paths, `cache/` for directories.
pub fn parse_ignore(text: &str) -> Result<Ignore, String> {
    let (body, directories) = match text.strip_suffix('/') {
        Some(body) => (body, true),
        None => (text, false),
    };
    let whole = body.contains('/');
    let body = body.strip_prefix('/').unwrap_or(body);
    if body.is_empty() {
        return Err("the pattern is empty".into());
    }
    let pattern = glob::Pattern::new(body).map_err(|error| format!("not a pattern: {error}"))?;
    Ok(Ignore {
        pattern,
        whole,
        directories,
    })
}

impl Ignore {
    fn fits(&self, name: &str, below: &str, is_directory: bool) -> bool {
        let options = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: false,
        };
        let text = if self.whole { below } else { name };
        (is_directory || !self.directories) && self.pattern.matches_with(text, options)
    }
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file of so many bytes.
    File {
        /// Its length when it was looked at.
        bytes: u64,
    },
    /// A directory.
    Directory,
    /// A symlink, which is not followed.
    Symlink {
        /// Where it leads.
        target: String,
    },
}

/// One entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where it is on the disk.
    pub place: PathBuf,
    /// What it is called in the add: relative, with `/` between names.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Seconds since 1970.
    pub mtime_seconds: i64,
    /// Nanoseconds behind it.
    pub mtime_nanos: u32,
    /// Device and inode: what is opened later must be the same.
    pub identity: (u64, u64),
}

/// A path that was named by the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Where it is.
    pub place: PathBuf,
    /// Its name in the add.
    pub name: String,
}

impl Root {
    /// Finds out what a path is called. `.` and `..` are called as the directory they stand for.
    pub fn new(place: &Path) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| unreadable(place, &error).exit(Exit::Usage);
        // Looked at first: of a path that ends with `/` or `..` only the whole can be asked.
        std::fs::symlink_metadata(place).map_err(failed)?;
        let own = place.file_name().map(ToOwned::to_owned);
        let name = match own {
            Some(name) => Some(name),
            None => place.canonicalize().map_err(failed)?.file_name().map(ToOwned::to_owned),
        };
        let Some(name) = name else {
            return Err(Failure::usage(format!("{} has no name", place.display())).hint("add what is in it instead"));
        };
        let name = name
            .to_str()
            .ok_or_else(|| not_utf8(place).exit(Exit::Usage))?
            .to_owned();
        Ok(Self {
            place: place.to_owned(),
            name,
        })
    }
}

struct Level {
    place: PathBuf,
    /// Path in the add.
    path: String,
    /// Path below the root, for patterns.
    below: String,
    names: std::vec::IntoIter<OsString>,
}

/// Goes through a root. After an error it ends.
pub struct Walk<'a> {
    rules: &'a Rules,
    root: Option<&'a Root>,
    levels: Vec<Level>,
}

impl<'a> Walk<'a> {
    /// A walk from the root on; the root itself is never left out.
    pub fn new(root: &'a Root, rules: &'a Rules) -> Self {
        Self {
            rules,
            root: Some(root),
            levels: Vec::new(),
        }
    }

    fn step(&mut self) -> Result<Option<Entry>, Failure> {
        if let Some(root) = self.root.take() {
            let entry = look(root.place.clone(), root.name.clone())?;
            self.enter(&entry, String::new())?;
            return Ok(Some(entry));
        }
        while let Some(level) = self.levels.last_mut() {
            let Some(name) = level.names.next() else {
                self.levels.pop();
                continue;
            };
            if name.as_bytes().first() == Some(&b'.') && !self.rules.hidden {
                continue;
            }
            let place = level.place.join(&name);
            let Some(name) = name.to_str() else {
                return Err(not_utf8(&place));
            };
            let below = join(&level.below, name);
            let path = join(&level.path, name);
            // Patterns come before the look at it: a socket may be left out.
            let is_directory = std::fs::symlink_metadata(&place).is_ok_and(|data| data.is_dir());
            let ignore = &self.rules.ignore;
            if ignore.iter().any(|ignore| ignore.fits(name, &below, is_directory)) {
                continue;
            }
            let entry = look(place, path)?;
            self.enter(&entry, below)?;
            return Ok(Some(entry));
        }
        Ok(None)
    }

    fn enter(&mut self, entry: &Entry, below: String) -> Result<(), Failure> {
        if entry.kind != Kind::Directory {
            return Ok(());
        }
        let failed = |error: std::io::Error| unreadable(&entry.place, &error);
        let mut names = Vec::new();
        for found in std::fs::read_dir(&entry.place).map_err(failed)? {
            names.push(found.map_err(failed)?.file_name());
        }
        names.sort_unstable_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        self.levels.push(Level {
            place: entry.place.clone(),
            path: entry.path.clone(),
            below,
            names: names.into_iter(),
        });
        Ok(())
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Entry, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.levels.clear();
        }
        step.transpose()
    }
}

fn join(above: &str, name: &str) -> String {
    if above.is_empty() {
        name.to_owned()
    } else {
        format!("{above}/{name}")
    }
}

fn look(place: PathBuf, path: String) -> Result<Entry, Failure> {
    let data = std::fs::symlink_metadata(&place).map_err(|error| unreadable(&place, &error))?;
    let kind = if data.is_file() {
        Kind::File { bytes: data.len() }
    } else if data.is_dir() {
        Kind::Directory
    } else if data.is_symlink() {
        let target = std::fs::read_link(&place).map_err(|error| unreadable(&place, &error))?;
        match target.into_os_string().into_string() {
            Ok(target) => Kind::Symlink { target },
            Err(_) => {
                return Err(Failure::local(format!(
                    "the symlink {} leads to a name that is not UTF-8, which the API can't carry",
                    place.display()
                ))
                .hint("--ignore GLOB leaves it out"));
            }
        }
    } else {
        return Err(Failure::local(format!(
            "{} is {}; only files, directories and symlinks can be added",
            place.display(),
            what(&data)
        ))
        .hint("--ignore GLOB leaves it out, and `-` reads standard input"));
    };
    Ok(Entry {
        mode: data.mode() & 0o7777,
        mtime_seconds: data.mtime(),
        mtime_nanos: u32::try_from(data.mtime_nsec()).unwrap_or(0),
        identity: (data.dev(), data.ino()),
        place,
        path,
        kind,
    })
}

fn what(data: &Metadata) -> &'static str {
    let kind = data.file_type();
    if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// Something that can't be read; names it.
pub fn unreadable(place: &Path, error: &std::io::Error) -> Failure {
    Failure::local(format!("can't read {}: {error}", place.display()))
}

fn not_utf8(place: &Path) -> Failure {
    Failure::local(format!(
        "the name of {} is not UTF-8, which the API can't carry",
        place.display()
    ))
    .hint("rename it")
}

/// What an add will take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Plan {
    /// Of all files together.
    pub bytes: u64,
    /// Files, directories and symlinks.
    pub entries: u64,
}

/// Looks at all that will be added: what can't be is found before anything is sent, and the sum is known.
pub fn plan(roots: &[Root], rules: &Rules) -> Result<Plan, Failure> {
    let mut plan = Plan::default();
    for root in roots {
        for entry in Walk::new(root, rules) {
            let entry = entry.map_err(|failure| failure.exit(Exit::Usage))?;
            plan.entries += 1;
            if let Kind::File { bytes } = entry.kind {
                plan.bytes = plan.bytes.saturating_add(bytes);
                rustix::fs::access(&entry.place, rustix::fs::Access::READ_OK)
                    .map_err(|error| unreadable(&entry.place, &error.into()).exit(Exit::Usage))?;
            }
        }
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn paths(root: &Path, rules: &Rules) -> Vec<String> {
        let root = Root::new(root).expect("readable");
        let entries = Walk::new(&root, rules).map(|entry| entry.expect("readable"));
        entries
            .map(|entry| {
                let path = entry.path;
                match entry.kind {
                    Kind::Directory => path + "/",
                    Kind::File { bytes } => format!("{path} {bytes}"),
                    Kind::Symlink { target } => format!("{path} -> {target}"),
                }
            })
            .collect()
    }

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join("top").join(name);
        fs::create_dir_all(at("a/inner")).expect("made");
        fs::create_dir_all(at(".git")).expect("made");
        for (name, text) in [
            ("a/inner/z", "12345"),
            ("a/x.tmp", ""),
            ("a.b", "1"),
            ("B", "22"),
            (".hidden", "3"),
            (".git/config", ""),
            ("ü", "4"),
        ] {
            fs::write(at(name), text).expect("written");
        }
        symlink("nowhere", at("link")).expect("made");
        folder
    }

    #[test]
    fn order_is_that_of_bytes_and_directories_come_before_their_content() {
        let folder = tree();
        let top = folder.path().join("top");
        let seen = paths(&top, &Rules::default());
        let expected = [
            "top/",
            "top/B 2",
            "top/a/",
            "top/a/inner/",
            "top/a/inner/z 5",
            "top/a/x.tmp 0",
            "top/a.b 1",
            "top/link -> nowhere",
            "top/ü 1",
        ];
        assert_eq!(seen, expected);
        let root = Root::new(&top).expect("readable");
        let plan = plan(&[root], &Rules::default()).expect("readable");
        assert_eq!(plan, Plan { bytes: 9, entries: 9 });
    }

    #[test]
    fn hidden_entries_and_patterns() {
        let folder = tree();
        let ignore = |patterns: &[&str]| Rules {
            hidden: true,
            ignore: patterns.iter().map(|text| parse_ignore(text).expect("valid")).collect(),
        };
        let top = folder.path().join("top");
        assert!(paths(&top, &ignore(&[])).contains(&"top/.git/config 0".to_owned()));
        let seen = paths(&top, &ignore(&["*.tmp", ".git/", "a/inner", ".hidden/", "in?er", "/ü"]));
        let expected = [
            "top/",
            "top/.hidden 1",
            "top/B 2",
            "top/a/",
            "top/a.b 1",
            "top/link -> nowhere",
        ];
        assert_eq!(seen, expected);
        // A star does not cross a slash.
        assert!(paths(&top, &ignore(&["a*/z"])).contains(&"top/a/inner/z 5".to_owned()));
        assert!(!paths(&top, &ignore(&["a*/*/z"])).contains(&"top/a/inner/z 5".to_owned()));
        for bad in ["", "/", "[", "a**b"] {
            assert!(parse_ignore(bad).is_err(), "{bad:?}");
        }
        // A hidden root was named on purpose.
        let git = paths(&top.join(".git"), &Rules::default());
        assert_eq!(git, [".git/", ".git/config 0"]);
    }

    #[test]
    fn a_root_is_called_as_what_it_stands_for() {
        let folder = tree();
        let inner = folder.path().join("top/a/inner");
        let name = |place: PathBuf| {
            Root::new(&place)
                .map(|root| root.name)
                .map_err(|failure| failure.message)
        };
        assert_eq!(name(inner.join(".")).as_deref(), Ok("inner"));
        assert_eq!(name(inner.join("..")).as_deref(), Ok("a"));
        assert_eq!(name(folder.path().join("top/a/")).as_deref(), Ok("a"));
        assert_eq!(name("/".into()), Err("/ has no name".into()));
        assert!(name(inner.join("no")).expect_err("missing").contains("inner/no"));
    }

    #[test]
    fn what_is_no_content_is_named() {
        use std::os::unix::net::UnixListener;
        let folder = tree();
        let socket = folder.path().join("top/a/socket");
        let _bound = UnixListener::bind(&socket).expect("bound");
        let root = Root::new(&folder.path().join("top")).expect("readable");
        let failure = plan(std::slice::from_ref(&root), &Rules::default()).expect_err("a socket");
        assert_eq!(failure.exit, Exit::Usage);
        assert!(
            failure.message.contains("top/a/socket is a socket"),
            "{}",
            failure.message
        );
        let rules = Rules {
            hidden: false,
            ignore: vec![parse_ignore("sock*").expect("valid")],
        };
        plan(&[root], &rules).expect("left out");
    }

    #[test]
    fn names_that_are_not_utf8_are_named() {
        use std::ffi::OsStr;
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(OsStr::from_bytes(b"bad\xff")), "").expect("written");
        let root = Root::new(folder.path()).expect("readable");
        let failure = plan(&[root], &Rules::default()).expect_err("not UTF-8");
        assert!(failure.message.contains("not UTF-8"), "{}", failure.message);
    }
}
