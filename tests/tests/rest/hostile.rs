//! Clients that mean no good, or do not know better: each is bounded and told so, costs little memory, and keeps nobody else
//! from being served.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use cluster_proto::v1;
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::{cid, fresh_bytes, fresh_cid};
use cluster_tests::node::NodeKind;
use cluster_tests::raw_http::{exchange, request, request_with, statuses};
use cluster_tests::wait::wait_until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use super::Api;

/// How long somebody else may wait for an answer meanwhile, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(15);
/// What all of it together may cost a peer.
const MEMORY: u64 = 64 << 20;
/// Between two questions of somebody else.
const EVERY: Duration = Duration::from_millis(50);

/// Somebody else, who goes on asking.
struct Bystander {
    stop: Arc<AtomicBool>,
    task: JoinHandle<anyhow::Result<u32>>,
    before: u64,
    pid: u32,
}

/// The resident memory of a process in bytes.
fn resident(pid: u32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    let kib = line.trim().strip_suffix("kB").context("no VmRSS")?;
    Ok(kib.trim().parse::<u64>()? * 1024)
}

impl Bystander {
    fn watch(cluster: &Cluster) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (ended, address) = (stop.clone(), Api::of(cluster, 0).0);
        let pid = cluster.peer(0).pid().context("it runs")?;
        let before = resident(pid)?;
        let task = tokio::spawn(async move {
            let mut asked = 0;
            while !ended.load(Ordering::Relaxed) {
                let begun = Instant::now();
                request(&address, "GET", "/version").await?.json(200)?;
                ensure!(begun.elapsed() < PATIENCE, "somebody else waited {:?}", begun.elapsed());
                let grown = resident(pid)?.saturating_sub(before);
                ensure!(grown < MEMORY, "the peer grew by {} MiB", grown >> 20);
                asked += 1;
                tokio::time::sleep(EVERY).await;
            }
            Ok(asked)
        });
        Ok(Self {
            stop,
            task,
            before,
            pid,
        })
    }

    /// That it was served all the time, and the peer has not grown.
    async fn end(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let asked = self.task.await??;
        ensure!(asked > 0, "nobody else asked anything");
        let grown = resident(self.pid)?.saturating_sub(self.before);
        ensure!(grown < MEMORY, "the peer grew by {} MiB", grown >> 20);
        Ok(())
    }
}

/// Sends the beginning, then a byte now and then, and reads until the connection ends.
async fn drip(address: &str, beginning: &str, every: Duration, count: usize) -> anyhow::Result<Vec<u8>> {
    let (mut read, mut write) = TcpStream::connect(address).await?.into_split();
    write.write_all(beginning.as_bytes()).await?;
    let dripping = async move {
        for _ in 0..count {
            tokio::time::sleep(every).await;
            // It ends when nobody takes it any more.
            if write.write_all(b"a").await.is_err() {
                break;
            }
        }
        write
    };
    let mut answer = Vec::new();
    let reading = async {
        // A reset is an end too.
        let _ = read.read_to_end(&mut answer).await;
    };
    let both = async { tokio::join!(dripping, reading) };
    let limited = tokio::time::timeout(Duration::from_secs(60), both);
    let _write = limited.await.context("the connection stayed open")?.0;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_slowly_or_not_at_all_is_ended_in_time() -> anyhow::Result<()> {
    let options = ClusterOptions::fakes(1)
        .with("rest.head_timeout", "500ms")
        .with("rest.idle_timeout", "700ms")
        .with("rest.body_idle_timeout", "500ms")
        .with("rest.body_timeout", "1s");
    let cluster = Cluster::start(options).await?;
    let address = Api::of(&cluster, 0).0;
    let bystander = Bystander::watch(&cluster)?;
    let (never, slowly) = ((Duration::ZERO, 0), (Duration::from_millis(100), 100));
    let json = "POST /peers HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{";
    let parts = "POST /add HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 100000\r\n\r\n--b\r\n";
    let cases: [(&str, (Duration, usize), &[u16]); 9] = [
        // Nothing at all, and half a head.
        ("", never, &[]),
        ("GET /id HTTP/1.1\r\nHo", never, &[408]),
        ("GET /id HTTP/1.1\r\nHost: x\r\nX-Long: ", slowly, &[408]),
        // One request, and no further one.
        ("GET /id HTTP/1.1\r\nHost: x\r\n\r\n", never, &[200]),
        ("GET /id HTTP/1.1\r\nHost: x\r\n\r\nGET ", slowly, &[200, 408]),
        // Bodies: one that stops, and one that is slow as a whole.
        (json, never, &[408]),
        (json, slowly, &[408]),
        (parts, never, &[408]),
        (
            "POST /add HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nTransfer-Encoding: chunked\r\n\r\nff",
            never,
            &[408],
        ),
    ];
    for (beginning, (every, count), expected) in cases {
        let all = (0..20).map(|_| drip(&address, beginning, every, count));
        for answer in futures::future::try_join_all(all).await? {
            let found = statuses(&answer);
            ensure!(found == expected, "{beginning:?}: {found:?} instead of {expected:?}");
        }
    }
    bystander.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_nothing_is_given_up() -> anyhow::Result<()> {
    let options = ClusterOptions::fakes(1).with("rest.stall_timeout", "1s");
    let cluster = Cluster::start(options).await?;
    // More than two systems' buffers hold.
    let metadata = (0..7)
        .map(|number| (format!("key-{number}"), "x".repeat(4_000)))
        .collect();
    let options = v1::PinOptions {
        metadata,
        ..v1::PinOptions::default()
    };
    let pin = |number: u64| v1::BulkPinItem {
        cid: cid(number).to_string(),
        options: Some(options.clone()),
        ..v1::BulkPinItem::default()
    };
    cluster.client(0).bulk((0..500).map(pin).collect(), 100).await?;
    let address = Api::of(&cluster, 0).0;
    let bystander = Bystander::watch(&cluster)?;
    for target in ["/allocations", "/pins"] {
        let mut streams = Vec::new();
        for _ in 0..4 {
            let socket = TcpSocket::new_v4()?;
            // The less the system holds for a client, the sooner it is seen that it takes nothing.
            socket.set_recv_buffer_size(16 << 10)?;
            let mut stream = socket.connect(address.parse()?).await?;
            let asked = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
            stream.write_all(asked.as_bytes()).await?;
            streams.push(stream);
        }
        for mut stream in streams {
            // The connection is reset, while nobody reads.
            wait_until("the client is given up", LIMIT, async || {
                stream.take_error()?.context("the connection is whole").map(drop)
            })
            .await?;
            let mut taken = Vec::new();
            let _ = stream.read_to_end(&mut taken).await;
            ensure!(taken.len() < (1 << 20), "{target}: {} bytes of it came", taken.len());
        }
    }
    ensure!(
        request(&address, "GET", "/allocations").await?.lines()?.len() == 500,
        "who reads gets all"
    );
    bystander.end().await
}

/// A list is given up when nothing of it was taken for half a minute, so that it holds no snapshot for ever. Whoever reads on,
/// however slowly, gets all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_slowly_gets_the_whole_list() -> anyhow::Result<()> {
    // More than the peer and two systems' buffers hold of it, in chunks of a megabyte.
    const PINS: u64 = 600;
    const SLOWLY: Duration = Duration::from_secs(35);
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let metadata = (0..7)
        .map(|number| (format!("key-{number}"), "x".repeat(4_000)))
        .collect();
    let options = v1::PinOptions {
        metadata,
        ..v1::PinOptions::default()
    };
    let pin = |number: u64| v1::BulkPinItem {
        cid: cid(number).to_string(),
        options: Some(options.clone()),
        ..v1::BulkPinItem::default()
    };
    cluster.client(0).bulk((0..PINS).map(pin).collect(), 100).await?;
    let address = Api::of(&cluster, 0).0;
    let read = ["/allocations", "/pins"].map(|target| {
        let address = address.clone();
        async move {
            let socket = TcpSocket::new_v4()?;
            // Small, and yet the rest comes fast: below a segment of this system's own network each has to wait.
            socket.set_recv_buffer_size(128 << 10)?;
            let mut stream = socket.connect(address.parse()?).await?;
            let asked = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(asked.as_bytes()).await?;
            let (begun, mut bytes) = (Instant::now(), Vec::new());
            while begun.elapsed() < SLOWLY {
                let mut some = [0; 4 << 10];
                let read = stream.read(&mut some).await?;
                ensure!(read > 0, "{target}: it ended after {} bytes", bytes.len());
                bytes.extend_from_slice(&some[..read]);
                // 20 KB a second: slowness is what is looked at.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            let rest = tokio::time::timeout(LIMIT, stream.read_to_end(&mut bytes)).await;
            rest.context("the rest did not come")??;
            Ok((target, bytes))
        }
    });
    // Looked at when both have been read: that takes its time, in which nothing would be.
    for (target, bytes) in futures::future::try_join_all(read).await? {
        let text = String::from_utf8_lossy(&bytes);
        // A line is in one piece.
        let cids = text.split("\"cid\":\"").skip(1);
        let mut found: Vec<&str> = cids.filter_map(|rest| rest.split('"').next()).collect();
        found.sort_unstable();
        let mut expected: Vec<String> = (0..PINS).map(|number| cid(number).to_string()).collect();
        expected.sort_unstable();
        ensure!(found == expected, "{target}: {} of {PINS}, or some twice", found.len());
        let end = &text[text.len().saturating_sub(100)..];
        ensure!(
            end.to_ascii_lowercase().ends_with("x-stream-error: \r\n\r\n"),
            "{target}: {end}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_that_nobody_reads_cost_little() -> anyhow::Result<()> {
    const READERS: usize = 150;
    const PINS: u64 = 400;
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    // A page of them is as large as one gets, and more than two systems' buffers hold.
    let metadata = (0..7)
        .map(|number| (format!("key-{number}"), "x".repeat(4_000)))
        .collect();
    let options = v1::PinOptions {
        metadata,
        ..v1::PinOptions::default()
    };
    let pin = |number: u64| v1::BulkPinItem {
        cid: cid(number).to_string(),
        options: Some(options.clone()),
        ..v1::BulkPinItem::default()
    };
    cluster.client(0).bulk((0..PINS).map(pin).collect(), 100).await?;
    let address = Api::of(&cluster, 0).0;
    let bystander = Bystander::watch(&cluster)?;
    let mut held = Vec::new();
    for number in 0..READERS {
        let target = ["/allocations", "/pins"][number % 2];
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(16 << 10)?;
        let mut stream = socket.connect(address.parse()?).await?;
        let asked = format!("GET {target}?limit=1000 HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(asked.as_bytes()).await?;
        let mut some = [0; 15];
        stream.read_exact(&mut some).await?;
        ensure!(&some == b"HTTP/1.1 200 OK", "{:?}", String::from_utf8_lossy(&some));
        held.push(stream);
    }
    // Whoever reads gets all meanwhile, in more pages.
    for target in ["/allocations", "/pins"] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = request(&address, "GET", &format!("{target}?limit=1000&cursor={cursor}")).await?;
            ensure!(
                page.body.len() < (5 << 20),
                "{target}: a page of {} bytes",
                page.body.len()
            );
            for line in page.lines()? {
                seen.push(line["cid"].as_str().context("a CID")?.to_owned());
            }
            match page.header("x-next-cursor") {
                Some(next) => next.clone_into(&mut cursor),
                None => break,
            }
        }
        let mut expected: Vec<String> = (0..PINS).map(|number| cid(number).to_string()).collect();
        expected.sort_unstable();
        seen.sort_unstable();
        ensure!(seen == expected, "{target}: {} of {PINS}, or some twice", seen.len());
    }
    bystander.end().await?;
    drop(held);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_and_heads_have_their_bounds() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let api = Api::of(&cluster, 0);
    let bystander = Bystander::watch(&cluster)?;
    let long = |bytes: usize| "x".repeat(bytes);
    let many = "a=b&".repeat(16_000);
    let cids: Vec<String> = (0..1_000).map(|number| cid(number).to_string()).collect();
    let pairs: String = (0..1_000).map(|number| format!("meta-{number}=x&")).collect();
    let fresh = fresh_cid();
    for (method, target, expected) in [
        ("GET", format!("/pins?cids={}", long(65_600)), 414),
        ("GET", format!("/pins?cids={}", long(1 << 20)), 414),
        ("GET", format!("/{}", long(70_000)), 414),
        ("GET", format!("/pins?{many}"), 200),
        ("GET", format!("/pins?cids={}", cids.join(",")), 200),
        ("GET", format!("/pins?cids={}", ",".repeat(60_000)), 200),
        ("GET", format!("/pins?filter={}", "pinned,".repeat(8_000)), 200),
        ("GET", format!("/pins?filter={}", long(60_000)), 400),
        ("GET", format!("/allocations?name={}", long(60_000)), 400),
        ("GET", format!("/allocations?cursor={}", long(60_000)), 400),
        ("GET", format!("/monitor/metrics/{}", long(60_000)), 200),
        ("POST", format!("/pins/{fresh}?name={}", long(60_000)), 400),
        ("POST", format!("/pins/{fresh}?{pairs}"), 400),
        ("POST", format!("/pins/{fresh}?meta-x={}", long(60_000)), 400),
        (
            "POST",
            format!(
                "/pins/{fresh}?origins={}",
                "/ip4/1.1.1.1/tcp/1/p2p/QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG,".repeat(500)
            ),
            400,
        ),
        (
            "POST",
            format!(
                "/pins/{fresh}?user-allocations={}",
                "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG,".repeat(1_000)
            ),
            200,
        ),
        ("POST", format!("/pins/{}", long(60_000)), 400),
        (
            "POST",
            format!("/pins/ipfs/{fresh}/{}", "a/".repeat(30_000).trim_end_matches('/')),
            404,
        ),
        ("POST", format!("/pins/{fresh}?expire-in={}", "9".repeat(60_000)), 400),
        ("GET", format!("/pins/{fresh}?local=%00%ff%fe"), 400),
    ] {
        let shown = &target[..target.len().min(60)];
        let answer = request(&api.0, method, &target)
            .await
            .with_context(|| shown.to_owned())?;
        ensure!(
            answer.status == expected,
            "{method} {shown}: {} {:.300}",
            answer.status,
            answer.text()
        );
        ensure!(
            answer.status == 200 || answer.body.len() < (4 << 10),
            "{method} {shown}: an answer of {} bytes",
            answer.body.len()
        );
    }
    let headers: Vec<(String, String)> = (0..200).map(|number| (format!("X-{number}"), "x".into())).collect();
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    ensure!(request_with(&api.0, "GET", "/id", &headers, b"").await?.status == 431);
    // A megabyte of JSON is read, more is not.
    for (bytes, expected) in [(1_000_000, 400), (2_000_000, 413)] {
        let body = format!("{{\"peer_id\":\"{}\"}}", long(bytes));
        let answer = api.post_body("/peers", "application/json", body.as_bytes()).await?;
        ensure!(answer.status == expected, "{bytes}: {}", answer.status);
        ensure!(answer.error(expected)?.len() < 1_000, "it is not told back");
    }
    // Deep JSON ends no stack.
    let deep = "[".repeat(500_000);
    api.post_body("/peers", "application/json", deep.as_bytes())
        .await?
        .error(400)?;
    bystander.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_idle_connections_keep_nobody_out() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(1).with("rest.connections_max", 1_500)).await?;
    let address = Api::of(&cluster, 0).0;
    let bystander = Bystander::watch(&cluster)?;
    let mut streams = Vec::new();
    for number in 0..2_000 {
        let mut stream = TcpStream::connect(&address).await?;
        if number % 2 == 0 {
            // It has asked once, and rests.
            stream.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n").await?;
            let mut some = [0; 16];
            stream.read_exact(&mut some).await?;
            ensure!(
                &some == b"HTTP/1.1 200 OK\r",
                "{number}: {:?}",
                String::from_utf8_lossy(&some)
            );
        }
        streams.push(stream);
    }
    let begun = Instant::now();
    for _ in 0..20 {
        request(&address, "GET", "/id").await?.json(200)?;
    }
    ensure!(begun.elapsed() < 4 * PATIENCE, "{:?}", begun.elapsed());
    bystander.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_that_are_none_are_400_and_lead_no_further() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let address = Api::of(&cluster, 0).0;
    let bystander = Bystander::watch(&cluster)?;
    let hidden = fresh_cid();
    let next = format!("POST /pins/{hidden} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    let long = format!("1;{}\r\na\r\n", "x".repeat(1 << 20));
    for chunks in [
        "zz\r\n",
        "-1\r\n",
        "+1\r\na\r\n",
        "0x1\r\na\r\n",
        "fffffffffffffffff\r\n",
        "1\r\nab\r\n",
        "1\nab\n",
        "\r\n\r\n",
        "3 \r\nabc\rx",
        &long,
    ] {
        for (path, kind) in [
            ("/peers", "application/json"),
            ("/add", "multipart/form-data; boundary=b"),
        ] {
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
            );
            let sent = format!("{head}{chunks}{next}");
            let answer = exchange(&address, sent.as_bytes()).await?;
            let found = statuses(&answer);
            ensure!(found == [400], "{path} {chunks:.20}: {found:?}");
        }
    }
    request(&address, "GET", &format!("/allocations/{hidden}"))
        .await?
        .error(404)?;
    bystander.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_hides_in_another() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let address = Api::of(&cluster, 0).0;
    let hidden = fresh_cid();
    let next = format!("POST /pins/{hidden} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    let of = |head: &str| format!("POST /peers HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n0\r\n\r\n{next}");
    let lengths = [
        "+5",
        "-1",
        "0x5",
        "5 5",
        "5, 6",
        "5,5,6",
        "99999999999999999999",
        "five",
        "",
    ];
    let mut requests: Vec<String> = lengths
        .iter()
        .map(|length| of(&format!("Content-Length: {length}")))
        .collect();
    requests.extend(
        [
            // Two ways to tell where the body ends.
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 200",
            "Content-Length: 5\r\nContent-Length: 200",
            // What is not quite `chunked`.
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: gzip",
            "Transfer-Encoding: \"chunked\"",
            "Transfer-Encoding : chunked",
            " Transfer-Encoding: chunked",
            "Transfer-Encoding:\r\n chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            // Heads that are none.
            "X-Null: a\0b",
            "X-Return: a\rContent-Length: 5",
            "No colon",
            ": no name",
            "Na me: x",
            "Host: y",
        ]
        .map(of),
    );
    requests.extend([
        format!("POST /peers HTTP/1.1\r\nContent-Length: 0\r\n\r\n{next}"),
        format!("POST /peers HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{next}"),
        format!("POST  /peers  HTTP/1.1\r\nHost: x\r\n\r\n{next}"),
        format!("POST /peers HTTP/1.1 x\r\nHost: x\r\n\r\n{next}"),
        format!("POST /pe ers HTTP/1.1\r\nHost: x\r\n\r\n{next}"),
        format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{next}"),
        format!("POST /peers HTTP/9.9\r\nHost: x\r\n\r\n{next}"),
    ]);
    for sent in requests {
        let answer = exchange(&address, sent.as_bytes()).await?;
        let found = statuses(&answer);
        // What follows one that has no body, and is no request either, may be told so too; another protocol is not answered.
        ensure!(found.iter().all(|status| *status >= 400), "{sent:?}: {found:?}");
    }
    let answer = request(&address, "GET", &format!("/allocations/{hidden}")).await?;
    answer.error(404)?;
    // The same request in the open is one.
    let answer = exchange(
        &address,
        next.replace("Host: x", "Host: x\r\nConnection: close").as_bytes(),
    )
    .await?;
    ensure!(statuses(&answer) == [200]);
    Ok(())
}

const PARTS: &str = "multipart/form-data; boundary=b";

/// A part with these headers beside its name.
fn part(name: &str, headers: &str, content: &str) -> String {
    format!("--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n{headers}\r\n{content}\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forms_that_are_none_are_told_so() -> anyhow::Result<()> {
    let options = ClusterOptions {
        peers: 1,
        node: NodeKind::Embedded,
        ..ClusterOptions::default()
    };
    let options = options.with("embedded.free_min", "1MiB").with("rest.parts_max", 50);
    let cluster = Cluster::start(options).await?;
    let api = Api::of(&cluster, 0);
    let bystander = Bystander::watch(&cluster)?;
    let good = part("x", "", "content") + "--b--\r\n";
    for kind in [
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=\"\"",
        "multipart/related; boundary=b",
        "text/plain; boundary=b",
        "multipart/form-data; boundary=\"b",
        &format!("multipart/form-data; boundary={}", "b".repeat(1_000)),
        "",
    ] {
        let message = api
            .post_body("/add", kind, good.as_bytes())
            .await?
            .error(400)
            .context(kind.to_owned())?;
        ensure!(
            message.contains("multipart") || message.contains("boundary"),
            "{kind}: {message}"
        );
    }
    let end = "--b--\r\n";
    let endless = format!("X-Long: {}\r\n", "x".repeat(1 << 20));
    let many: String = (0..2_000).map(|number| format!("X-{number}: x\r\n")).collect();
    let parts: String = (0..100).map(|number| part(&format!("d/{number}"), "", "x")).collect();
    let cases: Vec<(String, u16)> = vec![
        // Cut off: in the content, in a head, before the last boundary, in it, in the first one.
        (part("x", "", "content"), 400),
        ("--b\r\nContent-Disposition: form-data; na".into(), 400),
        (part("x", "", "content") + "--b", 400),
        (part("x", "", "content") + "--b-", 400),
        ("--".into(), 400),
        (String::new(), 400),
        // Without an end, or without a beginning.
        (part("x", &endless, "content") + end, 400),
        (part("x", &many, "content") + end, 400),
        ("x".repeat(1 << 20), 400),
        ("x".repeat(1 << 20) + "\r\n" + &good, 400),
        ("--c\r\n\r\nx\r\n--c--\r\n".into(), 400),
        (part("x", "No colon\r\n", "content") + end, 400),
        (part(&"x".repeat(20_000), "", "content") + end, 400),
        (parts + end, 413),
        // One in another is a file, or an empty directory, as for IPFS Cluster.
        (
            part(
                "x",
                "Content-Type: multipart/mixed; boundary=c\r\n",
                "--c\r\n\r\ninner\r\n--c--",
            ) + end,
            200,
        ),
        // Names that lead out lead nowhere.
        (part("../../../etc/passwd", "", "x") + end, 200),
        (part("d%2F..%2F..%2F..%2Fy", "", "x") + end, 200),
        (part("", "", "x") + end, 200),
    ];
    for (body, expected) in &cases {
        for stream in ["stream-channels=true", "stream-channels=false"] {
            let answer = api
                .post_body(&format!("/add?no-pin=true&{stream}"), PARTS, body.as_bytes())
                .await?;
            // What came before may have been answered by then; the error is in the trailer.
            let trailer = answer.trailer("x-stream-error").unwrap_or_default();
            let failed = *expected != 200 && answer.status == 200 && stream.ends_with("true") && !trailer.is_empty();
            ensure!(
                answer.status == *expected || failed,
                "{:.80}: {} {:.300}",
                body,
                answer.status,
                answer.text()
            );
            for line in answer.text().lines().filter(|_| *expected == 200) {
                ensure!(!line.contains(".."), "{line}");
            }
        }
    }
    // A tower of directories ends no stack.
    let tower = part(&"d/".repeat(2_000), "", "x") + end;
    let answer = api.post_body("/add?no-pin=true", PARTS, tower.as_bytes()).await?;
    ensure!([200, 400].contains(&answer.status), "{}", answer.text());
    ensure!(
        api.get("/allocations").await?.lines()?.is_empty(),
        "none of it left a pin"
    );
    bystander.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_stop_cost_little_and_end() -> anyhow::Result<()> {
    let options = ClusterOptions {
        peers: 1,
        node: NodeKind::Embedded,
        ..ClusterOptions::default()
    };
    let options = options
        .with("embedded.free_min", "1MiB")
        .with("rest.body_idle_timeout", "3s");
    let cluster = Cluster::start(options).await?;
    let api = Api::of(&cluster, 0);
    let bystander = Bystander::watch(&cluster)?;
    // So many that no place for an add is left, each with a megabyte of its file and no more.
    let mut held = Vec::new();
    let head = "POST /add HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 99999999\r\n\r\n";
    let begun = part("x", "", "");
    for _ in 0..40 {
        let mut stream = TcpStream::connect(&api.0).await?;
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(begun.trim_end().as_bytes()).await?;
        stream.write_all(b"\r\n\r\n").await?;
        let content = fresh_bytes(1 << 20);
        // One that is refused is not read to its end.
        let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(&content)).await;
        held.push(stream);
    }
    let mut found = Vec::new();
    for mut stream in held {
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await?;
        found.extend(statuses(&answer));
    }
    // Those that found no place waited for one, and then stopped too.
    ensure!(found.iter().all(|status| [408, 503].contains(status)), "{found:?}");
    ensure!(found.iter().filter(|status| **status == 408).count() >= 20, "{found:?}");
    // And then there is room again.
    let good = part("x", "", "content") + "--b--\r\n";
    wait_until("an add works", PATIENCE, async || {
        let answer = api.post_body("/add", PARTS, good.as_bytes()).await?;
        ensure!(answer.status == 200, "{}", answer.text());
        Ok(())
    })
    .await?;
    bystander.end().await
}
