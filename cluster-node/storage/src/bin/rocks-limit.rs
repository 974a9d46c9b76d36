//! What this machine's RocksDB does with rows and nothing around them: the limit beside which the bench prints how fast
//! pins are recorded. Prints one JSON line.
//!
//! `rocks-limit DIR SECONDS`: writes batches of 1,000 rows of a pinset's usual size (48 bytes of key, in no order, and 96
//! of value) into a fresh database below DIR, from one thread, once without a WAL, as the state is written, and once
//! with one that is synced after each batch, as the Raft log is.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rocksdb::{DB, Options, WriteBatch, WriteOptions};

const ROWS_A_BATCH: u64 = 1_000;
const KEY_BYTES: usize = 48;
const VALUE_BYTES: usize = 96;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(seconds)) = (
        arguments.next(),
        arguments.next().and_then(|text| text.parse::<f64>().ok()),
    ) else {
        eprintln!("rocks-limit: usage: rocks-limit DIR SECONDS");
        return ExitCode::from(2);
    };
    let time = Duration::from_secs_f64(seconds.clamp(0.1, 600.0));
    let measured = measure(Path::new(&dir), time, false)
        .and_then(|unlogged| Ok((unlogged, measure(Path::new(&dir), time, true)?)));
    match measured {
        Ok((unlogged, synced)) => {
            println!("{{\"rows_per_second\":{unlogged:.0},\"rows_per_second_synced\":{synced:.0}}}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("rocks-limit: {dir}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Rows a second. The database is removed afterwards.
fn measure(dir: &Path, time: Duration, logged: bool) -> Result<f64, rocksdb::Error> {
    let folder = dir.join(if logged { "rocks-limit-synced" } else { "rocks-limit" });
    let mut options = Options::default();
    options.create_if_missing(true);
    let db = DB::open(&options, &folder)?;
    let mut write = WriteOptions::default();
    write.disable_wal(!logged);
    write.set_sync(logged);
    let value = [0x5a; VALUE_BYTES];
    let begun = Instant::now();
    let mut rows = 0u64;
    while begun.elapsed() < time {
        let mut batch = WriteBatch::default();
        for _ in 0..ROWS_A_BATCH {
            batch.put(key(rows), value);
            rows += 1;
        }
        db.write_opt(batch, &write)?;
    }
    let rate = rows as f64 / begun.elapsed().as_secs_f64();
    drop(db);
    DB::destroy(&options, &folder)?;
    Ok(rate)
}

/// Keys in no order, as CIDs are.
fn key(number: u64) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    for (place, part) in key.chunks_mut(8).enumerate() {
        let hash = xxhash_rust::xxh3::xxh3_64_with_seed(&number.to_le_bytes(), place as u64);
        part.copy_from_slice(&hash.to_be_bytes());
    }
    key
}
