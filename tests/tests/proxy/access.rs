//! Credentials at the proxy: whose pins they see, and which calls they may make.

use anyhow::ensure;
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::cid;
use cluster_tests::ctl::Ctl;
use cluster_tests::raw_http::{request, request_with};

use super::{Proxy, kubo_error, pins};

async fn token(ctl: &Ctl, arguments: &[&str]) -> anyhow::Result<String> {
    let printed = ctl.run(&[&["token", "create"], arguments].concat()).await?;
    Ok(format!("Bearer {}", printed.trim()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_call_takes_its_right() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let ctl = Ctl::new(cluster.api())?;
    let proxy = Proxy::of(&cluster, 0);
    let read = token(&ctl, &["reads", "--namespace", "team", "--scope", "read"]).await?;
    let pin = token(&ctl, &["pins", "--namespace", "team", "--scope", "pin"]).await?;
    let admin = token(&ctl, &["admin", "--namespace", "team", "--scope", "admin"]).await?;
    let cid = cid(1);
    let as_who = |who: &str, call: &str| {
        let (proxy, who, call) = (proxy.clone(), who.to_owned(), call.to_owned());
        async move { proxy.call_with(&call, &[("Authorization", &who)]).await }
    };
    cluster
        .wait_until("the tokens are known", LIMIT, async || {
            for who in [&read, &pin, &admin] {
                ensure!(as_who(who, "version").await?.status == 200);
            }
            Ok(())
        })
        .await?;

    let answer = as_who("Bearer pft_nonsense", "version").await?;
    assert_eq!(kubo_error(&answer, 401)?, "unauthorized: invalid token");
    for (call, least) in [
        (format!("pin/add?arg={cid}"), 1),
        ("pin/ls".to_owned(), 0),
        ("repo/stat".to_owned(), 0),
        ("repo/gc".to_owned(), 2),
        (
            "swarm/connect?arg=/ip4/127.0.0.1/tcp/1/p2p/12D3KooWBhV9dp6GQkvFYdvCpwWkRxgnYC4UHPBGtKaqxbxn3Kmr"
                .to_owned(),
            2,
        ),
        ("not/a/call".to_owned(), 2),
        // They list the CIDs of all namespaces.
        ("refs/local".to_owned(), 2),
        ("bitswap/wantlist".to_owned(), 2),
        (format!("pin/rm?arg={cid}"), 1),
    ] {
        for (rank, who) in [&read, &pin, &admin].into_iter().enumerate() {
            let answer = as_who(who, &call).await?;
            if rank < least {
                let message = kubo_error(&answer, 403)?;
                assert!(message.contains("lack the scope"), "{call}: {message}");
            } else {
                assert_ne!(answer.status, 403, "{call}: {}", answer.text());
            }
        }
    }
    // Also outside of the RPC, and in spellings that Kubo's router would read as the call.
    for target in ["/webui", "/debug/vars", "/api/v0/repo%2Fgc", "/api/v0/repo/gc/"] {
        let answer = request_with(&proxy.0, "POST", target, &[("Authorization", &read)], b"").await?;
        kubo_error(&answer, 403)?;
    }

    // Pins belong to the namespace of whoever made them.
    as_who(&pin, &format!("pin/add?arg={cid}")).await?.json(200)?;
    assert_eq!(as_who(&read, &format!("pin/ls?arg={cid}")).await?.status, 200);
    kubo_error(&proxy.call(&format!("pin/ls?arg={cid}")).await?, 500)?;
    kubo_error(&proxy.call(&format!("pin/rm?arg={cid}")).await?, 500)?;
    assert_eq!(
        as_who(&pin, &format!("pin/rm?arg={cid}")).await?.json(200)?,
        pins(&[cid])
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_in_without_credentials_where_they_are_required() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let admin = token(&Ctl::new(cluster.api())?, &["admin", "--scope", "admin"]).await?;
    cluster.set("api.auth", "required");
    cluster.configure(0)?;
    cluster.peer(0).restart().await?;
    let proxy = Proxy::of(&cluster, 0);
    for call in ["version", "pin/ls", "add", "not/a/call"] {
        let answer = proxy.call(call).await?;
        assert_eq!(kubo_error(&answer, 401)?, "unauthorized: no auth provided");
    }
    for method in ["GET", "PUT", "DELETE"] {
        kubo_error(&request(&proxy.0, method, "/api/v0/version").await?, 401)?;
    }
    // A browser's question is never asked who it is.
    assert_ne!(request(&proxy.0, "OPTIONS", "/api/v0/version").await?.status, 401);
    assert_eq!(
        proxy.call_with("version", &[("Authorization", &admin)]).await?.status,
        200
    );
    Ok(())
}
