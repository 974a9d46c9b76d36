//! Adding files with each side's own command.

use std::path::Path;

use anyhow::ensure;

use super::data::{self, Sizes};
use super::sides::{Ours, Theirs};
use super::tell;
use super::work::{Rounds, row};
use crate::bench::Options;
use crate::bench::report::{Report, Target, Unit};

/// One large file, and many small ones.
pub async fn measure(options: &Options, sizes: &Sizes, folder: &Path, report: &mut Report) -> anyhow::Result<()> {
    tell("add", "the files are made");
    let mebibytes = sizes.file_mebibytes;
    let path = folder.join("to-add");
    data::file(&path, 1, mebibytes << 20)?;
    let what = format!("add {mebibytes} MiB in one file");
    let (ours, theirs) = both(options, folder, &what, &path).await?;
    std::fs::remove_file(&path)?;
    if let Some(row) = row(&what, Unit::MebiBytesPerSecond, mebibytes as f64, &ours, &theirs) {
        report.add(row.target(Target::Times(1.0)));
    }
    let path = folder.join("small-files");
    let bytes = data::directory(&path, sizes.files)?;
    let what = format!(
        "add a directory of {} files, {} MiB together",
        sizes.files,
        bytes / (1 << 20)
    );
    let (ours, theirs) = both(options, folder, &what, &path).await?;
    std::fs::remove_dir_all(&path)?;
    if let Some(row) = row(&what, Unit::PerSecond, sizes.files as f64, &ours, &theirs) {
        report.add(row.target(Target::Times(1.5)));
    }
    Ok(())
}

async fn both(options: &Options, folder: &Path, what: &str, path: &Path) -> anyhow::Result<(Rounds, Rounds)> {
    let folder = folder.join("measured");
    let (mut our_rounds, mut their_rounds) = (Rounds::default(), Rounds::default());
    for _ in 0..options.rounds {
        let theirs = Theirs::start(options, &folder).await?;
        let (their_cid, work) = theirs.add(path).await?;
        their_rounds.add("Kubo", what, work);
        theirs.end(&folder).await?;
        let ours = Ours::start(options, &folder).await?;
        let (our_cid, work) = ours.add(path).await?;
        our_rounds.add("Pinfleet", what, work);
        ours.end(&folder).await?;
        ensure!(
            our_cid == their_cid,
            "the same files are {our_cid} by Pinfleet and {their_cid} by Kubo: not the same work"
        );
    }
    Ok((our_rounds, their_rounds))
}
