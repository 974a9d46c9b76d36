//! What is logged of a try.

use std::time::Duration;

use cluster_ipfs::Error;
use node_core::Cid;

use crate::Kind;
use crate::driver::Context;

pub(crate) fn attempt(context: &Context, cid: &Cid, kind: Kind, earlier: u32, error: Option<&Error>, took: Duration) {
    let (node, attempts, took_ms) = (
        context.id(),
        earlier + 1,
        u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    );
    match error {
        None => tracing::debug!(%node, pin = %cid, attempts, took_ms, "{} went well", kind.as_str()),
        Some(error) => {
            let class = error.class.as_str();
            tracing::debug!(%node, pin = %cid, attempts, took_ms, class, %error, "{} failed", kind.as_str());
        }
    }
}
