//! Changes of peers, nodes and settings that break a rule.

use cluster_proto::v1;
use cluster_tests::cluster::Cluster;

use super::{refused, standing};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_the_cluster_that_break_a_rule_are_refused() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let client = cluster.client(2);
    let before = standing(&client).await?;
    let api = cluster.fake(0).address().to_owned();
    let node = || v1::AddNodeRequest {
        name: "node-9".into(),
        api: api.clone(),
        ..v1::AddNodeRequest::default()
    };
    let tags = |pairs: Vec<(String, String)>| v1::AddNodeRequest {
        tags: pairs.into_iter().collect(),
        ..node()
    };
    for (what, field, request) in [
        (
            "no name",
            "name",
            v1::AddNodeRequest {
                name: String::new(),
                ..node()
            },
        ),
        (
            "a name with a space",
            "name",
            v1::AddNodeRequest {
                name: "a b".into(),
                ..node()
            },
        ),
        (
            "a peer that is none",
            "peer",
            v1::AddNodeRequest {
                peer: "12D3KooW".into(),
                ..node()
            },
        ),
        (
            "no address",
            "api",
            v1::AddNodeRequest {
                api: String::new(),
                ..node()
            },
        ),
        (
            "an address that is none",
            "api",
            v1::AddNodeRequest {
                api: "ftp://somewhere".into(),
                ..node()
            },
        ),
        (
            "a negative weight",
            "weight",
            v1::AddNodeRequest { weight: -1.0, ..node() },
        ),
        (
            "a weight that is no number",
            "weight",
            v1::AddNodeRequest {
                weight: f64::NAN,
                ..node()
            },
        ),
        (
            "an infinite weight",
            "weight",
            v1::AddNodeRequest {
                weight: f64::INFINITY,
                ..node()
            },
        ),
        (
            "too many tags",
            "tags",
            tags((0..33).map(|number| (number.to_string(), String::new())).collect()),
        ),
        ("an empty tag", "tags", tags(vec![(String::new(), "x".into())])),
        ("a long tag", "tags", tags(vec![("t".repeat(65), "x".into())])),
        ("a long tag value", "tags", tags(vec![("t".into(), "x".repeat(257))])),
        (
            "a long request ID",
            "request_id",
            v1::AddNodeRequest {
                request_id: "r".repeat(65),
                ..node()
            },
        ),
    ] {
        refused(what, client.cluster.clone().add_node(request).await, field)?;
    }
    for state in [0, 4, 9] {
        let request = v1::SetNodeStateRequest {
            node: "node-1".into(),
            state,
        };
        refused("a state", client.cluster.clone().set_node_state(request).await, "state")?;
    }
    let settings = |settings| v1::UpdateSettingsRequest {
        settings: Some(settings),
    };
    let none = v1::Settings::default;
    for (what, field, change) in [
        (
            "a default of 0",
            "replication",
            v1::Settings {
                replication_min: Some(0),
                ..none()
            },
        ),
        (
            "everywhere for one of two",
            "replication",
            v1::Settings {
                replication_min: Some(-1),
                ..none()
            },
        ),
        (
            "more at least than at most",
            "replication",
            v1::Settings {
                replication_min: Some(5),
                replication_max: Some(2),
                ..none()
            },
        ),
        (
            "too many domains",
            "spread_by",
            v1::Settings {
                spread_by: ["a", "b", "c", "d", "e"].map(str::to_owned).into(),
                ..none()
            },
        ),
    ] {
        refused(
            what,
            client.cluster.clone().update_settings(settings(change)).await,
            field,
        )?;
    }
    for peer_id in ["", "12D3KooW", "é"] {
        let peer_id = peer_id.to_owned();
        let remove = v1::RemovePeerRequest {
            peer_id: peer_id.clone(),
        };
        refused("a peer ID", client.cluster.clone().remove_peer(remove).await, "peer_id")?;
        let promote = v1::PromotePeerRequest { peer_id };
        refused(
            "a peer ID",
            client.cluster.clone().promote_peer(promote).await,
            "peer_id",
        )?;
    }
    let token = v1::CreateJoinTokenRequest {
        valid_for_ms: 8 * 24 * 3_600_000,
    };
    refused(
        "a long validity",
        client.cluster.clone().create_join_token(token).await,
        "valid_for_ms",
    )?;
    assert_eq!(standing(&client).await?, before);
    Ok(())
}
