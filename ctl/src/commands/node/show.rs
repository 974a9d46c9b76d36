//! `node show`: everything that is known of one node, on a screen.

use cluster_proto::v1;

use crate::Context;
use crate::client::{Kind, service};
use crate::commands::invalid;
use crate::exit::Failure;
use crate::output::table::{Cell, Rows};
use crate::output::{Out, Tone, json, words};
use crate::spec::check_node;

/// `node show`
pub async fn run(context: &mut Context, node: String) -> Result<(), Failure> {
    check_node("node", &node).map_err(invalid)?;
    let details = context
        .client
        .call(
            Kind::Read,
            v1::NodeRequest { name: node },
            |channel, request| async move { service!(cluster_client::ClusterClient, channel).node(request).await },
        )
        .await?;
    let out = &mut context.out;
    if out.is_json() {
        return out.object(&json::NodeDetails::from(details));
    }
    screen(out, details)
}

fn screen(out: &mut Out, mut details: v1::NodeDetails) -> Result<(), Failure> {
    let embedded = details.embedded.take();
    head(out, &details)?;
    let Some(embedded) = embedded else {
        // A daemon that does not answer has no size, which is not the size 0.
        return match details.ipfs_peer_id.is_empty() {
            true => Ok(()),
            false => repository(out, &details),
        };
    };
    store(out, &embedded.store.unwrap_or_default())?;
    let network = embedded.network.unwrap_or_default();
    network_section(out, &details.addresses, &network)?;
    content(
        out,
        &embedded.fetched.unwrap_or_default(),
        &embedded.garbage.unwrap_or_default(),
        &embedded.scrub.unwrap_or_default(),
    )?;
    announcing(out, &embedded.announcing.unwrap_or_default(), &network.dht)?;
    fetching(out, embedded.fetching, embedded.fetching_count)?;
    let (connected, count) = (embedded.fellows_connected, embedded.fellows_count);
    fellows(out, embedded.fellows, connected, count)?;
    peers(out, network.peers, network.peers_count)?;
    shunned(out, network.shunned, network.shunned_count)?;
    gateways(out, embedded.gateways)?;
    routers(out, embedded.routers)
}

/// A section of names and values.
struct Section {
    rows: Rows,
}

impl Section {
    fn new(title: &'static str) -> Self {
        let rows = Rows::new(&[title, ""]).flexible(&[""]).at_least(&[TITLE_WIDTH]);
        Self { rows }
    }

    fn value(&mut self, out: &mut Out, name: &str, value: impl Into<Cell>) -> Result<(), Failure> {
        self.rows.push(out, vec![name.into(), value.into()])
    }

    fn print(mut self, out: &mut Out) -> Result<(), Failure> {
        self.rows.print(out)
    }
}

/// So that the values of all sections stand in one column.
const TITLE_WIDTH: u16 = 13;

fn head(out: &mut Out, details: &v1::NodeDetails) -> Result<(), Failure> {
    let node = details.node.clone().unwrap_or_default();
    let mut section = Section::new("NODE");
    section.value(out, "name", format!("{} ({})", node.name, node.id))?;
    let (state, tone) = words::node_state(node.state());
    section.value(out, "state", Cell::toned(state, tone))?;
    section.value(out, "kind", node.kind)?;
    section.value(out, "driven by", out.id(&node.peer))?;
    if !node.api.is_empty() {
        section.value(out, "API", node.api)?;
    }
    let mut tags: Vec<String> = node.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
    tags.sort();
    if !tags.is_empty() {
        section.value(out, "tags", tags.join(" "))?;
    }
    if !details.error.is_empty() {
        section.value(out, "problem", Cell::toned(&details.error, Tone::Bad))?;
    }
    if !details.version.is_empty() {
        let agent = match details.agent.as_str() {
            "" => details.version.clone(),
            agent => format!("{} ({agent})", details.version),
        };
        section.value(out, "version", agent)?;
    }
    if !details.ipfs_peer_id.is_empty() {
        section.value(out, "IPFS peer", out.id(&details.ipfs_peer_id))?;
    }
    if let Some(report) = node.report {
        let counts = [
            (report.queued, "queued"),
            (report.pinning, "pinning"),
            (report.pinned, "pinned"),
            (report.retrying, "retrying"),
            (report.gave_up, "gave up"),
            (report.unpinning, "unpinning"),
        ];
        let shown = counts.iter().filter(|(count, word)| *count > 0 || *word == "pinned");
        let shown: Vec<String> = shown
            .map(|(count, word)| format!("{} {word}", words::grouped(*count)))
            .collect();
        let tone = match (report.gave_up, report.retrying) {
            (0, 0) => Tone::Plain,
            (0, _) => Tone::Warn,
            _ => Tone::Bad,
        };
        section.value(out, "pins", Cell::toned(shown.join(", "), tone))?;
    }
    section.print(out)
}

/// All that an attached daemon tells.
fn repository(out: &mut Out, details: &v1::NodeDetails) -> Result<(), Failure> {
    out.line("")?;
    let mut section = Section::new("REPOSITORY");
    let used = match details.repo_max_bytes {
        Some(max) => format!("{} of {}", words::bytes(details.repo_bytes), words::bytes(max)),
        None => format!("{}, no limit", words::bytes(details.repo_bytes)),
    };
    section.value(out, "size", used)?;
    addresses(out, &mut section, "addresses", &details.addresses)?;
    section.print(out)
}

fn addresses(out: &mut Out, section: &mut Section, name: &str, addresses: &[String]) -> Result<(), Failure> {
    if addresses.is_empty() {
        return section.value(out, name, "none");
    }
    for (at, address) in addresses.iter().enumerate() {
        section.value(out, if at == 0 { name } else { "" }, address.as_str())?;
    }
    Ok(())
}

fn store(out: &mut Out, store: &v1::BlockStoreDetails) -> Result<(), Failure> {
    out.line("")?;
    let mut section = Section::new("STORE");
    let blocks = format!("{}, {}", words::grouped(store.blocks), words::bytes(store.bytes));
    section.value(out, "blocks", blocks)?;
    let pins = match store.incomplete_pins {
        0 => words::grouped(store.pins),
        some => format!("{}, {} not complete", words::grouped(store.pins), words::grouped(some)),
    };
    section.value(out, "pins", pins)?;
    if store.lost_blocks > 0 {
        let lost = format!("{}, damaged and not found again", words::grouped(store.lost_blocks));
        section.value(out, "lost", Cell::toned(lost, Tone::Bad))?;
    }
    let disk = format!(
        "{} of {}; {} free on the file system",
        words::bytes(store.disk_bytes),
        words::bytes(store.disk_max_bytes),
        words::bytes(store.disk_free_bytes)
    );
    section.value(out, "disk", disk)?;
    let free = format!(
        "at least {} stays free on the file system",
        words::bytes(store.free_min_bytes)
    );
    let marks = match (store.collect_at_bytes, store.stop_at_bytes) {
        (Some(collect), Some(stop)) => format!(
            "garbage goes from {} on, nothing is taken from {} on; {free}",
            words::bytes(collect),
            words::bytes(stop)
        ),
        _ => free,
    };
    section.value(out, "marks", marks)?;
    let intake = match (store.fault.as_str(), store.intake_stopped.as_str()) {
        ("", "") => Cell::toned("open", Tone::Good),
        ("", reason) => Cell::toned(format!("stopped: {reason}"), Tone::Bad),
        (fault, _) => Cell::toned(format!("broken: {fault}"), Tone::Bad),
    };
    section.value(out, "intake", intake)?;
    section.print(out)
}

fn network_section(out: &mut Out, own: &[String], network: &v1::NetworkDetails) -> Result<(), Failure> {
    out.line("")?;
    let mut section = Section::new("NETWORK");
    let (word, tone) = words::reachability(network.reachability());
    section.value(out, "reachable", Cell::toned(word, tone))?;
    let dht = match network.dht.as_str() {
        "off" => "off".to_owned(),
        role => format!("{role}, {} nodes known", words::grouped(network.dht_peers)),
    };
    section.value(out, "DHT", dht)?;
    let traffic = format!(
        "{} in, {} out since the start",
        words::bytes(network.bytes_in),
        words::bytes(network.bytes_out)
    );
    section.value(out, "Bitswap", traffic)?;
    let wants = format!(
        "{} blocks wanted here, {} by others",
        words::grouped(network.wanted_blocks),
        words::grouped(network.wanted_by_others)
    );
    section.value(out, "wants", wants)?;
    if network.offences > 0 {
        let offences = format!(
            "{}; shunned now: {}",
            words::grouped(network.offences),
            words::grouped(network.shunned_count)
        );
        section.value(out, "offences", Cell::toned(offences, Tone::Warn))?;
    }
    addresses(out, &mut section, "addresses", own)?;
    section.print(out)
}

fn content(
    out: &mut Out,
    fetched: &v1::FetchedDetails,
    garbage: &v1::GarbageDetails,
    scrub: &v1::ScrubDetails,
) -> Result<(), Failure> {
    out.line("")?;
    let mut section = Section::new("CONTENT");
    let from_peers = format!(
        "{} blocks, {} from nodes; {} blocks, {} from gateways; {} searches",
        words::grouped(fetched.peer_blocks),
        words::bytes(fetched.peer_bytes),
        words::grouped(fetched.gateway_blocks),
        words::bytes(fetched.gateway_bytes),
        words::grouped(fetched.searches)
    );
    section.value(out, "fetched", from_peers)?;
    let progress = garbage.progress.unwrap_or_default();
    let deleted = format!(
        "{} blocks, {} deleted",
        words::grouped(progress.deleted_blocks),
        words::bytes(progress.deleted_bytes)
    );
    let collection = match (garbage.running, garbage.passes) {
        (true, _) => format!(
            "being collected: look {}, {} done; {deleted} so far",
            progress.looks,
            words::percent(progress.done)
        ),
        (false, 0) => "not collected since the start".into(),
        (false, passes) => format!(
            "collections: {}; the last: {deleted} in {}",
            words::grouped(passes),
            words::span(garbage.took_ms)
        ),
    };
    section.value(out, "garbage", collection)?;
    if !garbage.problem.is_empty() {
        let problem = format!("the last collection ended early: {}", garbage.problem);
        section.value(out, "", Cell::toned(problem, Tone::Warn))?;
    }
    let checked = format!(
        "pass {}, {} done; {} blocks, {} checked since the start",
        words::grouped(scrub.passes.saturating_add(1)),
        words::percent(scrub.done),
        words::grouped(scrub.checked_blocks),
        words::bytes(scrub.checked_bytes)
    );
    section.value(out, "scrub", checked)?;
    if scrub.corrupt_blocks > 0 {
        let corrupt = format!(
            "{}; pins completed again: {}, not yet: {}",
            words::grouped(scrub.corrupt_blocks),
            words::grouped(scrub.repaired_pins),
            words::grouped(scrub.broken_pins_count)
        );
        section.value(out, "damaged", Cell::toned(corrupt, Tone::Bad))?;
    }
    for cid in &scrub.broken_pins {
        section.value(out, "broken pin", Cell::toned(out.id(cid), Tone::Bad))?;
    }
    section.print(out)
}

fn announcing(out: &mut Out, announcing: &v1::AnnouncingDetails, dht: &str) -> Result<(), Failure> {
    out.line("")?;
    let mut section = Section::new("ANNOUNCING");
    let what = match (dht, announcing.strategy.as_str()) {
        ("off", _) => "nothing: the DHT is off".to_owned(),
        (_, "none") => "nothing".into(),
        (_, "all") => format!("every block, each once in {}", words::span(announcing.interval_ms)),
        (_, other) => format!("{other}, each once in {}", words::span(announcing.interval_ms)),
    };
    section.value(out, "what", what)?;
    if dht != "off" && announcing.strategy != "none" {
        let mut round = format!(
            "{} of {}",
            words::grouped(announcing.done),
            words::grouped(announcing.total)
        );
        if announcing.begun.is_some() {
            round += &format!(", begun {}", words::distance(announcing.begun.as_ref(), words::now()));
        }
        section.value(out, "this round", round)?;
        let behind = match announcing.behind {
            0 => Cell::toned("nothing", Tone::Good),
            some => {
                let late = words::span(announcing.late_ms);
                Cell::toned(format!("{}, the next is {late} late", words::grouped(some)), Tone::Warn)
            }
        };
        section.value(out, "behind", behind)?;
        let told = format!(
            "{} since the start; new ones waiting: {}",
            words::grouped(announcing.told),
            words::grouped(announcing.fresh)
        );
        section.value(out, "told", told)?;
        if announcing.failed > 0 {
            let failed = format!(
                "{} in this round: nobody could be told",
                words::grouped(announcing.failed)
            );
            section.value(out, "failed", Cell::toned(failed, Tone::Warn))?;
        }
        if !announcing.problem.is_empty() {
            section.value(out, "problem", Cell::toned(&announcing.problem, Tone::Warn))?;
        }
    }
    section.print(out)
}

/// Says how many a list does not show.
fn more(out: &mut Out, shown: usize, count: u64) -> Result<(), Failure> {
    let shown = shown as u64;
    if count <= shown {
        return Ok(());
    }
    out.line(&format!("… and {} more", words::grouped(count - shown)))
}

fn fetching(out: &mut Out, pins: Vec<v1::FetchingPin>, count: u64) -> Result<(), Failure> {
    if pins.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let mut rows = Rows::new(&["BEING FETCHED", "BLOCKS", "BYTES", "FETCHED", "IN FLIGHT", "RUNNING"])
        .flexible(&["BEING FETCHED"])
        .droppable(&["FETCHED", "RUNNING"]);
    let shown = pins.len();
    for pin in pins {
        let row = vec![
            out.id(&pin.cid).into(),
            Cell::number(pin.blocks),
            Cell::right(words::bytes(pin.bytes)),
            Cell::number(pin.fetched),
            Cell::number(pin.in_flight),
            Cell::right(words::span(pin.running_ms)),
        ];
        rows.push(out, row)?;
    }
    rows.print(out)?;
    more(out, shown, count)
}

fn fellows(out: &mut Out, fellows: Vec<v1::FellowNode>, connected: u64, count: u64) -> Result<(), Failure> {
    out.line("")?;
    if count == 0 {
        return out.line("no other IPFS nodes in the cluster are known");
    }
    out.line(&format!(
        "connected to {} of the {} other IPFS nodes of the cluster",
        words::grouped(connected),
        words::grouped(count)
    ))?;
    let missing: Vec<_> = fellows.into_iter().filter(|fellow| !fellow.connected).collect();
    let mut rows = Rows::new(&["NOT CONNECTED", "WHY"]).flexible(&["WHY"]);
    let shown = missing.len();
    for fellow in missing {
        let why = Cell::toned(fellow.problem, Tone::Bad);
        rows.push(out, vec![out.id(&fellow.peer_id).into(), why])?;
    }
    rows.print(out)?;
    more(out, shown, count - connected.min(count))
}

fn peers(out: &mut Out, peers: Vec<v1::ConnectedPeer>, count: u64) -> Result<(), Failure> {
    out.line("")?;
    if peers.is_empty() {
        return out.line("not connected to any IPFS node");
    }
    let mut rows = Rows::new(&["CONNECTED", "OURS", "AGENT", "LATENCY", "SPEED", "OFFENCES", "ADDRESS"])
        .flexible(&["AGENT", "ADDRESS"])
        .droppable(&["ADDRESS", "OFFENCES", "SPEED"]);
    let shown = peers.len();
    for peer in peers {
        let latency = peer.latency_us.map(|us| format!("{:.1} ms", us as f64 / 1_000.0));
        let speed = peer
            .bytes_per_second
            .map(|rate| format!("{}/s", words::bytes(rate as u64)));
        let ours = if peer.fellow { "yes" } else { "" };
        let row = vec![
            out.id(&peer.peer_id).into(),
            Cell::toned(ours, Tone::Good),
            peer.agent.into(),
            Cell::right(latency.as_deref().unwrap_or("-")),
            Cell::right(speed.as_deref().unwrap_or("-")),
            Cell::number(peer.offences).tone_unless_zero(Tone::Warn),
            peer.addresses.into_iter().next().unwrap_or_default().into(),
        ];
        rows.push(out, row)?;
    }
    rows.print(out)?;
    more(out, shown, count)
}

fn shunned(out: &mut Out, shunned: Vec<v1::ShunnedPeer>, count: u64) -> Result<(), Failure> {
    if shunned.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let mut rows = Rows::new(&["SHUNNED", "FOR"]);
    let shown = shunned.len();
    for peer in shunned {
        let left = Cell::right(words::span(peer.left_ms));
        rows.push(out, vec![out.id(&peer.peer_id).into(), left])?;
    }
    rows.print(out)?;
    more(out, shown, count)
}

/// Whether it is asked, and what it said last when it is not.
fn use_of(usable: bool, last_failure: &str) -> Cell {
    match (usable, last_failure) {
        (true, _) => Cell::toned("asked", Tone::Good),
        (false, "") => Cell::toned("left alone", Tone::Warn),
        (false, reason) => Cell::toned(format!("left alone: {reason}"), Tone::Warn),
    }
}

fn gateways(out: &mut Out, gateways: Vec<v1::GatewayUse>) -> Result<(), Failure> {
    if gateways.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let mut rows = Rows::new(&["GATEWAY", "STATE", "REQUESTS", "BLOCKS", "BYTES", "FAILURES"])
        .flexible(&["GATEWAY", "STATE"])
        .droppable(&["REQUESTS", "FAILURES"]);
    for gateway in gateways {
        let row = vec![
            gateway.url.into(),
            use_of(gateway.usable, &gateway.last_failure),
            Cell::number(gateway.requests_under_way),
            Cell::number(gateway.blocks),
            Cell::right(words::bytes(gateway.bytes)),
            Cell::number(gateway.failures).tone_unless_zero(Tone::Warn),
        ];
        rows.push(out, row)?;
    }
    rows.print(out)
}

fn routers(out: &mut Out, routers: Vec<v1::RouterUse>) -> Result<(), Failure> {
    if routers.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let mut rows = Rows::new(&["ROUTER", "STATE", "ANSWERS", "FAILURES"]).flexible(&["ROUTER", "STATE"]);
    for router in routers {
        let row = vec![
            router.url.into(),
            use_of(router.usable, &router.last_failure),
            Cell::number(router.answers),
            Cell::number(router.failures).tone_unless_zero(Tone::Warn),
        ];
        rows.push(out, row)?;
    }
    rows.print(out)
}
