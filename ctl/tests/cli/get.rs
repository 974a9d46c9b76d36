//! Content on its way out: what is written, and that nothing half or hostile stays on the disk.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use cluster_proto::v1::FetchFormat;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;
use tonic::Status;

use crate::fake::{BulkEnd, Served, Server};
use crate::runner::{Ran, cid, command, run, run_in, signal};

/// An archive with any names at all.
struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn with(mut self, kind: EntryType, path: &str, target: &str, text: &str) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(text.len() as u64);
        let old = header.as_old_mut();
        old.name[..path.len()].copy_from_slice(path.as_bytes());
        old.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.append(&header, text.as_bytes()).expect("in memory");
        self
    }

    fn dir(self, path: &str) -> Self {
        self.with(EntryType::Directory, path, "", "")
    }

    fn file(self, path: &str, text: &str) -> Self {
        self.with(EntryType::Regular, path, "", text)
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.with(EntryType::Symlink, path, target, "")
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("in memory")
    }
}

struct Scene {
    server: Server,
    folder: TempDir,
}

impl Scene {
    fn new() -> Self {
        Self {
            server: Server::start(),
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    fn serve(&self, path: &str, format: FetchFormat, data: impl Into<Vec<u8>>) {
        let served = Served {
            cid: cid(1),
            directory: format == FetchFormat::Tar,
            is_sized: format == FetchFormat::File,
            data: data.into(),
        };
        let key = (path.to_owned(), format);
        self.server
            .fake
            .script(|script| drop(script.served.insert(key, served)));
    }

    /// A directory of two files, of 5 KiB together.
    fn tree() -> Self {
        let scene = Self::new();
        let archive = Tar::new()
            .dir(&format!("{}/", cid(1)))
            .file(&format!("{}/a", cid(1)), &"a".repeat(5_000))
            .dir(&format!("{}/d/", cid(1)))
            .file(&format!("{}/d/b", cid(1)), "bbb");
        scene.serve(&cid(1), FetchFormat::Tar, archive.bytes());
        scene
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        run_in(self.folder.path(), &self.server.api(), arguments)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).expect("there")
    }

    fn names(&self) -> Vec<String> {
        let list = fs::read_dir(self.folder.path()).expect("readable");
        let mut names: Vec<String> = list
            .map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        names
    }

    fn breaks(&self, after: usize, end: BulkEnd) {
        self.server
            .fake
            .script(|script| script.fetch_ends.push_back((after, end)));
    }
}

fn stopping() -> BulkEnd {
    BulkEnd::Break(Status::unavailable("this peer is stopping; ask another one"))
}

#[test]
fn a_directory_is_written_under_its_cid_or_another_name() {
    let scene = Scene::tree();
    let root = cid(1);
    let ran = scene
        .run(&["get", &root])
        .expect(0)
        .says("2 files, 2 directories, 4.9 KiB");
    assert_eq!(ran.stdout, "");
    assert_eq!(scene.read(&format!("{root}/d/b")), "bbb");
    let ran = scene
        .run(&["get", &format!("/ipfs/{root}"), "--to", "here", "-o", "json"])
        .expect(0);
    let got: serde_json::Value = serde_json::from_str(&ran.stdout).expect("one object");
    let expected = serde_json::json!({
        "cid": root, "to": "here", "files": 2, "directories": 2, "symlinks": 0, "bytes": 5_003, "left_out": 0
    });
    assert_eq!(got, expected);
    assert_eq!(scene.read("here/a").len(), 5_000);
    assert_eq!(scene.names(), [root.as_str(), "here"]);
}

#[test]
fn a_file_is_called_as_the_path_says() {
    let scene = Scene::new();
    let path = format!("{}/x/readme.txt", cid(1));
    scene.serve(&path, FetchFormat::Tar, Tar::new().file("readme.txt", "text").bytes());
    scene.server.fake.script(|script| {
        script.served.values_mut().for_each(|served| served.directory = false);
    });
    scene.run(&["get", &path]).expect(0).says("1 file, 4 B");
    assert_eq!(scene.read("readme.txt"), "text");
    scene
        .run(&["get", &path])
        .expect(2)
        .says("readme.txt is there already")
        .says("--force");
    fs::write(scene.at("readme.txt"), "old").expect("written");
    scene.run(&["get", &path, "--force"]).expect(0);
    assert_eq!(scene.read("readme.txt"), "text");
    fs::create_dir(scene.at("folder")).expect("made");
    scene
        .run(&["get", &path, "--to", "folder", "--force"])
        .expect(1)
        .says("folder is a directory");
    scene
        .run(&["get", &path, "--to", "no/such/folder"])
        .expect(2)
        .says("can't write no/such/folder");
    // Existing targets cost nothing but a look.
    assert_eq!(scene.server.fake.calls("fetch").len(), 3);
}

#[test]
fn a_directory_that_is_there_keeps_its_other_files() {
    let scene = Scene::tree();
    fs::create_dir_all(scene.at("there/d")).expect("made");
    fs::write(scene.at("there/d/b"), "old").expect("written");
    fs::write(scene.at("there/mine"), "mine").expect("written");
    scene
        .run(&["get", &cid(1), "--to", "there"])
        .expect(2)
        .says("there is there already");
    assert_eq!(scene.read("there/d/b"), "old");
    scene.run(&["get", &cid(1), "--to", "there", "--force"]).expect(0);
    assert_eq!(
        (scene.read("there/d/b").as_str(), scene.read("there/mine").as_str()),
        ("bbb", "mine")
    );
    // A symlink in it is not followed.
    let outside = tempfile::tempdir().expect("a folder");
    fs::remove_dir_all(scene.at("there/d")).expect("removed");
    symlink(outside.path(), scene.at("there/d")).expect("made");
    let ran = scene.run(&["get", &cid(1), "--to", "there", "--force"]).expect(1);
    ran.says("there/d is no directory").says("nothing was replaced");
    assert_eq!(fs::read_dir(outside.path()).expect("readable").count(), 0);
    fs::write(scene.at("file"), "").expect("written");
    scene
        .run(&["get", &cid(1), "--to", "file", "--force"])
        .expect(1)
        .says("file is no directory");
    assert_eq!(scene.names(), ["file", "there"]);
}

#[test]
fn hostile_archives_leave_nothing_behind() {
    let scene = Scene::new();
    let top = || Tar::new().dir("cid/").file("cid/good", "good");
    let long = "n".repeat(99);
    let cases: Vec<(Tar, &str)> = vec![
        (top().file("cid/../../evil", "x"), "`.` or `..`"),
        (top().file("../evil", "x"), "`.` or `..`"),
        (top().file("/tmp/pinfleet-evil", "x"), "begins with a slash"),
        (top().file("evil", "x"), "beside what was asked for"),
        (
            top().link("cid/out", "..").file("cid/out/evil", "x"),
            "does not come before it",
        ),
        (top().with(EntryType::Link, "cid/x", "/etc/passwd", ""), "hard link"),
        (top().with(EntryType::Char, "cid/x", "", ""), "device"),
        (top().with(EntryType::Block, "cid/x", "", ""), "device"),
        (top().with(EntryType::Fifo, "cid/x", "", ""), "named pipe"),
        (top().file("cid/good", "again"), "twice"),
        (Tar::new(), "the archive is empty"),
        (
            top().with(EntryType::GNULongName, "././@LongLink", "", &long.repeat(30_000)),
            "in front of an entry",
        ),
    ];
    for (archive, why) in cases {
        scene.serve(&cid(1), FetchFormat::Tar, archive.bytes());
        scene.run(&["get", &cid(1), "--to", "x"]).expect(1).says(why);
        assert_eq!(scene.names(), Vec::<String>::new(), "{why}");
    }
    let through = top().link("cid/out", "..").file("cid/out/evil", "x");
    scene.serve(&cid(1), FetchFormat::Tar, through.bytes());
    let ran = scene.run(&["get", &cid(1), "--to", "x", "--symlinks"]).expect(1);
    ran.says("leads through a symlink");
    assert_eq!(scene.names(), Vec::<String>::new());
    assert!(!Path::new("/tmp/pinfleet-evil").exists());
}

#[test]
fn a_name_that_the_disk_can_not_hold_is_told() {
    let scene = Scene::new();
    let mut builder = Builder::new(Tar::new().dir("cid/").bytes());
    // Without the end that was just written.
    builder.get_mut().truncate(512);
    let mut header = Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    let name = format!("cid/{}", "n".repeat(300));
    builder.append_data(&mut header, name, &b"x"[..]).expect("in memory");
    scene.serve(&cid(1), FetchFormat::Tar, builder.into_inner().expect("in memory"));
    let ran = scene.run(&["get", &cid(1)]).expect(1);
    ran.says("File name too long").says("get it with --tar");
    assert_eq!(scene.names(), Vec::<String>::new());
}

#[test]
fn symlinks_that_lead_outside_are_left_out_unless_wanted() {
    let scene = Scene::new();
    let archive = Tar::new()
        .dir("c/")
        .link("c/in", "x/y")
        .link("c/evil\u{1b}[2J", "/etc/passwd")
        .file("c/f", "");
    scene.serve(&cid(1), FetchFormat::Tar, archive.bytes());
    let ran = scene.run(&["get", &cid(1), "--to", "a"]).expect(7);
    ran.says("c/evil\\u{1b}[2J leads out of what is written, to /etc/passwd")
        .says("error: 1 symlink was left out")
        .says("--symlinks writes them too");
    let names = |folder: &str| fs::read_dir(scene.at(folder)).expect("readable").count();
    assert_eq!(names("a"), 2);
    scene.run(&["get", &cid(1), "--to", "b", "--symlinks"]).expect(0);
    assert_eq!(names("b"), 3);

    scene.serve(&cid(1), FetchFormat::Tar, Tar::new().link("c", "/etc/passwd").bytes());
    scene.server.fake.script(|script| {
        script.served.values_mut().for_each(|served| served.directory = false);
    });
    let ran = scene.run(&["get", &cid(1), "--to", "s"]).expect(4);
    ran.says("is a symlink to /etc/passwd").says("--symlinks writes it");
    scene.run(&["get", &cid(1), "--to", "s", "--symlinks"]).expect(0);
    assert_eq!(
        fs::read_link(scene.at("s")).expect("a symlink"),
        Path::new("/etc/passwd")
    );
}

#[test]
fn a_stream_that_breaks_leaves_nothing_behind() {
    let scene = Scene::tree();
    let root = cid(1);
    for arguments in [
        &["get", root.as_str(), "--to", "x"][..],
        &["get", root.as_str(), "--tar", "--to", "x"],
    ] {
        for after in [0, 2_000, 6_000] {
            scene.breaks(after, stopping());
            let ran = scene.run(arguments).expect(5);
            ran.says("the stream broke off (this peer is stopping")
                .says("run the command again");
            scene.breaks(after, BulkEnd::Stall);
            let mut slow = arguments.to_vec();
            slow.extend(["--timeout", "300ms"]);
            scene.run(&slow).expect(5).says("silent for 300ms");
            assert_eq!(scene.names(), Vec::<String>::new());
        }
    }
    scene.breaks(
        2_000,
        BulkEnd::Break(Status::data_loss("a block does not match its hash")),
    );
    scene.run(&["get", &root]).expect(1).says("does not match its hash");
    // A peer that ends too early without an error: the archive itself shows it.
    scene.server.fake.script(|script| {
        script
            .served
            .values_mut()
            .for_each(|served| served.data.truncate(2_000));
    });
    scene.run(&["get", &root]).expect(1).says("can't read the archive");
    assert_eq!(scene.names(), Vec::<String>::new());
    scene
        .run(&["get", &cid(9)])
        .expect(3)
        .says("no node that can be asked has");
}

#[test]
fn an_interrupt_leaves_nothing_behind() {
    let scene = Scene::tree();
    let root = cid(1);
    for (count, arguments) in [
        &["get", root.as_str()][..],
        &["get", root.as_str(), "--tar"],
        &["get", root.as_str(), "--car", "--to", "x.car"],
        &["cat", root.as_str()],
    ]
    .into_iter()
    .enumerate()
    {
        for format in [FetchFormat::Car, FetchFormat::File] {
            scene.serve(&root, format, vec![b'x'; 5_000]);
        }
        scene.breaks(3_000, BulkEnd::Stall);
        let child = command(&scene.server.api(), arguments)
            .current_dir(scene.folder.path())
            .spawn()
            .expect("starts");
        scene.server.fake.until_calls("stalled", count + 1);
        signal(&child, "-INT");
        let ran = Ran::from(child.wait_with_output().expect("ends")).expect(130);
        ran.says("interrupted");
        assert_eq!(scene.names(), Vec::<String>::new());
    }
}

#[test]
fn archives_are_written_as_they_come() {
    let scene = Scene::new();
    let root = cid(1);
    scene.serve(&root, FetchFormat::Tar, "a tar");
    scene.serve(&root, FetchFormat::Car, "a car");
    scene.run(&["get", &root, "--tar"]).expect(0);
    assert_eq!(scene.read(&format!("{root}.tar")), "a tar");
    assert_eq!(
        scene.run(&["get", &root, "--tar", "--to", "-"]).expect(0).stdout,
        "a tar"
    );
    assert_eq!(
        scene.run(&["get", &root, "--car", "--to", "-"]).expect(0).stdout,
        "a car"
    );
    assert_eq!(
        scene
            .run(&["get", &root, "--car", "--to", "-", "-o", "json"])
            .expect(0)
            .stdout,
        "a car"
    );
    let ran = scene
        .run(&["get", &root, "--car", "--to", "x.car", "-o", "json"])
        .expect(0);
    let exported: serde_json::Value = serde_json::from_str(&ran.stdout).expect("one object");
    assert_eq!(exported, serde_json::json!({"cid": root, "to": "x.car", "bytes": 5}));
    assert_eq!(scene.read("x.car"), "a car");
    scene
        .run(&["get", &root, "--car", "--to", "x.car"])
        .expect(2)
        .says("x.car is there already");
    fs::write(scene.at("x.car"), "old").expect("written");
    scene
        .run(&["get", &root, "--car", "--to", "x.car", "--force"])
        .expect(0)
        .says("is written to x.car: 5 B");
    assert_eq!(scene.read("x.car"), "a car");
    scene.run(&["get", &root, "--car", "--to", "/dev/null"]).expect(0);
    scene
        .run(&["get", &root, "--car", "--to", "."])
        .expect(2)
        .says("it is a directory");
    scene
        .run(&["get", &root, "--to", "-"])
        .expect(2)
        .says("cluster-ctl cat");
    // With the rights of any new file.
    use std::os::unix::fs::PermissionsExt;
    fs::write(scene.at("new"), "").expect("written");
    let mode = |name: &str| fs::metadata(scene.at(name)).expect("there").permissions().mode();
    assert_eq!(mode("x.car"), mode("new"));
}

#[test]
fn cat_prints_the_bytes_and_nothing_else() {
    let scene = Scene::new();
    let path = format!("{}/file", cid(1));
    let text: String = (0..2_000).map(|n| format!("{n} ")).collect();
    scene.serve(&path, FetchFormat::File, text.as_str());
    let ran = scene.run(&["cat", &path]).expect(0);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), (text.as_str(), ""));
    let ran = scene
        .run(&["cat", &path, "--offset", "100", "--length", "20", "-o", "json"])
        .expect(0);
    assert_eq!(ran.stdout, text[100..120]);
    assert_eq!(scene.server.fake.calls("fetch")[1], format!("{path} 100 20"));
    scene
        .run(&["cat", &cid(9)])
        .expect(3)
        .says("no node that can be asked has");

    scene.serve(&path, FetchFormat::File, vec![b'x'; 4 << 20]);
    let mut child = command(&scene.server.api(), &["cat", &path])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    drop(child.stdout.take());
    let ran = Ran::from(child.wait_with_output().expect("ends")).expect(0);
    assert_eq!(ran.stderr, "", "a reader that goes away is no error");
}

#[test]
fn cat_goes_on_at_another_peer_where_it_stopped() {
    let scene = Scene::new();
    let second = Server::with(Arc::clone(&scene.server.fake));
    let api = format!("{},{}", scene.server.api(), second.api());
    let path = cid(1);
    let text: String = (0..3_000).map(|n| format!("{n} ")).collect();
    for is_sized in [true, false] {
        scene.serve(&path, FetchFormat::File, text.as_str());
        scene.server.fake.script(|script| {
            script.served.values_mut().for_each(|served| served.is_sized = is_sized);
        });
        scene.breaks(3_500, stopping());
        scene.breaks(4_000, stopping());
        let ran = run(&api, &["cat", &path, "--offset", "10", "--length", "9000"]).expect(0);
        assert_eq!(ran.stdout, text[10..9_010]);
        ran.says("the stream broke off").says("going on");
        // All bytes came and only the last word is missing.
        scene.breaks(9_000, stopping());
        let ran = run(&api, &["cat", &path, "--length", "9000"]).expect(0);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), (&text[..9_000], ""));
    }
    let asked = scene.server.fake.calls("fetch");
    assert_eq!(
        asked[..3],
        ["10 9000", "3510 5500", "7510 1500"].map(|range| format!("{path} {range}"))
    );
    assert_eq!(asked.len(), 8);

    // A peer that never gives more is given up.
    scene
        .server
        .fake
        .script(|script| script.fetch_ends.extend((0..20).map(|_| (0, stopping()))));
    run(&api, &["cat", &path]).expect(5).says("this peer is stopping");
}

#[test]
fn a_killed_peer_does_not_end_cat() {
    let scene = Scene::new();
    let second = Server::with(Arc::clone(&scene.server.fake));
    let path = cid(1);
    scene.serve(&path, FetchFormat::File, "0123456789".repeat(1_000));
    let (tell, told) = mpsc::channel();
    scene.breaks(5_000, BulkEnd::Kill(tell));
    let api = format!("{},{}", scene.server.api(), second.api());
    let child = command(&api, &["cat", &path]).spawn().expect("starts");
    told.recv_timeout(Duration::from_secs(30)).expect("it came so far");
    drop(scene.server);
    let ran = Ran::from(child.wait_with_output().expect("ends")).expect(0);
    assert!(ran.stdout == "0123456789".repeat(1_000));
}
