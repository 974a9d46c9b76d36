//! How one server answers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

use crate::{Cors, ErrorForm, Limits, auth};

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
    /// Put onto every answer that is JSON, errors included.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// TLS, if it speaks that; [`tls::server_config`](crate::tls::server_config) reads it from files.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// What the client says its rights are restricted to; [`auth::REALM`] unless it is told otherwise.
    pub realm: String,
    /// What is made of paths before the router sees them.
    pub paths: Paths,
    /// Told of every answer.
    pub observer: Option<Arc<dyn Observer>>,
}

/// Whoever counts requests.
pub trait Observer: fmt::Debug + Send + Sync {
    /// A request to the server of this name was answered: with which status, and how long it took until the head of the
    /// answer was there. Called on the task that answers: it must not wait.
    fn answered(&self, server: &'static str, status: StatusCode, took: Duration);
}

/// What is made of paths before the router sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Paths {
    /// As IPFS Cluster: a path with a slash at its end is redirected (307) to the one without, one that is not clean to the
    /// clean one (301), both with the query; and segments are those of the decoded path, so `a%2Fb` is `a/b`.
    #[default]
    Tidy,
    /// The same, but a slash at the end is taken off without a redirect: for calls, whose bodies nobody wants to send
    /// twice.
    Cleaned,
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
            realm: auth::REALM.to_owned(),
            paths: Paths::default(),
            observer: None,
        }
    }
}
