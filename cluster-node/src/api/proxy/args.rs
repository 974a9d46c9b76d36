//! Arguments of calls, and where paths lead.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use cluster_http::multipart::Parts;
use cluster_http::{Failure, Limits};
use http::{Request, header};
use node_core::Cid;
use serde::Deserialize;
use tokio::time::timeout;

use super::guard::Page;
use super::{Arc, Call, Proxy};
use crate::api::failure::failure;
use crate::api::rest::paths::resolve_in;
use crate::service::Error;

/// Arguments of one call: each is an operation of its own.
const ARGUMENTS_MAX: usize = 1024;

/// Bytes of arguments that come as a body, as the command line sends those of its input.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// How long the node may take to find out where a path leads. It may have to fetch what lies on the way.
const RESOLVE_TIME: Duration = Duration::from_secs(60);

/// Bytes of the node's answer to that.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What Kubo says when none is given.
pub fn missing() -> Failure {
    Failure::bad("argument \"ipfs-path\" is required")
}

impl Call {
    /// The arguments: that of the path, those of the query, and where there are none those of the body.
    pub(super) async fn arguments(&self, body: Body) -> Result<Vec<String>, Failure> {
        let mut arguments: Vec<String> = self.argument.iter().cloned().collect();
        arguments.extend(self.given().map(str::to_owned));
        let content_type = self
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok());
        if arguments.is_empty() && content_type.is_some_and(|kind| kind.starts_with("multipart/")) {
            let mut parts = Parts::new(&self.headers, body, &Limits::default())?;
            let mut left = BODY_BYTES_MAX;
            while arguments.len() <= ARGUMENTS_MAX && parts.next().await?.is_some() {
                // All parts together: what is kept is bounded however many there are.
                let text = parts.text(left).await?;
                left -= text.len();
                let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
                arguments.extend(lines.take(ARGUMENTS_MAX + 1).map(str::to_owned));
            }
        }
        match arguments.len() {
            0 => Err(missing()),
            1..=ARGUMENTS_MAX => Ok(arguments),
            _ => Err(Failure::bad(
                "more than 1024 arguments: divide them among several calls",
            )),
        }
    }

    /// Those of the query that are not empty.
    pub(super) fn given(&self) -> impl Iterator<Item = &str> {
        self.query.all("arg").filter(|argument| !argument.is_empty())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Resolved {
    cid: Link,
    #[serde(default)]
    rem_path: String,
}

#[derive(Deserialize)]
struct Link {
    #[serde(rename = "/")]
    cid: String,
}

#[derive(Deserialize)]
struct Said {
    #[serde(rename = "Message")]
    message: String,
}

impl Proxy {
    /// What an argument means: a CID, or where a path leads. Content that the cluster holds is looked at there; for other
    /// content, and for names, the node is asked.
    pub(super) async fn resolve(self: &Arc<Self>, text: &str) -> Result<Cid, Failure> {
        let bare = ["/ipfs/", "/ipld/", "ipfs://"]
            .iter()
            .find_map(|prefix| text.strip_prefix(prefix))
            .unwrap_or(text);
        if let Ok(cid) = bare.trim_end_matches('/').parse() {
            return Ok(cid);
        }
        let root = bare.split('/').next().unwrap_or_default();
        if root.parse::<Cid>().is_ok() {
            match resolve_in(&self.pins, &self.resolves, bare).await {
                Ok(cid) => return Ok(cid),
                // Perhaps others have it.
                Err(failure) => tracing::debug!(%failure, "a path is not to be found in the cluster"),
            }
        } else if !text.starts_with("/ipns/") && !text.starts_with("ipns://") {
            let shown: String = text.chars().take(200).collect();
            return Err(Failure::bad(format!("invalid path {shown:?}: it begins with no CID")));
        }
        self.resolve_at_node(text).await
    }

    async fn resolve_at_node(self: &Arc<Self>, text: &str) -> Result<Cid, Failure> {
        let query: String = form_urlencoded::Serializer::new(String::new())
            .append_pair("arg", text)
            .finish();
        let request = Request::post(format!("/api/v0/dag/resolve?{query}")).body(Body::empty());
        let request = request.map_err(|error| Failure::bad(error.to_string()))?;
        let (parts, body) = request.into_parts();
        let asked = async {
            let answer = self.pass(parts, body, None, &Page::None).await?;
            let is_fine = answer.status().is_success();
            let read = to_bytes(answer.into_body(), ANSWER_BYTES_MAX).await;
            let read = read.map_err(|error| failure(Error::precondition(error.to_string())))?;
            Ok((is_fine, read))
        };
        let answered: Result<_, Failure> = timeout(RESOLVE_TIME, asked).await.unwrap_or_else(|_| {
            let shown: String = text.chars().take(200).collect();
            Err(Failure::internal(format!(
                "the node did not find out within {RESOLVE_TIME:?} where {shown} leads"
            )))
        });
        let (is_fine, bytes) = answered?;
        if !is_fine {
            let said: Option<Said> = serde_json::from_slice(&bytes).ok();
            let words = said.map(|said| said.message);
            return Err(Failure::internal(
                words.unwrap_or_else(|| "the path can't be resolved".into()),
            ));
        }
        let resolved: Resolved =
            serde_json::from_slice(&bytes).map_err(|error| Failure::internal(format!("the node's answer: {error}")))?;
        if !resolved.rem_path.is_empty() {
            return Err(Failure::bad(format!(
                "{} leads into the block {}, and only blocks can be pinned",
                text.chars().take(200).collect::<String>(),
                resolved.cid.cid
            )));
        }
        let cid = resolved.cid.cid.parse();
        cid.map_err(|error| Failure::internal(format!("the node's answer: {error}")))
    }
}
