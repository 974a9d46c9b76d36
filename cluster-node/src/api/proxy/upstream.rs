//! The node that calls are passed on to: an attached daemon, spoken to over HTTP, or the one inside this peer, called as it is.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use cluster_http::{AsIs, Failure};
use cluster_kubo::{KuboClient, PassError};
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body::Body as _;
use node_core::{NodeId, NodeState};
use tower::ServiceExt as _;

use super::guard::{self, Page};
use super::{Arc, Proxy};
use crate::service::is_embedded;

/// Where the request came from before it came here.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// When it is worth asking again while a node can't be reached.
const SOON: Duration = Duration::from_secs(1);

/// The node.
pub enum Upstream {
    /// A daemon.
    Attached(NodeId, Arc<KuboClient>),
    /// The node inside this peer.
    Embedded(NodeId, Router),
}

impl Upstream {
    /// Which node it is.
    pub fn node(&self) -> NodeId {
        match self {
            Self::Attached(node, _) | Self::Embedded(node, _) => *node,
        }
    }
}

fn gateway(words: impl Into<String>) -> Failure {
    Failure {
        retry_after: Some(SOON),
        ..Failure::new(StatusCode::BAD_GATEWAY, words)
    }
}

impl Proxy {
    /// The node, as this peer drives its nodes at this moment.
    pub(super) async fn upstream(&self) -> Result<Upstream, Failure> {
        let names = self.pins.names();
        let mut own: Vec<_> = names.of_peer(self.pins.directory.own()).collect();
        own.retain(|node| node.state != NodeState::Gone);
        let wanted = self.options.node.as_str();
        let chosen = if wanted.is_empty() {
            let attached = own.iter().find(|node| !is_embedded(node));
            attached.or_else(|| own.first())
        } else {
            let id = wanted.parse().ok();
            own.iter().find(|node| node.name == wanted || Some(node.id) == id)
        };
        let Some(node) = chosen else {
            return Err(gateway(match wanted {
                "" => "this peer drives no IPFS node that could answer".to_owned(),
                wanted => format!(
                    "this peer drives no node {wanted:?}: set proxy.node to one of its own, which `cluster-ctl node ls` shows"
                ),
            }));
        };
        if is_embedded(node) {
            let router = self.embedded.clone();
            let router = router.ok_or_else(|| gateway("the embedded node of this peer does not run"))?;
            return Ok(Upstream::Embedded(node.id, router));
        }
        match self.pins.nodes.daemon(node.id).await {
            Ok(Some(client)) => Ok(Upstream::Attached(node.id, client)),
            Ok(None) => Err(gateway(format!(
                "this peer does not drive the node {:?} yet",
                node.name
            ))),
            Err(error) => Err(gateway(error.message)),
        }
    }

    /// Whether it is a daemon.
    pub(super) async fn is_attached(&self) -> Result<bool, Failure> {
        Ok(matches!(self.upstream().await?, Upstream::Attached(..)))
    }

    /// Passes a request on, and its answer back as it is.
    pub(super) async fn pass(
        &self,
        parts: Parts,
        body: Body,
        remote: Option<SocketAddr>,
        page: &Page,
    ) -> Result<Response, Failure> {
        let upstream = self.upstream().await?;
        self.pass_to(&upstream, parts, body, remote, page).await
    }

    /// The same to a node that is known already.
    pub(super) async fn pass_to(
        &self,
        upstream: &Upstream,
        mut parts: Parts,
        body: Body,
        remote: Option<SocketAddr>,
        page: &Page,
    ) -> Result<Response, Failure> {
        // The cluster's credentials are none of the node's business.
        parts.headers.remove(header::AUTHORIZATION);
        parts.headers.remove(header::COOKIE);
        let mut response = match upstream {
            Upstream::Attached(_, client) => {
                // A browser that hides its page is refused here; of other pages the node knows more.
                if *page == Page::Refused {
                    return Err(guard::refused());
                }
                if let Some(remote) = remote {
                    forwarded(&mut parts, remote);
                }
                let is_empty = body.size_hint().exact() == Some(0);
                let body = (!is_empty).then(|| body.into_data_stream());
                let passed = client.pass(parts, body, self.options.answer_limit).await;
                passed.map_err(not_passed)?.map(Body::new)
            }
            Upstream::Embedded(_, router) => {
                if matches!(page, Page::Refused | Page::Foreign(_)) {
                    return Err(guard::refused());
                }
                let request = axum::extract::Request::from_parts(parts, body);
                let answered = router.clone().oneshot(request).await;
                answered.unwrap_or_else(|never| match never {})
            }
        };
        response.extensions_mut().insert(AsIs);
        Ok(response)
    }
}

fn not_passed(error: PassError) -> Failure {
    match error {
        PassError::Down(words) => gateway(words),
        PassError::Late(words) => Failure::new(
            StatusCode::GATEWAY_TIMEOUT,
            format!("{words}; proxy.answer_timeout sets how long it may take"),
        ),
        PassError::Invalid(words) => Failure::bad(words),
    }
}

/// Adds who asked to those who asked before.
fn forwarded(parts: &mut Parts, remote: SocketAddr) {
    let before: Vec<_> = parts.headers.get_all(&FORWARDED_FOR).iter().cloned().collect();
    let mut text = Vec::new();
    for value in &before {
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b", ");
    }
    text.extend_from_slice(remote.ip().to_canonical().to_string().as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&text) {
        parts.headers.insert(FORWARDED_FOR, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asked_is_added_to_who_asked_before() {
        let told = |before: &[&str]| {
            let mut request = http::Request::builder();
            for value in before {
                request = request.header(&FORWARDED_FOR, *value);
            }
            let (mut parts, ()) = request.body(()).expect("a request").into_parts();
            forwarded(&mut parts, "[::ffff:10.0.0.1]:5".parse().expect("an address"));
            parts.headers[&FORWARDED_FOR].to_str().expect("text").to_owned()
        };
        assert_eq!(told(&[]), "10.0.0.1");
        assert_eq!(
            told(&["1.2.3.4", "5.6.7.8, 9.9.9.9"]),
            "1.2.3.4, 5.6.7.8, 9.9.9.9, 10.0.0.1"
        );
    }
}
