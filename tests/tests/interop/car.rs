//! CAR files that @ipld/car (npm) and iroh-car (crates.io) make, and readers of others for ours: these two and rs-car.

use anyhow::ensure;
use cluster_proto::v1;
use cluster_tests::car::{Blocks, iroh_make, iroh_read};
use cluster_tests::content::{cid_of, fresh_bytes};
use cluster_tests::helia::{GraphCodec, Hash, Make, car, seeded_files};
use node_core::Cid;
use tonic_types::StatusExt as _;

use super::{Ours, blocks_of, same_blocks, unixfs};

const RAW: u64 = 0x55;
const DAG_CBOR: u64 = 0x71;

/// A frame of version 2 without an index around a file of version 1, by the specification on ipld.io.
fn framed(file: &[u8]) -> Vec<u8> {
    let mut out = vec![0x0a, 0xa1, 0x67];
    out.extend(b"version\x02");
    out.extend([0; 16]);
    // The data begin behind some padding.
    out.extend(60u64.to_le_bytes());
    out.extend((file.len() as u64).to_le_bytes());
    out.extend(0u64.to_le_bytes());
    out.resize(60, 0);
    out.extend(file);
    out
}

fn block(codec: u64, bytes: &[u8]) -> (Cid, Vec<u8>) {
    (cid_of(codec, bytes), bytes.to_vec())
}

/// A raw block whose CID has this multihash.
fn hashed(code: u8, digest: &[u8]) -> anyhow::Result<(Cid, Vec<u8>)> {
    let binary = [&[1, RAW as u8, code, digest.len() as u8], digest].concat();
    Ok((Cid::from_bytes(&binary)?, vec![7]))
}

/// That all of them read a file of ours, and the same in it.
async fn all_read(file: &[u8], root: &Cid) -> anyhow::Result<usize> {
    let report = car::read(file).await?;
    ensure!(report.is_whole() && report.roots == [*root], "@ipld/car: {report:?}");
    ensure!(
        report.version == Some(1) && report.cids[0] == *root,
        "@ipld/car: {report:?}"
    );
    let (roots, blocks) = iroh_read(file).await?;
    ensure!(roots == [*root], "iroh-car: {roots:?}");
    ensure!(
        blocks.iter().map(|(cid, _)| cid).eq(&report.cids),
        "iroh-car reads others"
    );
    Ok(blocks.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn car_files_of_others_are_taken_and_ours_are_read_by_them() -> anyhow::Result<()> {
    let ours = Ours::start().await?;
    for what in [
        Make::bytes(1, 0),
        Make::bytes(2, 1),
        Make::bytes(3, 3_000_000),
        Make::directory(4, 100, 10),
        Make::directory(5, 3, 0),
        Make::hamt(6, 300, 10),
        Make::graph(GraphCodec::DagCbor, 7, 3, 3),
        Make::graph(GraphCodec::DagJson, 8, 20, 1),
        Make::raw_block(Hash::Blake3, &fresh_bytes(100)),
        Make::raw_block(Hash::Sha2_512, &fresh_bytes(100)),
    ] {
        let (file, added) = car::make(&what).await?;
        let done = ours.add_car(&file).await?;
        ensure!(
            done.cid == added.cid.to_string() && done.roots == [done.cid.clone()],
            "{what:?}: {done:?}"
        );
        ensure!(
            (done.blocks, done.bytes) == (added.blocks, added.bytes),
            "{what:?}: {done:?}"
        );
        let back = ours.export(&added.cid).await?;
        ensure!(all_read(&back, &added.cid).await? as u64 == added.blocks, "{what:?}");
        // It knows no others.
        if !matches!(what, Make::Block { .. }) {
            same_blocks(&back, &file, &format!("{what:?}")).await?;
        }
    }

    // Children before their parents, and some twice: nothing says that it may not be so.
    let (file, added) = car::make(&Make::directory(9, 30, 2_000)).await?;
    let (roots, mut blocks) = iroh_read(&file).await?;
    blocks.reverse();
    blocks.extend_from_within(..3);
    let turned = iroh_make(&roots, &blocks).await?;
    let done = ours.add_car(&turned).await?;
    ensure!(done.cid == added.cid.to_string(), "{done:?}");
    same_blocks(&ours.export(&added.cid).await?, &file, "from iroh-car").await?;

    // In a frame of version 2, which two of them read as well.
    let (file, added) = car::make(&Make::directory(10, 30, 2_000)).await?;
    let frame = framed(&file);
    let report = car::read(&frame).await?;
    ensure!(report.is_whole() && report.version == Some(2), "{report:?}");
    ensure!(blocks_of(&frame).await? == blocks_of(&file).await?, "rs-car");
    let done = ours.add_car(&frame).await?;
    ensure!(
        done.cid == added.cid.to_string() && done.blocks == added.blocks,
        "{done:?}"
    );

    // What was not a CAR file before.
    for profile in ["unixfs-v0-2015", "unixfs-v1-2025"] {
        let options = v1::UnixFsOptions {
            profile: profile.to_owned(),
            wrap: true,
            ..v1::UnixFsOptions::default()
        };
        let mut files = seeded_files(11, 50, 700);
        files.push(("large".into(), fresh_bytes(3 << 20)));
        files.push(("nothing".into(), Vec::new()));
        let entries: Vec<_> = files
            .iter()
            .map(|(name, content)| (name.as_str(), Some(content.as_slice())))
            .collect();
        let done = ours.client().add(unixfs(options), &entries).await?;
        let root: Cid = done.cid.parse()?;
        let file = ours.export(&root).await?;
        let count = all_read(&file, &root).await?;
        let (named, blocks) = blocks_of(&file).await?;
        ensure!(named == root && blocks.len() == count, "rs-car: {named}, {count}");
    }
    ours.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn car_files_that_are_broken_are_refused_and_it_is_said_why() -> anyhow::Result<()> {
    let ours = Ours::start().await?;
    let (good, added) = car::make(&Make::directory(1, 5, 2_000)).await?;
    let (roots, blocks) = iroh_read(&good).await?;
    let mut flipped = good.clone();
    *flipped.last_mut().expect("not empty") ^= 1;
    let last = blocks.last().expect("some").0;

    let sha1 = hashed(0x11, &[7; 20])?;
    let short = hashed(0x12, &[7; 4])?;
    let lies = (cid_of(RAW, b"this"), b"that".to_vec());
    let no_cbor = block(DAG_CBOR, &[0xff]);
    let git = block(0x78, b"blob 1\0x");
    let long = block(RAW, &vec![0; (2 << 20) + 1]);
    let other = block(RAW, b"a second root");
    let one = |block: &(Cid, Vec<u8>)| (vec![block.0], vec![block.clone()]);
    let made = async |(roots, blocks): (Vec<Cid>, Blocks)| iroh_make(&roots, &blocks).await;

    // No CAR reader of others takes what they could notice; what is not theirs to notice is left to us.
    let two = [roots.clone(), vec![other.0]].concat();
    let cases: Vec<(&str, Vec<u8>, Vec<String>)> = vec![
        ("nothing", Vec::new(), vec!["ends in the middle".into()]),
        ("no CAR", b"no CAR at all".to_vec(), vec!["header".into()]),
        (
            "HTML",
            b"<!DOCTYPE html><html><head><title>404</title></head><body>Not found</body></html>".to_vec(),
            vec!["CAR header".into()],
        ),
        (
            "cut in a block",
            good[..good.len() - 1].to_vec(),
            vec!["in the middle of a block".into()],
        ),
        (
            "cut in the header",
            good[..20].to_vec(),
            vec!["in the middle of its header".into()],
        ),
        ("another byte", flipped, vec![last.to_string(), "another hash".into()]),
        (
            "another block",
            made(one(&lies)).await?,
            vec![lies.0.to_string(), "another hash".into()],
        ),
        (
            "sha1",
            made(one(&sha1)).await?,
            vec![sha1.0.to_string(), "0x11".into(), "sha2-256".into()],
        ),
        (
            "a short digest",
            made(one(&short)).await?,
            vec![short.0.to_string(), "4 bytes".into()],
        ),
        (
            "no dag-cbor",
            made(one(&no_cbor)).await?,
            vec![no_cbor.0.to_string(), "dag-cbor".into()],
        ),
        (
            "a Git object",
            made(one(&git)).await?,
            vec![git.0.to_string(), "git-raw".into()],
        ),
        (
            "a long block",
            made(one(&long)).await?,
            vec!["2097153".into(), "2097152".into()],
        ),
        (
            "two roots",
            iroh_make(&two, &blocks).await?,
            vec!["roots".into(), "2".into(), "pin".into()],
        ),
        (
            "no root",
            iroh_make(&[], &blocks).await?,
            vec!["roots".into(), "0".into(), "pin".into()],
        ),
        ("a cut frame", framed(&good)[..55].to_vec(), vec!["padding".into()]),
        (
            "a frame cut in its data",
            framed(&good)[..good.len()].to_vec(),
            vec!["in the middle of".into()],
        ),
    ];
    for (what, file, words) in cases {
        let refused = ours.add_car(&file).await;
        let Err(refused) = refused else {
            anyhow::bail!("{what} was taken");
        };
        let reason = refused.get_error_details().error_info().map(|info| info.reason.clone());
        ensure!(refused.code() == tonic::Code::InvalidArgument, "{what}: {refused:?}");
        ensure!(reason.as_deref() == Some("INVALID"), "{what}: {refused:?}");
        for word in words {
            ensure!(
                refused.message().contains(&word),
                "{what}: {:?} lacks {word:?}",
                refused.message()
            );
        }
    }
    ensure!(ours.client().list_all().await?.is_empty(), "nothing is pinned");

    // And it goes on after that.
    let done = ours.add_car(&good).await?;
    ensure!(done.cid == added.cid.to_string(), "{done:?}");
    ours.stop().await
}
