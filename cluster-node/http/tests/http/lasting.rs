//! Credentials that end while a request lasts, and what is none.

use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use cluster_http::multipart::Parts;
use cluster_http::{
    Authenticate, Denied, ErrorForm, Failure, Lasting, Open, Presented, Principal, ServerOptions, json, ndjson, pieces,
};
use futures::stream::{self, StreamExt as _};
use tokio::sync::{mpsc, watch};

use crate::support::{Known, Served, Until};

const BEARER: &str = "Authorization: Bearer token\r\n";

/// Knows whoever shows something, and lets in whoever shows nothing.
struct Lenient;

impl Lasting for Lenient {}

#[async_trait]
impl Authenticate for Lenient {
    async fn authenticate(&self, presented: Option<Presented<'_>>) -> Result<Principal, Denied> {
        match presented {
            Some(presented) => Known.authenticate(Some(presented)).await,
            None => Ok(Principal::anybody()),
        }
    }
}

#[tokio::test]
async fn what_cant_be_read_is_refused_also_where_nobody_needs_credentials() {
    let router = || Router::new().route("/who", get(|principal: Principal| async move { json(&principal.name) }));
    let options = || ServerOptions::new("test", ErrorForm::Rest);
    let lenient = Served::new(router(), options(), Arc::new(Lenient)).await;
    let open = Served::new(router(), options(), Arc::new(Open)).await;
    let ask = |header: &str| format!("GET /who HTTP/1.1\r\nHost: x\r\n{header}\r\n");
    assert_eq!(lenient.ask(&ask("")).await.status, 200);
    assert_eq!(lenient.ask(&ask(BEARER)).await.body, "\"ci\"\n");
    for value in [
        "",
        "Bearer",
        "Bearer ",
        "Basic ?",
        "Basic dXNlcg==",
        "Basic OnBhc3M=",
        "Digest a",
        "token",
    ] {
        let request = ask(&format!("Authorization: {value}\r\n"));
        let answer = lenient.ask(&request).await;
        assert_eq!(answer.status, 401, "{value:?}");
        assert!(answer.body.contains("neither `Bearer TOKEN` nor"), "{}", answer.body);
        assert_eq!(answer.headers["www-authenticate"].len(), 2);
        // Where nobody is asked, nobody's header is looked at.
        assert_eq!(open.ask(&request).await.status, 200, "{value:?}");
    }
}

/// Told by handlers what became of them.
type Told = mpsc::UnboundedSender<String>;

/// Tells when it is let go.
struct LetGo(Told);

impl Drop for LetGo {
    fn drop(&mut self) {
        let _ = self.0.send("let go".to_owned());
    }
}

fn router(told: Told) -> Router {
    let never = {
        let told = told.clone();
        move || async move {
            let _held = LetGo(told.clone());
            let _ = told.send("begun".to_owned());
            std::future::pending::<()>().await;
        }
    };
    // Answers nothing until a body has come, which it reads beside its own future, as an add does.
    let add = move |mut parts: Parts| async move {
        let reading = tokio::spawn(async move {
            let read = async {
                while parts.next().await?.is_some() {
                    let _ = told.send("a part".to_owned());
                    while parts.chunk().await?.is_some() {}
                }
                Ok::<_, Failure>(())
            };
            let read = read.await;
            let _ = told.send(format!("{:?}", read.map_err(|failure| failure.status.as_u16())));
        });
        let _ = reading.await;
    };
    let lines = || async { ndjson(stream::iter([Ok(1)]).chain(stream::pending::<Result<u8, Failure>>())).await };
    let bytes = || async { Body::from_stream(stream::iter([Ok::<_, Failure>("piece")]).chain(stream::pending())) };
    Router::new()
        .route("/never", get(never))
        .route("/add", post(add))
        .route("/lines", get(lines))
        .route("/bytes", get(bytes))
        .route(
            "/pieces",
            get(|| async { pieces(vec![b"a".to_vec(), Vec::new(), b"b".to_vec()], ()) }),
        )
}

async fn served() -> (Served, watch::Sender<bool>, mpsc::UnboundedReceiver<String>) {
    let (end, ended) = watch::channel(false);
    let (told, telling) = mpsc::unbounded_channel();
    let options = ServerOptions::new("test", ErrorForm::Rest);
    let served = Served::new(router(told), options, Arc::new(Until(ended))).await;
    (served, end, telling)
}

#[tokio::test]
async fn a_request_that_waits_is_ended_with_its_credential() {
    let (served, end, mut told) = served().await;
    let mut client = served.connect().await;
    client
        .say(format!("GET /never HTTP/1.1\r\nHost: x\r\n{BEARER}\r\n"))
        .await;
    assert_eq!(told.recv().await.as_deref(), Some("begun"));
    end.send_replace(true);
    let answer = client.answer().await;
    assert_eq!(answer.status, 401);
    assert!(answer.body.contains("was revoked or has expired"), "{}", answer.body);
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(
        answer
            .header("www-authenticate")
            .is_some_and(|asked| asked.starts_with("Bearer "))
    );
    assert_eq!(told.recv().await.as_deref(), Some("let go"), "the handler does no more");
}

#[tokio::test]
async fn what_is_still_sent_is_not_taken_any_more() {
    let (served, end, mut told) = served().await;
    let mut client = served.connect().await;
    let head = "POST /add HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nTransfer-Encoding: chunked\r\n";
    let part = "--b\r\nContent-Disposition: form-data; filename=\"x\"\r\n\r\ncontent";
    client
        .say(format!("{head}{BEARER}\r\n{:x}\r\n{part}\r\n", part.len()))
        .await;
    assert_eq!(told.recv().await.as_deref(), Some("a part"));
    end.send_replace(true);
    let rest = "\r\n--b--\r\n";
    client.say(format!("{:x}\r\n{rest}\r\n0\r\n\r\n", rest.len())).await;
    assert_eq!(
        told.recv().await.as_deref(),
        Some("Err(401)"),
        "the end of the body is not read"
    );
    assert_eq!(client.answer().await.status, 401);
}

#[tokio::test]
async fn an_answer_that_has_begun_is_broken_off() {
    // With a trailer where there is one: 200 with an error behind it.
    let (served, end, _told) = served().await;
    let mut client = served.connect().await;
    client
        .say(format!(
            "GET /lines HTTP/1.1\r\nHost: x\r\nTE: trailers\r\n{BEARER}\r\n"
        ))
        .await;
    assert_eq!(client.head().await.status, 200);
    assert_eq!(client.chunk().await.as_deref(), Some("1\n"));
    let mut other = served.connect().await;
    other
        .say(format!("GET /bytes HTTP/1.1\r\nHost: x\r\n{BEARER}\r\n"))
        .await;
    assert_eq!(other.head().await.status, 200);
    assert_eq!(other.chunk().await.as_deref(), Some("piece"));
    end.send_replace(true);
    assert_eq!(client.chunk().await.as_deref(), Some(""));
    let trailers = client.trailers().await;
    assert!(
        trailers
            .iter()
            .any(|trailer| trailer.contains("was revoked or has expired")),
        "{trailers:?}"
    );
    assert_eq!(other.chunk().await, None, "it comes to no end");
}

#[tokio::test]
async fn an_answer_that_is_complete_is_given() {
    let (served, _end, _told) = served().await;
    let answer = served
        .ask(&format!("GET /pieces HTTP/1.1\r\nHost: x\r\n{BEARER}\r\n"))
        .await;
    assert_eq!(
        (answer.header("content-length"), answer.body.as_str()),
        (Some("2"), "ab")
    );
    assert_eq!(answer.header("transfer-encoding"), None);
}
