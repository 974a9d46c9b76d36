//! The gateway's answers, header by header.

mod support;

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use cluster_content::AddOptions;
use cluster_dag::unixfs::Chunker;
use cluster_gateway::{GatewayOptions, gateway, limits};
use cluster_http::Limits;
use http::{HeaderMap, Method, Request, StatusCode};
use node_core::Cid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tower::ServiceExt as _;

use support::{Served, Store, cids, client, noise, read_car};

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Result<Vec<u8>, axum::Error>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    fn bytes(&self) -> &[u8] {
        self.body.as_ref().expect("a whole body")
    }

    fn words(&self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }
}

async fn ask_as(store: &Arc<Store>, method: Method, url: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).expect("a request");
    let router = gateway::router(store.clone(), GatewayOptions::default());
    let response = router.oneshot(request).await.expect("infallible");
    Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: to_bytes(response.into_body(), usize::MAX).await.map(Into::into),
    }
}

async fn ask(store: &Arc<Store>, url: &str, headers: &[(&str, &str)]) -> Answer {
    ask_as(store, Method::GET, url, headers).await
}

/// A directory with a file of ten chunks, and one of one.
async fn content(store: &Arc<Store>) -> (Cid, Cid) {
    let mut options = AddOptions::v1_2025();
    options.unixfs.chunker = Chunker::Size(100);
    options.unixfs.file_links_max = 4;
    let large = noise(1000, 1);
    let root = store
        .add(options.clone(), &[("d/large", &large), ("d/s/small", b"small")])
        .await;
    let file = store.add(options, &[("large", &large)]).await;
    (root, file)
}

const RAW: &str = "application/vnd.ipld.raw";
const CAR: &str = "application/vnd.ipld.car";

#[tokio::test]
async fn a_raw_block_comes_with_all_its_headers() {
    let store = Store::new();
    let (root, _) = content(&store).await;
    let bytes = store.block(&root).expect("added").bytes().clone();
    for (url, accept) in [
        (format!("/ipfs/{root}?format=raw"), "*/*"),
        (format!("/ipfs/{root}"), RAW),
    ] {
        let got = ask(&store, &url, &[("accept", accept)]).await;
        assert_eq!(got.status, 200);
        assert_eq!(got.bytes(), bytes);
        for (name, value) in [
            ("content-type", RAW.to_owned()),
            ("content-length", bytes.len().to_string()),
            ("etag", format!("\"{root}.raw\"")),
            ("cache-control", "public, max-age=29030400, immutable".into()),
            ("content-disposition", format!("attachment; filename=\"{root}.bin\"")),
            ("x-content-type-options", "nosniff".into()),
            ("accept-ranges", "bytes".into()),
            ("x-ipfs-path", format!("/ipfs/{root}")),
        ] {
            assert_eq!(got.header(name), value, "{name}");
        }
        let location = if accept == RAW {
            format!("/ipfs/{root}?format=raw")
        } else {
            String::new()
        };
        assert_eq!(got.header("content-location"), location);

        let head = ask_as(&store, Method::HEAD, &url, &[("accept", accept)]).await;
        assert_eq!((head.status, head.bytes()), (200, &b""[..]));
        assert_eq!(head.headers, got.headers);
    }
    let named = ask(&store, &format!("/ipfs/{root}?format=raw&filename=a%20%C3%BC.bin"), &[]).await;
    assert_eq!(
        named.header("content-disposition"),
        "attachment; filename=\"a _.bin\"; filename*=UTF-8''a%20%C3%BC.bin"
    );
}

#[tokio::test]
async fn a_head_request_reads_no_block() {
    let store = Store::new();
    let (root, _) = content(&store).await;
    let head = ask_as(&store, Method::HEAD, &format!("/ipfs/{root}?format=raw"), &[]).await;
    assert_eq!((head.status, store.reads()), (200, 0));
}

#[tokio::test]
async fn parts_of_a_block_can_be_had() {
    let store = Store::new();
    let (root, _) = content(&store).await;
    let bytes = store.block(&root).expect("added").bytes().clone();
    let length = bytes.len();
    let url = format!("/ipfs/{root}?format=raw");
    let etag = format!("\"{root}.raw\"");
    let part = ask(&store, &url, &[("range", "bytes=3-7")]).await;
    assert_eq!((part.status, part.bytes()), (206, &bytes[3..8]));
    assert_eq!(part.header("content-range"), format!("bytes 3-7/{length}"));
    assert_eq!(part.header("content-length"), "5");
    assert_eq!(part.header("etag"), etag);
    let end = ask(&store, &url, &[("range", "bytes=-4"), ("if-range", &etag)]).await;
    assert_eq!((end.status, end.bytes()), (206, &bytes[length - 4..]));
    let other = ask(&store, &url, &[("range", "bytes=-4"), ("if-range", "\"other\"")]).await;
    assert_eq!((other.status, other.bytes().len()), (200, length));
    let beyond = ask(&store, &url, &[("range", "bytes=100000-")]).await;
    assert_eq!(beyond.status, 416);
    assert_eq!(beyond.header("content-range"), format!("bytes */{length}"));
}

#[tokio::test]
async fn car_files_hold_what_their_scope_says() {
    let store = Store::new();
    let (root, file) = content(&store).await;
    let small: Cid = store.add(AddOptions::v1_2025(), &[("small", b"small")]).await;
    for (query, expected) in [
        ("/large?format=car", 15),
        ("/large?format=car&dag-scope=all", 15),
        ("/large?format=car&dag-scope=entity", 15),
        ("/large?format=car&dag-scope=block", 2),
        ("/large?format=car&entity-bytes=0:99", 4),
        ("/large?format=car&dag-scope=entity&entity-bytes=-100:*", 4),
        ("/large?format=car&entity-bytes=0:*", 15),
        ("/s/small?format=car", 3),
        ("?format=car&dag-scope=entity", 1),
        ("?format=car", 17),
    ] {
        let got = ask(&store, &format!("/ipfs/{root}{query}"), &[]).await;
        assert_eq!(got.status, 200, "{query}: {:?}", got.body);
        let (roots, blocks) = read_car(got.bytes());
        let end = match query {
            _ if query.starts_with("/large") => file,
            _ if query.starts_with("/s/small") => small,
            _ => root,
        };
        assert_eq!(roots, [end], "{query}");
        assert_eq!(blocks[0].cid(), root, "{query}");
        assert_eq!(blocks.len(), expected, "{query}");
        for (name, value) in [
            ("content-type", "application/vnd.ipld.car; version=1; order=dfs; dups=n"),
            ("cache-control", "public, max-age=29030400, immutable"),
            ("content-disposition", &format!("attachment; filename=\"{root}.car\"")),
            ("x-content-type-options", "nosniff"),
            ("accept-ranges", "none"),
            ("content-location", ""),
            ("vary", "Accept"),
        ] {
            assert_eq!(got.header(name), value, "{name} of {query}");
        }
        let head = ask_as(&store, Method::HEAD, &format!("/ipfs/{root}{query}"), &[]).await;
        assert_eq!((head.status, head.bytes()), (200, &b""[..]));
        assert_eq!(head.headers, got.headers);
    }
}

#[tokio::test]
async fn every_shape_of_a_car_file_has_its_own_tag_and_is_not_sent_twice() {
    let store = Store::new();
    let (root, _) = content(&store).await;
    let mut tags = Vec::new();
    for query in [
        "?format=car",
        "?format=car&car-dups=y",
        "?format=car&dag-scope=block",
        "?format=car&dag-scope=entity",
        "/large?format=car",
        "/large?format=car&entity-bytes=0:5",
        "/large?format=car&entity-bytes=0:6",
        "?format=raw",
    ] {
        let url = format!("/ipfs/{root}{query}");
        let tag = ask(&store, &url, &[]).await.header("etag").to_owned();
        assert!(!tags.contains(&tag), "{tag}");
        for known in [
            tag.clone(),
            format!("\"x\", {tag}"),
            "*".into(),
            tag.trim_start_matches("W/").into(),
        ] {
            let before = store.reads();
            let again = ask(&store, &url, &[("if-none-match", &known)]).await;
            assert_eq!((again.status, again.bytes()), (304, &b""[..]), "{known}");
            assert_eq!(again.header("etag"), tag);
            assert_eq!(again.header("content-length"), "", "it would be that of the content");
            assert_eq!(again.header("cache-control"), "public, max-age=29030400, immutable");
            assert_eq!(store.reads(), before, "nothing is read for it");
        }
        let other = ask(&store, &url, &[("if-none-match", "\"other\"")]).await;
        assert_eq!(other.status, 200);
        tags.push(tag);
    }
    assert!(tags[2].starts_with("W/\"block."), "{}", tags[2]);
    assert!(tags[3].starts_with("W/\"entity."), "{}", tags[3]);
}

#[tokio::test]
async fn duplicates_come_when_they_are_asked_for() {
    let store = Store::new();
    let mut options = AddOptions::v1_2025();
    options.unixfs.chunker = Chunker::Size(100);
    let root = store.add(options, &[("same", &[7; 1000])]).await;
    let with = format!("{CAR}; version=1; order=dfs; dups=y");
    let without = format!("{CAR};dups=n");
    for (query, accept, blocks, dups, location) in [
        ("", CAR, 2, 'n', "?format=car"),
        ("", &with, 11, 'y', "?format=car&car-dups=y"),
        ("", &without, 2, 'n', "?format=car"),
        // The header says what the URL leaves open, and only that.
        ("?format=car", CAR, 2, 'n', ""),
        ("?format=car", &with, 11, 'y', "?format=car&car-dups=y"),
        ("?format=car&car-dups=n", &with, 2, 'n', ""),
        ("?format=car&car-dups=y", &without, 11, 'y', ""),
        ("?car-dups=y", &without, 11, 'y', "?car-dups=y&format=car"),
        ("?format=car&dag-scope=entity", &with, 2, 'n', ""),
    ] {
        let url = format!("/ipfs/{root}{query}");
        let got = ask(&store, &url, &[("accept", accept)]).await;
        assert_eq!(
            got.header("content-type"),
            format!("application/vnd.ipld.car; version=1; order=dfs; dups={dups}"),
            "{query} {accept}"
        );
        let location = match location {
            "" => String::new(),
            location => format!("/ipfs/{root}{location}"),
        };
        assert_eq!(got.header("content-location"), location, "{query} {accept}");
        assert_eq!(got.header("vary"), "Accept", "{query} {accept}");
        assert_eq!(read_car(got.bytes()).1.len(), blocks, "{query} {accept}");
        // Who has it is told the same of it, or a cache would take the short answer for one that holds for everybody.
        let known = [("accept", accept), ("if-none-match", got.header("etag"))];
        let again = ask(&store, &url, &known).await;
        assert_eq!(
            (again.status, again.header("vary")),
            (304, "Accept"),
            "{query} {accept}"
        );
        assert_eq!(again.header("content-location"), location, "{query} {accept}");
        if !location.is_empty() {
            let there = ask(&store, &location, &[]).await;
            assert_eq!(there.bytes(), got.bytes(), "{query} {accept}: it lies where it says");
        }
    }
    let raw = ask(&store, &format!("/ipfs/{root}?format=raw"), &[("accept", &with)]).await;
    assert_eq!((raw.header("vary"), raw.header("content-location")), ("", ""));
}

#[tokio::test]
async fn what_can_not_be_answered_says_why() {
    let store = Store::new();
    let (root, file) = content(&store).await;
    let absent = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
    let html = [("accept", "text/html")];
    let cached = [("cache-control", "only-if-cached")];
    for (url, headers, status, part) in [
        (format!("/ipfs/{root}"), &[][..], 400, "?format=raw"),
        (format!("/ipfs/{root}"), &html[..], 406, "verifiable"),
        (format!("/ipfs/{root}?format=tar"), &[], 406, "tar"),
        (format!("/ipfs/{root}/large?format=raw"), &[], 400, "by its CID alone"),
        ("/ipfs/nonsense?format=raw".into(), &[], 400, "nonsense"),
        (format!("/ipfs/{absent}?format=raw"), &[], 404, absent),
        (format!("/ipfs/{absent}?format=car"), &[], 404, absent),
        (format!("/ipfs/{absent}?format=raw"), &cached[..], 412, absent),
        (format!("/ipfs/{root}?format=raw"), &cached[..], 200, ""),
        (format!("/ipfs/{root}/nothing?format=car"), &[], 404, "nothing"),
        (format!("/ipfs/{root}/large/below?format=car"), &[], 404, "below"),
        (
            format!("/ipfs/{file}?format=car&entity-bytes=1000:*"),
            &[],
            400,
            "1000 bytes",
        ),
        (format!("/ipfs/{file}?format=car&car-version=2"), &[], 400, "version 1"),
        (
            format!("/ipfs/{root}?format=raw"),
            &[("service-worker", "script")][..],
            400,
            "service worker",
        ),
        ("/ipns/example.org?format=car".into(), &[], 501, "/ipfs/"),
        ("/elsewhere".into(), &[], 404, ""),
    ] {
        let got = ask(&store, &url, headers).await;
        assert_eq!(got.status, status, "{url} {headers:?}: {}", got.words());
        assert!(status == 200 || got.words().contains(part), "{url}: {}", got.words());
        assert!(
            status == 200 || url == "/elsewhere" || got.header("cache-control") == "no-store",
            "{url}"
        );
        let head = ask_as(&store, Method::HEAD, &url, headers).await;
        assert_eq!(head.status, status, "HEAD {url} {headers:?}");
    }
    for method in [Method::POST, Method::PUT, Method::DELETE] {
        let got = ask_as(&store, method, &format!("/ipfs/{root}?format=raw"), &[]).await;
        assert_eq!(got.status, 405);
    }
}

#[tokio::test]
async fn what_is_denied_is_gone_wherever_it_lies() {
    let store = Store::new();
    let (root, file) = content(&store).await;
    store.deny(file, "by the operator's list");
    for url in [
        format!("/ipfs/{file}?format=raw"),
        format!("/ipfs/{file}?format=car"),
        format!("/ipfs/{root}/large?format=car"),
    ] {
        let got = ask(&store, &url, &[]).await;
        assert_eq!(got.status, 410, "{url}");
        assert!(got.words().contains("by the operator's list"), "{}", got.words());
    }
    // In the middle of a file that has begun there is no status left to say it.
    let got = ask(&store, &format!("/ipfs/{root}?format=car"), &[]).await;
    assert_eq!(got.status, 200);
    assert!(got.body.is_err(), "the body breaks off");
    let block = ask(&store, &format!("/ipfs/{root}?format=raw"), &[]).await;
    assert_eq!(block.status, 200);
}

#[tokio::test]
async fn a_car_file_with_a_hole_breaks_off() {
    let store = Store::new();
    let (_, file) = content(&store).await;
    let all = ask(&store, &format!("/ipfs/{file}?format=car"), &[]).await;
    let last = *cids(&read_car(all.bytes()).1).last().expect("some");
    store.remove(&last);
    let got = ask(&store, &format!("/ipfs/{file}?format=car"), &[]).await;
    assert_eq!(got.status, 200);
    assert!(got.body.is_err());
}

#[tokio::test]
async fn probes_are_answered() {
    let store = Store::new();
    let raw = ask(&store, "/ipfs/bafkqaaa?format=raw", &[]).await;
    assert_eq!(
        (raw.status, raw.bytes(), raw.header("content-length")),
        (200, &b""[..], "0")
    );
    let car = ask(&store, "/ipfs/bafkqaaa?format=car", &[]).await;
    let (roots, blocks) = read_car(car.bytes());
    assert_eq!((roots[0].to_string(), blocks.len()), ("bafkqaaa".into(), 0));
    let head = ask_as(&store, Method::HEAD, "/ipfs/bafkqaaa", &[("accept", RAW)]).await;
    assert_eq!(head.status, 200);
}

#[tokio::test]
async fn requests_beyond_the_bound_are_turned_away_until_one_ends() {
    let store = Store::new();
    let large = store
        .add(AddOptions::v1_2025(), &[("large", &noise(60_000_000, 3))])
        .await;
    let options = GatewayOptions {
        requests_max: 1,
        ..GatewayOptions::default()
    };
    let served = Served::new(gateway::router(store.clone(), options), limits()).await;
    let http = client();
    let url = served.url(&format!("/ipfs/{large}?format=car"));
    // Its body is not read, so it does not end.
    let first = http.get(&url).send().await.expect("answered");
    assert_eq!(first.status(), 200);
    let reads = store.reads();
    assert!(reads < 40, "{reads} blocks are read for a client that takes none");
    let second = http.get(&url).send().await.expect("answered");
    assert_eq!(second.status(), 429);
    assert_eq!(second.headers()["retry-after"], "5");
    // A client that goes away ends its request.
    drop(first);
    let third = loop {
        let third = http.get(&url).send().await.expect("answered");
        if third.status() == StatusCode::OK {
            break third;
        }
        tokio::task::yield_now().await;
    };
    let (roots, blocks) = read_car(&third.bytes().await.expect("whole"));
    assert_eq!((roots, blocks.len()), (vec![large], 59));
    served.end().await;
}

#[tokio::test]
async fn clients_that_send_or_take_nothing_are_given_up() {
    let store = Store::new();
    let large = store
        .add(AddOptions::v1_2025(), &[("large", &noise(30_000_000, 4))])
        .await;
    let options = Limits {
        head_timeout: Duration::from_millis(300),
        stall_timeout: Duration::from_millis(300),
        connections_max: 1,
        ..limits()
    };
    let served = Served::new(gateway::router(store, GatewayOptions::default()), options).await;
    // Half a head, and nothing more.
    let mut silent = TcpStream::connect(served.address).await.expect("connected");
    silent.write_all(b"GET /ipfs/").await.expect("sent");
    let mut answer = String::new();
    silent.read_to_string(&mut answer).await.expect("closed");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    drop(silent);
    // Everything is asked for, and nothing is taken.
    let mut greedy = TcpStream::connect(served.address).await.expect("connected");
    let request = format!("GET /ipfs/{large}?format=car HTTP/1.1\r\nhost: x\r\n\r\n");
    greedy.write_all(request.as_bytes()).await.expect("sent");
    let mut begin = [0; 15];
    greedy.read_exact(&mut begin).await.expect("an answer begins");
    assert_eq!(&begin, b"HTTP/1.1 200 OK");
    // There is one place: it is free only when the greedy one was given up.
    loop {
        let mut next = TcpStream::connect(served.address).await.expect("connected");
        let request = "GET /ipfs/bafkqaaa?format=raw HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        next.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        next.read_to_string(&mut answer).await.expect("answered");
        if answer.starts_with("HTTP/1.1 200 OK") {
            break;
        }
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
    drop(greedy);
}
