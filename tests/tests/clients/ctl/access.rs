//! Credentials and TLS, as the command line of IPFS Cluster shows and speaks them.

use anyhow::{Context as _, ensure};
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::ctl::Ctl;
use cluster_tests::raw_http::request_with;
use cluster_tests::reference_ctl::ReferenceCtl;

use super::has;

fn rest(cluster: &Cluster) -> String {
    cluster
        .peer(0)
        .info()
        .rest
        .expect("the harness gives every peer an address for it")
}

/// What speaks to the peer's owner.
fn owner(cluster: &Cluster) -> anyhow::Result<Ctl> {
    Ctl::new(format!("unix:{}", cluster.peer(0).dir().join("admin.sock").display()))
}

async fn credential(cluster: &Cluster, name: &str, scope: &str, password: &str) -> anyhow::Result<()> {
    let file = cluster.root().join(format!("{name}.password"));
    std::fs::write(&file, password)?;
    let file = file.to_str().context("a path")?;
    let arguments = ["credential", "create", name, "--scope", scope, "--password-file", file];
    owner(cluster)?.run(&arguments).await.map(drop)
}

async fn restarted(cluster: &mut Cluster, options: &[(&str, &str)]) -> anyhow::Result<()> {
    for (key, value) in options {
        cluster.set(key, value);
    }
    cluster.configure(0)?;
    cluster.peer(0).restart().await
}

/// That who shows nothing right is told 401, whatever the command.
async fn unauthorized(ctl: &ReferenceCtl, arguments: &[&str]) -> anyhow::Result<()> {
    let told = ctl.fails(2, arguments).await?;
    has(&told, "401")?;
    has(&told, "unauthorized")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_by_flag_and_by_environment() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    restarted(&mut cluster, &[("api.auth", "required")]).await?;
    credential(&cluster, "alice", "admin", "wonder:land").await?;
    credential(&cluster, "bob", "read", "builder").await?;
    let ctl = ReferenceCtl::new(&[&rest(&cluster)]).await?;
    let shown = |credentials: &str| ctl.clone().with(&["--force-http", "--basic-auth", credentials]);

    let alice = shown("alice:wonder:land");
    let known = cluster.wait_until("the credential is known", LIMIT, async || alice.run(&["id"]).await);
    has(&known.await?, &cluster.peer(0).id())?;
    for wrong in [
        "alice",
        "alice:",
        "alice:builder",
        "bob:wonder:land",
        "carol:builder",
        "alice:wonder",
    ] {
        for arguments in [&["id"][..], &["peers", "ls"], &["status"], &["pin", "rm", "bafkqaaa"]] {
            unauthorized(&shown(wrong), arguments).await.context(wrong.to_owned())?;
        }
    }
    unauthorized(&ctl, &["id"]).await?;
    ensure!(alice.json(&["peers", "ls"]).await?.len() == 1);
    let cid = cluster_tests::content::fresh_cid().to_string();
    alice.run(&["pin", "add", "--no-status", &cid]).await?;
    // Reads, and no more; then by the environment.
    has(&shown("bob:builder").run(&["pin", "ls"]).await?, &cid)?;
    let told = shown("bob:builder").fails(2, &["pin", "rm", &cid]).await?;
    has(&told, "Code: 403")?;
    let ambient = ctl.clone().with(&["--force-http"]).credentials("bob:builder");
    has(&ambient.run(&["pin", "ls"]).await?, &cid)?;
    alice.run(&["pin", "rm", "--no-status", &cid]).await?;

    // Health needs none, and a browser's question neither.
    for (method, status) in [("GET", 204), ("OPTIONS", 405)] {
        let answer = request_with(&rest(&cluster), method, "/health", &[], b"").await?;
        ensure!(answer.status == status, "{method}: {}", answer.status);
    }
    owner(&cluster)?.run(&["credential", "revoke", "alice"]).await?;
    unauthorized(&alice, &["id"]).await?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_and_without_credentials() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let (certificate, key) = (cluster.root().join("cert.pem"), cluster.root().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    restarted(
        &mut cluster,
        &[("rest.tls_cert_file", &certificate), ("rest.tls_key_file", &key)],
    )
    .await?;

    let plain = ReferenceCtl::new(&[&rest(&cluster)]).await?;
    let secure = plain.clone().with(&["--https", "--no-check-certificate"]);
    has(&secure.run(&["id"]).await?, &cluster.peer(0).id())?;
    let cid = cluster_tests::content::fresh_cid().to_string();
    secure.run(&["pin", "add", "--no-status", &cid]).await?;
    // Streams come with their trailers.
    ensure!(secure.json(&["pin", "ls"]).await?.len() == 1 && secure.json(&["peers", "ls"]).await?.len() == 1);
    // A certificate that nobody vouches for, and no TLS at all.
    plain.clone().with(&["--https"]).fails(1, &["id"]).await?;
    ensure!(plain.try_run(&["id"]).await?.code != 0);

    restarted(&mut cluster, &[("api.auth", "required")]).await?;
    credential(&cluster, "alice", "admin", "wonderland").await?;
    let alice = plain
        .clone()
        .with(&["--no-check-certificate", "--basic-auth", "alice:wonderland", "--https"]);
    let known = cluster.wait_until("the credential is known", LIMIT, async || alice.run(&["version"]).await);
    has(&known.await?, "1.1.6")?;
    unauthorized(&secure, &["version"]).await?;
    // With credentials it speaks TLS by itself.
    has(
        &plain
            .clone()
            .with(&["--no-check-certificate", "--basic-auth", "alice:wonderland"])
            .run(&["id"])
            .await?,
        "node-1",
    )?;
    cluster.stop().await
}
