//! The same content, added and got by a real Kubo and here.

#[path = "../../dag/tests/support/mod.rs"]
mod kubo;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cluster_content::{AddOptions, Content, Entry, NullSink, WalkOptions, import_car};
use cluster_dag::unixfs::{Metadata, Mtime, Options};

use kubo::Kubo;
use support::{Store, add, collect, noise};

/// What lies at a path, as entries, depth first in the order of names.
fn entries(path: &Path, name: &str, keep: bool, out: &mut Vec<(Entry, Vec<u8>)>) {
    let found = fs::symlink_metadata(path).expect("it exists");
    let metadata = match keep {
        false => Metadata::default(),
        true => {
            let since = found
                .modified()
                .expect("known")
                .duration_since(std::time::UNIX_EPOCH)
                .expect("after 1970");
            Metadata {
                mode: Some(found.permissions().mode() & 0o7777),
                mtime: Some(Mtime {
                    seconds: since.as_secs() as i64,
                    nanos: since.subsec_nanos(),
                }),
            }
        }
    };
    if found.is_symlink() {
        let target = fs::read_link(path).expect("a symlink");
        out.push((
            Entry::symlink(name, target.as_os_str().as_bytes()).with(metadata),
            Vec::new(),
        ));
    } else if found.is_dir() {
        out.push((Entry::directory(name).with(metadata), Vec::new()));
        let mut names: Vec<_> = fs::read_dir(path)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        for below in names {
            entries(&path.join(&below), &format!("{name}/{below}"), keep, out);
        }
    } else {
        out.push((Entry::file(name).with(metadata), fs::read(path).expect("a file")));
    }
}

/// A folder with some of everything.
fn folder(kubo: &Kubo) -> std::path::PathBuf {
    let root = kubo.path("folder");
    fs::create_dir_all(root.join("sub/.hidden")).expect("made");
    fs::create_dir_all(root.join("empty")).expect("made");
    fs::create_dir_all(root.join("wide")).expect("made");
    fs::write(root.join("sub/.hidden/file"), b"hidden").expect("written");
    fs::write(root.join(".dot"), b"dot").expect("written");
    fs::write(root.join("sub/large"), noise(1_500_000, 1)).expect("written");
    fs::write(root.join("none"), b"").expect("written");
    fs::write(root.join(format!("{}.long", "n".repeat(150))), b"long").expect("written");
    std::os::unix::fs::symlink("sub/large", root.join("link")).expect("linked");
    for number in 0..1300 {
        fs::write(root.join(format!("wide/{number:0200}")), number.to_string()).expect("written");
    }
    fs::set_permissions(root.join("none"), fs::Permissions::from_mode(0o640)).expect("set");
    root
}

#[tokio::test]
async fn a_folder_has_the_cid_that_kubo_gives_it() {
    let kubo = Kubo::new(&[]);
    let root = folder(&kubo);
    for (flags, unixfs, wrap, hidden, keep) in [
        (&[][..], Options::v0_2015(), false, false, false),
        (&["--hidden"], Options::v0_2015(), false, true, false),
        (&["-w"], Options::v0_2015(), true, false, false),
        (
            &["--preserve-mode", "--preserve-mtime"],
            Options::v0_2015(),
            false,
            false,
            true,
        ),
    ] {
        let theirs = kubo.path_cid(flags, &root);
        let mut all = Vec::new();
        entries(&root, "folder", keep, &mut all);
        let options = AddOptions {
            wrap,
            hidden,
            ..AddOptions::new(unixfs)
        };
        let ours = add(options, Arc::new(NullSink), all).await.expect("added");
        assert_eq!(ours.roots[0].cid.to_string(), theirs, "{flags:?}");
    }
}

/// Type, mode, target and content.
type Found = (u8, u32, Vec<u8>, Vec<u8>);

/// What a tar archive says of each entry, by path.
fn read_tar(archive: &[u8]) -> BTreeMap<Vec<u8>, Found> {
    let mut archive = tar::Archive::new(archive);
    let mut found = BTreeMap::new();
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let path = entry.path_bytes().into_owned();
        let path = path.strip_suffix(b"/").unwrap_or(&path).to_vec();
        let target = entry
            .link_name_bytes()
            .map(|target| target.into_owned())
            .unwrap_or_default();
        let kind = entry.header().entry_type().as_byte();
        let mode = entry.header().mode().expect("a mode");
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).expect("whole");
        found.insert(path, (kind, mode, target, content));
    }
    found
}

#[tokio::test]
async fn archives_and_car_files_hold_what_those_of_kubo_hold() {
    let kubo = Kubo::new(&[]);
    let root = folder(&kubo);
    for flags in [&["--hidden"][..], &["--preserve-mode", "--preserve-mtime"]] {
        let cid = kubo.path_cid(flags, &root);
        let exported = kubo.export(&cid);
        let store = Store::new();
        let parts = futures::stream::iter([Ok::<_, String>(Bytes::from(exported.clone()))]);
        let imported = import_car(parts, store.clone()).await.expect("Kubo's file is good");
        let content = Content::new(store);

        let archive = kubo.path("archive.tar");
        kubo.run(&["get", "--archive", "-o", &archive.to_string_lossy(), &cid]);
        let theirs = read_tar(&fs::read(&archive).expect("written"));
        let ours = read_tar(&collect(content.tar(imported.roots[0], &cid)).await.expect("an archive"));
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
        for (path, (kind, mode, target, content)) in &ours {
            let other = &theirs[path];
            let path = String::from_utf8_lossy(path);
            assert_eq!((kind, target), (&other.0, &other.2), "{path}");
            assert!(*content == other.3, "{path}");
            if flags.len() == 2 && *kind != b'2' {
                assert_eq!(mode & 0o7777, other.1 & 0o7777, "{path}");
            }
        }
        fs::remove_file(&archive).expect("it was there");

        // Depth first and each block once, so they are the same byte for byte.
        let ours = collect(content.car(imported.roots, WalkOptions::default()))
            .await
            .expect("a file");
        assert!(ours == exported, "{} and {} bytes", ours.len(), exported.len());
    }
}
