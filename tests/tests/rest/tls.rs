//! The REST API over TLS.

use anyhow::{Context as _, ensure};
use cluster_tests::cluster::{Cluster, ClusterOptions};
use cluster_tests::content::{fresh_bytes, fresh_cid};
use cluster_tests::node::NodeKind;
use cluster_tests::raw_http::exchange;
use serde_json::Value;

use super::Api;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_routes_over_tls() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    let options = ClusterOptions {
        peers: 1,
        node: NodeKind::Embedded,
        ..ClusterOptions::default()
    };
    let options = options
        .with("embedded.free_min", "1MiB")
        .with("rest.tls_cert_file", certificate.display())
        .with("rest.tls_key_file", key.display())
        .with("rest.head_timeout", "1s");
    let cluster = Cluster::start(options).await?;
    let address = Api::of(&cluster, 0).0;
    let trusted = reqwest::Certificate::from_pem(made.cert.pem().as_bytes())?;
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([trusted])
        .build()?;
    let url = |path: &str| format!("https://{address}{path}");

    let id: Value = client.get(url("/id")).send().await?.error_for_status()?.json().await?;
    ensure!(id["id"] == cluster.peer(0).id(), "{id}");
    let cid = fresh_cid();
    for _ in 0..20 {
        client
            .post(url(&format!("/pins/{cid}")))
            .send()
            .await?
            .error_for_status()?;
    }
    let lines = client
        .get(url("/allocations"))
        .send()
        .await?
        .error_for_status()?
        .text()
        .await?;
    ensure!(
        lines.lines().count() == 1 && lines.contains(&cid.to_string()),
        "{lines}"
    );
    let missing = client.get(url("/nothing")).send().await?;
    ensure!(missing.status() == 404);
    ensure!(missing.json::<Value>().await?["code"] == 404);
    // What is sent, and comes back, is many times what one record of TLS holds.
    let content = fresh_bytes(3 << 20);
    let head = b"--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x\"\r\n\r\n";
    let add = client
        .post(url("/add"))
        .header("content-type", "multipart/form-data; boundary=b")
        .body([&head[..], &content, b"\r\n--b--\r\n"].concat());
    let added = add.send().await?.error_for_status()?.text().await?;
    let added: Value = serde_json::from_str(&added)?;
    let cid = added["cid"].as_str().context("a CID")?;
    ensure!(cluster.client(0).cat(cid).await? == content);

    // Who speaks no TLS gets nothing, in its time, and disturbs nobody.
    let plain = exchange(&address, b"GET /id HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    ensure!(
        !String::from_utf8_lossy(&plain).contains(&cluster.peer(0).id()),
        "{plain:?}"
    );
    ensure!(exchange(&address, b"").await?.is_empty(), "silence is closed");
    let nobody = reqwest::Client::builder().no_proxy().tls_certs_only([]).build()?;
    nobody
        .get(url("/id"))
        .send()
        .await
        .err()
        .context("a certificate that nobody vouches for")?;
    client.get(url("/version")).send().await?.error_for_status()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_cant_be_used_stop_the_start_and_are_named() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let file = |name: &str, text: String| {
        let file = cluster.root().join(name);
        std::fs::write(&file, text).map(|()| file.display().to_string())
    };
    let (certificate, key) = (
        file("cert.pem", made.cert.pem())?,
        file("key.pem", other.signing_key.serialize_pem())?,
    );
    let nonsense = file("nonsense.pem", "no PEM".into())?;
    cluster.peer(0).stop().await?;
    for (certificate, key) in [
        // Of two pairs; none at all; one that is missing; one alone.
        (certificate.as_str(), key.as_str()),
        (&nonsense, &nonsense),
        ("/no/such/file", &key),
        (&certificate, ""),
    ] {
        cluster.set("rest.tls_cert_file", certificate);
        cluster.set("rest.tls_key_file", key);
        cluster.configure(0)?;
        let error = cluster.peer(0).start().await.expect_err("it can't start");
        ensure!(format!("{error:#}").contains("rest.tls_"), "{error:#}");
        cluster.peer(0).forget();
    }
    Ok(())
}
