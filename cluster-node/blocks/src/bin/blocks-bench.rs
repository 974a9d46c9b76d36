//! How the block store does at a given size, beside what this machine's RocksDB does with the same bytes and nothing
//! around them. Prints one JSON line.
//!
//! `blocks-bench DIR BLOCKS [BYTES]`: makes a DAG of that many leaves of BYTES bytes each (64 unless said otherwise) and
//! nodes of 174 links above them, in a fresh folder below DIR, which is removed afterwards. Blocks are named by a counter
//! instead of a hash, so that no hashing is in the figures.
//!
//! | field | what |
//! |---|---|
//! | `raw_puts_per_second` | synced batches of 256 blocks into one table with blob files, by one thread |
//! | `puts_per_second` | the same blocks through the store, four batches in flight |
//! | `present_walk_per_second` | blocks of the walk of a pin all of which is in the store |
//! | `fetch_walk_per_second` | blocks of a walk that hands all of them in |
//! | `open_ms` | opening the store after it was closed |
//! | `opened_rss_bytes`, `rss_bytes` | resident memory then, and after look-ups and collections |
//! | `lookups_per_second` | `sizes` of 16 CIDs at a time, every other one absent, by one thread |
//! | `gc_rows_per_second`, `gc_longest_step_ms` | a collection that finds nothing |
//! | `gc_deletes_per_second`, `gc_delete_longest_step_ms` | one that deletes all of it |
//! | `slowest_put_ms` | of single synced puts beside both |

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster_blocks::{BlockStore, Budget, GcCursor, Mode, Next, StoreOptions};
use cluster_dag::Block;
use node_core::{Cid, Timestamp};
use rocksdb::{DB, Options, WriteBatch, WriteOptions};

const BATCH: usize = 256;
const IN_FLIGHT: usize = 4;
const FAN: usize = 174;
const RAW: u8 = 0x55;
const PB: u8 = 0x70;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next();
    let mut number = || arguments.next().map(|text| text.parse::<u64>());
    let (Some(dir), Some(Ok(blocks)), bytes) = (dir, number(), number().unwrap_or(Ok(64))) else {
        eprintln!("blocks-bench: usage: blocks-bench DIR BLOCKS [BYTES]");
        return ExitCode::from(2);
    };
    let Ok(bytes @ 1..=2_097_152) = bytes else {
        eprintln!("blocks-bench: BYTES is a number from 1 to 2097152");
        return ExitCode::from(2);
    };
    let folder = PathBuf::from(&dir).join(format!("blocks-bench-{}", std::process::id()));
    let result = measure(&folder, blocks.max(1), usize::try_from(bytes).unwrap_or(64));
    // What was measured stands whether or not the folder can be removed.
    let _ = std::fs::remove_dir_all(&folder);
    match result {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("blocks-bench: {dir}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A number that looks random, and is another for each input (the finaliser of SplitMix64).
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The CID of block `number`: 32 bytes that look like a sha2-256 digest.
fn cid(codec: u8, number: u64) -> Result<Cid, Failure> {
    let mut binary = vec![1, codec, 0x12, 0x20];
    binary.extend((0..4).flat_map(|part| mixed(number ^ (part << 60)).to_be_bytes()));
    Ok(Cid::from_bytes(&binary)?)
}

fn leaf(number: u64, bytes: usize) -> Result<Block, Failure> {
    let mut content = vec![0; bytes];
    for (part, place) in content.chunks_mut(8).zip(0..) {
        part.copy_from_slice(&mixed(number ^ (place << 40)).to_be_bytes()[..part.len()]);
    }
    Ok(Block::trusted(cid(RAW, number)?, content.into()))
}

fn node(number: u64, links: &[Cid]) -> Result<Block, Failure> {
    let mut content = Vec::with_capacity(links.len() * 40);
    for link in links {
        let binary = link.to_bytes();
        let length = binary.len() as u8;
        content.extend([0x12, length + 2, 0x0a, length]);
        content.extend(binary);
    }
    Ok(Block::trusted(cid(PB, number)?, content.into()))
}

/// Puts in batches, several in flight.
async fn put(store: &BlockStore, blocks: impl Iterator<Item = Result<Block, Failure>>) -> Result<(), Failure> {
    let session = std::sync::Arc::new(store.begin_add());
    let mut running = tokio::task::JoinSet::new();
    let mut batch = Vec::with_capacity(BATCH);
    let mut blocks = blocks.peekable();
    while let Some(block) = blocks.next() {
        batch.push(block?);
        if batch.len() < BATCH && blocks.peek().is_some() {
            continue;
        }
        if running.len() >= IN_FLIGHT
            && let Some(done) = running.join_next().await
        {
            done??;
        }
        let (store, session, batch) = (store.clone(), session.clone(), std::mem::take(&mut batch));
        running.spawn(async move { store.put(Some(&session), batch).await });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(())
}

/// A node by its number, and what it links to: blocks of one codec with these numbers.
struct Node {
    number: u64,
    codec: u8,
    links: Range<u64>,
}

impl Node {
    fn block(&self) -> Result<Block, Failure> {
        let links = self.links.clone().map(|number| cid(self.codec, number));
        node(self.number, &links.collect::<Result<Vec<_>, _>>()?)
    }
}

/// The nodes above the leaves, level by level, the root last.
fn nodes(leaves: Range<u64>, first: u64) -> Vec<Node> {
    let (mut codec, mut level, mut number) = (RAW, leaves, first);
    let mut out = Vec::new();
    while out.is_empty() || level.end - level.start > 1 {
        let begun = number;
        for start in level.clone().step_by(FAN) {
            let links = start..level.end.min(start + FAN as u64);
            out.push(Node { number, codec, links });
            number += 1;
        }
        (codec, level) = (PB, begun..number);
    }
    out
}

fn raw_puts(folder: &Path, blocks: u64, bytes: usize) -> Result<f64, Failure> {
    let folder = folder.join("raw");
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_enable_blob_files(true);
    options.set_min_blob_size(4_096);
    let db = DB::open(&options, &folder)?;
    let mut write = WriteOptions::default();
    write.set_sync(true);
    let mut passed = Duration::ZERO;
    for from in (0..blocks).step_by(BATCH) {
        let rows = (from..blocks.min(from + BATCH as u64))
            .map(|number| leaf(number, bytes))
            .collect::<Result<Vec<_>, _>>()?;
        let begun = Instant::now();
        let mut batch = WriteBatch::default();
        for block in &rows {
            batch.put(block.cid().to_bytes(), block.bytes());
        }
        db.write_opt(batch, &write)?;
        passed += begun.elapsed();
    }
    drop(db);
    DB::destroy(&Options::default(), &folder)?;
    Ok(blocks as f64 / passed.as_secs_f64())
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    kib * 1024
}

/// Collects everything; returns rows looked at, blocks deleted, and the longest step.
fn collect(store: &BlockStore) -> Result<(u64, u64, Duration), Failure> {
    let (mut cursor, mut rows, mut deleted, mut longest) = (Some(GcCursor::default()), 0, 0, Duration::ZERO);
    while let Some(at) = cursor {
        let begun = Instant::now();
        let step = store.gc_step(at, Budget::default())?;
        longest = longest.max(begun.elapsed());
        rows += step.scanned;
        deleted += step.deleted.blocks;
        cursor = step.next;
    }
    Ok((rows, deleted, longest))
}

/// The slowest of single puts until told to stop.
fn slowest_put(store: &BlockStore, stop: &AtomicBool) -> Result<Duration, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut slowest = Duration::ZERO;
    let mut number = 1 << 55;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let block = leaf(number, 64)?;
        let begun = Instant::now();
        runtime.block_on(store.put(None, vec![block]))?;
        slowest = slowest.max(begun.elapsed());
    }
    Ok(slowest)
}

fn walk(store: &BlockStore, root: Cid, fetch: impl Fn(Cid) -> Result<Block, Failure>) -> Result<f64, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let begun = Instant::now();
    runtime.block_on(store.pin_begin(root, Mode::Recursive, "", Timestamp::ZERO))?;
    let walk = store.walk(&root)?.ok_or("there is no walk")?;
    loop {
        let step = walk.advance(64)?;
        let blocks = step
            .missing
            .iter()
            .map(|cid| fetch(*cid))
            .collect::<Result<Vec<_>, _>>()?;
        let was_missing = !blocks.is_empty();
        runtime.block_on(walk.store(blocks))?;
        if step.next == Next::Finish && !was_missing {
            break;
        }
    }
    let pin = runtime.block_on(walk.finish(Timestamp::ZERO))?;
    Ok(pin.progress.blocks as f64 / begun.elapsed().as_secs_f64())
}

fn lookups(store: &BlockStore, blocks: u64) -> Result<f64, Failure> {
    const ASKED: u64 = 200_000;
    let cids = (0..ASKED)
        // Those beyond the leaves are in no store.
        .map(|number| {
            cid(
                RAW,
                if number % 2 == 0 {
                    mixed(number) % blocks
                } else {
                    number + (1 << 52)
                },
            )
        })
        .collect::<Result<Vec<_>, _>>()?;
    let begun = Instant::now();
    let mut found = 0;
    for some in cids.chunks(16) {
        found += store.sizes(some)?.into_iter().flatten().count() as u64;
    }
    let rate = ASKED as f64 / begun.elapsed().as_secs_f64();
    if found != ASKED / 2 {
        return Err(format!("{found} of {} blocks were found", ASKED / 2).into());
    }
    Ok(rate)
}

fn measure(folder: &Path, blocks: u64, bytes: usize) -> Result<String, Failure> {
    std::fs::create_dir_all(folder)?;
    let raw = raw_puts(folder, blocks.min(200_000), bytes)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let data = folder.join("store");
    let options = StoreOptions::default();
    let store = BlockStore::open(&data, &options)?;
    let begun = Instant::now();
    runtime.block_on(put(&store, (0..blocks).map(|number| leaf(number, bytes))))?;
    let puts = blocks as f64 / begun.elapsed().as_secs_f64();
    let root = {
        let nodes = nodes(0..blocks, 1 << 50);
        runtime.block_on(put(&store, nodes.iter().map(Node::block)))?;
        cid(PB, nodes.last().ok_or("there is no root")?.number)?
    };
    let present = walk(&store, root, |cid| Err(format!("{cid} is not there").into()))?;
    // A DAG of its own: its leaves are named by numbers that the other does not use.
    let fetched = {
        let first = 1 << 51;
        let nodes = nodes(first..first + blocks.min(50_000), 1 << 53);
        let blocks = nodes.iter().map(Node::block).collect::<Result<Vec<_>, _>>()?;
        let root = blocks.last().ok_or("there is no root")?.cid();
        let network: HashMap<Cid, Bytes> = blocks.into_iter().map(Block::into_parts).collect();
        let content = Bytes::from(vec![0x5a; bytes]);
        walk(&store, root, |cid| {
            let content = network.get(&cid).cloned().unwrap_or_else(|| content.clone());
            Ok(Block::trusted(cid, content))
        })?
    };
    store.close()?;
    drop(store);
    let begun = Instant::now();
    let store = BlockStore::open(&data, &options)?;
    let opened = begun.elapsed();
    let opened_resident = resident();
    let lookups = lookups(&store, blocks)?;
    let stored = store.usage().blocks;
    let disk = store.disk_bytes()?;
    let stop = AtomicBool::new(false);
    let (kept, deleted, slowest) = std::thread::scope(|scope| {
        let putter = scope.spawn(|| slowest_put(&store, &stop).map_err(|error| error.to_string()));
        let both = || -> Result<_, Failure> {
            let begun = Instant::now();
            let (rows, _, longest) = collect(&store)?;
            let kept = (rows as f64 / begun.elapsed().as_secs_f64(), longest);
            runtime.block_on(store.unpin(&root))?;
            let begun = Instant::now();
            let (_, deleted, longest) = collect(&store)?;
            Ok((kept, (deleted as f64 / begun.elapsed().as_secs_f64(), longest)))
        };
        let both = both();
        stop.store(true, Ordering::Relaxed);
        let slowest = putter.join().map_err(|_| "the thread that puts panicked")??;
        let (kept, deleted) = both?;
        Ok::<_, Failure>((kept, deleted, slowest))
    })?;
    let resident = resident();
    store.reclaim()?;
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(format!(
        "{{\"blocks\":{stored},\"leaf_bytes\":{bytes},\"raw_puts_per_second\":{raw:.0},\"puts_per_second\":{puts:.0},\
         \"present_walk_per_second\":{present:.0},\"fetch_walk_per_second\":{fetched:.0},\"open_ms\":{:.1},\
         \"opened_rss_bytes\":{opened_resident},\"rss_bytes\":{resident},\"lookups_per_second\":{lookups:.0},\
         \"gc_rows_per_second\":{:.0},\"gc_longest_step_ms\":{:.1},\"gc_deletes_per_second\":{:.0},\
         \"gc_delete_longest_step_ms\":{:.1},\"slowest_put_ms\":{:.1},\"disk_bytes\":{disk},\
         \"reclaimed_disk_bytes\":{}}}",
        millis(opened),
        kept.0,
        millis(kept.1),
        deleted.0,
        millis(deleted.1),
        millis(slowest),
        store.disk_bytes()?,
    ))
}
