//! The HTTP APIs, where the configuration says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use cluster_http::{Authenticate, Cors, ErrorForm, Limits, ServerOptions, serve};
use http::{HeaderName, HeaderValue, Method};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::observe::CountRequests;
use super::supervise::supervised;
use crate::config::{Allowed, HttpApi};
use crate::service::Gatekeeper;
use crate::telemetry::Health;

/// Listeners of one API that are bound and not served yet: what can't be bound shall stop the peer before anything else
/// begins.
pub struct HttpListeners {
    section: &'static str,
    bound: Vec<(TcpListener, SocketAddr)>,
}

/// The servers of one API.
pub struct HttpServers {
    section: &'static str,
    stop: CancellationToken,
    /// Cut off when they are dropped: they hold the service, which must be let go before Raft closes.
    tasks: Vec<AbortOnDropHandle<()>>,
}

/// What all APIs are served with.
pub struct ServedWith<'a> {
    /// What is being answered at the end gets so long.
    pub grace: Duration,
    /// Who may ask what.
    pub gate: &'a Arc<Gatekeeper>,
    /// Told when a server fails.
    pub health: &'a Health,
    /// Told of every answer.
    pub observer: &'a Arc<CountRequests>,
}

impl HttpListeners {
    /// Listens. `section` is that of the configuration.
    pub async fn bind(section: &'static str, config: &HttpApi) -> anyhow::Result<Self> {
        let mut bound = Vec::new();
        for address in &config.listen {
            let listener = TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("{section}.listen = \"{address}\": can't listen there"))?;
            let address = listener.local_addr()?;
            bound.push((listener, address));
        }
        Ok(Self { section, bound })
    }

    /// Where it listens first; none when it is off.
    pub fn address(&self) -> Option<SocketAddr> {
        self.bound.first().map(|(_, address)| *address)
    }

    /// Serves.
    pub fn serve(
        self,
        config: &HttpApi,
        form: ErrorForm,
        router: &Router,
        with: &ServedWith<'_>,
    ) -> anyhow::Result<HttpServers> {
        self.serve_as(config, form, router, with, |_| ())
    }

    /// The same, where an API needs something else of its server than all others.
    pub fn serve_as(
        self,
        config: &HttpApi,
        form: ErrorForm,
        router: &Router,
        with: &ServedWith<'_>,
        change: impl FnOnce(&mut ServerOptions),
    ) -> anyhow::Result<HttpServers> {
        let section = self.section;
        let mut options = options(section, config, form, with.grace)?;
        change(&mut options);
        options.observer = Some(with.observer.clone());
        let auth: Arc<dyn Authenticate> = with.gate.clone();
        let stop = CancellationToken::new();
        let tasks = self.bound.into_iter().map(|(listener, _)| {
            let stopped = stop.clone().cancelled_owned();
            let served = serve(listener, router.clone(), options.clone(), auth.clone(), stopped);
            let served = async move {
                served.await;
                anyhow::Ok(())
            };
            let task = supervised(section, with.health.clone(), stop.clone(), served);
            AbortOnDropHandle::new(tokio::spawn(task))
        });
        Ok(HttpServers {
            section,
            tasks: tasks.collect(),
            stop,
        })
    }
}

impl HttpServers {
    /// Takes no more requests; what is being answered gets its time.
    pub fn end(&self) {
        self.stop.cancel();
    }

    /// Waits so long until all has been answered, and cuts off the rest.
    pub async fn stop(self, limit: Duration) {
        self.stop.cancel();
        let answered = tokio::time::timeout(limit, futures::future::join_all(self.tasks));
        if answered.await.is_err() {
            tracing::info!(api = self.section, "answers that are still open are cut");
        }
    }
}

fn options(section: &'static str, config: &HttpApi, form: ErrorForm, grace: Duration) -> anyhow::Result<ServerOptions> {
    let of = |option: &str| format!("{section}.{option}");
    let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    let mut options = ServerOptions::new(section, form);
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
    options.limits.check().with_context(|| format!("[{section}]"))?;
    options.cors = Some(cors(section, config)?);
    for (name, value) in &config.headers {
        let name = HeaderName::try_from(name).with_context(|| of("headers"))?;
        options
            .headers
            .push((name, HeaderValue::try_from(value).with_context(|| of("headers"))?));
    }
    if config.has_tls() {
        let tls = cluster_http::tls::server_config(&config.tls_cert_file, &config.tls_key_file);
        options.tls = Some(tls.with_context(|| format!("{section}.tls_cert_file and {section}.tls_key_file"))?);
    }
    Ok(options)
}

/// What pages may do.
pub fn cors(section: &str, config: &HttpApi) -> anyhow::Result<Cors> {
    let of = |option: &str| format!("{section}.{option}");
    let names = |names: &[String]| -> anyhow::Result<Vec<HeaderName>> {
        let parsed = names.iter().map(HeaderName::try_from).collect::<Result<_, _>>();
        parsed.with_context(|| of("cors_exposed_headers"))
    };
    let methods = config
        .cors_methods
        .iter()
        .map(|method| Method::from_bytes(method.as_bytes()));
    Ok(Cors {
        origins: config.cors_origins.clone(),
        methods: methods.collect::<Result<_, _>>().with_context(|| of("cors_methods"))?,
        headers: config.cors_headers.clone(),
        exposed: names(&config.cors_exposed_headers)?,
        credentials: config.cors_credentials == Allowed::Yes,
        max_age: config.cors_max_age,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_defaults_are_those_of_the_server() {
        let made = options(
            "rest",
            &Config::default().rest,
            ErrorForm::Rest,
            Limits::default().grace,
        )
        .expect("valid");
        assert_eq!(made.limits, Limits::default());
        let (made, expected) = (made.cors.expect("on"), Cors::default());
        assert_eq!((&made.origins, &made.methods), (&expected.origins, &expected.methods));
        assert!(expected.exposed.iter().all(|name| made.exposed.contains(name)));
        assert!(!made.credentials);
    }
}
