//! Where content is written: under a name of its own until it is complete.
//!
//! What is under way lies beside its target in `.pinfleet-….part`, so that the last step is a renaming within one file
//! system. It is removed when the command fails; only a killed process leaves it.

use std::fs::{self, DirEntry, Permissions};
use std::io::{self, IsTerminal};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tempfile::{Builder, TempDir, TempPath};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::exit::Failure;

const PREFIX: &str = ".pinfleet-";
const SUFFIX: &str = ".part";

/// A file that can't be written.
pub fn cant_write(place: &Path, error: &io::Error) -> Failure {
    Failure::local(format!("can't write {}: {error}", place.display()))
}

/// Nothing was sent yet.
fn wrong_target(place: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("can't write {}: {why}", place.display()))
}

fn exists(place: &Path) -> Failure {
    Failure::usage(format!("{} is there already", place.display()))
        .hint("--to PATH gives another name, --force replaces what is there")
}

/// The folder that a name lies in.
fn folder_of(place: &Path) -> &Path {
    match place.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A file that bytes are written to, or stdout.
pub struct Sink {
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// What is under way, and what it becomes.
    part: Option<(TempPath, PathBuf)>,
    force: bool,
}

impl Sink {
    /// Bytes on stdout.
    pub fn stdout() -> Self {
        Self {
            writer: Box::new(tokio::io::stdout()),
            part: None,
            force: false,
        }
    }

    /// Bytes on stdout, unless that is a terminal.
    pub fn stdout_for_programs(what: &str) -> Result<Self, Failure> {
        if io::stdout().is_terminal() {
            return Err(Failure::usage(format!("{what} would fill the terminal"))
                .hint("--to FILE writes it to a file, `… | PROGRAM` hands it on"));
        }
        Ok(Self::stdout())
    }

    /// A file that appears when it is complete. Pipes and devices are written to as they are.
    pub fn file(target: &Path, force: bool) -> Result<Self, Failure> {
        let (file, part) = open_part(target, force)?;
        Ok(Self {
            writer: Box::new(tokio::fs::File::from_std(file)),
            part: part.map(|part| (part, target.to_owned())),
            force,
        })
    }

    /// Writes some bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.writer.write_all(bytes).await;
        written.map_err(|error| self.failed(error))
    }

    /// Lets the file appear.
    pub async fn finish(mut self) -> Result<(), Failure> {
        let flushed = self.writer.flush().await;
        flushed.map_err(|error| self.failed(error))?;
        let Some((part, target)) = self.part else {
            return Ok(());
        };
        settle(part, &target, self.force)
    }

    fn failed(&self, error: io::Error) -> Failure {
        match &self.part {
            Some((_, target)) => cant_write(target, &error),
            // A reader that went away is no error.
            None => error.into(),
        }
    }
}

/// Opens what becomes a file when it is complete, by [`settle`]. Pipes and devices are written to as they are.
pub fn open_part(target: &Path, force: bool) -> Result<(fs::File, Option<TempPath>), Failure> {
    match fs::metadata(target) {
        Ok(data) if data.is_dir() => return Err(wrong_target(target, "it is a directory")),
        Ok(data) if !data.is_file() => {
            let opened = fs::OpenOptions::new().write(true).open(target);
            let file = opened.map_err(|error| wrong_target(target, error))?;
            return Ok((file, None));
        }
        // A symlink that leads nowhere is there too.
        _ if target.symlink_metadata().is_ok() && !force => return Err(exists(target)),
        _ => {}
    }
    let part = Builder::new()
        .prefix(PREFIX)
        .suffix(SUFFIX)
        // The mask of the process takes from it, as from any new file.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder_of(target))
        .map_err(|error| wrong_target(target, error))?;
    let (file, path) = part.into_parts();
    Ok((file, Some(path)))
}

/// Lets a file appear that was opened by [`open_part`].
pub fn settle(part: TempPath, target: &Path, force: bool) -> Result<(), Failure> {
    let persisted = match force {
        true => part.persist(target),
        false => part.persist_noclobber(target),
    };
    persisted.map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => exists(target),
        _ => cant_write(target, &error.error),
    })
}

/// Where a tree is written.
#[derive(Debug)]
pub struct Place {
    target: PathBuf,
    force: bool,
    /// A directory that is there, and gets what is new.
    merge: bool,
}

impl Place {
    /// Checks a target before anything is asked for.
    pub fn new(target: &Path, force: bool) -> Result<Self, Failure> {
        let is_there = target.symlink_metadata().is_ok();
        if is_there && !force {
            return Err(exists(target));
        }
        if !is_there {
            let folder = folder_of(target);
            let data = fs::metadata(folder).map_err(|error| wrong_target(target, error))?;
            if !data.is_dir() {
                let why = format!("{} is no directory", folder.display());
                return Err(wrong_target(target, why));
            }
        }
        Ok(Self {
            target: target.to_owned(),
            force,
            merge: target.is_dir(),
        })
    }

    /// Checks that what comes fits what is there.
    pub fn check_kind(&self, is_directory: bool) -> Result<(), Failure> {
        let target = self.target.display();
        if self.merge && !is_directory {
            return Err(
                Failure::local(format!("{target} is a directory, and what comes is none"))
                    .hint("--to PATH gives the name of the file"),
            );
        }
        if !self.merge && is_directory && self.target.symlink_metadata().is_ok() {
            return Err(
                Failure::local(format!("{target} is no directory, and what comes is one"))
                    .hint("--to PATH gives another name"),
            );
        }
        Ok(())
    }

    /// An empty folder on the same file system, which goes when it is dropped.
    pub fn workshop(&self) -> Result<TempDir, Failure> {
        let folder = if self.merge {
            self.target.as_path()
        } else {
            folder_of(&self.target)
        };
        let made = Builder::new().prefix(PREFIX).suffix(SUFFIX).tempdir_in(folder);
        made.map_err(|error| cant_write(folder, &error))
    }

    /// Puts what is complete in its place.
    pub fn settle(&self, made: &Path) -> Result<(), Failure> {
        if self.merge {
            // All is looked at before the first is moved, so that a directory does not end up half new for nothing.
            check_merge(made, &self.target)?;
            return merge(made, &self.target);
        }
        let renamed = if self.force {
            fs::rename(made, &self.target)
        } else {
            rename_new(made, &self.target)
        };
        renamed.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists(&self.target),
            _ => cant_write(&self.target, &error),
        })
    }

    /// What is written.
    pub fn target(&self) -> &Path {
        &self.target
    }
}

/// Renames unless the new name is taken.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Not every file system can: then it is looked at before.
        Err(Errno::INVAL | Errno::NOSYS) if to.symlink_metadata().is_err() => fs::rename(from, to),
        Err(Errno::INVAL | Errno::NOSYS) => Err(io::ErrorKind::AlreadyExists.into()),
        other => other.map_err(io::Error::from),
    }
}

fn entries(folder: &Path) -> Result<Vec<DirEntry>, Failure> {
    let list = || fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>();
    list().map_err(|error| cant_write(folder, &error))
}

/// Whether a directory is there itself, not through a symlink. None: nothing is there.
fn is_real_dir(place: &Path) -> Option<bool> {
    place.symlink_metadata().ok().map(|data| data.is_dir())
}

fn check_merge(from: &Path, to: &Path) -> Result<(), Failure> {
    for entry in entries(from)? {
        let target = to.join(entry.file_name());
        match (is_real_dir(&entry.path()), is_real_dir(&target)) {
            (_, None) | (Some(false), Some(false)) => {}
            (Some(true), Some(true)) => check_merge(&entry.path(), &target)?,
            (_, Some(there)) => {
                let (there, new) = match there {
                    true => ("a directory", "none"),
                    false => ("no directory", "one"),
                };
                let place = target.display();
                return Err(Failure::local(format!(
                    "{place} is {there}, and what comes is {new}; nothing was replaced"
                ))
                .hint("move it away, or give another name with --to PATH"));
            }
        }
    }
    Ok(())
}

fn merge(from: &Path, to: &Path) -> Result<(), Failure> {
    for entry in entries(from)? {
        let target = to.join(entry.file_name());
        if is_real_dir(&entry.path()) == Some(true) && is_real_dir(&target) == Some(true) {
            merge(&entry.path(), &target)?;
        } else {
            fs::rename(entry.path(), &target).map_err(|error| cant_write(&target, &error))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(at: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let place = at.join(name);
            fs::create_dir_all(folder_of(&place)).expect("made");
            fs::write(place, text).expect("written");
        }
    }

    #[test]
    fn a_directory_that_is_there_keeps_its_other_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("target");
        tree(
            &target,
            &[("a", "old"), ("other", "mine"), ("d/x", "old"), ("d/mine", "mine")],
        );
        assert_eq!(
            Place::new(&target, false).expect_err("there").exit,
            crate::exit::Exit::Usage
        );
        let place = Place::new(&target, true).expect("forced");
        place.check_kind(false).expect_err("a directory is there");
        place.check_kind(true).expect("both are");
        let workshop = place.workshop().expect("made");
        let made = workshop.path().join("root");
        tree(&made, &[("a", "new"), ("d/x", "new"), ("e/y", "new")]);
        place.settle(&made).expect("merged");
        drop(workshop);
        let read = |name: &str| fs::read_to_string(target.join(name)).expect("there");
        assert_eq!(["a", "d/x", "e/y"].map(read), ["new"; 3]);
        assert_eq!(["other", "d/mine"].map(read), ["mine"; 2]);
        assert_eq!(entries(&target).expect("readable").len(), 4, "nothing else is left");
    }

    #[test]
    fn nothing_is_replaced_when_something_does_not_fit() {
        let folder = tempfile::tempdir().expect("a folder");
        let outside = folder.path().join("outside");
        tree(&outside, &[("x", "outside")]);
        let target = folder.path().join("target");
        tree(&target, &[("a", "old")]);
        std::os::unix::fs::symlink(&outside, target.join("d")).expect("made");
        let place = Place::new(&target, true).expect("forced");
        let workshop = place.workshop().expect("made");
        let made = workshop.path().join("root");
        tree(&made, &[("a", "new"), ("d/x", "new")]);
        let failure = place.settle(&made).expect_err("`d` leads outside");
        assert!(
            failure.message.contains("target/d is no directory"),
            "{}",
            failure.message
        );
        assert_eq!(fs::read_to_string(target.join("a")).expect("there"), "old");
        assert_eq!(fs::read_to_string(outside.join("x")).expect("there"), "outside");
    }

    #[test]
    fn a_name_that_was_taken_meanwhile_is_not_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("target");
        let place = Place::new(&target, false).expect("free");
        let workshop = place.workshop().expect("made");
        tree(workshop.path(), &[("root", "new")]);
        fs::write(&target, "old").expect("written");
        place.settle(&workshop.path().join("root")).expect_err("taken");
        assert_eq!(fs::read_to_string(&target).expect("there"), "old");
        fs::remove_file(&target).expect("removed");
        place.settle(&workshop.path().join("root")).expect("free again");
        assert_eq!(fs::read_to_string(&target).expect("there"), "new");
    }
}
