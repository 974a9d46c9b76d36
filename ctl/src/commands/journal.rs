//! How far an import got, on disk, so that a rerun goes on from there.
//!
//! The journal never says more than the cluster acknowledged. It is replaced as a whole by a rename, and may lag behind:
//! what is sent twice for that changes nothing.

use std::cell::RefCell;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher as _};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::exit::Failure;
use crate::lines::{Line, Source};
use crate::output::json::Imported;

const VERSION: u32 = 2;
/// Bytes of the last line that are kept, to tell a person which it was.
const MARK_BYTES: usize = 120;
/// Bytes of the list that are hashed at a time.
const PIECE_BYTES: usize = 256 << 10;

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    version: u32,
    /// The list, as it was named.
    file: String,
    /// Everything before this byte is settled.
    pub offset: u64,
    /// The last settled line, counted from 1.
    pub line: u64,
    /// How that line begins.
    mark: String,
    /// A hash of all bytes before `offset`: another list is not taken for this one. 0 for what comes over a pipe.
    digest: u64,
    /// A hash of what is done with the lines, and of the cluster that it is done in.
    purpose: u64,
    /// Counts of all runs.
    pub created: u64,
    /// Pins whose options were replaced.
    pub updated: u64,
    /// Pins that were there already.
    pub unchanged: u64,
    /// Lines refused.
    pub refused: u64,
    /// Length of the file of refused lines; what lies behind was written after the journal and comes again.
    pub rejects_bytes: u64,
}

impl State {
    /// A line is settled.
    pub fn passed(&mut self, line: &Line) {
        (self.offset, self.line) = (line.end, line.number);
        self.mark.clear();
        let mut end = line.text.len().min(MARK_BYTES);
        while !line.text.is_char_boundary(end) {
            end -= 1;
        }
        self.mark.push_str(&line.text[..end]);
    }

    /// The counts as they are printed.
    pub fn counts(&self, resumed_at_line: u64) -> Imported {
        Imported {
            lines: self.line,
            created: self.created,
            updated: self.updated,
            unchanged: self.unchanged,
            refused: self.refused,
            resumed_at_line,
        }
    }
}

/// The file that keeps a [`State`].
pub struct Journal {
    /// None: nothing is kept.
    path: Option<PathBuf>,
    source: Source,
    purpose: u64,
    settled: RefCell<Settled>,
}

/// The part of a list that is settled, read once more beside the import. (The hash of the standard library may be another one in
/// another release of this program: a journal is then refused, and nothing is lost by beginning anew.)
#[derive(Default)]
struct Settled {
    list: Option<File>,
    bytes: u64,
    hash: DefaultHasher,
}

impl Settled {
    /// Goes on to this byte; the hash of all before it. None when there are fewer.
    fn digest(&mut self, list: &Path, offset: u64) -> io::Result<Option<u64>> {
        // What is no file can be read only once, and is read by the import.
        if !fs::metadata(list)?.is_file() {
            return Ok(Some(0));
        }
        if self.list.is_none() {
            self.list = Some(File::open(list)?);
        }
        let Some(file) = &mut self.list else { return Ok(None) };
        let mut piece = vec![0; PIECE_BYTES];
        while self.bytes < offset {
            let wanted = usize::try_from(offset - self.bytes).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            let read = file.read(&mut piece[..wanted])?;
            if read == 0 {
                return Ok(None);
            }
            self.hash.write(&piece[..read]);
            self.bytes += read as u64;
        }
        Ok(Some(self.hash.finish()))
    }
}

/// Where the journal of a list is: as named, or beside it.
pub fn path_of(named: Option<PathBuf>, source: &Source) -> Option<PathBuf> {
    let beside = match source {
        Source::Stdin => None,
        Source::File(path) => {
            let mut name = path.clone().into_os_string();
            name.push(".progress");
            Some(name.into())
        }
    };
    named.or(beside)
}

impl Journal {
    /// The journal of an import. `purpose` is what is done with the lines and where: all that a line does not say.
    pub fn new(path: Option<PathBuf>, source: &Source, purpose: &str) -> Self {
        let mut hash = DefaultHasher::new();
        hash.write(purpose.as_bytes());
        Self {
            path,
            source: source.clone(),
            purpose: hash.finish(),
            settled: RefCell::default(),
        }
    }

    /// Where it is.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// What an earlier run left, once it is sure that it was about the same list.
    pub fn load(&self, restart: bool) -> Result<State, Failure> {
        let fresh = State {
            version: VERSION,
            file: self.source.name(),
            purpose: self.purpose,
            ..State::default()
        };
        let Some(path) = self.path().filter(|_| !restart) else {
            return Ok(fresh);
        };
        let name = path.display();
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(fresh),
            Err(error) => return Err(Failure::usage(format!("can't read the journal {name}: {error}"))),
        };
        let anew = "--restart begins at the top, --journal FILE names another journal";
        let state: State = serde_json::from_str(&text)
            .map_err(|error| Failure::usage(format!("{name} is no journal of an import: {error}")).hint(anew))?;
        if state.version != VERSION {
            let message = format!(
                "the journal {name} has version {}, and {VERSION} is understood",
                state.version
            );
            return Err(Failure::usage(message).hint(anew));
        }
        if state.purpose != self.purpose {
            return Err(Failure::usage(format!(
                "the journal {name} is of an import with other options, or into another cluster or namespace"
            ))
            .hint(anew));
        }
        if !self.is_same_list(&state) {
            let list = self.source.name();
            return Err(
                Failure::usage(format!("{list} is not the list that the journal {name} is about"))
                    .hint(format!("line {} was {:?}", state.line, state.mark))
                    .hint(anew),
            );
        }
        Ok(state)
    }

    fn is_same_list(&self, state: &State) -> bool {
        // What comes over a pipe can't be looked at beforehand; the user vouches for it by naming a journal.
        let Source::File(path) = &self.source else { return true };
        let digest = self.settled.borrow_mut().digest(path, state.offset);
        digest.is_ok_and(|digest| digest == Some(state.digest))
    }

    /// Replaces the journal. After a crash there is the old one or the new one.
    pub fn save(&self, state: &State) -> Result<(), Failure> {
        let Some(path) = self.path() else { return Ok(()) };
        let mut state = state.clone();
        if let Source::File(list) = &self.source {
            let digest = self.settled.borrow_mut().digest(list, state.offset);
            let digest = digest.map_err(|error| Failure::local(format!("can't read {}: {error}", list.display())))?;
            // A list that has become shorter than what was read of it is no list to go on with.
            state.digest = digest.unwrap_or_default();
        }
        let write = || -> io::Result<()> {
            let mut temporary = path.as_os_str().to_owned();
            temporary.push(".new");
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(&state)?)?;
            // The name must not change before the content is there.
            file.sync_all()?;
            fs::rename(&temporary, path)
        };
        write().map_err(|error| {
            Failure::local(format!("can't write the journal {}: {error}", path.display()))
                .hint("--journal FILE keeps it elsewhere")
        })
    }

    /// The import is complete.
    pub fn remove(&self) -> Result<(), Failure> {
        let Some(path) = self.path() else { return Ok(()) };
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::local(format!(
                "can't remove the journal {}: {error}",
                path.display()
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, start: u64) -> Line {
        let end = start + text.len() as u64 + 1;
        Line {
            number: 7,
            start,
            end,
            text: text.to_owned(),
            parsed: Err(String::new()),
        }
    }

    #[test]
    fn another_list_is_not_taken_for_the_same() {
        let folder = tempfile::tempdir().expect("a folder");
        let list = folder.path().join("list");
        fs::write(&list, "first\nsecond\nthird\n").expect("writable");
        let source = Source::File(list.clone());
        // Each run has a journal of its own.
        let run = |purpose: &str| Journal::new(path_of(None, &source), &source, purpose);
        let journal = run("as ever");
        assert_eq!(journal.load(false).expect("none yet").offset, 0);

        let mut state = journal.load(false).expect("none yet");
        state.passed(&line("first", 0));
        journal.save(&state).expect("saved");
        state.passed(&line("second", 6));
        journal.save(&state).expect("saved");
        let journal = run("as ever");
        let loaded = journal.load(false).expect("the same list");
        assert_eq!((loaded.offset, loaded.mark.as_str()), (13, "second"));
        journal.save(&loaded).expect("saved again");
        let refused = run("into another namespace").load(false).expect_err("another purpose");
        assert!(refused.message.contains("other options"), "{}", refused.message);
        assert_eq!(journal.load(true).expect("restarted").offset, 0);

        fs::write(&list, "first\nsecond\nthird\nfourth\n").expect("writable");
        assert_eq!(run("as ever").load(false).expect("a list may grow").offset, 13);
        // Also one of lines of the same length, whose last is the same.
        for other in ["first\nthird\nsecond\n", "f1rst\nsecond\nthird\n", "short"] {
            fs::write(&list, other).expect("writable");
            let refused = run("as ever").load(false).expect_err("another list");
            assert!(
                refused.message.contains("is not the list"),
                "{other:?}: {}",
                refused.message
            );
        }

        fs::write(journal.path().expect("beside the list"), "{").expect("writable");
        assert!(
            journal
                .load(false)
                .expect_err("no journal")
                .message
                .contains("is no journal")
        );
        journal.remove().expect("removed");
        journal.remove().expect("gone already");
    }
}
