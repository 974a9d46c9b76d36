use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use futures::TryStreamExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use proptest::prelude::*;
use proptest::sample::Index;
use tokio::io::{join, sink};

use super::*;

fn framing() -> Framing {
    Framing::new(8192, 1024)
}

/// What comes out of all pieces together.
fn through(framing: &mut Framing, pieces: &[&[u8]]) -> Vec<u8> {
    let (mut raw, mut all) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        let mut out = BytesMut::new();
        let whole = raw.is_empty() && !framing.at_head();
        // As its reader does: a body goes past, and what follows it is looked at.
        let past = if whole { framing.skip(piece) } else { 0 };
        all.extend_from_slice(&piece[..past]);
        raw.extend_from_slice(&piece[past..]);
        framing.feed(&mut raw, &mut out);
        all.extend_from_slice(&out);
    }
    if framing.refused().is_none() {
        let mut out = BytesMut::new();
        framing.end();
        framing.feed(&mut raw, &mut out);
        all.extend_from_slice(&out);
    }
    all
}

fn told(text: &str) -> String {
    String::from_utf8(through(&mut framing(), &[text.as_bytes()])).unwrap()
}

#[test]
fn each_request_of_a_connection_gets_the_header() {
    let seen = told(concat!(
        "\r\nPOST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\nGET / HTTP/1.1\r\n",
        "GET /b HTTP/1.1\nHost: x\n\n",
        "PUT /c HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\nA;x=\"y\"\r\nGET /\r\n\r\nG\r\n00 \r\n\r\n",
        "GET /d HTTP/1.1\r\nTE: gzip\r\n\r\n",
        "GET /e HTTP/1.1\r\nte: gzip, Trailers\r\n\r\n",
        "GET /f HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "GET /g HTTP/1.1\r\n\r\n",
    ));
    assert_eq!(
        seen,
        concat!(
            "\r\nPOST /a HTTP/1.1\r\nTE: trailers\r\nHost: x\r\nContent-Length: 16\r\n\r\nGET / HTTP/1.1\r\n",
            "GET /b HTTP/1.1\nTE: trailers\r\nHost: x\n\n",
            "PUT /c HTTP/1.1\r\nTE: trailers\r\nTransfer-Encoding: Chunked\r\n\r\nA;x=\"y\"\r\nGET /\r\n\r\nG\r\n00 \r\n\r\n",
            "GET /d HTTP/1.1\r\nTE: trailers\r\nTE: gzip\r\n\r\n",
            "GET /e HTTP/1.1\r\nte: gzip, Trailers\r\n\r\n",
            "GET /f HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            "GET /g HTTP/1.1\r\nTE: trailers\r\n\r\n",
        )
    );
}

#[test]
fn behind_what_is_not_understood_nothing_is_touched() {
    let next = "GET /next HTTP/1.1\r\n\r\n";
    for head in [
        "GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
        "GET / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n",
        "GET / HTTP/1.1\r\nContent-Length: \r\n\r\n",
        "GET / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n",
        "GET / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "CONNECT x:1 HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\n folded: x\r\n\r\n",
        "GET / HTTP/1.1\r\na : b\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "\u{16}\u{3}\u{1}",
    ] {
        let text = format!("{head}{next}");
        assert_eq!(told(&text), text);
    }
    let chunked = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [
        "\r\n\r\n",
        "1\r\nxx\r\n0\r\n\r\n",
        "1\nx\r\n0\r\n\r\n",
        "1 1\r\nx\r\n0\r\n\r\n",
        "1;a\nb\r\nx\r\n0\r\n\r\n",
        "-1\r\n\r\n",
        "00000000000000001\r\nx\r\n0\r\n\r\n",
        "0\r\nTrailer: x\r\n\r\n",
        "0\r\n\n",
    ] {
        let text = format!("{chunked}{body}{next}");
        assert_eq!(
            told(&text),
            text.replacen("\r\n", "\r\nTE: trailers\r\n", 1),
            "{body:?}"
        );
    }
}

#[test]
fn a_query_may_hold_json_as_it_is() {
    let rest = "HTTP/1.1\r\nHost: a\r\n\r\n";
    for (sent, passed) in [
        (r#"/pins?meta={"a":"<b>"}&x"#, "/pins?meta={%22a%22:%22%3Cb%3E%22}&x"),
        // What is no query is left to hyper, and what is escaped already stays so.
        (r#"/"a"?b=%22"#, r#"/"a"?b=%22"#),
        ("/pins?a=b", "/pins?a=b"),
    ] {
        let passed = format!("GET {passed} {}", rest.replacen("\r\n", "\r\nTE: trailers\r\n", 1));
        let sent = format!("GET {sent} {rest}");
        // Twice on one connection, and cut anywhere.
        let both = sent.repeat(2);
        for at in 0..both.len() {
            let pieces = [&both.as_bytes()[..at], &both.as_bytes()[at..]];
            let out = through(&mut framing(), &pieces);
            assert_eq!(String::from_utf8(out).unwrap(), passed.repeat(2), "{at}");
        }
    }
}

#[test]
fn a_head_with_as_many_headers_as_hyper_takes_gets_none() {
    for (count, expected) in [(99, 1), (100, 0)] {
        let text = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
        assert_eq!(told(&text).matches("TE: trailers").count(), expected);
    }
}

#[test]
fn long_heads_are_refused_and_what_came_before_them_is_not() {
    let before = "GET /a HTTP/1.1\r\n\r\n";
    let line = format!("GET /{} HTTP/1.1\r\n", "x".repeat(1024));
    let endless_line = format!("GET /{}", "x".repeat(9000));
    let headers = format!("GET / HTTP/1.1\r\na: {}", "x".repeat(9000));
    for (text, why) in [
        (format!("{line}\r\n"), Refused::Target),
        (endless_line, Refused::Target),
        (format!("{headers}\r\n\r\n"), Refused::Head),
        (headers, Refused::Head),
    ] {
        for step in [1, 1000, usize::MAX] {
            let mut framing = framing();
            let text = format!("{before}{text}");
            let pieces: Vec<_> = text.as_bytes().chunks(step).collect();
            let seen = through(&mut framing, &pieces);
            assert_eq!(framing.refused(), Some(why));
            assert_eq!(seen, b"GET /a HTTP/1.1\r\nTE: trailers\r\n\r\n");
        }
    }
    let long = format!("GET /{} HTTP/1.1\r\na: {}\r\n\r\n", "x".repeat(1023), "x".repeat(7000));
    assert!(told(&long).contains("TE: trailers"));
}

#[derive(Debug, Clone)]
struct Sent {
    head: String,
    wanted: bool,
    body: Vec<u8>,
}

/// Requests with bodies that look like requests.
fn sent() -> impl Strategy<Value = Sent> {
    let body = prop_oneof![
        Just(String::new()),
        Just("GET / HTTP/1.1\r\n\r\n".to_owned()),
        Just("0\r\n\r\n".to_owned()),
        "[a-z\r\n]{0,40}"
    ];
    let line_end = prop_oneof![4 => Just("\r\n"), 1 => Just("\n")];
    let te = prop_oneof![3 => Just(""), 1 => Just("Te: deflate;q=0.5"), 1 => Just("TE: trailers")];
    (
        body,
        line_end,
        te,
        0..3_u8,
        1_usize..20,
        "/[a-z%?&=]{0,10}",
        any::<bool>(),
    )
        .prop_map(|(text, end, te, kind, chunk, target, is_1_1)| {
            // Chunks are there in HTTP/1.1 only.
            let kind = if is_1_1 { kind } else { kind % 2 };
            let version = u8::from(is_1_1);
            let mut head = format!("POST {target} HTTP/1.{version}{end}Host: x{end}Connection: keep-alive{end}");
            if !te.is_empty() {
                head += &format!("{te}{end}");
            }
            let body = match kind {
                0 => String::new(),
                1 => {
                    head += &format!("content-LENGTH:  {} {end}", text.len());
                    text
                }
                _ => {
                    head += &format!("Transfer-Encoding: chunked{end}Expect: 100-continue{end}");
                    let mut chunks = String::new();
                    for piece in text.as_bytes().chunks(chunk) {
                        let piece = String::from_utf8(piece.to_vec()).unwrap();
                        chunks += &format!("{:X};ext\r\n{piece}\r\n", piece.len());
                    }
                    chunks + "0\r\n\r\n"
                }
            };
            Sent {
                head: head + end,
                wanted: is_1_1 && !te.contains("trailers"),
                body: body.into_bytes(),
            }
        })
}

fn bytes(sent: &[Sent]) -> Vec<u8> {
    sent.iter()
        .flat_map(|one| [one.head.as_bytes(), &one.body].concat())
        .collect()
}

fn cut<'a>(bytes: &'a [u8], at: &[Index]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = at.iter().map(|at| at.index(bytes.len() + 1)).collect();
    ends.extend([0, bytes.len()]);
    ends.sort_unstable();
    ends.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// A stream of requests with some bytes put in, taken out or replaced where it hurts.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop::sample::select(b"\r\n\t 01aAfFtTcC-:;,x\0\x80".to_vec());
    let harm = (any::<Index>(), 0..3_u8, byte);
    (prop::collection::vec(sent(), 1..4), prop::collection::vec(harm, 0..4)).prop_map(|(sent, harm)| {
        let mut bytes = bytes(&sent);
        for (at, kind, byte) in harm {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => {
                    bytes.remove(at);
                }
            }
        }
        bytes
    })
}

/// What hyper makes of a connection: each request with its headers, but for the one in question, and its body.
fn seen_by_hyper(bytes: &[u8]) -> Vec<String> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let (mut parts, body) = request.into_parts();
            let others: Vec<_> = parts
                .headers
                .get_all("te")
                .iter()
                .filter(|value| !value.as_bytes().eq_ignore_ascii_case(b"trailers"))
                .cloned()
                .collect();
            parts.headers.remove("te");
            let body: Result<Vec<_>, _> = Body::new(body).into_data_stream().try_collect().await;
            let body = body.map(|pieces| pieces.concat()).ok();
            // Taking one out changes the order of the map, but not that of the values of a name.
            let values = |name| parts.headers.get_all(name).iter().collect::<Vec<_>>();
            let mut headers: Vec<_> = parts.headers.keys().map(|name| (name, values(name))).collect();
            headers.sort_by_key(|(name, _)| name.as_str());
            let what = (parts.method, parts.uri, parts.version, headers, others, body);
            seen.lock().push(format!("{what:?}"));
            Ok::<_, Infallible>(hyper::Response::new(Body::empty()))
        }
    });
    let io = TokioIo::new(join(bytes, sink()));
    let connection = http1::Builder::new().half_close(true).serve_connection(io, service);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // That it ends with an error is part of what may be seen.
    let ended = runtime.block_on(connection);
    let mut seen = std::mem::take(&mut *seen.lock());
    seen.push(format!("{:?}", ended.map_err(|error| error.to_string())));
    seen
}

proptest! {
    #[test]
    fn heads_get_the_header_wherever_the_bytes_are_cut(
        sent in prop::collection::vec(sent(), 1..5),
        at in prop::collection::vec(any::<Index>(), 0..20),
    ) {
        let bytes = bytes(&sent);
        let expected: Vec<u8> = sent.iter().flat_map(|one| {
            let head = if one.wanted {
                one.head.replacen('\n', "\nTE: trailers\r\n", 1)
            } else {
                one.head.clone()
            };
            [head.as_bytes(), &one.body].concat()
        }).collect();
        let mut framing = framing();
        prop_assert_eq!(through(&mut framing, &cut(&bytes, &at)), expected);
    }

    #[test]
    fn nothing_but_the_header_is_ever_put_in(
        bytes in prop_oneof![damaged(), prop::collection::vec(any::<u8>(), 0..200)],
        at in prop::collection::vec(any::<Index>(), 0..20),
    ) {
        let whole = through(&mut framing(), &[&bytes]);
        prop_assert_eq!(&through(&mut framing(), &cut(&bytes, &at)), &whole, "how it is cut makes no difference");
        // Where the two differ, the header stands.
        let (mut left, mut came) = (&bytes[..], &whole[..]);
        while let Some(byte) = came.first() {
            if came.starts_with(INSERTED) && !left.starts_with(INSERTED) {
                came = &came[INSERTED.len()..];
                continue;
            }
            prop_assert_eq!(Some(byte), left.first());
            (left, came) = (&left[1..], &came[1..]);
        }
        prop_assert!(left.is_empty());
    }

    #[test]
    fn hyper_sees_the_same_requests_with_and_without_it(bytes in damaged()) {
        let touched = through(&mut framing(), &[&bytes]);
        prop_assert_eq!(seen_by_hyper(&touched), seen_by_hyper(&bytes));
    }
}
