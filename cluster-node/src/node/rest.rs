//! The REST API of IPFS Cluster, where the configuration says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use cluster_http::{Authenticate, Cors, ErrorForm, Limits, ServerOptions, serve};
use http::{HeaderName, HeaderValue, Method};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::supervise::supervised;
use crate::api::rest::Rest;
use crate::config::{self, Allowed};
use crate::service::{Gatekeeper, Pins};
use crate::telemetry::Health;

/// Listeners that are bound and not served yet: what can't be bound shall stop the peer before anything else begins.
pub struct RestListeners(Vec<(TcpListener, SocketAddr)>);

/// The servers.
pub struct RestServers {
    stop: CancellationToken,
    /// Cut off when they are dropped: they hold the service, which must be let go before Raft closes.
    tasks: Vec<AbortOnDropHandle<()>>,
}

impl RestListeners {
    /// Listens.
    pub async fn bind(config: &config::Rest) -> anyhow::Result<Self> {
        let mut bound = Vec::new();
        for address in &config.listen {
            let listener = TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("rest.listen = \"{address}\": can't listen there"))?;
            let address = listener.local_addr()?;
            bound.push((listener, address));
        }
        Ok(Self(bound))
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|(_, address)| *address).collect()
    }

    /// Serves. What is being answered at the end gets `grace`.
    pub fn serve(
        self,
        config: &config::Rest,
        grace: Duration,
        pins: &Arc<Pins>,
        gate: &Arc<Gatekeeper>,
        health: &Health,
    ) -> anyhow::Result<RestServers> {
        let options = options(config, grace)?;
        let auth: Arc<dyn Authenticate> = gate.clone();
        let router = Rest::new(pins.clone(), Some(gate.clone())).router();
        let stop = CancellationToken::new();
        let tasks = self.0.into_iter().map(|(listener, _)| {
            let stopped = stop.clone().cancelled_owned();
            let served = serve(listener, router.clone(), options.clone(), auth.clone(), stopped);
            let served = async move {
                served.await;
                anyhow::Ok(())
            };
            let task = supervised("rest server", health.clone(), stop.clone(), served);
            AbortOnDropHandle::new(tokio::spawn(task))
        });
        Ok(RestServers {
            tasks: tasks.collect(),
            stop,
        })
    }
}

impl RestServers {
    /// Takes no more requests; what is being answered gets its time.
    pub fn end(&self) {
        self.stop.cancel();
    }

    /// Waits so long until all has been answered, and cuts off the rest.
    pub async fn stop(self, limit: Duration) -> bool {
        self.stop.cancel();
        tokio::time::timeout(limit, futures::future::join_all(self.tasks))
            .await
            .is_ok()
    }
}

fn options(config: &config::Rest, grace: Duration) -> anyhow::Result<ServerOptions> {
    let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    let mut options = ServerOptions::new("rest", ErrorForm::Rest);
    options.limits = Limits {
        connections_max: config.connections_max as usize,
        requests_max: config.requests_max as usize,
        head_bytes_max: bytes(config.head_bytes_max),
        target_bytes_max: bytes(config.target_bytes_max),
        head_timeout: config.head_timeout,
        idle_timeout: config.idle_timeout,
        body_idle_timeout: config.body_idle_timeout,
        body_timeout: config.body_timeout,
        body_bytes_max: bytes(config.body_bytes_max),
        stall_timeout: config.stall_timeout,
        parts_max: config.parts_max as usize,
        part_head_bytes_max: bytes(config.part_head_bytes_max),
        grace,
    };
    options.limits.check().context("[rest]")?;
    let names = |names: &[String]| -> anyhow::Result<Vec<HeaderName>> {
        let parsed = names.iter().map(HeaderName::try_from).collect::<Result<_, _>>();
        parsed.context("rest.cors_exposed_headers")
    };
    let methods = config
        .cors_methods
        .iter()
        .map(|method| Method::from_bytes(method.as_bytes()));
    options.cors = Some(Cors {
        origins: config.cors_origins.clone(),
        methods: methods.collect::<Result<_, _>>().context("rest.cors_methods")?,
        headers: config.cors_headers.clone(),
        exposed: names(&config.cors_exposed_headers)?,
        credentials: config.cors_credentials == Allowed::Yes,
        max_age: config.cors_max_age,
    });
    for (name, value) in &config.headers {
        let name = HeaderName::try_from(name).context("rest.headers")?;
        options
            .headers
            .push((name, HeaderValue::try_from(value).context("rest.headers")?));
    }
    if config.has_tls() {
        let tls = cluster_http::tls::server_config(&config.tls_cert_file, &config.tls_key_file);
        options.tls = Some(tls.context("rest.tls_cert_file and rest.tls_key_file")?);
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_server() {
        let made = options(&config::Config::default().rest, Limits::default().grace).expect("valid");
        assert_eq!(made.limits, Limits::default());
        let (made, expected) = (made.cors.expect("on"), Cors::default());
        assert_eq!((&made.origins, &made.methods), (&expected.origins, &expected.methods));
        assert!(expected.exposed.iter().all(|name| made.exposed.contains(name)));
        assert!(!made.credentials);
    }
}
