//! Archives on a disk: what was added comes back, and what would do harm does none.

mod support;

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use cluster_content::unpack::{UnpackError, Unpacked, unpack};
use cluster_content::{AddOptions, Content, Entry};
use cluster_dag::unixfs::{Metadata, Mtime};
use tar::{Builder, EntryType, Header};

use support::{Store, add, collect};

#[tokio::test]
async fn what_was_added_is_written_with_mode_and_time() {
    let store = Store::new();
    let metadata = |mode, seconds, nanos| Metadata {
        mode: Some(mode),
        mtime: Some(Mtime { seconds, nanos }),
    };
    let entries = [
        (
            Entry::directory("d").with(metadata(0o550, 1_600_000_000, 0)),
            Vec::new(),
        ),
        (
            Entry::file("d/f").with(metadata(0o4640, 1_700_000_000, 5)),
            b"content".to_vec(),
        ),
        (Entry::file("d/old").with(metadata(0o600, -2, 500_000_000)), Vec::new()),
        (Entry::symlink("d/l", "f"), Vec::new()),
        (Entry::directory("d/s/empty"), Vec::new()),
    ];
    let options = AddOptions::v1_2025().keeping_metadata();
    let outcome = add(options, store.clone(), entries).await.expect("added");
    let archive = collect(Content::new(store).tar(outcome.roots[0].cid, "any"))
        .await
        .expect("an archive");
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().join("out");
    let unpacked = unpack(Cursor::new(&archive), &to, false).expect("written");
    let expected = Unpacked {
        files: 2,
        directories: 3,
        symlinks: 1,
        bytes: 7,
    };
    assert_eq!(unpacked, expected);
    assert_eq!(fs::read(to.join("l")).expect("through the symlink"), b"content");
    let facts = |name: &str| {
        let found = fs::symlink_metadata(to.join(name)).expect("written");
        (found.permissions().mode() & 0o7777, found.mtime(), found.mtime_nsec())
    };
    assert_eq!(facts("f"), (0o640, 1_700_000_000, 5));
    assert_eq!(facts("old"), (0o600, -2, 500_000_000));
    assert_eq!(facts(""), (0o550, 1_600_000_000, 0));
    assert!(to.join("s/empty").is_dir());
    // It can be cleared away by its owner.
    fs::set_permissions(&to, fs::Permissions::from_mode(0o700)).expect("set");
    let again = unpack(Cursor::new(&archive), &to, false).expect_err("it is there");
    assert!(matches!(again, UnpackError::Io { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists));
}

/// A name as it is, a kind, and a target for symlinks.
type Given<'a> = (&'a [u8], EntryType, &'a [u8]);

/// An archive with these entries.
fn archive(entries: &[Given<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, kind, target) in entries {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_size(0);
        header.set_link_name_literal(target).expect("short");
        header.set_cksum();
        builder.append(&header, std::io::empty()).expect("in memory");
    }
    builder.into_inner().expect("in memory")
}

/// Everything at and below a path.
fn all(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).expect("a folder") {
        let entry = entry.expect("an entry");
        found.push(entry.path().display().to_string());
        if entry.file_type().expect("known").is_dir() {
            found.extend(all(&entry.path()));
        }
    }
    found.sort();
    found
}

#[test]
fn nothing_is_written_elsewhere() {
    const D: EntryType = EntryType::Directory;
    const F: EntryType = EntryType::Regular;
    const L: EntryType = EntryType::Symlink;
    let evil: &[&[Given<'_>]] = &[
        &[(b"../evil", F, b"")],
        &[(b"/tmp/evil", F, b"")],
        &[(b"d", D, b""), (b"d/../../evil", F, b"")],
        &[(b"d", D, b""), (b"d/..", L, b"x")],
        &[(b"d", D, b""), (b"d/l", L, b"../outside")],
        &[(b"d", D, b""), (b"d/l", L, b"/etc")],
        &[(b"d", D, b""), (b"d/x", L, b"."), (b"d/l", L, b"x/../../outside")],
        // A name twice: a symlink, and then something below or behind it.
        &[(b"d", D, b""), (b"d/l", L, b"s"), (b"d/l/evil", F, b"")],
        &[(b"d", D, b""), (b"d/l", L, b"../../outside"), (b"d/l/evil", F, b"")],
        &[(b"d", D, b""), (b"d/l", L, b"f"), (b"d/l", F, b"")],
        &[(b"d", L, b"../outside")],
        &[(b"d", EntryType::Link, b"outside/file")],
        &[(b"d", EntryType::Fifo, b"")],
        &[(b"d", F, b""), (b"d", F, b"")],
        &[(b"d", D, b""), (b"e/f", F, b"")],
    ];
    for entries in evil {
        for links_anywhere in [false, true] {
            let folder = tempfile::tempdir().expect("a folder");
            fs::create_dir(folder.path().join("outside")).expect("made");
            fs::write(folder.path().join("outside/file"), b"mine").expect("written");
            let to = folder.path().join("in");
            fs::create_dir(&to).expect("made");
            let to = to.join("out");
            let result = unpack(Cursor::new(archive(entries)), &to, links_anywhere);
            assert!(links_anywhere || result.is_err(), "{entries:?}");
            if to.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                fs::remove_dir_all(&to).expect("removed");
            } else {
                let _ = fs::remove_file(&to);
            }
            let path = |name: &str| folder.path().join(name).display().to_string();
            let left = [path("in"), path("outside"), path("outside/file")];
            assert_eq!(all(folder.path()), left, "{entries:?}");
            assert_eq!(fs::read(folder.path().join("outside/file")).expect("there"), b"mine");
        }
    }
}

#[test]
fn what_is_there_is_not_written_through() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("outside")).expect("made");
    symlink("outside", folder.path().join("out")).expect("made");
    let directory = archive(&[(b"d", EntryType::Directory, b""), (b"d/f", EntryType::Regular, b"")]);
    unpack(Cursor::new(directory), &folder.path().join("out"), true).expect_err("something is there");
    let file = archive(&[(b"f", EntryType::Regular, b"")]);
    unpack(Cursor::new(file), &folder.path().join("out"), true).expect_err("something is there");
    assert_eq!(all(&folder.path().join("outside")), Vec::<String>::new());
}
