//! The Pinning Services API: pages of a thousand pins out of many, by name, status, metadata and date.
//!
//! Nodes are held back, so that nothing but the questions is measured; every pin is `queued`. Pages begin in the middle of the
//! pinset, each at another place, and are asked of the peers in turn, one question after the other.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cluster_proto::v1;
use serde_json::Value;

use super::machine::Usage;
use super::pinfleet::{cores, groups};
use super::report::{Report, Row, Target, Unit};
use super::storage_node::HELD_BACK;
use super::{Options, tell};
use crate::client::{Client, replicas_of};
use crate::cluster::{Cluster, ClusterOptions};
use crate::content;
use crate::node::NodeKind;
use crate::wait::wait_until;

/// The groups of measurements, in their order, with what they measure.
pub const GROUPS: [(&str, &str); 1] = [(
    "pages",
    "pages of 1,000 from the middle of many pins, by name, status, metadata and date",
)];

/// Nothing is measured beside.
pub const REFERENCE: &str = "-";

/// Results of a page.
const PAGE: usize = 1_000;
/// Names and values of metadata that there are: a tenth of all pins has each.
const KINDS: u64 = 10;
/// Items of one message of the stream that fills the cluster.
const BULK_MESSAGE: u64 = 1_000;
/// Ten million pins on two cores take a quarter of an hour.
const FILL_LIMIT: Duration = Duration::from_secs(3 * 3_600);
/// Questions that are asked before any is counted.
const WARM_UP: usize = 20;

/// Measures, telling on stderr how it goes. What was measured before an error is in the report.
pub async fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    super::beside_the_machine(options, report, async |folder, report| {
        if options.wants("pages") {
            pages(options, folder, report).await?;
        }
        Ok(())
    })
    .await
}

async fn pages(options: &Options, scratch: &Path, report: &mut Report) -> anyhow::Result<()> {
    ensure!(
        options.pins >= 4 * KINDS * PAGE as u64,
        "a page by name from the middle takes {} pins at least",
        4 * KINDS * PAGE as u64
    );
    let mut set = options.set.clone();
    set.push(("worker.pins_per_second".into(), HELD_BACK.into()));
    let mut cluster = Cluster::start(ClusterOptions {
        node: NodeKind::FakeProcess,
        dir: Some(scratch.join("pinning")),
        set,
        ..ClusterOptions::default()
    })
    .await?;
    tell("pages", &format!("bulk add of {} pins", options.pins));
    let (rate, seconds) = fill(&cluster, options.pins).await?;
    report.add(
        Row::new(
            format!("bulk add, {} pins with a name and metadata", options.pins),
            Unit::PerSecond,
            rate,
        )
        .detail(format!("{seconds:.0} s")),
    );
    tell("pages", "waiting until all ledgers have them");
    known(&cluster, 2 * options.pins).await?;

    let pager = Pager::of(&cluster).await?;
    let rounds = if options.short { 100 } else { 500 };
    let all = "status=queued,pinning,pinned,failed";
    for (what, filter) in [
        ("name", format!("{all}&name=name-3")),
        ("status", "status=queued".to_owned()),
        ("metadata", format!("{all}&meta=%7B%22app%22%3A%22app-4%22%7D")),
        ("date", format!("{all}&after={}", pager.oldest.0)),
    ] {
        tell("pages", &format!("by {what}"));
        let before = Usage::now(&groups(&cluster));
        let mut took = Vec::new();
        for round in 0..WARM_UP + rounds {
            let (time, _) = pager.page(round, &filter).await?;
            if round >= WARM_UP {
                took.push(time);
            }
        }
        let share = Usage::now(&groups(&cluster)).since(&before);
        took.sort_unstable();
        let millis = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)].as_secs_f64() * 1e3;
        report.add(
            Row::new(
                format!("page of 1,000 by {what}: 99th percentile"),
                Unit::Milliseconds,
                millis(99),
            )
            .detail(format!(
                "p50 {:.1} ms, p90 {:.1} ms, {rounds} pages",
                millis(50),
                millis(90)
            ))
            .target(Target::Value(10.0))
            .limit(share.limit(cores(), "one question after the other")),
        );
    }
    cluster.stop().await
}

/// Adds pins in one stream to one peer. Answers the rate and the time.
async fn fill(cluster: &Cluster, count: u64) -> anyhow::Result<(f64, f64)> {
    let client = Client::new(&cluster.peer(0).info().grpc, FILL_LIMIT)?;
    let item = |number: u64| v1::BulkPinItem {
        cid: content::cid(number).to_string(),
        options: Some(v1::PinOptions {
            name: format!("name-{}", number % KINDS),
            metadata: [("app".to_owned(), format!("app-{}", number / KINDS % KINDS))].into(),
            ..replicas_of(2)
        }),
        ..v1::BulkPinItem::default()
    };
    let messages = (0..count)
        .step_by(usize::try_from(BULK_MESSAGE)?)
        .map(move |first| v1::BulkPinRequest {
            items: (first..(first + BULK_MESSAGE).min(count)).map(item).collect(),
        });
    let begun = Instant::now();
    let stream = client.pins.clone().bulk_pin(tokio_stream::iter(messages)).await?;
    let mut results = stream.into_inner();
    let mut recorded = 0_u64;
    while let Some(chunk) = results.message().await? {
        for result in chunk.results {
            ensure!(result.code == 0, "a pin was refused: {}", result.error);
            recorded += 1;
        }
    }
    ensure!(recorded == count, "{recorded} of {count} were recorded");
    let seconds = begun.elapsed().as_secs_f64();
    Ok((recorded as f64 / seconds, seconds))
}

/// Waits until the ledgers know of so many pins.
async fn known(cluster: &Cluster, count: u64) -> anyhow::Result<()> {
    wait_until("the ledgers have all pins", FILL_LIMIT, async || {
        let status = cluster.any()?.cluster_status().await?;
        let reports = status.nodes.iter().filter_map(|node| node.report.as_ref());
        let known: u64 = reports
            .map(|report| report.queued + report.pinning + report.retrying + report.pinned)
            .sum();
        ensure!(known >= count, "{known} of {count}");
        Ok(())
    })
    .await
}

/// Asks for pages.
struct Pager {
    http: reqwest::Client,
    addresses: Vec<String>,
    /// As text and as a time.
    oldest: (String, f64),
    newest: f64,
}

impl Pager {
    async fn of(cluster: &Cluster) -> anyhow::Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build()?;
        let peers = cluster.peers().iter();
        let addresses: Option<Vec<String>> = peers.map(|peer| peer.info().pinning).collect();
        let mut pager = Self {
            http,
            addresses: addresses.context("the Pinning Services API is off")?,
            oldest: (String::new(), 0.0),
            newest: 0.0,
        };
        let all = "status=queued,pinning,pinned,failed";
        let created = |page: &Value| page["results"][0]["created"].as_str().map(str::to_owned);
        let newest = pager.ask(0, &format!("{all}&limit=1")).await?.1;
        let newest = created(&newest).context("there are no pins")?;
        // The first pin is found by its CID.
        let first = pager.ask(0, &format!("{all}&limit=1&cid={}", content::cid(0))).await?.1;
        let oldest = created(&first).context("the first pin is missing")?;
        pager.newest = seconds_of(&newest)?;
        pager.oldest = (oldest.clone(), seconds_of(&oldest)?);
        Ok(pager)
    }

    /// The time until an answer was there as a whole, and the answer.
    async fn ask(&self, peer: usize, query: &str) -> anyhow::Result<(Duration, Value)> {
        let address = &self.addresses[peer % self.addresses.len()];
        let begun = Instant::now();
        let answer = self.http.get(format!("http://{address}/pins?{query}")).send().await?;
        let status = answer.status();
        let body = answer.bytes().await?;
        let took = begun.elapsed();
        ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
        Ok((took, serde_json::from_slice(&body)?))
    }

    /// A page from somewhere in the middle third.
    async fn page(&self, round: usize, filter: &str) -> anyhow::Result<(Duration, Value)> {
        // Spread over the third without a pattern: multiples of the golden ratio.
        let place = (round as f64 * 0.618_033_988_75).fract();
        let at = self.oldest.1 + (self.newest - self.oldest.1) * (1.0 + place) / 3.0;
        let before = humantime::format_rfc3339_nanos(std::time::UNIX_EPOCH + Duration::from_secs_f64(at));
        let asked = self
            .ask(round, &format!("{filter}&limit={PAGE}&before={before}"))
            .await?;
        let results = asked.1["results"].as_array().context("results")?.len();
        ensure!(results == PAGE, "{filter}: {results} results before {before}");
        ensure!(asked.1["count"].as_u64().is_some_and(|count| count > PAGE as u64));
        Ok(asked)
    }
}

fn seconds_of(created: &str) -> anyhow::Result<f64> {
    let time = humantime::parse_rfc3339(created)?;
    Ok(time.duration_since(std::time::UNIX_EPOCH)?.as_secs_f64())
}
