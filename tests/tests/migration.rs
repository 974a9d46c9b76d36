//! A fleet moves: ten thousand pins of a real IPFS Cluster 1.1.6 are taken over by a Pinfleet that drives the same IPFS
//! daemons, by both ways, and are the same to the last field; and the way back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_tests::cluster::{Cluster, ClusterOptions};
use cluster_tests::content;
use cluster_tests::ctl::Ctl;
use cluster_tests::fake_kubo::Call;
use cluster_tests::ipfs_cluster;
use cluster_tests::raw_http::request;
use cluster_tests::wait::wait_until;
use futures::TryStreamExt as _;
use node_core::Cid;
use serde_json::{Value, json};

const PINS: u64 = 10_000;
/// Requests to the old cluster at a time.
const TOGETHER: usize = 64;
/// For what takes one pass over all pins.
const LONG: Duration = Duration::from_secs(120);

/// One pin in so many has its own options of a kind, so that all of them and their mixtures occur.
fn target(number: u64, cid: &Cid) -> String {
    let mut query = Vec::new();
    let mut add = |key: &str, value: &str| query.push(format!("{key}={}", escaped(value)));
    if number.is_multiple_of(2) {
        add("name", &format!("пин {number} & more"));
    }
    match number % 7 {
        1 => {
            add("replication-min", "1");
            add("replication-max", "3");
        }
        2 => {
            add("replication-min", "-1");
            add("replication-max", "-1");
        }
        _ => {}
    }
    if number.is_multiple_of(3) {
        add("meta-number", &number.to_string());
        add("meta-odd one", "a=b&c, \"d\"");
    }
    if number.is_multiple_of(5) {
        let peer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        add("origins", &format!("/ip4/127.0.0.1/tcp/9/p2p/{peer}"));
    }
    if number % 11 == 4 {
        add("expire-at", "2099-01-02T03:04:05Z");
    }
    if number % 13 == 6 {
        add("pin-update", &content::cid(number - 1).to_string());
    }
    // Without a path the reference says direct and pins recursively.
    let direct = number % 17 == 3;
    if direct {
        add("mode", "direct");
    }
    let path = if direct { "/pins/ipfs" } else { "/pins" };
    format!("{path}/{cid}?{}", query.join("&"))
}

fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' => out.push(byte.into()),
            other => out.push_str(&format!("%{other:02X}")),
        }
        out
    })
}

/// Pins by CID; what is written in two ways in one, and what says where it is held set aside.
type Pinset = BTreeMap<String, (Value, Vec<String>)>;

fn pinset(lines: &str) -> anyhow::Result<Pinset> {
    lines
        .lines()
        .map(|line| {
            let mut pin: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            let cid = pin["cid"].as_str().context("a CID")?.to_owned();
            for field in ["metadata", "origins", "user_allocations"] {
                if pin[field].as_object().is_some_and(serde_json::Map::is_empty)
                    || pin[field].as_array().is_some_and(Vec::is_empty)
                {
                    pin[field] = Value::Null;
                }
            }
            let allocations = pin["allocations"].take();
            let mut allocations: Vec<String> = serde_json::from_value::<Option<_>>(allocations)?.unwrap_or_default();
            allocations.sort_unstable();
            Ok((cid, (pin, allocations)))
        })
        .collect()
}

fn same(left: &Pinset, right: &Pinset) -> anyhow::Result<()> {
    ensure!(left.len() == right.len(), "{} pins and {}", left.len(), right.len());
    for (one, other) in left.iter().zip(right) {
        ensure!(one == other, "{one:#?}\nand\n{other:#?}");
    }
    Ok(())
}

/// The same pins with other names for where they are held.
fn renamed(pins: &Pinset, names: &BTreeMap<String, String>) -> anyhow::Result<Pinset> {
    let one = |(cid, (pin, held)): (&String, &(Value, Vec<String>))| {
        let mut held = held
            .iter()
            .map(|peer| names.get(peer).cloned().context("a peer that is known"))
            .collect::<anyhow::Result<Vec<_>>>()?;
        held.sort_unstable();
        Ok((cid.clone(), (pin.clone(), held)))
    };
    pins.iter().map(one).collect()
}

async fn fill(old: &ipfs_cluster::Cluster) -> anyhow::Result<()> {
    let pin = async |number: u64| {
        let url = format!("{}{}", old.rest(0), target(number, &content::cid(number)));
        let answer = old.http.post(&url).send().await?;
        let (status, body) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{url}: {status} {body}");
        Ok(())
    };
    // Those that others are made from come first.
    for of_update in [false, true] {
        let numbers = (0..PINS).filter(|number| (number % 13 == 6) == of_update);
        futures::stream::iter(numbers.map(Ok::<u64, anyhow::Error>))
            .try_for_each_concurrent(TOGETHER, pin)
            .await?;
    }
    Ok(())
}

async fn allocations(http: &reqwest::Client, rest: &str) -> anyhow::Result<String> {
    let answer = http.get(format!("{rest}/allocations?filter=all")).send().await?;
    Ok(answer.error_for_status()?.text().await?)
}

/// What each daemon has pinned.
fn held(cluster: &Cluster) -> Vec<BTreeSet<Cid>> {
    (0..3)
        .map(|index| cluster.fake(index).pins().into_keys().collect())
        .collect()
}

/// Waits until each daemon has what the old cluster says that it has. On a busy machine its peers lose sight of each other
/// and give pins up, which takes a word.
async fn all_pinned(cluster: &Cluster, old: &ipfs_cluster::Cluster, there: &Pinset) -> anyhow::Result<()> {
    let wanted = old.peers.iter().map(|peer| {
        let of_peer = there
            .iter()
            .filter(|(_, (_, held))| held.is_empty() || held.iter().any(|id| id == peer.id()));
        of_peer
            .map(|(cid, _)| cid.parse())
            .collect::<Result<BTreeSet<Cid>, _>>()
    });
    let wanted = wanted.collect::<Result<Vec<_>, _>>()?;
    let mut pinned = Ok(());
    for _ in 0..10 {
        let wait = wait_until(
            "the old cluster has pinned everything",
            Duration::from_secs(20),
            async || {
                let held = held(cluster);
                let lacks: Vec<usize> = wanted
                    .iter()
                    .zip(&held)
                    .map(|(wanted, held)| wanted.difference(held).count())
                    .collect();
                ensure!(lacks == [0; 3], "its daemons lack {lacks:?}");
                Ok(())
            },
        );
        pinned = wait.await;
        if pinned.is_ok() {
            break;
        }
        old.http
            .post(format!("{}/pins/recover", old.rest(0)))
            .send()
            .await?
            .text()
            .await?;
    }
    pinned
}

fn pin_adds(cluster: &Cluster) -> Vec<u64> {
    (0..3).map(|index| cluster.fake(index).calls(Call::PinAdd)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_moves_and_could_move_back() -> anyhow::Result<()> {
    let options = ClusterOptions::fakes(3).with("worker.adopt_pins", "yes");
    let cluster = Cluster::start(options).await?;
    let daemons: Vec<&str> = cluster.nodes().iter().map(|(_, node)| node.address()).collect();
    let mut old = ipfs_cluster::Cluster::start(&cluster.root().join("old"), &daemons).await?;
    fill(&old).await?;
    let before = allocations(&old.http, &old.rest(0)).await?;
    let there = pinset(&before)?;
    ensure!(there.len() as u64 == PINS, "{} pins", there.len());
    all_pinned(&cluster, &old, &there).await?;
    let (held_before, adds_before) = (held(&cluster), pin_adds(&cluster));

    // Over the API of the running cluster.
    let ctl = Ctl::new(cluster.api())?;
    let list = cluster.root().join("pins.jsonl");
    let list = path(&list)?;
    let url = old.rest(0);
    let import = ["import", "--from", "ipfs-cluster", "--from-url", &url, "--list", list];
    let said = ctl.json(&import).await?;
    let [imported, compared] = said.as_slice() else {
        anyhow::bail!("{said:?}");
    };
    assert_eq!(imported["created"], PINS);
    assert_eq!(imported["refused"], 0);
    let equal = json!({"pins": PINS, "equal": PINS, "missing": 0, "different": 0, "moved": 0, "passed_over": 0,
                       "refused": 0, "others": 0});
    assert_eq!(*compared, equal);

    // Nothing was fetched again, and everything is pinned.
    cluster
        .wait_until("everything is pinned", LONG, async || {
            let open = ctl
                .json(&["pin", "status", "--filter", "queued,pinning,retrying,gave_up"])
                .await?;
            ensure!(open.is_empty(), "{} are not", open.len());
            Ok(())
        })
        .await?;
    assert!(held(&cluster) == held_before, "what the nodes hold was left as it was");
    assert_eq!(pin_adds(&cluster), adds_before, "nothing was pinned anew");

    // The old cluster's clients, at the new address.
    let peers: Vec<String> = old.peers.iter().map(|peer| peer.id().to_owned()).collect();
    let members = members(&cluster);
    let rest = cluster.peer(0).info().rest.context("REST is on")?;
    let here = pinset(&request(&rest, "GET", "/allocations?filter=all").await?.text())?;
    let to_new: BTreeMap<_, _> = peers.iter().cloned().zip(members.clone()).collect();
    same(&renamed(&there, &to_new)?, &here)?;

    // From a file, into a namespace of its own.
    for peer in &mut old.peers {
        peer.stop().await?;
    }
    let exported = cluster.root().join("state.jsonl");
    let exported = path(&exported)?;
    old.peers[0].service(&["state", "export", "-f", exported]).await?;
    same(&there, &pinset(&std::fs::read_to_string(exported)?)?)?;
    let nodes = cluster.nodes().iter().map(|(name, _)| name.clone());
    let map: Vec<String> = peers
        .iter()
        .zip(nodes)
        .map(|(peer, node)| format!("{peer}={node}"))
        .collect();
    let mut import = vec!["import", "--from", "ipfs-cluster", exported, "--namespace", "second"];
    map.iter().for_each(|pair| import.extend(["--map", pair]));
    let said = ctl.json(&import).await?;
    assert_eq!(said.last(), Some(&equal));
    let again = ctl.json(&[&import[..4], &["--verify-only"]].concat()).await?;
    assert_eq!(again, [equal]);

    // A difference is found and named.
    let lost = content::cid(5).to_string();
    ctl.run(&["pin", "rm", &lost]).await?;
    ctl.run(&["pin", "add", &content::cid(8).to_string(), "--name", "another"])
        .await?;
    let differences = cluster.root().join("differences.jsonl");
    let differences = path(&differences)?;
    let check = [&import[..4], &["--verify-only", "--differences", differences]].concat();
    let said = ctl.try_run(&check).await?;
    assert_eq!(said.code, 7, "{}", said.stderr);
    assert!(
        said.stderr.contains(&format!("{lost}: it is not here")),
        "{}",
        said.stderr
    );
    assert!(said.stderr.contains("name was"), "{}", said.stderr);
    assert_eq!(std::fs::read_to_string(differences)?.lines().count(), 2);
    ctl.run(&[&import[..4], &["--restart"]].concat()).await?;

    back(&cluster, &ctl, &old, &there).await?;

    // What the old cluster had pinned is ours now, and goes with the last pin.
    let cid = content::cid(1);
    let holds =
        async || Ok::<_, anyhow::Error>((0..3).filter(|index| cluster.fake(*index).pin(&cid).is_some()).count());
    ensure!(holds().await? > 0, "it was there");
    ctl.run(&["pin", "rm", &cid.to_string()]).await?;
    ctl.run(&["pin", "rm", &cid.to_string(), "--namespace", "second"])
        .await?;
    cluster
        .wait_until("the nodes let go of it", LONG, async || {
            let count = holds().await?;
            ensure!(count == 0, "{count} hold it");
            Ok(())
        })
        .await
}

/// The way back: what is written is read by the old cluster's own tool, and comes out as it was.
async fn back(cluster: &Cluster, ctl: &Ctl, old: &ipfs_cluster::Cluster, there: &Pinset) -> anyhow::Result<()> {
    let written = cluster.root().join("back.jsonl");
    let written = path(&written)?;
    let mut export = vec![
        "export".to_owned(),
        "--to".into(),
        "ipfs-cluster".into(),
        written.into(),
    ];
    for ((name, _), peer) in cluster.nodes().iter().zip(&old.peers) {
        export.extend(["--map".into(), format!("{name}={}", peer.id())]);
    }
    ctl.run(&export.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    same(there, &pinset(&std::fs::read_to_string(written)?)?)?;
    old.peers[0].service(&["state", "import", "--force", written]).await?;
    let again = cluster.root().join("again.jsonl");
    let again = path(&again)?;
    old.peers[0].service(&["state", "export", "-f", again]).await?;
    same(there, &pinset(&std::fs::read_to_string(again)?)?)
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path of text")
}

/// The IDs that the nodes of the peers bear over REST: each drives one, so it is the peer's own.
fn members(cluster: &Cluster) -> Vec<String> {
    cluster.peers().iter().map(cluster_tests::peer::Peer::id).collect()
}
