//! What happens to every request of a server, whatever its routes are.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Path;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get, post};
use axum::{Extension, Router};
use cluster_http::{
    AsIs, Cors, ErrorForm, Failure, Open, Paths, Principal, Query, Scope, ServerOptions, Whole, empty, json,
};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde_json::json;

use crate::support::{Answer, Known, Served};

const USER: &str = "Authorization: Basic dXNlcjpwYXNz\r\n";

fn router() -> Router {
    let who = |principal: Principal| async move {
        principal.require(Scope::Pin)?;
        Ok::<_, Failure>(json(&json!({ "name": principal.name })))
    };
    let path =
        |Path(path): Path<String>, query: Query| async move { json(&json!({ "path": path, "a": query.get("a") })) };
    let passed_on = || async {
        let mut response = StatusCode::NOT_FOUND.into_response();
        response.extensions_mut().insert(AsIs);
        response
    };
    Router::new()
        .route("/health", get(|| async { empty(StatusCode::NO_CONTENT) }))
        .route("/who", get(who).post(who))
        .route("/pins", get(|| async { json("pins") }))
        .route("/pins/ipfs/{*path}", post(path))
        .route(
            "/fails",
            get(|| async { Failure::busy("later", Duration::from_secs(3)) }),
        )
        .route("/whole", post(|Whole(body): Whole| async move { json(&body.len()) }))
        .route("/panics", get(panics))
        .route("/passed-on", any(passed_on))
        .route(
            "/nobody",
            get(|who: Option<Extension<Principal>>| async move { json(&who.is_some()) }),
        )
}

#[allow(clippy::unused_async)]
async fn panics() -> Response {
    panic!("as a test wants it")
}

fn options(form: ErrorForm) -> ServerOptions {
    ServerOptions {
        headers: vec![(HeaderName::from_static("x-configured"), HeaderValue::from_static("yes"))],
        ..ServerOptions::new("test", form)
    }
}

async fn open(form: ErrorForm) -> Served {
    Served::new(router(), options(form), Arc::new(Open)).await
}

async fn locked(form: ErrorForm) -> Served {
    Served::new(router(), options(form), Arc::new(Known)).await
}

async fn ask(served: &Served, method: &str, target: &str, headers: &str) -> Answer {
    served
        .ask(&format!(
            "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n"
        ))
        .await
}

#[tokio::test]
async fn json_answers_bear_their_type_and_what_is_configured() {
    let served = open(ErrorForm::Rest).await;
    for (method, target, status, body) in [
        ("GET", "/pins", 200, "\"pins\"\n"),
        ("GET", "/health", 204, ""),
        ("GET", "/nothing", 404, "{\"code\":404,\"message\":\"not found\"}\n"),
        ("POST", "/nothing", 404, "{\"code\":404,\"message\":\"not found\"}\n"),
        ("GET", "/", 404, "{\"code\":404,\"message\":\"not found\"}\n"),
        (
            "DELETE",
            "/pins",
            405,
            "{\"code\":405,\"message\":\"method not allowed\"}\n",
        ),
        ("GET", "/fails", 503, "{\"code\":503,\"message\":\"later\"}\n"),
    ] {
        let answer = ask(&served, method, target, "").await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (status, body),
            "{method} {target}"
        );
        assert_eq!(
            answer.header("content-type"),
            Some("application/json"),
            "{method} {target}"
        );
        assert_eq!(answer.header("x-configured"), Some("yes"), "{method} {target}");
        assert_eq!(answer.header("vary"), Some("Origin"), "{method} {target}");
    }
    let answer = ask(&served, "DELETE", "/pins", "").await;
    assert_eq!(answer.header("allow"), Some("GET,HEAD"));
    assert_eq!(ask(&served, "GET", "/fails", "").await.header("retry-after"), Some("3"));
}

#[tokio::test]
async fn each_form_of_error_is_that_of_its_server() {
    for (form, missing, later, denied) in [
        (
            ErrorForm::Pinning,
            "{\"error\":{\"reason\":\"not found\"}}\n",
            "{\"error\":{\"reason\":\"later\"}}\n",
            "{\"error\":{\"reason\":\"unauthorized: no auth provided\"}}\n",
        ),
        (
            ErrorForm::Kubo,
            "{\"Message\":\"not found\",\"Code\":0,\"Type\":\"error\"}",
            "{\"Message\":\"later\",\"Code\":0,\"Type\":\"error\"}",
            "{\"Message\":\"unauthorized: no auth provided\",\"Code\":0,\"Type\":\"error\"}",
        ),
    ] {
        let served = open(form).await;
        assert_eq!(ask(&served, "GET", "/nothing", "").await.body, missing);
        let answer = ask(&served, "GET", "/fails", "").await;
        assert_eq!((answer.body.as_str(), answer.header("retry-after")), (later, Some("3")));
        assert_eq!(ask(&locked(form).await, "GET", "/pins", "").await.body, denied);
    }
}

#[tokio::test]
async fn without_credentials_every_request_but_the_open_ones_is_401() {
    let served = locked(ErrorForm::Rest).await;
    for method in ["GET", "POST", "DELETE", "HEAD", "PUT", "TRACE", "PATCH", "MADEUP"] {
        for target in [
            "/pins",
            "/pins/",
            "/pins//x",
            "/nothing",
            "/",
            "/health/graph",
            "/pins%zz",
        ] {
            let request = format!("{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n");
            let mut client = served.connect().await;
            client.say(&request).await;
            let answer = client.head().await;
            assert_eq!(answer.status, 401, "{request}");
            let challenges = &answer.headers["www-authenticate"];
            assert_eq!(
                challenges,
                &[
                    "Bearer realm=\"Restricted IPFS Cluster API\"",
                    "Basic realm=\"Restricted IPFS Cluster API\""
                ]
            );
            assert_eq!(answer.header("vary"), None);
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert_eq!(answer.header("x-configured"), Some("yes"));
        }
    }
    assert_eq!(ask(&served, "CONNECT", "x:1", "").await.status, 401);
    assert_eq!(ask(&served, "GET", "/health", "").await.status, 204);
    assert_eq!(ask(&served, "POST", "/health", "").await.status, 401);
    for target in ["/pins", "/nothing", "*"] {
        assert_ne!(ask(&served, "OPTIONS", target, "").await.status, 401, "{target}");
    }
}

#[tokio::test]
async fn wrong_credentials_are_told_from_none_and_right_ones_lead_on() {
    let served = locked(ErrorForm::Rest).await;
    let basic = "Basic realm=\"Restricted IPFS Cluster API\"";
    let bearer = "Bearer realm=\"Restricted IPFS Cluster API\", error=\"invalid_token\"";
    for (header, challenge, message) in [
        ("Basic dXNlcjp3cm9uZw==", basic, "unauthorized: access denied"),
        ("Bearer wrong", bearer, "unauthorized: invalid token"),
    ] {
        let answer = ask(&served, "GET", "/pins", &format!("Authorization: {header}\r\n")).await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.headers["www-authenticate"], [challenge]);
        assert_eq!(answer.body, format!("{{\"code\":401,\"message\":\"{message}\"}}\n"));
    }
    let answer = ask(&served, "GET", "/pins", "Authorization: Basic ZG93bjp4\r\n").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));

    for method in ["GET", "POST", "DELETE", "PUT", "TRACE", "MADEUP", "CONNECT"] {
        for target in ["/pins", "/nothing", "/health"] {
            let answer = ask(&served, method, target, USER).await;
            assert!(![401, 500].contains(&answer.status), "{method} {target}");
        }
    }
    assert_eq!(ask(&served, "GET", "/who", USER).await.body, "{\"name\":\"user\"}\n");
    let answer = ask(&served, "GET", "/who", "Authorization: bearer token\r\n").await;
    assert_eq!(answer.status, 403);
    assert!(answer.body.contains("lack the scope pin"), "{}", answer.body);
}

#[tokio::test]
async fn paths_are_tidied_before_they_are_routed() {
    let served = open(ErrorForm::Rest).await;
    for (target, status, location) in [
        ("/pins/?cids=a,b", 307, "/pins?cids=a,b"),
        ("//pins?x=1", 301, "/pins?x=1"),
        ("/pins/./../pins", 301, "/pins"),
    ] {
        let answer = ask(&served, "POST", target, "").await;
        assert_eq!(
            (answer.status, answer.header("location")),
            (status, Some(location)),
            "{target}"
        );
        assert_eq!(
            (answer.header("content-type"), answer.header("x-configured")),
            (None, None)
        );
    }
    for (target, path) in [
        ("/pins/ipfs/Qm/a", "Qm/a"),
        ("/pins/ipfs%2FQm%2Fa", "Qm/a"),
        ("/pins/ipfs/Qm%20a%3Fb%25", "Qm a?b%"),
        ("/p%69ns/ipfs/%C3%A4", "ä"),
    ] {
        let answer = ask(&served, "POST", &format!("{target}?a=b+c"), "").await;
        assert_eq!(answer.body, format!("{{\"a\":\"b c\",\"path\":\"{path}\"}}\n"));
    }
    assert_eq!(ask(&served, "POST", "/pins/ipfs/%FF", "").await.status, 400);
    assert_eq!(ask(&served, "GET", "/pins/%4", "").await.status, 400);

    let as_is = ServerOptions {
        paths: Paths::AsIs,
        ..options(ErrorForm::Kubo)
    };
    let served = Served::new(router(), as_is, Arc::new(Open)).await;
    assert_eq!(ask(&served, "GET", "/pins/", "").await.status, 404);
    assert_eq!(
        ask(&served, "POST", "/pins/ipfs//a%2Fb/../", "").await.body,
        "{\"a\":null,\"path\":\"/a/b/../\"}\n"
    );
}

#[tokio::test]
async fn pages_of_other_origins_are_told_what_they_may_do() {
    let cors = Cors {
        origins: vec!["myorigin".to_owned()],
        methods: vec![Method::GET],
        credentials: true,
        max_age: Duration::from_secs(600),
        ..Cors::default()
    };
    let options = ServerOptions {
        cors: Some(cors),
        ..options(ErrorForm::Rest)
    };
    let served = Served::new(router(), options, Arc::new(Known)).await;
    let asked =
        "Origin: myorigin\r\nAccess-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: content-type\r\n";
    for target in ["/pins", "/nothing", "/pins/"] {
        let answer = ask(&served, "OPTIONS", target, asked).await;
        assert_eq!(answer.status, 204);
        for (name, value) in [
            ("access-control-allow-origin", "myorigin"),
            ("access-control-allow-methods", "GET"),
            ("access-control-allow-headers", "content-type"),
            ("access-control-allow-credentials", "true"),
            ("access-control-max-age", "600"),
            (
                "vary",
                "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
            ),
        ] {
            assert_eq!(answer.header(name), Some(value), "{name}");
        }
    }
    let answer = ask(
        &served,
        "OPTIONS",
        "/pins",
        "Origin: other\r\nAccess-Control-Request-Method: GET\r\n",
    )
    .await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (204, None)
    );
    assert_eq!(
        ask(&served, "OPTIONS", "/pins", "Origin: myorigin\r\n").await.status,
        405
    );
    let answer = ask(&served, "GET", "/pins", &format!("{USER}Origin: myorigin\r\n")).await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("myorigin"));
    assert!(
        answer
            .header("access-control-expose-headers")
            .is_some_and(|names| names.contains("content-type"))
    );
    // Redirects come behind it, and a 401 before it.
    let answer = ask(&served, "GET", "/pins/", &format!("{USER}Origin: myorigin\r\n")).await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (307, Some("myorigin"))
    );
    let answer = ask(&served, "GET", "/pins", "Origin: myorigin\r\n").await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (401, None)
    );
}

#[tokio::test]
async fn what_is_passed_on_stays_as_it_is() {
    let served = open(ErrorForm::Kubo).await;
    let answer = ask(&served, "GET", "/passed-on", "Origin: x\r\n").await;
    assert_eq!((answer.status, answer.body.as_str()), (404, ""));
    for name in ["content-type", "x-configured", "vary", "access-control-allow-origin"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn a_request_without_a_host_or_with_two_is_refused() {
    let served = open(ErrorForm::Rest).await;
    for (request, status) in [
        ("GET /pins HTTP/1.1\r\n\r\n", 400),
        ("GET /pins HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET /pins HTTP/1.0\r\n\r\n", 200),
    ] {
        assert_eq!(served.ask(request).await.status, status, "{request}");
    }
}

#[tokio::test]
async fn a_handler_that_panics_costs_its_own_request_only() {
    let served = open(ErrorForm::Pinning).await;
    let mut client = served.connect().await;
    for (target, status) in [("/panics", 500), ("/pins", 200)] {
        client.say(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert_eq!(client.answer().await.status, status);
    }
}
