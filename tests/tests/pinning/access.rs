//! Tokens: whose pins they see, and what they may do.

use anyhow::{Context, ensure};
use cluster_tests::cluster::{Cluster, LIMIT};
use cluster_tests::content::fresh_cid;
use cluster_tests::ctl::Ctl;
use serde_json::json;

use super::{ALL, Api, bare, body, cids, reason, text};

async fn token(ctl: &Ctl, arguments: &[&str]) -> anyhow::Result<String> {
    let printed = ctl.run(&[&["token", "create"], arguments].concat()).await?;
    Ok(printed.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_do_not_see_each_other() -> anyhow::Result<()> {
    let mut cluster = Cluster::three().await?;
    let ctl = Ctl::new(cluster.api())?;
    let api = Api::of(&cluster, 0);
    let one = api.with(&token(&ctl, &["one", "--namespace", "team-a", "--scope", "pin"]).await?);
    let two = api.with(&token(&ctl, &["two", "--namespace", "team-b", "--scope", "pin"]).await?);
    let reads = api.with(&token(&ctl, &["reads", "--namespace", "team-a", "--scope", "read"]).await?);
    let elsewhere = Api::of(&cluster, 1).with(one.token.as_deref().context("a token")?);
    cluster
        .wait_until("the tokens are known", LIMIT, async || {
            for api in [&one, &two, &reads, &elsewhere] {
                api.list("").await?;
            }
            Ok(())
        })
        .await?;
    let cid = fresh_cid();
    let first = one.pin(json!({"cid": cid.to_string(), "name": "secret"})).await?;
    let second = two.pin(body(cid)).await?;
    let id = text(&first, "requestid");
    assert_eq!(
        elsewhere.get(&format!("/pins/{id}")).await?.json(200)?["pin"]["name"],
        "secret"
    );
    assert_eq!(reads.list(ALL).await?.0, 1);
    // Of another namespace it is as if it were not there.
    for (method, sent) in [
        ("GET", String::new()),
        ("DELETE", String::new()),
        ("POST", body(fresh_cid()).to_string()),
    ] {
        reason(&two.ask(method, &format!("/pins/{id}"), &[], &sent).await?, 404)?;
    }
    for query in [
        ALL.to_owned(),
        format!("{ALL}&cid={cid}"),
        format!("{ALL}&name=secret&match=partial"),
    ] {
        let (_, results) = two.list(&query).await?;
        assert!(results.iter().all(|result| result["requestid"] != id), "{query}");
    }
    assert!(two.list(&format!("{ALL}&name=secret")).await?.1.is_empty());
    let shown = two
        .get(&format!("/pins/{}", text(&second, "requestid")))
        .await?
        .json(200)?;
    assert!(shown["pin"].get("name").is_none(), "{shown}");
    // The same name for a request is another request there.
    let named = [("Idempotency-Key", "same")];
    let of_one = one
        .ask("POST", "/pins", &named, &body(fresh_cid()).to_string())
        .await?
        .json(202)?;
    let of_two = two
        .ask("POST", "/pins", &named, &body(fresh_cid()).to_string())
        .await?
        .json(202)?;
    assert_ne!(of_one["requestid"], of_two["requestid"]);

    // Who may only read changes nothing.
    for (method, target) in [
        ("POST", "/pins"),
        ("POST", &format!("/pins/{id}")),
        ("DELETE", &format!("/pins/{id}")),
    ] {
        let sent = if method == "POST" {
            body(cid).to_string()
        } else {
            String::new()
        };
        let words = reason(&reads.ask(method, target, &[], &sent).await?, 403)?;
        assert!(words.contains("pin"), "{words}");
    }
    // A token that is made of a token.
    let signed = reads.post("/token", &json!({})).await?.json(200)?;
    let signed = api.with(text(&signed, "token"));
    assert_eq!(signed.list(ALL).await?.0, one.list(ALL).await?.0);

    one.delete(&format!("/pins/{id}")).await?;
    assert_eq!(cids(&two.list(&format!("{ALL}&cid={cid}")).await?.1), [cid.to_string()]);
    ctl.run(&["token", "revoke", "two"]).await?;
    cluster
        .wait_until("it is worth nothing any more", LIMIT, async || {
            let words = reason(&two.get("/pins").await?, 401)?;
            ensure!(words == "unauthorized: invalid token", "{words}");
            Ok(())
        })
        .await?;
    // Everything but health and preflights asks for credentials now only from who shows some: nobody else is known here.
    assert_eq!(bare(&api, "GET", "/health").await?.status, 204);
    cluster.stop().await
}
