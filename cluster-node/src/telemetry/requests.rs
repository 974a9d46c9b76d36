//! What clients ask of the HTTP APIs.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::metrics::fast_buckets;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApiLabels {
    api: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    api: &'static str,
    status: u16,
}

/// Requests by API and status.
pub struct HttpRequests {
    answered: Family<StatusLabels, Counter>,
    seconds: Family<ApiLabels, Histogram>,
}

impl Default for HttpRequests {
    fn default() -> Self {
        Self {
            answered: Family::default(),
            seconds: Family::new_with_constructor(fast_buckets),
        }
    }
}

impl HttpRequests {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "http_requests",
            "Requests to the HTTP APIs, by API and status",
            self.answered.clone(),
        );
        registry.register_with_unit(
            "http_request",
            "Time of a request to an HTTP API until the head of its answer",
            Unit::Seconds,
            self.seconds.clone(),
        );
    }

    pub(super) fn answered(&self, api: &'static str, status: u16, took: Duration) {
        self.answered.get_or_create(&StatusLabels { api, status }).inc();
        self.seconds
            .get_or_create(&ApiLabels { api })
            .observe(took.as_secs_f64());
    }
}
