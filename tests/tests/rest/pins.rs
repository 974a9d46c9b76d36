//! One pin at a time.

use cluster_tests::cluster::{Cluster, ClusterOptions};
use cluster_tests::content::{cid_v0, fresh_cid};
use serde_json::{Value, json};

use super::{Api, keys, statuses};

/// The fields of a pin.
const PIN: [&str; 16] = [
    "allocations",
    "cid",
    "expire_at",
    "max_depth",
    "metadata",
    "mode",
    "name",
    "origins",
    "pin_update",
    "reference",
    "replication_factor_max",
    "replication_factor_min",
    "shard_size",
    "timestamp",
    "type",
    "user_allocations",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_goes_in_shows_and_goes_out() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let (api, other) = (Api::of(&cluster, 0), Api::of(&cluster, 1));
    let cid = fresh_cid().to_string();

    // Not pinned: a status of all members, and no pin.
    let info = api.get(&format!("/pins/{cid}")).await?.json(200)?;
    assert_eq!(statuses(&info)?, ["unpinned", "unpinned", "unpinned"]);
    assert_eq!(
        keys(&info),
        [
            "allocations",
            "cid",
            "created",
            "metadata",
            "name",
            "origins",
            "peer_map"
        ]
    );
    let missing = api.get(&format!("/allocations/{cid}")).await?.error(404)?;
    assert_eq!(missing, "pin is not part of the pinset");

    // What the Go client sends for a pin without options.
    let defaults = "mode=recursive&name=&replication-max=0&replication-min=0&shard-size=0&user-allocations=";
    let pin = api.post(&format!("/pins/{cid}?{defaults}")).await?.json(200)?;
    assert_eq!(keys(&pin), PIN);
    // The cluster's default of the harness: resolved, never 0.
    assert_eq!(
        (&pin["replication_factor_min"], &pin["replication_factor_max"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(
        (&pin["mode"], &pin["max_depth"], &pin["type"]),
        (&json!("recursive"), &json!(-1), &json!("pin"))
    );
    assert_eq!(
        (&pin["expire_at"], &pin["pin_update"]),
        (&json!("0001-01-01T00:00:00Z"), &Value::Null)
    );
    assert_eq!(pin["allocations"].as_array().map(Vec::len), Some(2));

    // Seen at once through another peer, the same to the last field.
    let read = other.get(&format!("/allocations/{cid}")).await?.json(200)?;
    assert_eq!(read, pin);

    let info = other.wait_for(&cluster, &cid, "pinned", 2).await?;
    assert_eq!(info["allocations"], pin["allocations"]);
    assert_eq!(info["created"], pin["timestamp"]);
    let map = info["peer_map"].as_object().expect("an object");
    assert_eq!(map.len(), 3, "all members are told of: {info}");
    for (id, short) in map {
        let allocated = pin["allocations"]
            .as_array()
            .is_some_and(|list| list.contains(&json!(id)));
        assert_eq!(short["status"] == "pinned", allocated, "{info}");
        assert_eq!(short["status"] == "remote", !allocated, "{info}");
        assert_ne!(short["ipfs_peer_id"], "", "left out rather than empty");
    }

    // Only what the peer drives: one entry, under its own ID.
    let own = api.get(&format!("/pins/{cid}?local=true")).await?.json(200)?;
    assert_eq!(keys(&own["peer_map"]), [cluster.peer(0).id()]);

    let removed = api.delete(&format!("/pins/{cid}")).await?.json(200)?;
    assert_eq!(removed["cid"], pin["cid"]);
    assert_eq!(removed["allocations"], pin["allocations"], "as it was");
    other.wait_for(&cluster, &cid, "unpinned", 3).await?;
    let again = api.delete(&format!("/pins/{cid}")).await?.error(404)?;
    assert_eq!(again, "pin is not part of the pinset");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_are_kept_and_nonsense_is_refused_before_anything_is_done() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let api = Api::of(&cluster, 0);
    let (cid, second, peer) = (fresh_cid().to_string(), cluster.peer(1).id(), cluster.peer(2).id());

    let origin = format!("/ip4/203.0.113.7/tcp/4001/p2p/{second}");
    let query = format!(
        "name=my+site&replication-min=1&replication-max=2&user-allocations={second},{peer}&expire-in=1h&meta-team=web\
         &meta-=x&origins={origin}&shard-size=5&unknown=1"
    );
    let pin = api.post(&format!("/pins/ipfs/{cid}?{query}")).await?.json(200)?;
    assert_eq!(pin["name"], "my site");
    assert_eq!(pin["user_allocations"], json!([second, peer]));
    assert_eq!(pin["metadata"], json!({"team": "web"}));
    assert_eq!(pin["origins"], json!([origin]));
    assert_eq!(pin["shard_size"], 5);
    assert_ne!(pin["expire_at"], "0001-01-01T00:00:00Z");
    let mut allocations: Vec<&str> = vec![&second, &peer];
    allocations.sort_unstable();
    let mut found: Vec<&str> = pin["allocations"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    found.sort_unstable();
    assert_eq!(found, allocations, "the members named are used first");

    for (query, words) in [
        ("replication-min=x", "parameter replication-min invalid"),
        ("replication-min=3&replication-max=2", "replication"),
        ("shard-size=x", "parameter shard_size is invalid"),
        ("expire-at=yesterday", "expire-at"),
        ("expire-at=2001-01-01T00:00:00Z", "expire_at"),
        ("expire-in=1ms", "expire-in"),
        ("origins=/ip4/1.2.3.4/tcp/4001", "origins"),
        ("pin-update=abcd", "error decoding Cid: "),
        ("user-allocations=nobody", "error decoding Peer ID: "),
    ] {
        let fresh = fresh_cid();
        for path in [format!("/pins/{fresh}"), format!("/pins/ipfs/{fresh}")] {
            let message = api.post(&format!("{path}?{query}")).await?.error(400)?;
            assert!(message.contains(words), "{query}: {message}");
        }
        // Where the reference goes on with what it could read.
        api.get(&format!("/allocations/{fresh}")).await?.error(404)?;
    }
    let message = api.post("/pins/abcd").await?.error(400)?;
    assert!(message.starts_with("error decoding Cid: "), "{message}");
    let message = api.post("/pins/ipfs/invalidhash").await?.error(400)?;
    assert!(message.starts_with("error parsing path: "), "{message}");
    let message = api.delete("/pins/ipfs/invalidhash").await?.error(400)?;
    assert!(message.starts_with("error parsing path: "), "{message}");
    let message = api.post("/pins/ipns/docs.ipfs.tech").await?.error(400)?;
    assert!(message.contains("ipfs resolve"), "{message}");
    // More replicas than there are members.
    let message = api
        .post(&format!("/pins/{}?replication=9", fresh_cid()))
        .await?
        .error(409)?;
    assert!(message.contains('9') && message.contains('3'), "{message}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forms_of_cids_modes_and_updates() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(2)).await?;
    let api = Api::of(&cluster, 0);

    // Version 0 stays, any other base becomes base32, and both stand for themselves.
    let old = cid_v0(7).to_string();
    assert!(old.starts_with("Qm"));
    assert_eq!(api.post(&format!("/pins/{old}")).await?.json(200)?["cid"], *old);
    let base32 = fresh_cid();
    let parsed: cid::Cid = base32.to_string().parse()?;
    let base58 = parsed.to_string_of_base(multibase::Base::Base58Btc)?;
    assert!(base58.starts_with('z'));
    assert_eq!(
        api.post(&format!("/pins/{base58}")).await?.json(200)?["cid"],
        base32.to_string()
    );

    // Direct on both routes, then the whole, and not back.
    for path in ["/pins", "/pins/ipfs", "/pins/ipld"] {
        let cid = fresh_cid();
        let pin = api.post(&format!("{path}/{cid}?mode=direct")).await?.json(200)?;
        assert_eq!(
            (&pin["mode"], &pin["max_depth"]),
            (&json!("direct"), &json!(0)),
            "{path}"
        );
        let pin = api.post(&format!("{path}/{cid}?mode=sideways")).await?.json(200)?;
        assert_eq!(pin["mode"], "recursive", "an unknown word is the usual mode");
        let message = api.post(&format!("{path}/{cid}?mode=direct")).await?.error(409)?;
        assert!(message.contains("recursively"), "{message}");
    }

    // Everything of another pin but a name.
    let (from, to) = (fresh_cid(), fresh_cid());
    let options = "name=before&replication=1&meta-team=web";
    api.post(&format!("/pins/{from}?{options}")).await?.json(200)?;
    let pin = api
        .post(&format!(
            "/pins/{to}?pin-update={from}&name=after&replication=2&meta-team=other"
        ))
        .await?
        .json(200)?;
    assert_eq!(
        (&pin["name"], &pin["metadata"]["team"]),
        (&json!("after"), &json!("web"))
    );
    assert_eq!(pin["replication_factor_max"], 1);
    assert_eq!(pin["pin_update"], from.to_string());
    api.get(&format!("/allocations/{from}")).await?.json(200)?;
    let missing = api
        .post(&format!("/pins/{}?pin-update={}", fresh_cid(), fresh_cid()))
        .await?
        .error(404)?;
    assert_eq!(missing, "pin is not part of the pinset");
    // From itself it is an ordinary pin.
    let pin = api
        .post(&format!("/pins/{from}?pin-update={from}&name=again"))
        .await?
        .json(200)?;
    assert_eq!(pin["name"], "again");

    // Paths that are CIDs alone, with a slash behind.
    let cid = fresh_cid();
    assert_eq!(
        api.post(&format!("/pins/ipfs%2F{cid}")).await?.json(200)?["cid"],
        cid.to_string()
    );
    assert_eq!(
        api.delete(&format!("/pins/ipfs/{cid}")).await?.json(200)?["cid"],
        cid.to_string()
    );
    api.delete(&format!("/pins/ipfs/{cid}")).await?.error(404)?;
    Ok(())
}
