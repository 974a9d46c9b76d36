//! Fetching from Kubo, and serving to it.

use std::path::Path;

use anyhow::Context;
use node_core::Cid;

use super::data::{self, LEAF_BYTES, Sizes};
use super::sides::{Ours, Theirs, ready, source};
use super::tell;
use super::work::{Groups, Rounds, row};
use crate::bench::Options;
use crate::bench::report::{Report, Row, Target, Unit};
use crate::kubo::KuboDaemon;

/// The daemons that content comes from.
struct Sources(Vec<KuboDaemon>);

impl Sources {
    async fn start(folder: &Path, count: usize) -> anyhow::Result<Self> {
        let mut daemons = Vec::new();
        for number in 1..=count {
            daemons.push(source(&folder.join(format!("source-{number}"))).await?);
        }
        Ok(Self(daemons))
    }

    /// Adds the file at this path to all of them; answers its CID.
    async fn add(&self, path: &Path, chunk_bytes: usize) -> anyhow::Result<Cid> {
        let path = path.to_str().context("the path is no text")?;
        let chunker = format!("--chunker=size-{chunk_bytes}");
        let arguments = [
            "add",
            "-Q",
            "--progress=false",
            "--cid-version=1",
            "--raw-leaves",
            &chunker,
            path,
        ];
        let mut cid = None;
        for daemon in &self.0 {
            cid = Some(daemon.run(&arguments).await?.trim().parse()?);
        }
        cid.context("there is no source")
    }

    fn addresses(&self, count: usize) -> Vec<String> {
        let daemons = self.0.iter().take(count);
        daemons.map(|daemon| daemon.swarm_address().to_owned()).collect()
    }

    fn groups(&self, count: usize) -> Groups {
        let daemons = self.0.iter().take(count);
        vec![
            ("sources", daemons.filter_map(KuboDaemon::pid).collect()),
            ("load", vec![std::process::id()]),
        ]
    }
}

/// Both sides' rounds of one fetch.
#[derive(Default)]
struct Both {
    ours: Rounds,
    theirs: Rounds,
}

/// Where things are while they are measured.
struct Place<'a> {
    options: &'a Options,
    folder: &'a Path,
}

impl Place<'_> {
    /// Both fetch this, in turn, round after round.
    async fn fetch(&self, what: &str, cid: &Cid, sources: &Sources, count: usize) -> anyhow::Result<Both> {
        let mut both = Both::default();
        let (addresses, folder) = (sources.addresses(count), self.folder.join("measured"));
        for _ in 0..self.options.rounds {
            let theirs = Theirs::start(self.options, &folder).await?;
            let work = theirs.fetch(cid, &addresses, sources.groups(count)).await?;
            both.theirs.add("Kubo", what, work);
            theirs.end(&folder).await?;
            let ours = Ours::start(self.options, &folder).await?;
            let work = ours.fetch(cid, &addresses, sources.groups(count)).await?;
            both.ours.add("Pinfleet", what, work);
            ours.end(&folder).await?;
        }
        Ok(both)
    }
}

/// All groups that fetch something.
pub async fn measure(options: &Options, sizes: &Sizes, folder: &Path, report: &mut Report) -> anyhow::Result<()> {
    let place = Place { options, folder };
    if options.wants("fetch") || options.wants("serve") {
        large(&place, sizes, report).await?;
    }
    if options.wants("blocks") {
        blocks(&place, sizes, report).await?;
    }
    if options.wants("chain") {
        chain(&place, sizes, report).await?;
    }
    Ok(())
}

async fn large(place: &Place<'_>, sizes: &Sizes, report: &mut Report) -> anyhow::Result<()> {
    let Place { options, folder } = place;
    let amount = sizes.file_mebibytes as f64;
    tell("fetch", &format!("a file of {amount} MiB goes into the sources"));
    let wants_fetch = options.wants("fetch");
    let sources = Sources::start(folder, if wants_fetch { 3 } else { 1 }).await?;
    let path = folder.join("large");
    data::file(&path, 1, sizes.file_mebibytes << 20)?;
    let cid = sources.add(&path, 256 << 10).await?;
    ready(&sources.0[0], &cid).await?;
    std::fs::remove_file(&path)?;
    if wants_fetch {
        at_rest(place, report).await?;
    }
    let what = format!("fetch {amount} MiB in one file from one Kubo");
    let (mut one, mut served) = (Both::default(), Rounds::default());
    let from = (sources.addresses(1), folder.join("measured"));
    let reader_folder = folder.join("reader");
    for _ in 0..options.rounds {
        let theirs = Theirs::start(options, &from.1).await?;
        let work = theirs.fetch(&cid, &from.0, sources.groups(1)).await?;
        one.theirs.add("Kubo", &what, work);
        theirs.end(&from.1).await?;
        let ours = Ours::start(options, &from.1).await?;
        let work = ours.fetch(&cid, &from.0, sources.groups(1)).await?;
        one.ours.add("Pinfleet", &what, work);
        if options.wants("serve") {
            let reader = Theirs::start(options, &reader_folder).await?;
            let groups = vec![("sources", vec![ours.pid()?]), ("load", vec![std::process::id()])];
            let work = reader.fetch(&cid, &[ours.address().await?], groups).await?;
            served.add("Pinfleet", "serve it to a Kubo", work);
            reader.end(&reader_folder).await?;
        }
        ours.end(&from.1).await?;
    }
    if wants_fetch {
        let row_of_one = row(&what, Unit::MebiBytesPerSecond, amount, &one.ours, &one.theirs);
        add(report, row_of_one, Target::Times(1.0));
        let three_words = format!("fetch {amount} MiB in one file from three Kubos");
        let three = place.fetch(&three_words, &cid, &sources, 3).await?;
        let row_of_three = row(
            &three_words,
            Unit::MebiBytesPerSecond,
            amount,
            &three.ours,
            &three.theirs,
        );
        add(report, row_of_three, Target::Times(1.0));
        if let (Some(one), Some(three)) = (one.ours.median(), three.ours.median()) {
            let gain = one.seconds / three.seconds;
            report.add(
                Row::new("from three, beside from one", Unit::Share, gain)
                    .detail("the same file; how many times as fast")
                    .target(Target::Value(1.0))
                    .limit("a figure of two others: see there"),
            );
        }
        memory(
            report,
            &format!("memory while {amount} MiB are fetched"),
            one.ours.peak(),
            one.theirs.peak(),
        );
    }
    if options.wants("serve") {
        let what = format!("serve {amount} MiB to a Kubo");
        let row = row(&what, Unit::MebiBytesPerSecond, amount, &served, &one.theirs);
        let row = row.map(|row| {
            let detail = format!("{} (of the Kubo that reads)", row.detail);
            row.detail(detail)
        });
        add(report, row, Target::Times(1.0));
    }
    Ok(())
}

fn add(report: &mut Report, row: Option<Row>, target: Target) {
    if let Some(row) = row {
        report.add(row.target(target));
    }
}

fn memory(report: &mut Report, what: &str, ours: Option<f64>, theirs: Option<f64>) {
    if let Some(ours) = ours {
        report.add(
            Row::new(what, Unit::MebiBytes, ours)
                .detail("resident, the whole peer: control plane and node")
                .reference(theirs.map(|theirs| (theirs, String::new())))
                .target(Target::Times(2.0))
                .limit("buffers and caches of [storage] and the block store, and code that was run"),
        );
    }
}

/// Memory of both when nothing is asked of them.
async fn at_rest(place: &Place<'_>, report: &mut Report) -> anyhow::Result<()> {
    tell("fetch", "memory at rest");
    let folder = place.folder.join("measured");
    let theirs = Theirs::start(place.options, &folder).await?;
    let their_rest = theirs.rest().await?;
    theirs.end(&folder).await?;
    let ours = Ours::start(place.options, &folder).await?;
    let our_rest = ours.rest().await?;
    ours.end(&folder).await?;
    memory(report, "memory at rest", Some(our_rest), Some(their_rest));
    Ok(())
}

async fn blocks(place: &Place<'_>, sizes: &Sizes, report: &mut Report) -> anyhow::Result<()> {
    let amount = sizes.blocks;
    tell("blocks", &format!("a file of {amount} blocks goes into the source"));
    let sources = Sources::start(&place.folder.join("blocks"), 1).await?;
    let path = place.folder.join("wide");
    data::file(&path, 2, amount * LEAF_BYTES)?;
    let cid = sources.add(&path, LEAF_BYTES).await?;
    std::fs::remove_file(&path)?;
    let what = format!("fetch {amount} blocks of 4 KiB of one wide DAG");
    let both = place.fetch(&what, &cid, &sources, 1).await?;
    add(
        report,
        row(&what, Unit::PerSecond, amount as f64, &both.ours, &both.theirs),
        Target::Times(1.5),
    );
    memory(
        report,
        &format!("memory while {amount} blocks are fetched"),
        both.ours.peak(),
        both.theirs.peak(),
    );
    Ok(())
}

async fn chain(place: &Place<'_>, sizes: &Sizes, report: &mut Report) -> anyhow::Result<()> {
    let amount = sizes.chain;
    tell("chain", &format!("a chain of {amount} blocks goes into the source"));
    let sources = Sources::start(&place.folder.join("chain"), 1).await?;
    let path = place.folder.join("chain.car");
    let cid = data::chain(&path, amount)?;
    let car = path.to_str().context("the path is no text")?;
    sources.0[0].run(&["dag", "import", "--pin-roots=false", car]).await?;
    let what = format!("fetch a chain of {amount} blocks");
    let both = place.fetch(&what, &cid, &sources, 1).await?;
    add(
        report,
        row(&what, Unit::PerSecond, amount as f64, &both.ours, &both.theirs),
        Target::Times(1.0),
    );
    Ok(())
}
