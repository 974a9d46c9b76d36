//! Clients that want too much, or that do nothing: each is bounded and told so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use bytes::Bytes;
use cluster_http::{ErrorForm, Failure, Limits, Open, ServerOptions, Whole, empty, json};
use futures::stream;
use http::StatusCode;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use crate::support::{Client, SOON, Served};

/// What a test waits for to run out.
const SHORT: Duration = Duration::from_millis(300);
const GET: &str = "GET /pins HTTP/1.1\r\nHost: x\r\n\r\n";

/// Requests of `/held` wait until they are let go.
#[derive(Clone)]
struct Gate {
    entered: Arc<Notify>,
    leave: Arc<Semaphore>,
}

fn router() -> (Router, Gate) {
    let gate = Gate {
        entered: Arc::default(),
        leave: Arc::new(Semaphore::new(0)),
    };
    let held = gate.clone();
    let held = move || async move {
        held.entered.notify_one();
        held.leave.acquire().await.expect("open").forget();
        json("let go")
    };
    let router = Router::new()
        .route("/health", get(|| async { empty(StatusCode::NO_CONTENT) }))
        .route(
            "/pins",
            get(|| async { json("pins") }).post(|Whole(body): Whole| async move { json(&body.len()) }),
        )
        .route("/refused", post(|| async { Failure::forbidden("not this") }))
        .route("/held", get(held));
    (router, gate)
}

async fn served(limits: Limits) -> (Served, Gate) {
    let (router, gate) = router();
    (Served::rest(router, limits).await, gate)
}

async fn is_over(client: &mut Client) -> bool {
    client.rest().await.0.is_empty()
}

#[tokio::test]
async fn a_head_that_stays_behind_is_408_and_silence_is_closed() {
    let (served, _) = served(Limits {
        head_timeout: SHORT,
        ..Limits::default()
    })
    .await;
    let began = Instant::now();
    let mut silent = served.connect().await;
    let mut slow = served.connect().await;
    slow.say(&GET[..25]).await;
    // One that goes on, but too slowly.
    let mut dripping = served.connect().await;
    let dripped = async {
        for byte in GET.as_bytes()[..25].chunks(1) {
            if tokio::io::AsyncWriteExt::write_all(&mut dripping.stream, byte)
                .await
                .is_err()
            {
                break;
            }
            tokio::time::sleep(SHORT / 10).await;
        }
        dripping.answer().await
    };
    let dripped = timeout(SOON, dripped).await.expect("ended");
    for answer in [slow.answer().await, dripped] {
        assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
        assert!(
            answer
                .body
                .starts_with("{\"code\":408,\"message\":\"the head of the request was not there within")
        );
    }
    assert!(is_over(&mut silent).await && is_over(&mut slow).await);
    assert!(began.elapsed() >= SHORT);
}

#[tokio::test]
async fn a_connection_without_requests_is_closed_after_its_time() {
    let (served, _) = served(Limits {
        idle_timeout: SHORT,
        ..Limits::default()
    })
    .await;
    let mut client = served.connect().await;
    for _ in 0..2 {
        client.say(GET).await;
        assert_eq!(client.answer().await.status, 200);
    }
    let began = Instant::now();
    assert!(is_over(&mut client).await);
    assert!(began.elapsed() < SOON);
}

#[tokio::test]
async fn heads_are_431_and_targets_414_beyond_their_bounds() {
    for form in [ErrorForm::Rest, ErrorForm::Kubo] {
        let options = ServerOptions {
            limits: Limits {
                head_bytes_max: 8192,
                target_bytes_max: 2048,
                ..Limits::default()
            },
            ..ServerOptions::new("test", form)
        };
        let served = Served::new(router().0, options, Arc::new(Open)).await;
        let with_header = |len: usize| format!("GET /pins HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(len));
        let with_query = |len: usize| format!("GET /pins?{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(len));
        for (request, status) in [
            (with_header(4096), 200),
            (with_header(16_384), 431),
            (with_header(1_000_000), 431),
            (
                format!("GET /pins HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(101)),
                431,
            ),
            (with_query(2000), 200),
            (with_query(2100), 414),
            (with_query(1_000_000), 414),
        ] {
            let mut client = served.connect().await;
            client.say(GET).await;
            assert_eq!(client.answer().await.status, 200);
            // What is sent at once is more than is read, and the answer comes all the same.
            client.say(&request).await;
            let answer = client.answer().await;
            assert_eq!(answer.status, status, "{} bytes", request.len());
            if status != 200 {
                assert!(is_over(&mut client).await);
            }
            if status != 200 && answer.header("content-length") != Some("0") {
                let begin = if form == ErrorForm::Rest {
                    format!("{{\"code\":{status},")
                } else {
                    "{\"Message\":".to_owned()
                };
                assert!(answer.body.starts_with(&begin), "{}", answer.body);
            }
        }
    }
}

#[tokio::test]
async fn a_thousand_cids_fit_into_a_query() {
    let (served, _) = served(Limits::default()).await;
    for (len, status) in [(65_534, 200), (65_535, 414)] {
        let target = format!("/pins?{}", "x".repeat(len - "/pins?".len()));
        let answer = served.ask(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert_eq!(answer.status, status);
    }
}

#[tokio::test]
async fn a_long_head_behind_a_request_that_is_still_answered_waits_for_its_turn() {
    let (served, gate) = served(Limits::default()).await;
    let mut client = served.connect().await;
    client.say("GET /held HTTP/1.1\r\nHost: x\r\n\r\n").await;
    gate.entered.notified().await;
    client
        .say(format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(200_000)))
        .await;
    gate.leave.add_permits(1);
    assert_eq!(client.answer().await.body, "\"let go\"\n");
    assert_eq!(client.answer().await.status, 414);
}

#[tokio::test]
async fn a_body_that_stops_or_is_too_slow_or_too_long_is_told_so() {
    let (served, _) = served(Limits {
        body_idle_timeout: SHORT,
        body_timeout: SHORT * 4,
        body_bytes_max: 1024,
        ..Limits::default()
    })
    .await;
    let post = |len: usize| format!("POST /pins HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n");
    let mut stops = served.connect().await;
    stops.say(post(10) + "12345").await;
    let answer = stops.answer().await;
    assert_eq!(answer.status, 408);
    assert!(
        answer.body.contains("the body stopped coming: nothing came for 300ms"),
        "{}",
        answer.body
    );

    let mut drips = served.connect().await;
    drips.say(post(1000)).await;
    let answer = async {
        loop {
            tokio::select! {
                answer = drips.head() => break answer,
                () = tokio::time::sleep(SHORT / 3) => {}
            }
            drips.say("x").await;
        }
    };
    assert_eq!(timeout(SOON, answer).await.expect("ended").status, 408);

    // Sent as a whole before the answer is read.
    let mut long = served.connect().await;
    long.say(post(2_000_000) + &"x".repeat(2_000_000)).await;
    let answer = long.answer().await;
    assert_eq!(answer.status, 413);
    assert!(answer.body.contains("longer than 1024 bytes"));
    assert_eq!(answer.header("connection"), Some("close"));
    // One that only says how long it will be is not asked to go on.
    let mut asks = served.connect().await;
    asks.say("POST /pins HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2000000\r\n\r\n")
        .await;
    assert_eq!(asks.answer().await.status, 413);
    let mut chunked = served.connect().await;
    chunked
        .say("POST /pins HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    chunked.say(format!("{:x}\r\n{}\r\n", 2000, "x".repeat(2000))).await;
    assert_eq!(chunked.answer().await.status, 413);
    assert_eq!(served.ask(&(post(5) + "12345")).await.body, "5\n");
}

#[tokio::test]
async fn chunked_nonsense_is_400_and_leads_no_further() {
    let (served, _) = served(Limits::default()).await;
    let head = "POST /pins HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [
        "nonsense\r\n",
        "5\r\n1234567\r\n0\r\n\r\n",
        "-1\r\n\r\n",
        "FFFFFFFFFFFFFFFFF\r\n",
        "1\r\nx\r\n0\r\nbad trailer\r\n\r\n",
    ] {
        let mut client = served.connect().await;
        client.say(format!("{head}{body}{GET}")).await;
        assert_eq!(client.answer().await.status, 400, "{body}");
        assert!(is_over(&mut client).await, "{body}: what follows is no request");
    }
    for head in [
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked, gzip",
        "Content-Length: x",
        "Content-Length: 1\r\nContent-Length: 2",
    ] {
        let mut client = served.connect().await;
        client
            .say(format!("POST /pins HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n{GET}"))
            .await;
        let (text, _) = client.rest().await;
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 400 "), "{head}: {text}");
    }
    for nonsense in [
        "\u{16}\u{3}\u{1}\u{2}",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/3\r\n\r\n",
    ] {
        let mut client = served.connect().await;
        client.say(nonsense).await;
        let (text, _) = client.rest().await;
        assert!(
            text.is_empty() || text.starts_with("HTTP/1.1 400 "),
            "{nonsense:?}: {text}"
        );
    }
    assert_eq!(served.ask(GET).await.status, 200);
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let (served, _) = served(Limits::default()).await;
    let mut client = served.connect().await;
    let len = 8_000_000;
    client
        .say(format!(
            "POST /refused HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n"
        ))
        .await;
    client.say("x".repeat(len)).await;
    let answer = client.answer().await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (403, "{\"code\":403,\"message\":\"not this\"}\n")
    );
    assert!(is_over(&mut client).await);
}

#[tokio::test]
async fn idle_connections_make_room_and_busy_ones_dont() {
    let (served, gate) = served(Limits {
        connections_max: 3,
        ..Limits::default()
    })
    .await;
    // Two that rest, one of them since before the other.
    let mut silent = served.connect().await;
    let mut used = served.connect().await;
    used.say(GET).await;
    assert_eq!(used.answer().await.status, 200);
    let mut held = served.connect().await;
    held.say("GET /held HTTP/1.1\r\nHost: x\r\n\r\n").await;
    gate.entered.notified().await;

    let mut second = served.connect().await;
    second.say("GET /held HTTP/1.1\r\nHost: x\r\n\r\n").await;
    gate.entered.notified().await;
    assert!(is_over(&mut silent).await);
    used.say(GET).await;
    assert_eq!(used.answer().await.status, 200, "it rested for a shorter time");
    let mut third = served.connect().await;
    third.say("GET /held HTTP/1.1\r\nHost: x\r\n\r\n").await;
    gate.entered.notified().await;
    assert!(is_over(&mut used).await);

    // Now all are busy.
    let answer = served.ask(GET).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(answer.body.starts_with("{\"code\":503,"));
    gate.leave.add_permits(3);
    for client in [&mut held, &mut second, &mut third] {
        assert_eq!(client.answer().await.body, "\"let go\"\n");
    }
    assert_eq!(served.ask(GET).await.status, 200);
}

#[tokio::test]
async fn thousands_of_idle_connections_keep_nobody_out() {
    let (served, _) = served(Limits {
        connections_max: 100,
        ..Limits::default()
    })
    .await;
    let mut idle = Vec::new();
    for _ in 0..1000 {
        idle.push(served.connect().await);
    }
    for _ in 0..10 {
        assert_eq!(served.ask(GET).await.status, 200);
    }
}

#[tokio::test]
async fn requests_beyond_the_bound_are_503_but_health_is_told() {
    let (served, gate) = served(Limits {
        requests_max: 1,
        ..Limits::default()
    })
    .await;
    let mut held = served.connect().await;
    held.say("GET /held HTTP/1.1\r\nHost: x\r\n\r\n").await;
    gate.entered.notified().await;
    let answer = served.ask(GET).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(served.ask("GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await.status, 204);
    gate.leave.add_permits(1);
    assert_eq!(held.answer().await.status, 200);
    // Its place is free when its answer is over, which its client sees a moment earlier.
    let freed = async { while served.ask(GET).await.status != 200 {} };
    timeout(SOON, freed).await.expect("freed");
}

/// Tells when it is let go.
struct Told(Arc<Notify>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_given_up_and_what_is_done_for_it_ends() {
    let ended = Arc::new(Notify::new());
    let told = ended.clone();
    let endless = move || async move {
        let pieces = stream::unfold(Told(told), |told| async move {
            Some((
                Ok::<_, std::convert::Infallible>(Bytes::from_static(&[b'x'; 65_536])),
                told,
            ))
        });
        Body::from_stream(pieces)
    };
    let limits = Limits {
        stall_timeout: SHORT,
        ..Limits::default()
    };
    let served = Served::rest(Router::new().route("/endless", get(endless)), limits).await;
    let mut client = served.connect().await;
    client.say("GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(client.head().await.status, 200);
    timeout(SOON, ended.notified()).await.expect("given up");
}

#[tokio::test]
async fn at_the_end_what_is_answered_gets_its_time_and_what_rests_is_closed() {
    let (mut served, gate) = served(Limits::default()).await;
    let mut held = served.connect().await;
    held.say("GET /held HTTP/1.1\r\nHost: x\r\n\r\n").await;
    gate.entered.notified().await;
    let mut idle = served.connect().await;
    idle.say(GET).await;
    assert_eq!(idle.answer().await.status, 200);
    served.tell_to_end();
    assert!(is_over(&mut idle).await);
    gate.leave.add_permits(1);
    let answer = held.answer().await;
    assert_eq!(answer.body, "\"let go\"\n");
    assert!(is_over(&mut held).await);
    served.ended().await;
}

#[tokio::test]
async fn at_the_end_what_takes_too_long_is_cut_off() {
    let (mut served, gate) = served(Limits {
        grace: SHORT,
        ..Limits::default()
    })
    .await;
    let mut held = served.connect().await;
    held.say("GET /held HTTP/1.1\r\nHost: x\r\n\r\n").await;
    gate.entered.notified().await;
    let began = Instant::now();
    served.tell_to_end();
    assert!(is_over(&mut held).await);
    assert!(began.elapsed() >= SHORT);
    served.ended().await;
}
