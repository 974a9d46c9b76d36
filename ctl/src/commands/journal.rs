//! How far an import got, on disk, so that a rerun goes on from there.
//!
//! The journal never says more than the cluster acknowledged. It is replaced as a whole by a rename, and may lag behind:
//! what is sent twice for that changes nothing.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::exit::Failure;
use crate::lines::{Line, Source};
use crate::output::json::Imported;

const VERSION: u32 = 1;
/// Bytes of the last line that are kept, to know the list again. Lists of CIDs differ within their first bytes.
const MARK_BYTES: usize = 120;

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
    /// Where that line begins, and how: another list is not taken for this one.
    mark_offset: u64,
    mark: String,
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
        (self.offset, self.line, self.mark_offset) = (line.end, line.number, line.start);
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
}

impl Journal {
    /// The journal of an import: the one named, or the one beside the list.
    pub fn new(named: Option<PathBuf>, source: &Source) -> Self {
        let beside = match source {
            Source::Stdin => None,
            Source::File(path) => {
                let mut name = path.clone().into_os_string();
                name.push(".progress");
                Some(name.into())
            }
        };
        Self {
            path: named.or(beside),
            source: source.clone(),
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
        let compare = || -> io::Result<bool> {
            let mut file = File::open(path)?;
            if file.metadata()?.len() < state.offset {
                return Ok(false);
            }
            file.seek(SeekFrom::Start(state.mark_offset))?;
            let mut found = vec![0; state.mark.len()];
            file.read_exact(&mut found)?;
            // A line that was no UTF-8 is kept with replacements, which are longer; such a mark says nothing.
            Ok(found == state.mark.as_bytes() || state.mark.contains('\u{fffd}'))
        };
        compare().unwrap_or(false)
    }

    /// Replaces the journal. After a crash there is the old one or the new one.
    pub fn save(&self, state: &State) -> Result<(), Failure> {
        let Some(path) = self.path() else { return Ok(()) };
        let write = || -> io::Result<()> {
            let mut temporary = path.as_os_str().to_owned();
            temporary.push(".new");
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(state)?)?;
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
        let journal = Journal::new(None, &Source::File(list.clone()));
        assert_eq!(journal.load(false).expect("none yet").offset, 0);

        let mut state = journal.load(false).expect("none yet");
        state.passed(&line("second", 6));
        journal.save(&state).expect("saved");
        assert_eq!(journal.load(false).expect("the same list"), state);
        assert_eq!(journal.load(true).expect("restarted").offset, 0);

        fs::write(&list, "first\nsecond\nthird\nfourth\n").expect("writable");
        assert_eq!(journal.load(false).expect("a list may grow").offset, 13);
        fs::write(&list, "first\nthird\nsecond\n").expect("writable");
        assert!(
            journal
                .load(false)
                .expect_err("another list")
                .message
                .contains("is not the list")
        );
        fs::write(&list, "short").expect("writable");
        assert!(journal.load(false).is_err());

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
