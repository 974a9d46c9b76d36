//! What a peer tells about itself: logs, metrics, and whether it lives and can take work.
//!
//! Nothing here is global but the log subscriber: each peer has its own [`Metrics`] and [`Health`], so that several run
//! in one process in tests.

mod embedded;
mod grpc;
mod health;
mod http;
mod log;
mod metrics;
mod requests;

pub use embedded::EmbeddedNumbers;
pub use grpc::{GrpcMetrics, GrpcMetricsLayer};
pub use health::{Condition, Health, Reason};
pub use http::{HttpServer, HttpServerError};
pub use log::{LogError, init_logging};
pub use metrics::{Metrics, RocksDbSizes};
