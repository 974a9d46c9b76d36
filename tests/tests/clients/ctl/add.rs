//! `add`: the CIDs that `ipfs add` makes, and everything that it can be told.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use cluster_tests::car::iroh_make;
use cluster_tests::content::{cid_of, fresh_bytes};
use cluster_tests::kubo::KuboDaemon;
use cluster_tests::reference_ctl::ReferenceCtl;
use node_core::Cid;
use serde_json::{Value, json};

use super::super::{Fleet, cid};
use super::has;

/// What `ipfs add` has to be told today to do what it did by itself when IPFS Cluster was written.
const OLD: [&str; 2] = ["--chunker=size-262144", "--max-file-links=174"];
/// The same of what other options say.
const UNLESS_TOLD: [(&str, &str); 2] = [
    ("--cid-version", "--cid-version=0"),
    ("--raw-leaves", "--raw-leaves=false"),
];

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path of letters")
}

/// A folder with files of several sizes and depths, one of them hidden.
fn tree(root: &Path) -> anyhow::Result<PathBuf> {
    let folder = root.join("folder");
    fs::create_dir_all(folder.join("sub/deeper"))?;
    fs::write(folder.join("small.txt"), b"small\n")?;
    fs::write(folder.join("x y+z.txt"), b"a name to be escaped")?;
    fs::write(folder.join(".hidden"), b"hidden")?;
    fs::write(folder.join("sub/large.bin"), fresh_bytes(1_100_000))?;
    fs::write(folder.join("sub/deeper/empty"), b"")?;
    Ok(folder)
}

/// The root that a run of `add` ends with.
async fn root(ctl: &ReferenceCtl, options: &[&str], source: &Path) -> anyhow::Result<String> {
    let told = ctl
        .run(&[&["add", "--quieter"], options, &[path(source)?]].concat())
        .await?;
    Ok(told.trim().to_owned())
}

/// Line by line the same as `ipfs add`.
pub async fn as_kubo_does(fleet: &Fleet, ctl: &ReferenceCtl, kubo: &KuboDaemon) -> anyhow::Result<()> {
    let temporary = tempfile::tempdir()?;
    let folder = tree(temporary.path())?;
    let (small, large) = (folder.join("small.txt"), temporary.path().join("large.bin"));
    fs::write(&large, fresh_bytes(5 << 20))?;
    let cases: [(&[&str], &[&str], &Path); 13] = [
        (&[], &[], &small),
        (&["-w"], &["-w"], &small),
        (&["--raw-leaves"], &["--raw-leaves"], &small),
        (&["--raw-leaves", "-w"], &["--raw-leaves", "-w"], &small),
        (&[], &[], &large),
        (&["--layout", "trickle"], &["--trickle"], &large),
        (&["-w"], &["-w"], &large),
        (&["--raw-leaves", "-w"], &["--raw-leaves", "-w"], &large),
        (&["-r"], &["-r"], &folder),
        (&["-r", "-w"], &["-r", "-w"], &folder),
        (
            &["-r", "--cid-version", "1"],
            &["-r", "--cid-version=1", "--raw-leaves"],
            &folder,
        ),
        (
            &["-r", "--hash", "sha2-512"],
            &["-r", "--hash=sha2-512", "--cid-version=1", "--raw-leaves"],
            &folder,
        ),
        (
            &["-r", "--hash", "sha3-512"],
            &["-r", "--hash=sha3-512", "--cid-version=1", "--raw-leaves"],
            &folder,
        ),
    ];
    for (ours, theirs, source) in cases {
        let added = ctl.run(&[&["add"], ours, &[path(source)?]].concat()).await?;
        let mut told: Vec<&str> = added.lines().map(str::trim_end).collect();
        let untold = UNLESS_TOLD
            .iter()
            .filter(|(name, _)| !theirs.iter().any(|flag| flag.starts_with(name)));
        let mut arguments = vec!["add", "--only-hash", "--progress=false"];
        arguments.extend(OLD);
        arguments.extend(untold.map(|(_, flag)| *flag));
        arguments.extend(theirs);
        arguments.push(path(source)?);
        let expected = kubo.run(&arguments).await?;
        let mut expected: Vec<&str> = expected.lines().map(str::trim_end).collect();
        ensure!(
            told.last() == expected.last(),
            "{ours:?}: the root:\n{told:#?}\n{expected:#?}"
        );
        told.sort_unstable();
        expected.sort_unstable();
        ensure!(told == expected, "{ours:?}:\n{told:#?}\n{expected:#?}");
    }
    // Chunks at places that the content chooses.
    for chunker in ["rabin-16384-32768-65536", "buzhash", "size-1024"] {
        let ours = root(ctl, &["--chunker", chunker], &large).await?;
        let chunker = format!("--chunker={chunker}");
        let theirs = [
            "add",
            "--only-hash",
            "-Q",
            "--progress=false",
            "--cid-version=0",
            "--raw-leaves=false",
            "--max-file-links=174",
            &chunker,
            path(&large)?,
        ];
        ensure!(ours == kubo.run(&theirs).await?.trim(), "{chunker}");
    }
    // It is there: every byte of it, from another peer than the one that took it.
    let root = root(ctl, &["-r"], &folder).await?;
    let large = fleet.cluster.client(1).cat(format!("{root}/sub/large.bin")).await?;
    ensure!(large == fs::read(folder.join("sub/large.bin"))?);
    Ok(())
}

/// The flags one by one.
pub async fn options(fleet: &Fleet, ctl: &ReferenceCtl, kubo: &KuboDaemon) -> anyhow::Result<()> {
    let temporary = tempfile::tempdir()?;
    let folder = tree(temporary.path())?;
    let file = |name: &str| {
        let file = temporary.path().join(name);
        fs::write(&file, fresh_bytes(300_000)).map(|()| file)
    };

    // What is told: lines, CIDs alone, the last one alone; objects one after the other, in one list, or the last.
    let one = file("one")?;
    let told = ctl.run(&["add", path(&one)?]).await?;
    let key = told.split(' ').nth(1).context("a CID")?.to_owned();
    ensure!(told.trim_end() == format!("added {key} one"), "{told}");
    ensure!(ctl.run(&["add", "--quiet", path(&one)?]).await?.trim() == key);
    ensure!(
        ctl.run(&["add", "-r", "--quiet", path(&folder)?])
            .await?
            .lines()
            .count()
            == 6,
        "each entry, but the hidden one"
    );
    ensure!(
        ctl.run(&["add", "-r", "--hidden", "--quiet", path(&folder)?])
            .await?
            .lines()
            .count()
            == 7
    );
    let objects = ctl.json(&["add", "-r", path(&folder)?]).await?;
    ensure!(
        objects.len() == 6 && objects.last().is_some_and(|last| last["name"] == "folder"),
        "{objects:?}"
    );
    let list = ctl.one(&["add", "-r", "--no-stream", path(&folder)?]).await?;
    ensure!(list.as_array() == Some(&objects), "{list}");
    let last = ctl.one(&["add", "-r", "--quieter", path(&folder)?]).await?;
    ensure!(Some(&last) == objects.last(), "{last}");
    let several = ctl.json(&["add", path(&one)?, path(&file("two")?)?]).await?;
    ensure!(
        several.len() == 3 && several[2]["name"] == "",
        "around both: {several:?}"
    );
    // A folder with one file in it, and the file wrapped, are one and the same.
    let alone = temporary.path().join("alone");
    fs::create_dir(&alone)?;
    fs::copy(&one, alone.join("one"))?;
    ensure!(root(ctl, &["-r"], &alone).await? == root(ctl, &["-w"], &one).await?);

    // Options of the pin.
    let three = file("three")?;
    let second = fleet.cluster.peer(1).id();
    let added = ctl
        .one(&[
            "add",
            "--name",
            "named",
            "--rmin",
            "1",
            "--rmax",
            "1",
            "--allocations",
            &second,
            "--expire-in",
            "3h",
            "--metadata",
            "kind=file",
            path(&three)?,
        ])
        .await?;
    ensure!(added["allocations"] == json!([second]), "{added}");
    let pin = fleet.pin(&cid(&added, "cid")?).await?;
    ensure!(
        pin.name == "named" && pin.nodes == ["node-2"] && pin.expire_at.is_some(),
        "{pin:?}"
    );
    ensure!(pin.metadata.get("kind").is_some_and(|kind| kind == "file"), "{pin:?}");
    has(
        &ctl.run(&["pin", "ls", &cid(&added, "cid")?.to_string()]).await?,
        "Metadata: yes",
    )?;
    let near = ctl
        .one(&["add", "--local", "--rmin", "1", "--rmax", "1", path(&file("near")?)?])
        .await?;
    ensure!(near["allocations"] == json!([fleet.cluster.peer(0).id()]), "{near}");
    let loose = ctl.one(&["add", "--no-pin", path(&file("loose")?)?]).await?;
    fleet.has_no_pin(&cid(&loose, "cid")?).await?;
    // Waits until it is pinned.
    for flags in [&["--wait"][..], &["--wait", "--wait-timeout", "60s"]] {
        let added = ctl
            .json(&[&["add"], flags, &[path(&file("waited")?)?]].concat())
            .await?;
        let root: Cid = cid(added.first().context("an object")?, "cid")?;
        let status = fleet.client().status(&root).await?;
        ensure!(status.status() == cluster_proto::v1::Status::Pinned, "{status:?}");
    }

    // A CAR file, of another program and of Kubo.
    let block = fresh_bytes(1_000);
    let raw = cid_of(0x55, &block);
    let car = temporary.path().join("made.car");
    fs::write(&car, iroh_make(&[raw], &vec![(raw, block)]).await?)?;
    ensure!(root(ctl, &["--format", "car"], &car).await? == raw.to_string());
    let theirs = kubo
        .add_directory(&[("a".into(), fresh_bytes(600_000)), ("b".into(), b"b".to_vec())])
        .await?;
    fs::write(&car, kubo.export(&theirs).await?)?;
    ensure!(root(ctl, &["--format", "car"], &car).await? == theirs.to_string());
    fleet.pin(&theirs).await?;
    ensure!(fleet.client().cat(format!("{theirs}/b")).await? == b"b");

    // What can't be, with the reason.
    let (one, folder, car) = (path(&one)?, path(&folder)?, path(&car)?);
    for (code, arguments, words) in [
        (1, &["add", folder][..], "recursive"),
        (1, &["add", "--format", "car", "-w", car], "car"),
        (2, &["add", "--layout", "flat", one], "layout"),
        (2, &["add", "--chunker", "size-0", one], "chunker"),
        (2, &["add", "--rmin", "3", "--rmax", "3", one], "3"),
        (2, &["add", "--format", "tar", one], "format"),
        (2, &["add", "--format", "car", one], ""),
    ] {
        let told = ctl.fails(code, arguments).await?;
        ensure!(told.to_lowercase().contains(words), "{arguments:?}: {told}");
    }
    let error: Value = serde_json::from_str(&ctl.fails(2, &["--enc=json", "add", "--chunker", "size-0", one]).await?)?;
    ensure!(error["code"] == 400, "{error}");
    Ok(())
}
