//! Tokens at the REST API: whose pins they see, what they may do, and how they end.

use anyhow::{Context, ensure};
use cluster_tests::cluster::{Cluster, LIMIT};
use cluster_tests::content::cid;
use cluster_tests::ctl::Ctl;
use cluster_tests::raw_http::{Answer, request_with};

use super::Api;

/// A request that shows a token.
async fn ask(api: &Api, token: &str, method: &str, target: &str) -> anyhow::Result<Answer> {
    let shown = format!("Bearer {token}");
    request_with(&api.0, method, target, &[("Authorization", &shown)], b"").await
}

async fn token(ctl: &Ctl, arguments: &[&str]) -> anyhow::Result<String> {
    let printed = ctl.run(&[&["token", "create"], arguments].concat()).await?;
    Ok(printed.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_sees_the_pins_of_its_namespace_and_is_worth_nothing_once_it_is_revoked() -> anyhow::Result<()> {
    let mut cluster = Cluster::three().await?;
    let ctl = Ctl::new(cluster.api())?;
    let (api, other) = (Api::of(&cluster, 0), Api::of(&cluster, 1));
    let pins = token(&ctl, &["pins", "--namespace", "team-a", "--scope", "pin"]).await?;
    let reads = token(&ctl, &["reads", "--namespace", "team-a", "--scope", "read"]).await?;
    let cid = cid(1);
    let (pin, allocation) = (format!("/pins/{cid}"), format!("/allocations/{cid}"));

    // Known at every peer as soon as it is applied there.
    for api in [&api, &other] {
        cluster
            .wait_until("the tokens are known", LIMIT, async || {
                for token in [&pins, &reads] {
                    ask(api, token, "GET", "/id").await?.json(200)?;
                }
                Ok(())
            })
            .await?;
    }
    ensure!(ask(&api, "pft_nonsense", "GET", "/id").await?.error(401)? == "unauthorized: invalid token");
    ask(&api, &reads, "POST", &pin).await?.error(403)?;
    ask(&api, &pins, "POST", &pin).await?.json(200)?;
    ask(
        &api,
        &pins,
        "DELETE",
        "/peers/12D3KooWSmEVZm81CvvWEbnUgnJ6CYLvtnXyTsCqyHXi7K5aG7zY",
    )
    .await?
    .error(403)?;

    // Whoever shows nothing is in the default namespace, where nothing is pinned.
    ensure!(api.get(&allocation).await?.error(404)? == "pin is not part of the pinset");
    api.delete(&pin).await?.error(404)?;
    let signed = ask(&api, &reads, "POST", "/token").await?.json(200)?;
    let signed = signed["token"].as_str().context("a token")?;
    for shown in [pins.as_str(), reads.as_str(), signed] {
        for api in [&api, &other] {
            let seen = cluster.wait_until("the pin is seen", LIMIT, async || {
                ask(api, shown, "GET", &allocation).await?.json(200)
            });
            ensure!(seen.await?["cid"] == cid.to_string());
        }
    }
    ask(&api, signed, "POST", &pin).await?.error(403)?;

    ctl.run(&["token", "revoke", "reads"]).await?;
    for shown in [reads.as_str(), signed] {
        for api in [&api, &other] {
            cluster
                .wait_until("it is worth nothing any more", LIMIT, async || {
                    ask(api, shown, "GET", "/id").await?.error(401).map(|_| ())
                })
                .await?;
        }
    }
    ask(&api, &pins, "DELETE", &pin).await?.json(200)?;
    cluster.stop().await
}
