//! Streams of lines, and what is told at their end.

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::{get, post};
use cluster_http::multipart::Parts;
use cluster_http::{Failure, Limits, Query, Whole, ndjson, ndjson_pieces};
use futures::stream::{self, StreamExt as _};
use http::StatusCode;
use serde_json::{Value, json};

use crate::support::Served;

/// `/lines?n=3&error=text`: so many objects, and then an error if one is given.
async fn lines(query: Query, _: Whole) -> Response {
    let count = query.uint("n").expect("a number").unwrap_or_default();
    let error = query
        .get("error")
        .map(|text| Failure::new(StatusCode::IM_A_TEAPOT, text));
    let items = stream::iter(0..count).map(|n| Ok(json!({ "n": n })));
    ndjson(items.chain(stream::iter(error.map(Err::<Value, _>)))).await
}

/// `/pieces?n=30000&of=1000&error=text`: the same, so many at a time, with pieces between in which there is nothing. A number
/// that is `bad` can't be written.
async fn pieces(query: Query, _: Whole) -> Response {
    let uint = |name| query.uint(name).expect("a number");
    let (count, of, bad) = (uint("n").unwrap_or_default(), uint("of").unwrap_or(1), uint("bad"));
    let error = query
        .get("error")
        .map(|text| Failure::new(StatusCode::IM_A_TEAPOT, text));
    let pieces = (0..count)
        .step_by(usize::try_from(of).expect("small"))
        .flat_map(move |from| {
            let numbers = from..(from + of).min(count);
            let written = numbers.map(|n| Number { n, bad: bad == Some(n) });
            [Ok(Vec::new()), Ok(written.collect())]
        });
    let pieces: Vec<Result<Vec<Number>, Failure>> = pieces.collect();
    ndjson_pieces(stream::iter(pieces.into_iter().chain(error.map(Err)))).await
}

struct Number {
    n: u64,
    bad: bool,
}

impl serde::Serialize for Number {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.bad {
            true => Err(serde::ser::Error::custom("it can't be written")),
            false => json!({ "n": self.n }).serialize(to),
        }
    }
}

/// Tells of each part when its head is there, and of each piece of its content.
async fn echo(parts: Parts) -> Response {
    let told = stream::try_unfold((parts, false), |(mut parts, within)| async move {
        if within && let Some(chunk) = parts.chunk().await? {
            return Ok(Some((json!({ "bytes": chunk.len() }), (parts, true))));
        }
        let next = parts.next().await?;
        Ok(next.map(|part| (json!({ "part": part.path }), (parts, true))))
    });
    ndjson::<Value, _>(told).await
}

async fn served() -> Served {
    let breaks = || async {
        let pieces = [Ok("piece"), Err(std::io::Error::other("broken"))];
        Body::from_stream(stream::iter(pieces))
    };
    let router = Router::new()
        .route("/lines", get(lines).post(lines))
        .route("/pieces", get(pieces))
        .route("/parts", post(echo))
        .route("/breaks", get(breaks));
    Served::rest(router, Limits::default()).await
}

#[tokio::test]
async fn every_request_of_a_connection_gets_its_trailers_without_asking() {
    let served = served().await;
    let mut client = served.connect().await;
    for (request, body, trailers) in [
        (
            "GET /lines?n=2 HTTP/1.1\r\nHost: x\r\n\r\n",
            "{\"n\":0}\n{\"n\":1}\n",
            "x-stream-error: ",
        ),
        (
            "POST /lines?n=1&error=no+luck HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody",
            "{\"n\":0}\n",
            "x-stream-error: no luck",
        ),
        (
            "POST /lines?n=1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4;x\r\nbody\r\n0\r\n\r\n",
            "{\"n\":0}\n",
            "x-stream-error: ",
        ),
        (
            "GET /lines?n=1&error=a%0D%0Ab HTTP/1.1\r\nHost: x\r\nTE: trailers\r\n\r\n",
            "{\"n\":0}\n",
            "x-stream-error: a  b",
        ),
    ] {
        client.say(request).await;
        let answer = client.answer().await;
        assert_eq!((answer.version, answer.status), (1, 200));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("trailer"), Some("X-Stream-Error"));
        assert_eq!(answer.body, body);
        assert_eq!(answer.trailers, [trailers]);
    }
}

#[tokio::test]
async fn pieces_give_the_same_lines() {
    let served = served().await;
    let all = |count: u64| (0..count).map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>();
    for (query, body, trailer) in [
        ("n=3&of=2", all(3), ""),
        // Many frames in a piece, and many pieces in a frame.
        ("n=30000&of=30000", all(30_000), ""),
        ("n=30000&of=7", all(30_000), ""),
        ("n=30000&of=9000&error=no+luck", all(30_000), "no luck"),
        ("n=30000&of=9000&bad=20000", all(20_000), "it can't be written"),
    ] {
        let mut client = served.connect().await;
        client
            .say(format!("GET /pieces?{query} HTTP/1.1\r\nHost: x\r\n\r\n"))
            .await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 200, "{query}");
        assert!(answer.body == body, "{query}: {} bytes", answer.body.len());
        assert_eq!(answer.trailers, [format!("x-stream-error: {trailer}")], "{query}");
    }
    for (query, status) in [("n=0", 200), ("n=0&error=early", 418), ("n=3&bad=0", 500)] {
        let ask = format!("GET /pieces?{query} HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(served.ask(&ask).await.status, status, "{query}");
    }
}

#[tokio::test]
async fn pipelined_requests_get_their_trailers_too() {
    let served = served().await;
    let mut client = served.connect().await;
    let one = "GET /lines?n=1 HTTP/1.1\r\nHost: x\r\n\r\n";
    client.say(one.repeat(20)).await;
    for _ in 0..20 {
        assert_eq!(client.answer().await.trailers, ["x-stream-error: "]);
    }
}

#[tokio::test]
async fn the_first_item_decides_the_status() {
    let served = served().await;
    let answer = served.ask("GET /lines?error=early HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(answer.status, 418);
    assert_eq!(answer.body, "{\"code\":418,\"message\":\"early\"}\n");
    let answer = served.ask("GET /lines HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn http_1_0_gets_neither_chunks_nor_trailers_and_an_error_resets_it() {
    let served = served().await;
    let mut client = served.connect().await;
    client.say("GET /lines?n=2 HTTP/1.0\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.version, answer.status, answer.whole), (0, 200, true));
    for name in ["transfer-encoding", "trailer", "content-length"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!(answer.body, "{\"n\":0}\n{\"n\":1}\n");

    let mut client = served.connect().await;
    client.say("GET /lines?n=2&error=x HTTP/1.0\r\n\r\n").await;
    let (_, proper) = client.rest().await;
    assert!(!proper, "it looks as if all had been there");

    // The same for any body; and one whose length is known keeps it.
    for version in [0, 1] {
        let mut client = served.connect().await;
        client
            .say(format!("GET /breaks HTTP/1.{version}\r\nHost: x\r\n\r\n"))
            .await;
        let (text, proper) = client.rest().await;
        assert!(!text.ends_with("0\r\n\r\n") && proper == (version == 1), "{text}");
    }
    let mut client = served.connect().await;
    client
        .say("GET /nothing HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("content-length")), (404, Some("35")));
}

#[tokio::test]
async fn where_no_trailer_can_be_sent_the_chunks_are_broken_off() {
    let served = served().await;
    // Two lengths, even the same, are not understood on the way.
    let doubtful = "Host: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx";
    let answer = served
        .ask(&format!("POST /lines?n=2&error=x HTTP/1.1\r\n{doubtful}"))
        .await;
    assert_eq!(answer.body, "{\"n\":0}\n{\"n\":1}\n");
    assert!(!answer.whole, "the last chunk must not come");

    let answer = served.ask(&format!("POST /lines?n=2 HTTP/1.1\r\n{doubtful}")).await;
    assert_eq!(answer.body, "{\"n\":0}\n{\"n\":1}\n");
    assert!(answer.whole && answer.trailers.is_empty());
    assert_eq!(answer.header("trailer"), None);
}

#[tokio::test]
async fn an_upload_is_answered_while_it_comes_in() {
    let served = served().await;
    let mut client = served.connect().await;
    client
        .say(concat!(
            "POST /parts HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n",
            "Content-Type: multipart/form-data; boundary=\"B\"\r\n\r\n"
        ))
        .await;
    assert_eq!(client.line().await.as_deref(), Some("HTTP/1.1 100 Continue"));
    assert_eq!(client.line().await.as_deref(), Some(""));
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    client
        .say(chunk("--B\r\nContent-Disposition: file; filename=\"a\"\r\n\r\n"))
        .await;
    assert_eq!(client.head().await.status, 200);
    assert_eq!(client.chunk().await.as_deref(), Some("{\"part\":\"a\"}\n"));
    for _ in 0..3 {
        client.say(chunk("12345")).await;
        assert_eq!(client.chunk().await.as_deref(), Some("{\"bytes\":5}\n"));
    }
    client
        .say(chunk("\r\n--B\r\nContent-Disposition: file; filename=\"b\"\r\n\r\n"))
        .await;
    assert_eq!(client.chunk().await.as_deref(), Some("{\"part\":\"b\"}\n"));
    client.say(chunk("\r\n--B--\r\n") + "0\r\n\r\n").await;
    assert_eq!(client.chunk().await.as_deref(), Some(""));
    assert_eq!(client.trailers().await, ["x-stream-error: "]);
}

#[tokio::test]
async fn a_broken_upload_is_told_by_its_status_or_its_trailer() {
    let served = served().await;
    let head = "POST /parts HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=B\r\n";
    let broken = "--B\r\n\r\ncontent";
    let with_length = |text: &str| format!("{head}Content-Length: {}\r\n\r\n{text}", text.len());

    let answer = served.ask(&with_length("no boundary")).await;
    assert_eq!(answer.status, 400);
    assert!(
        answer
            .body
            .starts_with("{\"code\":400,\"message\":\"the body ends before its last boundary")
    );
    let answer = served.ask(&with_length(broken)).await;
    assert_eq!(answer.status, 200);
    assert!(answer.trailers[0].starts_with("x-stream-error: the body ends before its last boundary"));
    // Not chunks at all, and a chunk that is none behind one that is.
    let answer = served
        .ask(&format!("{head}Transfer-Encoding: chunked\r\n\r\nnonsense"))
        .await;
    assert_eq!(answer.status, 400);
    let chunk = format!("{:x}\r\n{broken}\r\nxyz\r\n", broken.len());
    let answer = served
        .ask(&format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}"))
        .await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.trailers[0].starts_with("x-stream-error: the body can't be read"),
        "{answer:?}"
    );
    let answer = served
        .ask("POST /parts HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\r\n")
        .await;
    assert_eq!(
        answer.body,
        "{\"code\":400,\"message\":\"request Content-Type isn't multipart/form-data\"}\n"
    );
}
