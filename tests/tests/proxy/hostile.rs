//! Nodes and clients that do what they should not: each costs its own call only, and is answered properly.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::ensure;
use cluster_tests::cluster::LIMIT;
use cluster_tests::content::cid;
use cluster_tests::raw_http::request_with;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::upstream::{Behaviour, Upstream};
use super::{Proxy, kubo_error};

/// The memory that a process has in RAM.
fn resident(pid: u32) -> anyhow::Result<u64> {
    super::large::memory(pid, "VmRSS:")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_answer_nonsense() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let cluster = upstream.cluster(&[("proxy.answer_timeout", "2s")]).await?;
    let proxy = Proxy::of(&cluster, 0);

    // What is no HTTP.
    for garbage in [
        &b""[..],
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"\x16\x03\x01\x00\xa5",
        b"HTTP/1.1 200 OK\r\nbro",
    ] {
        upstream.behave(Behaviour::Bytes(garbage.to_vec()));
        let message = kubo_error(&proxy.call("cat?arg=x").await?, 502)?;
        assert!(message.contains("does not answer"), "{message}");
    }
    // A head without an end.
    let mut endless = b"HTTP/1.1 200 OK\r\nX-Long: ".to_vec();
    endless.resize(1 << 20, b'x');
    upstream.behave(Behaviour::Bytes(endless));
    assert_eq!(proxy.call("cat?arg=x").await?.status, 502);
    // No word at all, or a head that stays behind.
    for begun in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Type: text/pl"] {
        upstream.behave(Behaviour::Hang(begun.to_vec()));
        let began = Instant::now();
        let message = kubo_error(&proxy.call("cat?arg=x").await?, 504)?;
        assert!(
            message.contains("did not answer within") && message.contains("proxy.answer_timeout"),
            "{message}"
        );
        assert!(began.elapsed() < Duration::from_secs(20));
    }
    // An answer that breaks off: the client's breaks off too, and never seems to be whole.
    for cut in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
    ] {
        upstream.behave(Behaviour::Bytes(cut.to_vec()));
        ensure!(
            proxy.call("cat?arg=x").await.is_err(),
            "{}",
            String::from_utf8_lossy(cut)
        );
    }
    // Trailers come through, and headers of the connection don't.
    let late = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Stream-Error\r\nX-Own: kept\r\nKeep-Alive: timeout=9\r\n\
                 Connection: keep-alive, x-hop\r\nX-Hop: 1\r\n\r\n5\r\nhello\r\n0\r\nX-Stream-Error: it broke\r\n\r\n";
    upstream.behave(Behaviour::Bytes(late.to_vec()));
    let answer = proxy.call("cat?arg=x").await?;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    assert_eq!(answer.trailer("x-stream-error"), Some("it broke"));
    assert_eq!(
        (
            answer.header("x-own"),
            answer.header("x-hop"),
            answer.header("keep-alive")
        ),
        (Some("kept"), None, None)
    );

    // The cluster's calls that need an answer of the node.
    for garbage in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<html>hi\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{\"Key\":\"nothing\"",
    ] {
        upstream.behave(Behaviour::Bytes(garbage.to_vec()));
        for call in ["block/put?pin=true", "dag/put?pin=true"] {
            kubo_error(&proxy.upload(call, &[("x", b"x")]).await?, 500)?;
        }
        kubo_error(&proxy.call(&format!("pin/add?arg=/ipns/x{}", cid(1))).await?, 500)?;
    }
    let mut long = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    long.resize(1 << 20, b'x');
    upstream.behave(Behaviour::Bytes(long));
    let message = kubo_error(&proxy.upload("block/put?pin=true", &[("x", b"x")]).await?, 500)?;
    assert!(message.contains("too long"), "{message}");
    // An error of the node is the answer.
    let refusal = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nContent-Length: 46\r\n\r\n{\"Message\":\"no room\",\"Code\":0,\"Type\":\"error\"}\n";
    upstream.behave(Behaviour::Bytes(refusal.to_vec()));
    let answer = proxy.upload("block/put?pin=true", &[("x", b"x")]).await?;
    assert_eq!((answer.status, answer.text().contains("no room")), (500, true));
    // Pins need none of it.
    proxy.call(&format!("pin/add?arg={}", cid(1))).await?.json(200)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_node_sees_of_a_request() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let cluster = upstream.cluster(&[]).await?;
    let proxy = Proxy::of(&cluster, 0);
    upstream.behave(Behaviour::Bytes(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(),
    ));
    let headers = [
        ("X-Own", "kept"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("Connection", "x-hop"),
        ("X-Hop", "1"),
        ("Cookie", "a=b"),
        ("Expect", "100-continue"),
    ];
    upstream.heads.lock().clear();
    let answer = proxy.call_with("files/rm?arg=%2Fa%20b&arg=c+d", &headers).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let head = upstream.heads.lock().pop().unwrap_or_default();
    let lower = head.to_ascii_lowercase();
    assert!(
        head.starts_with("POST /api/v0/files/rm?arg=%2Fa%20b&arg=c+d HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(
        lower.contains("x-own: kept\r\n") && lower.contains("x-forwarded-for: 10.0.0.1, 127.0.0.1\r\n"),
        "{head}"
    );
    for gone in ["x-hop", "cookie", "expect", "authorization"] {
        assert!(!lower.contains(&format!("\r\n{gone}:")), "{gone}: {head}");
    }
    // Pins of the cluster don't reach it in any spelling.
    for call in [
        "pin/add",
        "pin%2Fadd",
        "pin/add/",
        "%70in/add",
        "pin/rm",
        "add",
        "repo/gc",
    ] {
        upstream.heads.lock().clear();
        let _ = proxy.call(&format!("{call}?arg={}", cid(2))).await?;
        let heads = upstream.heads.lock().clone();
        // What the worker asks of its node when it pins is its own, and says nothing of a client.
        let passed: Vec<_> = heads
            .iter()
            .filter(|head| head.to_ascii_lowercase().contains("x-forwarded-for"))
            .collect();
        assert!(passed.is_empty(), "{call}: {passed:?}");
    }
    // Smuggling: two lengths, or a length and chunks.
    for heads in [
        &[("Content-Length", "1"), ("Content-Length", "2")][..],
        &[("Content-Length", "5"), ("Transfer-Encoding", "chunked")],
    ] {
        upstream.heads.lock().clear();
        let answer = request_with(&proxy.0, "POST", "/api/v0/files/rm", heads, b"").await;
        let refused = answer.is_err() || answer.is_ok_and(|answer| answer.status == 400);
        assert!(
            refused
                || upstream
                    .heads
                    .lock()
                    .iter()
                    .all(|head| !head.to_ascii_lowercase().contains("content-length"))
        );
    }
    // The head of a request is bounded.
    let long = "x".repeat(200_000);
    let answer = proxy.call_with("files/rm", &[("X-Long", &long)]).await?;
    kubo_error(&answer, 431)?;
    let fits = "x".repeat(10_000);
    assert_eq!(proxy.call_with("files/rm", &[("X-Long", &fits)]).await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_leave_and_clients_that_read_nothing() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let cluster = upstream.cluster(&[]).await?;
    let proxy = Proxy::of(&cluster, 0);
    let ask = async || -> anyhow::Result<TcpStream> {
        let mut stream = TcpStream::connect(&proxy.0).await?;
        let head = format!("POST /api/v0/cat?arg=x HTTP/1.1\r\nHost: {}\r\n\r\n", proxy.0);
        stream.write_all(head.as_bytes()).await?;
        Ok(stream)
    };
    let is_open = |count: usize| {
        let open = upstream.open.clone();
        async move {
            let open = open.load(Ordering::SeqCst);
            ensure!(open == count, "{open} calls are open at the node");
            Ok(())
        }
    };
    // One that leaves while the node is silent, one in the middle of an answer: the node's call ends.
    upstream.behave(Behaviour::Hang(Vec::new()));
    let stream = ask().await?;
    cluster
        .wait_until("the call reaches the node", LIMIT, async || is_open(1).await)
        .await?;
    drop(stream);
    cluster
        .wait_until("the call ends", LIMIT, async || is_open(0).await)
        .await?;
    upstream.behave(Behaviour::Endless);
    let mut stream = ask().await?;
    let mut some = vec![0; 1 << 20];
    stream.read_exact(&mut some).await?;
    drop(stream);
    cluster
        .wait_until("the call ends", LIMIT, async || is_open(0).await)
        .await?;

    // Many that read nothing of an endless answer: the peer holds little for each, and serves others.
    let pid = cluster.peer(0).info().pid;
    let before = resident(pid)?;
    let mut silent = Vec::new();
    for _ in 0..32 {
        silent.push(ask().await?);
    }
    cluster
        .wait_until("all reach the node", LIMIT, async || is_open(32).await)
        .await?;
    for _ in 0..20 {
        proxy.call("pin/ls").await?.json(200)?;
    }
    let grown = resident(pid)?.saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes for 32 clients");
    drop(silent);
    cluster
        .wait_until("the calls end", LIMIT, async || is_open(0).await)
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_reads_slowly_slows_its_client_and_nobody_else() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let cluster = upstream.cluster(&[]).await?;
    let proxy = Proxy::of(&cluster, 0);
    upstream.behave(Behaviour::SlowReader(256 * 1024));
    let pid = cluster.peer(0).info().pid;
    let before = resident(pid)?;
    let body = vec![7; 64 << 20];
    let peak = super::large::peak_while(pid, async {
        // As in `files/write`: nothing of it is kept on the way.
        let answer = proxy.upload("files/write?arg=/x", &[("x", &body)]).await?;
        ensure!(answer.status == 200, "{}", answer.text());
        Ok(())
    });
    let others = async {
        for _ in 0..20 {
            proxy.call("pin/ls").await?.json(200)?;
        }
        anyhow::Ok(())
    };
    let (peak, ()) = tokio::try_join!(peak, others)?;
    let grown = peak.saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes for a body of 64 MiB");
    Ok(())
}
