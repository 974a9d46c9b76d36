//! Every path with its method, the right that it takes, its handler, and what a client has to know of it.

use std::sync::Arc;

use axum::Router;
use axum::routing::{MethodFilter, on};
use cluster_http::Scope;

use super::super::routing;
use super::{Pinning, openapi, pins};

/// One operation.
pub type Route = routing::Route<Pinning, Detail>;

/// What a client has to know of it besides.
pub struct Detail {
    /// It takes the filters of a list.
    pub filtered: bool,
    /// It takes a pin.
    pub takes_pin: bool,
    /// What it answers when all is well: the status, and the schema of its body if it has one.
    pub answer: (&'static str, Option<&'static str>),
}

/// All of them.
pub const ROUTES: &[Route] = &[
    Route {
        method: "get",
        path: "/pins",
        scope: Some(Scope::Read),
        handler: || on(MethodFilter::GET, pins::list),
        id: "listPins",
        summary: "Pins that all filters fit, the newest first. Without a status those that are `pinned`.",
        detail: Detail {
            filtered: true,
            takes_pin: false,
            answer: ("200", Some("PinResults")),
        },
    },
    Route {
        method: "post",
        path: "/pins",
        scope: Some(Scope::Pin),
        handler: || on(MethodFilter::POST, pins::add),
        id: "addPin",
        summary: "Pins a CID and all below it, under a request ID of its own. A repetition with the same `Idempotency-Key` is \
                  answered as the first.",
        detail: Detail {
            filtered: false,
            takes_pin: true,
            answer: ("202", Some("PinStatus")),
        },
    },
    Route {
        method: "get",
        path: "/pins/{requestid}",
        scope: Some(Scope::Read),
        handler: || on(MethodFilter::GET, pins::get),
        id: "getPin",
        summary: "One pin and where it stands.",
        detail: Detail {
            filtered: false,
            takes_pin: false,
            answer: ("200", Some("PinStatus")),
        },
    },
    Route {
        method: "post",
        path: "/pins/{requestid}",
        scope: Some(Scope::Pin),
        handler: || on(MethodFilter::POST, pins::replace),
        id: "replacePin",
        summary: "Puts a pin in the place of another, whose content stays until the new one is pinned. A pin of the same CID is \
                  changed and keeps its request ID.",
        detail: Detail {
            filtered: false,
            takes_pin: true,
            answer: ("202", Some("PinStatus")),
        },
    },
    Route {
        method: "delete",
        path: "/pins/{requestid}",
        scope: Some(Scope::Pin),
        handler: || on(MethodFilter::DELETE, pins::remove),
        id: "removePin",
        summary: "Removes a pin.",
        detail: Detail {
            filtered: false,
            takes_pin: false,
            answer: ("202", None),
        },
    },
    Route {
        method: "post",
        path: "/token",
        scope: Some(Scope::Read),
        handler: || on(MethodFilter::POST, pins::token),
        id: "token",
        summary: "A bearer token for who has credentials.",
        detail: Detail {
            filtered: false,
            takes_pin: false,
            answer: ("200", Some("Token")),
        },
    },
    Route {
        method: "get",
        path: "/health",
        scope: None,
        handler: || on(MethodFilter::GET, pins::alive),
        id: "health",
        summary: "Whether the peer answers. Open to all.",
        detail: Detail {
            filtered: false,
            takes_pin: false,
            answer: ("204", None),
        },
    },
    Route {
        method: "get",
        path: "/openapi.json",
        scope: None,
        handler: || on(MethodFilter::GET, openapi::document),
        id: "openapi",
        summary: "This document.",
        detail: Detail {
            filtered: false,
            takes_pin: false,
            answer: ("200", Some("Document")),
        },
    },
];

/// The router of all routes.
pub fn router(pinning: Arc<Pinning>) -> Router {
    routing::router(ROUTES).with_state(pinning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_changes_something_needs_a_right_for_it() {
        routing::checks::changes_take_a_right(ROUTES);
    }
}
