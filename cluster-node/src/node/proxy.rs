//! The IPFS proxy, where the configuration says.

use std::sync::Arc;

use anyhow::Context;
use cluster_embedded::EmbeddedNode;
use cluster_http::{ErrorForm, Paths};
use http::HeaderName;

use super::content_http::inner_rpc;
use super::http_servers::{HttpListeners, HttpServers, ServedWith, cors};
use crate::api::proxy::{Proxy, ProxyOptions};
use crate::config::{self, Allowed};
use crate::service::Pins;

/// Serves it over the service and, for what is not the cluster's, the nodes of this peer.
pub fn serve(
    listeners: HttpListeners,
    config: &config::Proxy,
    pins: &Arc<Pins>,
    embedded: Option<&EmbeddedNode>,
    with: &ServedWith<'_>,
) -> anyhow::Result<HttpServers> {
    let names = config.mirror_headers.iter().map(HeaderName::try_from);
    let options = ProxyOptions {
        node: config.node.clone(),
        wait: config.wait == Allowed::Yes,
        answer_limit: config.answer_timeout,
        cors: cors("proxy", &config.http)?,
        mirror_path: config.mirror_path.clone(),
        mirror_headers: names.collect::<Result<_, _>>().context("proxy.mirror_headers")?,
        mirror_ttl: config.mirror_ttl,
    };
    let proxy = Proxy::new(pins.clone(), embedded.map(inner_rpc), options);
    listeners.serve_as(&config.http, ErrorForm::Kubo, &proxy.router(), with, |options| {
        // The node has a say in it, and the proxy puts both together.
        options.cors = None;
        options.paths = Paths::Cleaned;
    })
}
