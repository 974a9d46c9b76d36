//! Every path with its method, the right that it takes, its handler, and what a client has to know of it.

use std::sync::Arc;

use axum::Router;
use axum::routing::{MethodFilter, on};
use cluster_http::Scope;

use super::super::routing;
use super::{Rest, add, gc, health, lists, openapi, peers, pins};

/// One operation.
pub type Route = routing::Route<Rest, Detail>;

/// What a client has to know of it besides.
pub struct Detail {
    /// What may stand in its query, in groups.
    pub query: &'static [Group],
    /// What it takes.
    pub body: Option<Body>,
    /// What it answers when all is well.
    pub answer: Answered,
}

/// Parameters of a query that go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Ask this peer alone.
    Local,
    /// Options of a pin.
    Options,
    /// The words of `filter` on pins.
    Types,
    /// The words of `filter` on statuses, and `cids`.
    Statuses,
    /// What narrows a list, and pages of it.
    Narrowed,
    /// How content is added.
    Add,
}

/// What is sent with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// One object of this schema.
    Object(&'static str),
    /// Parts, as of a form.
    Parts,
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// One object of this schema.
    Object(&'static str),
    /// One array of these.
    Array(&'static str),
    /// Any number of these, one a line.
    Lines(&'static str),
    /// 204 and no body.
    Nothing,
}

/// All of them.
pub const ROUTES: &[Route] = &[
    Route {
        method: "get",
        path: "/id",
        scope: Some(Scope::Read),
        handler: || on(MethodFilter::GET, peers::id),
        id: "id",
        summary: "The peer that answers.",
        detail: Detail {
            query: &[],
            body: None,
            answer: Answered::Object("ID"),
        },
    },
    Route {
        method: "get",
        path: "/version",
        scope: Some(Scope::Read),
        handler: || on(MethodFilter::GET, peers::version),
        id: "version",
        summary: "The release of the API, and behind `+` what answers it.",
        detail: Detail {
            query: &[],
            body: None,
            answer: Answered::Object("Version"),
        },
    },
    Route {
        method: "get",
        path: "/peers",
        scope: Some(Scope::Read),
        handler: || on(MethodFilter::GET, peers::list),
        id: "peers",
        summary: "All members: each storage node is one.",
        detail: Detail {
            query: &[],
            body: None,
            answer: Answered::Lines("ID"),
        },
    },
    Route {
        method: "post",
        path: "/peers",
        scope: Some(Scope::Admin),
        handler: || on(MethodFilter::POST, peers::add),
        id: "peerAdd",
        summary: "Answers who is a member already; others join with a token from `cluster-ctl peer join-token`.",
        detail: Detail {
            query: &[],
            body: Some(Body::Object("PeerAdd")),
            answer: Answered::Object("ID"),
        },
    },
    Route {
        method: "delete",
        path: "/peers/{peer}",
        scope: Some(Scope::Admin),
        handler: || on(MethodFilter::DELETE, peers::remove),
        id: "peerRemove",
        summary: "Takes a peer out with all its nodes, or one of its further nodes.",
        detail: Detail {
            query: &[],
            body: None,
            answer: Answered::Nothing,
        },
    },
    Route {
        method: "post",
        path: "/add",
        scope: Some(Scope::Pin),
        handler: || on(MethodFilter::POST, add::add),
        id: "add",
        summary: "Adds content and pins it. One object for each file and directory, the root last.",
        detail: Detail {
            query: &[Group::Add, Group::Options],
            body: Some(Body::Parts),
            answer: Answered::Lines("AddedOutput"),
        },
    },
    Route {
        method: "get",
        path: "/allocations",
        scope: Some(Scope::Read),
        handler: || on(MethodFilter::GET, lists::allocations),
        id: "allocations",
        summary: "All pins as recorded.",
        detail: Detail {
            query: &[Group::Types, Group::Narrowed],
            body: None,
            answer: Answered::Lines("Pin"),
        },
    },
    Route {
        method: "get",
        path: "/allocations/{hash}",
        scope: Some(Scope::Read),
        handler: || on(MethodFilter::GET, pins::allocation),
        id: "allocation",
        summary: "One pin as recorded.",
        detail: Detail {
            query: &[],
            body: None,
            answer: Answered::Object("Pin"),
        },
    },
    Route {
        method: "get",
        path: "/pins",
        scope: Some(Scope::Read),
        handler: || on(MethodFilter::GET, lists::statuses),
        id: "statusAll",
        summary: "Where all pins stand, or some CIDs.",
        detail: Detail {
            query: &[Group::Local, Group::Statuses, Group::Narrowed],
            body: None,
            answer: Answered::Lines("GlobalPinInfo"),
        },
    },
    Route {
        method: "post",
        path: "/pins/recover",
        scope: Some(Scope::Pin),
        handler: || on(MethodFilter::POST, lists::recover),
        id: "recoverAll",
        summary: "Tries again what was given up or waits to be tried again, and tells of that.",
        detail: Detail {
            query: &[Group::Local],
            body: None,
            answer: Answered::Lines("GlobalPinInfo"),
        },
    },
    Route {
        method: "get",
        path: "/pins/{hash}",
        scope: Some(Scope::Read),
        handler: || on(MethodFilter::GET, pins::status),
        id: "status",
        summary: "Where a CID stands; one that is not pinned is `unpinned` everywhere.",
        detail: Detail {
            query: &[Group::Local],
            body: None,
            answer: Answered::Object("GlobalPinInfo"),
        },
    },
    Route {
        method: "post",
        path: "/pins/{hash}",
        scope: Some(Scope::Pin),
        handler: || on(MethodFilter::POST, pins::pin),
        id: "pin",
        summary: "Pins a CID.",
        detail: Detail {
            query: &[Group::Options],
            body: None,
            answer: Answered::Object("Pin"),
        },
    },
    Route {
        method: "delete",
        path: "/pins/{hash}",
        scope: Some(Scope::Pin),
        handler: || on(MethodFilter::DELETE, pins::unpin),
        id: "unpin",
        summary: "Unpins a CID and answers the pin as it was.",
        detail: Detail {
            query: &[],
            body: None,
            answer: Answered::Object("Pin"),
        },
    },
    Route {
        method: "post",
        path: "/pins/{hash}/recover",
        scope: Some(Scope::Pin),
        handler: || on(MethodFilter::POST, pins::recover),
        id: "recover",
        summary: "Tries a CID again where it was given up or waits.",
        detail: Detail {
            query: &[Group::Local],
            body: None,
            answer: Answered::Object("GlobalPinInfo"),
        },
    },
    Route {
        method: "post",
        path: "/pins/ipfs/{*path}",
        scope: Some(Scope::Pin),
        handler: || on(MethodFilter::POST, pins::pin_path),
        id: "pinPath",
        summary: "Pins what a path leads to.",
        detail: Detail {
            query: &[Group::Options],
            body: None,
            answer: Answered::Object("Pin"),
        },
    },
    Route {
        method: "delete",
        path: "/pins/ipfs/{*path}",
        scope: Some(Scope::Pin),
        handler: || on(MethodFilter::DELETE, pins::unpin_path),
        id: "unpinPath",
        summary: "Unpins what a path leads to.",
        detail: Detail {
            query: &[],
            body: None,
            answer: Answered::Object("Pin"),
        },
    },
    Route {
        method: "post",
        path: "/pins/ipld/{*path}",
        scope: Some(Scope::Pin),
        handler: || on(MethodFilter::POST, pins::pin_path),
        id: "pinIpldPath",
        summary: "Pins what a path leads to.",
        detail: Detail {
            query: &[Group::Options],
            body: None,
            answer: Answered::Object("Pin"),
        },
    },
    Route {
        method: "delete",
        path: "/pins/ipld/{*path}",
        scope: Some(Scope::Pin),
        handler: || on(MethodFilter::DELETE, pins::unpin_path),
        id: "unpinIpldPath",
        summary: "Unpins what a path leads to.",
        detail: Detail {
            query: &[],
            body: None,
            answer: Answered::Object("Pin"),
        },
    },
    Route {
        method: "post",
        path: "/pins/ipns/{*path}",
        scope: Some(Scope::Pin),
        handler: || on(MethodFilter::POST, pins::name),
        id: "pinName",
        summary: "Always refused: names are not resolved.",
        detail: Detail {
            query: &[Group::Options],
            body: None,
            answer: Answered::Object("Pin"),
        },
    },
    Route {
        method: "delete",
        path: "/pins/ipns/{*path}",
        scope: Some(Scope::Pin),
        handler: || on(MethodFilter::DELETE, pins::name),
        id: "unpinName",
        summary: "Always refused: names are not resolved.",
        detail: Detail {
            query: &[],
            body: None,
            answer: Answered::Object("Pin"),
        },
    },
    Route {
        method: "post",
        path: "/ipfs/gc",
        scope: Some(Scope::Admin),
        handler: || on(MethodFilter::POST, gc::collect),
        id: "repoGC",
        summary: "Collects garbage at the members, one after another. Kubo daemons collect by themselves, and say so.",
        detail: Detail {
            query: &[Group::Local],
            body: None,
            answer: Answered::Object("GlobalRepoGC"),
        },
    },
    Route {
        method: "get",
        path: "/health",
        scope: None,
        handler: || on(MethodFilter::GET, health::alive),
        id: "health",
        summary: "Whether the peer answers. Open to all.",
        detail: Detail {
            query: &[],
            body: None,
            answer: Answered::Nothing,
        },
    },
    Route {
        method: "get",
        path: "/health/graph",
        scope: Some(Scope::Read),
        handler: || on(MethodFilter::GET, health::graph),
        id: "connectGraph",
        summary: "Who reaches whom. Which nodes the IPFS daemons are connected to is not asked.",
        detail: Detail {
            query: &[],
            body: None,
            answer: Answered::Object("ConnectGraph"),
        },
    },
    Route {
        method: "get",
        path: "/health/alerts",
        scope: Some(Scope::Read),
        handler: || on(MethodFilter::GET, health::alerts),
        id: "alerts",
        summary: "Members that do not answer, the newest first.",
        detail: Detail {
            query: &[],
            body: None,
            answer: Answered::Array("Alert"),
        },
    },
    Route {
        method: "get",
        path: "/health/bandwidth",
        scope: Some(Scope::Read),
        handler: || on(MethodFilter::GET, health::bandwidth),
        id: "bandwidth",
        summary: "Bytes by protocol, of the node inside this peer.",
        detail: Detail {
            query: &[],
            body: None,
            answer: Answered::Object("BandwidthByProtocol"),
        },
    },
    Route {
        method: "get",
        path: "/monitor/metrics",
        scope: Some(Scope::Read),
        handler: || on(MethodFilter::GET, health::names),
        id: "metricNames",
        summary: "The names of all metrics.",
        detail: Detail {
            query: &[],
            body: None,
            answer: Answered::Array("MetricName"),
        },
    },
    Route {
        method: "get",
        path: "/monitor/metrics/{name}",
        scope: Some(Scope::Read),
        handler: || on(MethodFilter::GET, health::metrics),
        id: "metrics",
        summary: "What each member told last; nothing for a name that there is not.",
        detail: Detail {
            query: &[],
            body: None,
            answer: Answered::Array("Metric"),
        },
    },
    Route {
        method: "post",
        path: "/token",
        scope: Some(Scope::Read),
        handler: || on(MethodFilter::POST, peers::token),
        id: "token",
        summary: "A bearer token for who has credentials.",
        detail: Detail {
            query: &[],
            body: None,
            answer: Answered::Object("Token"),
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
            query: &[],
            body: None,
            answer: Answered::Object("Document"),
        },
    },
];

/// The router of all routes.
pub fn router(rest: Arc<Rest>) -> Router {
    routing::router(ROUTES).with_state(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_changes_something_needs_a_right_for_it() {
        routing::checks::changes_take_a_right(ROUTES);
    }
}
