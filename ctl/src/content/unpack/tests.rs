use std::os::unix::fs::PermissionsExt;

use tar::{Builder, Header};

use super::*;

/// An archive under construction, with any names at all: the builder's own methods refuse the bad ones.
struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn raw(mut self, path: &str, kind: EntryType, target: &str, mode: u32, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        let old = header.as_old_mut();
        old.name[..path.len()].copy_from_slice(path.as_bytes());
        old.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.append(&header, data).expect("in memory");
        self
    }

    fn file(self, path: &str, text: &str) -> Self {
        self.raw(path, EntryType::Regular, "", 0o644, text.as_bytes())
    }

    fn dir(self, path: &str) -> Self {
        self.raw(path, EntryType::Directory, "", 0o755, b"")
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.raw(path, EntryType::Symlink, target, 0o777, b"")
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("in memory")
    }
}

struct Ran {
    folder: tempfile::TempDir,
    result: Result<Unpacked, Failure>,
}

impl Ran {
    fn root(&self) -> PathBuf {
        self.folder.path().join("inside/root")
    }

    #[track_caller]
    fn refused(&self, why: &str) {
        let failure = self.result.as_ref().expect_err(why);
        assert!(failure.message.contains(why), "{}", failure.message);
        // Nothing but the folder that was given, whatever came before.
        let outside: Vec<_> = fs::read_dir(self.folder.path()).expect("readable").collect();
        assert_eq!(outside.len(), 1, "something was made outside");
    }
}

fn unpacked(bytes: &[u8], all_symlinks: bool) -> Ran {
    let folder = tempfile::tempdir().expect("a folder");
    let inside = folder.path().join("inside");
    fs::create_dir(&inside).expect("made");
    let result = unpack(bytes, &inside.join("root"), all_symlinks, &|_| ());
    Ran { folder, result }
}

#[test]
fn a_tree_is_written_with_modes_and_times() {
    let long = "x".repeat(90);
    let archive = Tar::new()
        .dir("cid/")
        .raw("cid/tool", EntryType::Regular, "", 0o6755, b"#!")
        .raw("cid/closed/", EntryType::Directory, "", 0o555, b"")
        .file("cid/closed/a", "aaa")
        .file(&format!("cid/{long}"), "")
        .link("cid/closed/up", "../tool")
        .raw("cid/zero", EntryType::Regular, "", 0, b"0");
    let ran = unpacked(&archive.bytes(), false);
    let done = ran.result.as_ref().expect("written");
    assert_eq!((done.files, done.directories, done.symlinks, done.bytes), (4, 2, 1, 6));
    assert!(done.has_root && done.left_out == 0);
    let data = |name: &str| fs::symlink_metadata(ran.root().join(name)).expect("there");
    let mode = |name: &str| data(name).permissions().mode() & 0o7777;
    assert_eq!(mode("tool") & 0o7700, 0o700, "no set-user-ID");
    assert_eq!(mode("closed") & 0o700, 0o700, "writable for its owner");
    assert_eq!(mode("zero") & 0o700, 0o600);
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for name in ["", "tool", "closed", "closed/a"] {
        assert_eq!(data(name).modified().expect("known"), at, "{name}");
    }
    assert_eq!(
        fs::read_link(ran.root().join("closed/up")).expect("a symlink"),
        Path::new("../tool")
    );
}

#[test]
fn a_file_alone() {
    let ran = unpacked(&Tar::new().file("name", "text").bytes(), false);
    assert!(ran.result.as_ref().expect("written").has_root);
    assert_eq!(fs::read_to_string(ran.root()).expect("there"), "text");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for path in ["../x", "/x", "cid/../../x", "cid/..", "cid//x", "cid/./x", ""] {
        unpacked(&Tar::new().dir("cid/").file(path, "x").bytes(), true).refused("that is not written");
    }
    unpacked(&Tar::new().file("../x", "x").bytes(), true).refused("`.` or `..`");
    unpacked(&Tar::new().file("/etc/x", "x").bytes(), true).refused("begins with a slash");
    unpacked(&Tar::new().dir("cid/").file("other/x", "x").bytes(), true).refused("beside what was asked for");
    unpacked(&Tar::new().dir("cid/").file("cid/x/", "x").bytes(), true).refused("called like one");
}

#[test]
fn nothing_is_written_through_a_symlink() {
    // Also where every symlink is wanted.
    for target in ["../..", "/", "."] {
        let archive = Tar::new().dir("cid/").link("cid/out", target).file("cid/out/x", "x");
        unpacked(&archive.bytes(), true).refused("leads through a symlink");
        let archive = Tar::new().dir("cid/").link("cid/out", target).file("cid/out", "x");
        unpacked(&archive.bytes(), true).refused("can't write cid/out");
    }
    unpacked(&Tar::new().link("cid", "..").file("cid/x", "x").bytes(), true).refused("leads through a symlink");
    unpacked(&Tar::new().file("cid", "").file("cid/x", "x").bytes(), true).refused("below what is no directory");
    unpacked(&Tar::new().dir("cid/").file("cid/a/x", "x").bytes(), true).refused("does not come before it");
    // A directory that a symlink shall take the place of.
    let archive = Tar::new()
        .dir("cid/")
        .dir("cid/d/")
        .link("cid/d", "..")
        .file("cid/d/x", "x");
    unpacked(&archive.bytes(), true).refused("can't write cid/d");
}

#[test]
fn symlinks_that_lead_outside_are_left_out() {
    let archive = Tar::new()
        .dir("cid/")
        .link("cid/in", "d/a")
        .link("cid/out", "../x")
        .link("cid/root", "/etc/passwd")
        .link("cid/tricky", "in/../../x")
        .bytes();
    let ran = unpacked(&archive, false);
    let done = ran.result.as_ref().expect("written");
    assert_eq!((done.symlinks, done.left_out), (1, 3));
    assert_eq!(done.named[1], ("cid/root".into(), "/etc/passwd".into()));
    assert_eq!(fs::read_dir(ran.root()).expect("readable").count(), 1);
    let ran = unpacked(&archive, true);
    assert_eq!(ran.result.as_ref().expect("written").symlinks, 4);
    // The root itself can only lead outside of itself.
    let ran = unpacked(&Tar::new().link("cid", "x").bytes(), false);
    let done = ran.result.as_ref().expect("nothing to write");
    assert!(!done.has_root && done.left_out == 1);
}

#[test]
fn what_is_no_content_is_refused() {
    for (kind, why) in [
        (EntryType::Link, "hard link"),
        (EntryType::Char, "device"),
        (EntryType::Block, "device"),
        (EntryType::Fifo, "named pipe"),
        (EntryType::GNUSparse, "can't read the archive"),
        (EntryType::Continuous, "kind that content does not have"),
        (EntryType::new(b'?'), "kind that content does not have"),
    ] {
        let archive = Tar::new().dir("cid/").raw("cid/x", kind, "/etc/passwd", 0o644, b"");
        unpacked(&archive.bytes(), true).refused(why);
    }
}

#[test]
fn archives_that_are_no_archives() {
    unpacked(b"", false).refused("is empty");
    unpacked(&[0; 1024], false).refused("is empty");
    unpacked(&[b'x'; 4096], false).refused("can't read the archive");
    let whole = Tar::new().dir("cid/").file("cid/a", &"a".repeat(2_000)).bytes();
    // Header of the directory, header of the file, and then somewhere in its bytes.
    for length in [600, 1_024, 1_500, 3_000] {
        unpacked(&whole[..length], false).refused("can't read the archive");
    }
    unpacked(
        &Tar::new().dir("cid/").file("cid/a", "1").file("cid/a", "2").bytes(),
        false,
    )
    .refused("File exists");
}

#[test]
fn long_names_are_read_and_endless_ones_are_not() {
    let name = format!("cid/{}", "n".repeat(200));
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    header.set_entry_type(EntryType::Directory);
    header.set_size(0);
    builder
        .append_data(&mut header, "cid/", io::empty())
        .expect("in memory");
    header.set_entry_type(EntryType::Regular);
    header.set_size(1);
    builder.append_data(&mut header, &name, &b"x"[..]).expect("in memory");
    let ran = unpacked(&builder.into_inner().expect("in memory"), false);
    assert_eq!(ran.result.as_ref().expect("written").files, 1);
    assert!(ran.root().join("n".repeat(200)).is_file());

    // Longer than any file system takes.
    let mut builder = Builder::new(Vec::new());
    builder
        .append_data(&mut header, "n".repeat(300), &b"x"[..])
        .expect("in memory");
    let ran = unpacked(&builder.into_inner().expect("in memory"), false);
    assert!(ran.result.is_ok(), "the root has the name that the user gave it");
    let mut builder = Builder::new(Vec::new());
    let mut folder = Header::new_gnu();
    folder.set_entry_type(EntryType::Directory);
    folder.set_size(0);
    folder.set_mode(0o755);
    builder
        .append_data(&mut folder, "cid/", io::empty())
        .expect("in memory");
    builder
        .append_data(&mut header, format!("cid/{}", "n".repeat(300)), &b"x"[..])
        .expect("in memory");
    unpacked(&builder.into_inner().expect("in memory"), false).refused("File name too long");

    // A name without end.
    let endless = Tar::new().raw("././@LongLink", EntryType::GNULongName, "", 0o644, &vec![b'n'; 3 << 20]);
    unpacked(&endless.file("x", "x").bytes(), false).refused("stand in front of an entry");
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["a", "b", "c", "..", ".", "", "cid", "a/b"]).prop_map(str::to_owned)
    }

    fn path() -> impl Strategy<Value = String> {
        prop::collection::vec(name(), 0..4).prop_map(|names| names.join("/"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Whatever an archive holds: all that is made lies below the root, and without --symlinks no symlink in it leads
        /// out of it.
        #[test]
        fn nothing_leaves_the_root(
            entries in prop::collection::vec((path(), path(), 0..3u8, any::<bool>()), 1..12),
            all_symlinks: bool,
        ) {
            let mut archive = Tar::new().dir("cid/");
            for (path, target, kind, is_absolute) in entries {
                let path = format!("cid/{path}");
                let target = if is_absolute { format!("/{target}") } else { target };
                archive = match kind {
                    0 => archive.dir(&path),
                    1 => archive.file(&path, "text"),
                    _ => archive.link(&path, &target),
                };
            }
            let ran = unpacked(&archive.bytes(), all_symlinks);
            let count = |place: &Path| fs::read_dir(place).expect("readable").count();
            prop_assert_eq!(count(ran.folder.path()), 1);
            prop_assert!(count(&ran.folder.path().join("inside")) <= 1);
            if !all_symlinks {
                inside(&ran.root(), &ran.root().canonicalize().expect("there"));
            }
        }
    }

    fn inside(folder: &Path, root: &Path) {
        for entry in fs::read_dir(folder).expect("readable") {
            let place = entry.expect("readable").path();
            let data = place.symlink_metadata().expect("there");
            if data.is_dir() {
                inside(&place, root);
            } else if data.is_symlink()
                && let Ok(leads_to) = place.canonicalize()
            {
                assert!(leads_to.starts_with(root), "{place:?} leads to {leads_to:?}");
            }
        }
    }
}
