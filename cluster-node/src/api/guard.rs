//! Who may use a route.

use axum::extract::{FromRequestParts, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use cluster_http::{Failure, Principal, Scope};
use http::{HeaderValue, Method, StatusCode, header};

/// Lets through who has the right. What is asked with HEAD would otherwise be answered as GET, which changes nothing and
/// which IPFS Cluster refuses. `methods` are those of the path, in lower case.
pub async fn guard(
    scope: Option<Scope>,
    methods: impl FnOnce() -> Vec<&'static str>,
    request: Request,
    next: Next,
) -> Response {
    if request.method() == Method::HEAD {
        return not_allowed(&methods());
    }
    if let Some(scope) = scope {
        let (mut parts, body) = request.into_parts();
        let principal = <Principal as FromRequestParts<()>>::from_request_parts(&mut parts, &()).await;
        if let Err(failure) = principal.and_then(|principal| principal.require(scope)) {
            return failure.into_response();
        }
        return next.run(Request::from_parts(parts, body)).await;
    }
    next.run(request).await
}

fn not_allowed(methods: &[&str]) -> Response {
    let mut answer = Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed").into_response();
    if let Ok(allow) = HeaderValue::try_from(methods.join(",").to_ascii_uppercase()) {
        answer.headers_mut().insert(header::ALLOW, allow);
    }
    answer
}
