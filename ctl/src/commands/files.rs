//! The files of one import: none may be another, and none that is there is emptied.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::exit::Failure;

/// What a file is, however it is named: its device and number, or where it would come to be.
#[derive(Debug, PartialEq)]
enum Identity {
    There(u64, u64),
    Named(PathBuf),
}

fn folder_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

fn identity(path: &Path) -> Identity {
    if let Ok(data) = fs::metadata(path) {
        return Identity::There(data.dev(), data.ino());
    }
    let parent = folder_of(path);
    let parent = parent.canonicalize().unwrap_or_else(|_| parent.to_owned());
    Identity::Named(parent.join(path.file_name().unwrap_or_default()))
}

/// Refuses two of these to be one file: what is written to the one would be read as, or take the place of, the other.
/// Each is given with what it is, the first with "the list".
pub fn apart(files: &[(&str, Option<&Path>)]) -> Result<(), Failure> {
    let named = files.iter().filter_map(|(what, path)| Some((*what, (*path)?)));
    let known: Vec<(&str, &Path, Identity)> = named.map(|(what, path)| (what, path, identity(path))).collect();
    for (at, (what, path, this)) in known.iter().enumerate() {
        if let Some((other, ..)) = known[..at].iter().find(|(.., other)| other == this) {
            return Err(
                Failure::usage(format!("{what} names {other} itself, {}", path.display()))
                    .hint("give each a file of its own"),
            );
        }
    }
    Ok(())
}

/// Whether a file can come to be there, as far as that is known before it is made.
pub fn check_place(path: &Path) -> Result<(), Failure> {
    let folder = fs::metadata(folder_of(path));
    folder.map(drop).map_err(|error| cant_write(path, &error))
}

/// Opens a file to write it from the top. One that has something in it is not emptied; devices and pipes are written to.
pub fn create(what: &str, path: &Path) -> Result<File, Failure> {
    let open = || -> io::Result<Option<File>> {
        let file = OpenOptions::new().create(true).write(true).truncate(false).open(path)?;
        let data = file.metadata()?;
        Ok((!data.is_file() || data.len() == 0).then_some(file))
    };
    match open() {
        Ok(Some(file)) => Ok(file),
        Ok(None) => Err(Failure::usage(format!("{what}: {} is there already", path.display()))
            .hint("name a new file, or remove that one")),
        Err(error) => Err(cant_write(path, &error)),
    }
}

fn cant_write(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("can't write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_under_two_names_is_seen() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("list"), "x").expect("written");
        std::os::unix::fs::symlink(at("list"), at("link")).expect("linked");
        fs::hard_link(at("list"), at("hard")).expect("linked");
        let dotted = folder.path().join(".").join("new");
        for (a, b) in [("list", "link"), ("list", "hard"), ("list", "list"), ("new", "new")] {
            let (a, b) = (at(a), at(b));
            let failure = apart(&[("the list", Some(&a)), ("journal", None), ("--rejects", Some(&b))]);
            let message = failure.expect_err("one file").message;
            assert!(message.contains("--rejects names the list itself"), "{message}");
        }
        apart(&[("the list", Some(&at("new"))), ("--rejects", Some(&dotted))]).expect_err("one file");
        apart(&[("the list", Some(&at("list"))), ("--rejects", Some(&at("new")))]).expect("two files");
    }

    #[test]
    fn what_is_there_is_not_emptied() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        create("--differences", &path).expect("a new one");
        create("--differences", &path).expect("an empty one");
        fs::write(&path, "kept").expect("written");
        let message = create("--differences", &path).expect_err("there").message;
        assert!(
            message.contains("--differences") && message.contains("there already"),
            "{message}"
        );
        assert_eq!(fs::read_to_string(&path).expect("there"), "kept");
        create("--differences", Path::new("/dev/null")).expect("a device");
    }
}
