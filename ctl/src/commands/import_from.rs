//! `import`: the pins of another cluster, and the proof that all are here.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster_proto::v1;
use serde::Serialize;
use tokio::time::Instant;

use super::import::{self, Job};
use super::{files, interrupted, invalid, journal};
use crate::Context;
use crate::cli::ImportFrom;
use crate::client::{Kind, service};
use crate::exit::{Exit, Failure};
use crate::former::compare::{Difference, differences, is_where_it_was};
use crate::former::fetch::{Cluster, has_daemons, keep_daemons, kept_daemons};
use crate::former::{Rules, Taken};
use crate::lines::{Parser, RawSource, Source};
use crate::output::meter::ShareMeter;
use crate::output::{json, words};
use crate::spec::{Spec, check_node};

/// Lines compared at a time: what one answer of a list may hold.
const COMPARED_TOGETHER: usize = 1_000;
/// How often the bar moves.
const TICK: Duration = Duration::from_millis(250);
/// Differences shown one by one; a wrong list would otherwise fill the screen a million times.
const SHOWN_MAX: u64 = 20;

/// `import`
pub async fn run(context: &mut Context, arguments: ImportFrom) -> Result<Exit, Failure> {
    let defaults = Spec {
        namespace: arguments.namespace.clone(),
        allow_unplaced: arguments.allow_unplaced,
        ..Spec::default()
    };
    defaults.check(words::now()).map_err(invalid)?;
    for (_, node) in &arguments.map {
        check_node("map", node).map_err(invalid)?;
    }
    // Before anything is written, least of all over the list.
    let file = arguments.file.as_ref().map(|file| Source::new(file));
    files::apart(&[
        (
            "the list",
            file.as_ref().and_then(Source::path).or(arguments.list.as_deref()),
        ),
        ("--journal", arguments.journal.as_deref()),
        ("--rejects", arguments.rejects.as_deref()),
        ("--differences", arguments.differences.as_deref()),
    ])?;
    let differing = arguments.differences.clone().map(Differences::create).transpose()?;
    let prepared = prepare(context, &arguments);
    let (source, nodes) = tokio::select! {
        prepared = prepared => prepared?,
        () = interrupted() => return Err(Failure::new(Exit::Interrupted, "interrupted")),
    };
    if source == Source::Stdin && !arguments.no_verify {
        return Err(
            Failure::usage("stdin can't be read twice, once to import and once to compare")
                .hint("give a file, or --no-verify"),
        );
    }
    let rules = Rules {
        nodes,
        sharded: arguments.sharded,
    };
    let mut imported = Ok(Exit::Ok);
    if !arguments.verify_only {
        let job = Job {
            purpose: format!("former {:?} {defaults:?}", rules.sharded),
            parser: Parser::of_former(rules.clone(), defaults.clone(), words::now()),
            source: source.clone(),
            journal: arguments.journal,
            restart: arguments.restart,
            rejects: arguments.rejects,
        };
        imported = import::carry_out(context, job).await;
        let was_sent = match &imported {
            Ok(_) => true,
            Err(failure) => matches!(failure.exit, Exit::Partial | Exit::Refused),
        };
        if !was_sent || arguments.no_verify {
            return imported;
        }
    }
    let comparison = compare(context, &source, &rules, &defaults, differing);
    let compared = tokio::select! {
        compared = comparison => compared?,
        () = interrupted() => {
            return Err(Failure::new(Exit::Interrupted, "interrupted")
                .hint("what was imported stays; --verify-only compares again"));
        }
    };
    tell(context, compared)?;
    imported?;
    if compared.missing + compared.different + compared.refused == 0 {
        return Ok(Exit::Ok);
    }
    let amiss = [
        (compared.missing, "missing"),
        (compared.different, "different"),
        (compared.refused, "refused"),
    ];
    let amiss: Vec<String> = amiss
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{} {what}", words::grouped(count)))
        .collect();
    Err(Failure::new(
        Exit::Partial,
        format!("the pinset is not that of the list: {}", amiss.join(", ")),
    )
    .hint("--differences FILE lists them all; importing again with --restart sends every pin once more"))
}

/// Where the list is, and which storage node drives the daemon of which peer.
async fn prepare(context: &Context, arguments: &ImportFrom) -> Result<(Source, BTreeMap<String, String>), Failure> {
    let mut nodes = BTreeMap::new();
    let source = match (&arguments.file, &arguments.from_url) {
        (Some(file), _) => Source::new(file),
        (None, Some(url)) => {
            let timeout = context.client.timeout();
            let cluster = Cluster::new(url, arguments.from_auth_file.as_deref(), timeout, context.talk)?;
            let list = arguments.list.clone().unwrap_or_else(|| cluster.list_name());
            let source = Source::File(list.clone());
            let journal = journal::path_of(arguments.journal.clone(), &source);
            let goes_on = !arguments.restart && journal.is_some_and(|journal| journal.exists());
            let daemons = read(context, &cluster, &list, goes_on).await?;
            nodes = drivers(context, &daemons).await?;
            let (found, all) = (nodes.len(), daemons.len());
            context.talk.note(&match all - found {
                _ if all == 0 => format!(
                    "which IPFS daemons the peers of {url} have is not known, so pins go to any node; --map names nodes"
                ),
                0 => format!("the IPFS daemons of all {all} peers are storage nodes here; pins stay where they are"),
                missing => format!(
                    "the IPFS daemons of {missing} of {all} peers are no storage nodes here (`cluster-ctl node add`), so \
                     pins that they hold go to others"
                ),
            });
            source
        }
        (None, None) => return Err(Failure::usage("give a FILE or --from-url")),
    };
    let by_hand = arguments.map.iter();
    nodes.extend(by_hand.map(|(peer, node)| (peer.to_string(), node.clone())));
    Ok((source, nodes))
}

/// Reads the list of a cluster, unless an import of it goes on; the daemons of its peers. A list that an earlier run read is read
/// anew: the cluster has lived on since, and a comparison with what it was would prove nothing.
async fn read(
    context: &Context,
    cluster: &Cluster,
    list: &Path,
    goes_on: bool,
) -> Result<BTreeMap<String, String>, Failure> {
    let is_there = list.exists();
    if is_there && goes_on {
        context.talk.note(&format!(
            "an import of {} goes on, as it was read then; --restart reads it anew",
            list.display()
        ));
        return kept_daemons(list);
    }
    if is_there && !has_daemons(list) {
        return Err(Failure::usage(format!(
            "{} is there already, and was not read from a cluster",
            list.display()
        ))
        .hint("--list FILE keeps the list elsewhere; without --from-url that file is imported"));
    }
    let asked = async {
        // Before the list, so that a list that is there has them.
        let daemons = cluster.daemons().await?;
        keep_daemons(list, &daemons)?;
        let pins = cluster.download(list, context.talk).await?;
        Ok((daemons, pins))
    };
    let (daemons, pins) = asked.await.map_err(|failure: Failure| match is_there {
        true => failure.hint(format!(
            "what was read of it before is in {0}: `cluster-ctl import --from ipfs-cluster {0}` takes it from there",
            list.display()
        )),
        false => failure,
    })?;
    context
        .talk
        .note(&format!("{} pins are in {}", words::grouped(pins), list.display()));
    Ok(daemons)
}

/// The storage nodes that drive these daemons.
async fn drivers(context: &Context, daemons: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Failure> {
    let answer = context
        .client
        .call(Kind::Read, v1::ListNodesRequest {}, |channel, request| async move {
            service!(cluster_client::ClusterClient, channel)
                .list_nodes(request)
                .await
        })
        .await?;
    let of_daemon: HashMap<String, String> = answer
        .nodes
        .into_iter()
        .filter(|node| node.state() != v1::NodeState::Gone)
        .filter_map(|node| Some((node.report?.ipfs_peer_id, node.name)))
        .collect();
    let known = daemons
        .iter()
        .filter_map(|(peer, daemon)| Some((peer.clone(), of_daemon.get(daemon)?.clone())));
    Ok(known.collect())
}

/// Reads the list once more and holds the pinset against it.
async fn compare(
    context: &Context,
    source: &Source,
    rules: &Rules,
    defaults: &Spec,
    differences: Option<Differences>,
) -> Result<json::Compared, Failure> {
    let mut comparison = Comparison {
        context,
        namespace: defaults.namespace.clone(),
        counts: json::Compared::default(),
        differences,
        shown: 0,
    };
    let now = words::now();
    let mut meter = ShareMeter::new(context.talk);
    let length = source.length();
    let mut raw = RawSource::open(source)?;
    let mut together: Vec<v1::BulkPinItem> = Vec::with_capacity(COMPARED_TOGETHER);
    let mut said = Instant::now();
    while let Some(line) = raw.next_line()? {
        match rules.take(&line.text, defaults, now) {
            Ok(Taken::Pin(item)) => together.push(*item),
            Ok(Taken::Expired | Taken::Part) => comparison.counts.passed_over += 1,
            Err(_) => comparison.counts.refused += 1,
        }
        if together.len() >= COMPARED_TOGETHER {
            comparison.hold(&mut together).await?;
        }
        if said.elapsed() >= TICK {
            said = Instant::now();
            let share = length.map_or(0.0, |length| line.end as f64 / length.max(1) as f64);
            meter.set(share, format!("compared {}", words::grouped(comparison.counts.pins)));
        }
    }
    comparison.hold(&mut together).await?;
    drop(meter);
    let here = comparison.count().await?;
    let counts = &mut comparison.counts;
    counts.others = here.saturating_sub(counts.equal + counts.different);
    if let Some(differences) = comparison.differences {
        differences.finish()?;
    }
    Ok(comparison.counts)
}

struct Comparison<'a> {
    context: &'a Context,
    namespace: String,
    counts: json::Compared,
    differences: Option<Differences>,
    shown: u64,
}

/// A pin that is not as it was.
#[derive(Serialize)]
struct Differing<'a> {
    cid: &'a str,
    /// None: it is not here.
    differences: Option<&'a [Difference]>,
}

impl Comparison<'_> {
    /// Compares what was gathered, and forgets it.
    async fn hold(&mut self, items: &mut Vec<v1::BulkPinItem>) -> Result<(), Failure> {
        if items.is_empty() {
            return Ok(());
        }
        let request = self.request(items.iter().map(|item| item.cid.clone()).collect());
        let mut pins: HashMap<String, v1::Pin> = HashMap::with_capacity(items.len());
        let each = |request: &mut v1::ListRequest, answer: v1::ListResponse| {
            request.cursor = answer.cursor;
            let own = answer.pins.into_iter().filter(|pin| pin.slot.is_empty());
            pins.extend(own.map(|pin| (pin.cid.clone(), pin)));
            Ok(true)
        };
        self.list(request, each).await?;
        for item in items.drain(..) {
            self.counts.pins += 1;
            let Some(pin) = pins.get(&item.cid) else {
                self.counts.missing += 1;
                self.say(&item.cid, None)?;
                continue;
            };
            let found = differences(&item, pin);
            if !found.is_empty() {
                self.counts.different += 1;
                self.say(&item.cid, Some(&found))?;
                continue;
            }
            self.counts.equal += 1;
            if !is_where_it_was(&item, pin) {
                self.counts.moved += 1;
            }
        }
        Ok(())
    }

    /// How many pins the namespace has.
    async fn count(&self) -> Result<u64, Failure> {
        let mut count = 0;
        let each = |request: &mut v1::ListRequest, answer: v1::ListResponse| {
            request.cursor = answer.cursor;
            count += answer.pins.len() as u64;
            Ok(true)
        };
        self.list(self.request(Vec::new()), each).await?;
        Ok(count)
    }

    fn request(&self, cids: Vec<String>) -> v1::ListRequest {
        let namespace = match self.namespace.as_str() {
            // An empty filter would count everybody's.
            "" => node_core::Namespace::default().as_str().to_owned(),
            named => named.to_owned(),
        };
        v1::ListRequest {
            filter: Some(v1::PinFilter {
                namespace,
                cids,
                ..v1::PinFilter::default()
            }),
            // What was just acknowledged is to be seen at whichever peer answers.
            consistency: v1::Consistency::Linearizable.into(),
            ..v1::ListRequest::default()
        }
    }

    async fn list(
        &self,
        request: v1::ListRequest,
        each: impl FnMut(&mut v1::ListRequest, v1::ListResponse) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let send = |channel, request| async move { service!(pins_client::PinsClient, channel).list(request).await };
        self.context.client.read_stream(request, send, each).await
    }

    fn say(&mut self, cid: &str, differences: Option<&[Difference]>) -> Result<(), Failure> {
        if let Some(file) = &mut self.differences {
            file.write(&Differing { cid, differences })?;
        }
        self.shown += 1;
        if self.shown > SHOWN_MAX {
            if self.shown == SHOWN_MAX + 1 {
                self.context
                    .talk
                    .warn("further differences are only counted; --differences FILE keeps them all");
            }
            return Ok(());
        }
        let what = match differences {
            None => "it is not here".to_owned(),
            Some(found) => {
                let each = found.iter().map(|found| {
                    let (was, is) = (words::printable(&found.was), words::printable(&found.is));
                    format!("{} was {was:?} and is {is:?}", found.field)
                });
                each.collect::<Vec<_>>().join("; ")
            }
        };
        self.context.talk.warn(&format!("{cid}: {what}"));
        Ok(())
    }
}

fn tell(context: &mut Context, counts: json::Compared) -> Result<(), Failure> {
    if context.out.is_json() {
        context.out.object(&counts)?;
    } else {
        let of = words::grouped;
        let mut text = format!(
            "{} pins compared: {} as they were, {} missing, {} different",
            of(counts.pins),
            of(counts.equal),
            of(counts.missing),
            of(counts.different)
        );
        for (count, what) in [
            (counts.moved, "moved to other nodes"),
            (
                counts.passed_over,
                "lines passed over (expired, or part of another pin)",
            ),
            (counts.refused, "lines refused"),
            (counts.others, "pins here are not in the list"),
        ] {
            if count > 0 {
                text = format!("{text}; {} {what}", of(count));
            }
        }
        context.out.line(&text)?;
    }
    context.out.flush()
}

/// The file that keeps all of them.
struct Differences {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Differences {
    fn create(path: PathBuf) -> Result<Self, Failure> {
        let file = BufWriter::new(files::create("--differences", &path)?);
        Ok(Self { path, file })
    }

    fn write(&mut self, differing: &Differing<'_>) -> Result<(), Failure> {
        let written = serde_json::to_writer(&mut self.file, differing).map_err(std::io::Error::from);
        let written = written.and_then(|()| self.file.write_all(b"\n"));
        written.map_err(|error| self.failed(&error))
    }

    fn finish(mut self) -> Result<(), Failure> {
        self.file.flush().map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &std::io::Error) -> Failure {
        Failure::local(format!("can't write {}: {error}", self.path.display()))
    }
}
