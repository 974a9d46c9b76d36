//! Tokens at the REST API: whose pins they see, what they may do, and how they end.

use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::{cid, fresh_bytes};
use cluster_tests::ctl::Ctl;
use cluster_tests::fake_kubo::{Call, Fault, Rule};
use cluster_tests::node::NodeKind;
use cluster_tests::raw_http::{Answer, request_with};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Api, statuses};

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
    // Nobody needs a credential here, and yet who shows one that is none does not go on as anybody.
    let message = ask(&api, "", "GET", "/id").await?.error(401)?;
    ensure!(message.contains("neither `Bearer TOKEN` nor `Basic`"), "{message}");
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

/// What no namespace has pinned any more may have been any namespace's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_namespace_lets_go_of_is_seen_by_admins_alone() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let ctl = Ctl::new(cluster.api())?;
    let api = Api::of(&cluster, 0);
    let team = token(&ctl, &["team", "--namespace", "team-a", "--scope", "pin"]).await?;
    let pins = token(&ctl, &["pins", "--scope", "pin"]).await?;
    let admin = token(&ctl, &["admin", "--scope", "admin"]).await?;
    let (cid, own) = (cid(1).to_string(), cid(2).to_string());
    let target = format!("/pins/{cid}");
    ask(&api, &team, "POST", &target).await?.json(200)?;
    ask(&api, &pins, "POST", &format!("/pins/{own}")).await?.json(200)?;
    api.wait_for(&cluster, &own, "pinned", 1).await?;
    cluster
        .wait_until("it is held", LIMIT, async || {
            let info = ask(&api, &team, "GET", &target).await?.json(200)?;
            ensure!(statuses(&info)? == ["pinned"], "{info}");
            Ok(())
        })
        .await?;
    cluster.fake(0).add_rule(Rule::new(Fault::Hang).of_call(Call::PinRm));
    ask(&api, &team, "DELETE", &target).await?.json(200)?;
    cluster
        .wait_until("it is let go of", LIMIT, async || {
            let info = ask(&api, &admin, "GET", &target).await?.json(200)?;
            ensure!(
                statuses(&info)?.iter().all(|status| status.starts_with("unpin")),
                "{info}"
            );
            let lines = ask(&api, &admin, "GET", "/pins").await?.lines()?;
            ensure!(lines.iter().any(|line| line["cid"] == *cid), "{lines:?}");
            Ok(())
        })
        .await?;
    for list in [
        "/pins",
        "/pins?limit=10",
        "/pins?filter=unpinning",
        "/pins?filter=unpinning&limit=10",
    ] {
        let lines = ask(&api, &pins, "GET", list).await?.lines()?;
        ensure!(lines.iter().all(|line| line["cid"] == *own), "{list}: {lines:?}");
        ensure!(
            !list.starts_with("/pins?limit") || lines.len() == 1,
            "{list}: {lines:?}"
        );
        let lines = ask(&api, &admin, "GET", list).await?.lines()?;
        ensure!(lines.iter().any(|line| line["cid"] == *cid), "{list}: {lines:?}");
    }
    let info = ask(&api, &pins, "GET", &target).await?.json(200)?;
    ensure!(statuses(&info)? == ["unpinned"], "{info}");
    Ok(())
}

/// Reads until the connection ends, which need not be in good order.
async fn rest_of(stream: &mut TcpStream) -> anyhow::Result<String> {
    let mut rest = Vec::new();
    let reading = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut rest)).await;
    let _ = reading.context("the connection stayed open")?;
    Ok(String::from_utf8_lossy(&rest).into_owned())
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// Before its answer has begun and behind that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_add_ends_with_its_credential_and_pins_nothing() -> anyhow::Result<()> {
    let options = ClusterOptions {
        peers: 1,
        node: NodeKind::Embedded,
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options.with("embedded.free_min", "1MiB")).await?;
    let ctl = Ctl::new(cluster.api())?;
    let api = Api::of(&cluster, 0);
    for (name, query) in [("silent", ""), ("telling", "?progress=true")] {
        let shown = token(&ctl, &[name]).await?;
        cluster
            .wait_until("the token is known", LIMIT, async || {
                ask(&api, &shown, "GET", "/id").await?.json(200).map(drop)
            })
            .await?;
        let mut stream = TcpStream::connect(&api.0).await?;
        let head = format!(
            "POST /add{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {shown}\r\n\
             Content-Type: multipart/form-data; boundary=b\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let part = b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n";
        // More than a step of progress.
        let begun = [part.as_slice(), &fresh_bytes(1 << 20)].concat();
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&chunk(&begun)).await?;
        if !query.is_empty() {
            let mut some = [0; 15];
            stream.read_exact(&mut some).await?;
            ensure!(&some == b"HTTP/1.1 200 OK", "{:?}", String::from_utf8_lossy(&some));
        }
        ctl.run(&["token", "revoke", name]).await?;
        // One that is refused need not be taken to its end.
        let _ = stream
            .write_all(&[chunk(b"\r\n--b--\r\n").as_slice(), b"0\r\n\r\n"].concat())
            .await;
        let answer = rest_of(&mut stream).await?;
        let told = "the credential of this request was revoked or has expired";
        if query.is_empty() {
            ensure!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        } else {
            // A whole answer ends with an empty trailer.
            ensure!(
                !answer.to_ascii_lowercase().contains("x-stream-error: \r\n"),
                "{answer}"
            );
        }
        ensure!(answer.contains(told), "{answer}");
        let pins = api.get("/allocations").await?.lines()?;
        ensure!(pins.is_empty(), "{pins:?}");
    }
    Ok(())
}
