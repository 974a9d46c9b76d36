//! `get`: files and directories on the disk.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cluster_proto::v1;
use tokio::sync::mpsc;
use tokio::task::{JoinError, spawn_blocking};

use super::{bytes, interrupted};
use crate::Context;
use crate::cli::ContentGet;
use crate::content::fetch::{Asked, Fetching, PIECES_AHEAD, Piece, PieceReader};
use crate::content::place::Place;
use crate::content::unpack::{Unpacked, unpack};
use crate::exit::{Exit, Failure};
use crate::output::meter::Meter;
use crate::output::{Talk, json, words};

/// `get`
pub async fn run(context: &mut Context, arguments: ContentGet) -> Result<Exit, Failure> {
    let asked = Asked::parse(&arguments.path)?;
    let is_stdout = arguments.to.as_ref().is_some_and(|path| path.as_os_str() == "-");
    let archive = match (arguments.tar, arguments.car) {
        (true, _) => Some((v1::FetchFormat::Tar, "tar")),
        (_, true) => Some((v1::FetchFormat::Car, "car")),
        _ => None,
    };
    if let Some((format, ending)) = archive {
        let named = arguments
            .to
            .unwrap_or_else(|| format!("{}.{ending}", asked.name).into());
        let target = (!is_stdout).then_some(named.as_path());
        return bytes::archive(context, asked, format, target, arguments.force).await;
    }
    if is_stdout {
        return Err(Failure::usage("`-` can't take files and directories")
            .hint("`cluster-ctl cat` prints the bytes of a file, --tar and --car make an archive of everything"));
    }
    let target = arguments.to.unwrap_or_else(|| asked.name.clone().into());
    let place = Place::new(&target, arguments.force)?;
    let (cid, done) = write(context, asked, place, arguments.symlinks).await?;
    finish(context, cid, &target, done)
}

/// Fetches an archive and unpacks it on a thread that may block. Nothing is left when it fails.
async fn write(
    context: &Context,
    asked: Asked,
    place: Place,
    all_symlinks: bool,
) -> Result<(String, Unpacked), Failure> {
    let request = v1::FetchRequest {
        path: asked.path,
        format: v1::FetchFormat::Tar.into(),
        offset: 0,
        length: 0,
    };
    let interrupt = interrupted();
    tokio::pin!(interrupt);
    let mut fetching = tokio::select! {
        fetching = Fetching::open(&context.client, context.talk, request) => fetching?,
        () = &mut interrupt => return Err(Failure::new(Exit::Interrupted, "interrupted")),
    };
    let is_directory = fetching.head.directory;
    place.check_kind(is_directory)?;
    let cid = fetching.head.cid.clone();
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    // Of a file alone the archive says how many bytes it has.
    let file_bytes = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&file_bytes);
    let unpacking = spawn_blocking(move || {
        let workshop = place.workshop()?;
        let made = workshop.path().join("root");
        let on_file = |bytes| told.store(bytes, Ordering::Relaxed);
        let done = unpack(PieceReader::new(receiver), &made, all_symlinks, &on_file)?;
        if done.has_root {
            place.settle(&made)?;
        }
        Ok(done)
    });
    let mut meter = Meter::new(context.talk, None);
    let feed = async {
        while let Some(bytes) = fetching.next().await? {
            let count = bytes.len() as u64;
            if sender.send(Piece::Data(bytes)).await.is_err() {
                // The thread knows why it takes no more.
                return Ok(());
            }
            meter.add(count);
            meter.tick();
            let total = file_bytes.load(Ordering::Relaxed);
            if !is_directory && total > 0 {
                meter.total(total);
            }
        }
        // The same when this is not taken.
        let _ = sender.send(Piece::End).await;
        Ok(())
    };
    let fed = tokio::select! {
        fed = feed => fed,
        () = &mut interrupt => Err(Failure::new(Exit::Interrupted, "interrupted; nothing was kept")),
    };
    // Without its sender the thread ends, and takes away what it wrote.
    drop(sender);
    let unpacked = joined(unpacking.await);
    meter.clear();
    fed?;
    Ok((cid, unpacked?))
}

fn joined<T>(result: Result<Result<T, Failure>, JoinError>) -> Result<T, Failure> {
    result.unwrap_or_else(|error| {
        Err(Failure::local(format!("the writing thread ended early: {error}")).hint("report this as a bug"))
    })
}

fn finish(context: &mut Context, cid: String, target: &Path, done: Unpacked) -> Result<Exit, Failure> {
    say_left_out(context.talk, &done);
    if !done.has_root {
        let leads_to = done.named.first().map_or("", |(_, target)| target.as_str());
        return Err(Failure::new(
            Exit::Refused,
            format!("{cid} is a symlink to {leads_to}, and it was not written"),
        )
        .hint("--symlinks writes it"));
    }
    let to = target.display().to_string();
    if context.out.is_json() {
        context.out.object(&json::Got {
            cid,
            to,
            files: done.files,
            directories: done.directories,
            symlinks: done.symlinks,
            bytes: done.bytes,
            left_out: done.left_out,
        })?;
        context.out.flush()?;
    } else {
        context.talk.note(&format!("{cid} is written to {to}: {}", sum(&done)));
    }
    if done.left_out == 0 {
        return Ok(Exit::Ok);
    }
    Err(Failure::new(
        Exit::Partial,
        match done.left_out {
            1 => "1 symlink was left out".into(),
            more => format!("{} symlinks were left out", words::grouped(more)),
        },
    )
    .hint("--symlinks writes them too, wherever they lead"))
}

fn say_left_out(talk: Talk, done: &Unpacked) {
    // A symlink alone is told of in the error.
    if !done.has_root {
        return;
    }
    for (path, target) in &done.named {
        talk.warn(&format!("{path} leads out of what is written, to {target}: left out"));
    }
    let more = done.left_out.saturating_sub(done.named.len() as u64);
    if more > 0 {
        talk.warn(&format!("{} more symlinks were left out", words::grouped(more)));
    }
}

fn sum(done: &Unpacked) -> String {
    let some = |number: u64, one: &str, many: &str| {
        (number > 0).then(|| format!("{} {}", words::grouped(number), if number == 1 { one } else { many }))
    };
    let parts = [
        some(done.files, "file", "files"),
        some(done.directories, "directory", "directories"),
        some(done.symlinks, "symlink", "symlinks"),
        Some(words::bytes(done.bytes)),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
