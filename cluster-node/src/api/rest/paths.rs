//! Where a path leads, found by walking content that the cluster holds.

use std::sync::Arc;
use std::time::Duration;

use cluster_content::Content;
use cluster_http::Failure;
use node_core::{Cid, ErrorClass};

use tokio::sync::Semaphore;

use super::Rest;
use crate::api::failure::failure;
use crate::service::{ClusterSource, Pins};

/// How long a path may take. Each directory on the way is a question to the nodes.
const RESOLVE_TIME: Duration = Duration::from_secs(30);

/// Of a path that is told back: 60 KiB of it help nobody.
const SHOWN_CHARS: usize = 200;

/// The CID that a path below `/ipfs/` or `/ipld/` leads to. A CID alone leads to itself, and nothing is asked.
pub async fn resolve(rest: &Rest, path: &str) -> Result<Cid, Failure> {
    resolve_in(&rest.pins, &rest.resolves, path).await
}

/// The same over these places.
pub async fn resolve_in(pins: &Arc<Pins>, places: &Arc<Semaphore>, path: &str) -> Result<Cid, Failure> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let (root, below) = path.split_once('/').unwrap_or((path, ""));
    let root: Cid = root
        .parse()
        .map_err(|error| Failure::bad(format!("error parsing path: {error}")))?;
    if below.split('/').all(str::is_empty) {
        return Ok(root);
    }
    let place = places.clone().try_acquire_owned();
    let _place = place.map_err(|_| Failure::busy("too many paths are being resolved", Duration::from_secs(1)))?;
    let source = ClusterSource::new(pins, root).map_err(failure)?;
    let content = Content::new(Arc::new(source));
    let resolved = tokio::time::timeout(RESOLVE_TIME, content.resolve(root, below.as_bytes())).await;
    let resolved = resolved.map_err(|_| {
        let words = format!("the path could not be resolved within {} s", RESOLVE_TIME.as_secs());
        Failure::busy(words, Duration::from_secs(1))
    })?;
    match resolved {
        Ok(resolved) => Ok(resolved.cid),
        Err(error) => {
            let shown: String = path.chars().take(SHOWN_CHARS).collect();
            let words = format!("cannot resolve /ipfs/{shown}: {error}");
            Err(match error.class() {
                ErrorClass::NotFound => Failure::not_found(words),
                ErrorClass::Permanent => Failure::bad(words),
                _ => Failure::busy(words, Duration::from_secs(1)),
            })
        }
    }
}

/// Names change, and none of the storage nodes is asked for them.
pub fn no_names(path: &str) -> Failure {
    let path: String = path.chars().take(SHOWN_CHARS).collect();
    Failure::bad(format!(
        "/ipns/{path}: Pinfleet resolves no names; find the CID with `ipfs resolve /ipns/{path}` and give that"
    ))
}
