//! Counts gRPC requests: by method and by the status code, which comes with the last bytes of an answer.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{HeaderMap, Request, Response};
use hyper::body::{Body, Frame, SizeHint};
use prost::Message;
use tower::{Layer, Service};

use super::Metrics;

/// Not a method of ours: counted together, or anybody could make new time series.
const UNKNOWN_METHOD: &str = "other";

/// Methods of services that are not of this project.
const FOREIGN_METHODS: [&str; 3] = [
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
];

/// All methods that get series of their own.
static METHODS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let descriptors = prost_types::FileDescriptorSet::decode(cluster_proto::FILE_DESCRIPTOR_SET);
    let mut methods: BTreeSet<String> = FOREIGN_METHODS.map(str::to_owned).into();
    // They were written by this build; a test reads them.
    for file in descriptors.unwrap_or_default().file {
        for service in &file.service {
            for method in &service.method {
                methods.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    methods
});

fn method_of(path: &str) -> &'static str {
    METHODS.get(path).map_or(UNKNOWN_METHOD, String::as_str)
}
/// The caller went away before the answer was complete.
const CANCELLED: &str = "CANCELLED";

/// Counts the requests of the services below it; for `layer` of tonic's server.
#[derive(Debug, Clone)]
pub struct GrpcMetricsLayer {
    metrics: Metrics,
}

/// A service whose requests are counted.
#[derive(Debug, Clone)]
pub struct GrpcMetrics<S> {
    inner: S,
    metrics: Metrics,
}

impl GrpcMetricsLayer {
    /// Counts into these metrics.
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics }
    }
}

impl<S> Layer<S> for GrpcMetricsLayer {
    type Service = GrpcMetrics<S>;

    fn layer(&self, inner: S) -> GrpcMetrics<S> {
        GrpcMetrics {
            inner,
            metrics: self.metrics.clone(),
        }
    }
}

impl<S, In, Out> Service<Request<In>> for GrpcMetrics<S>
where
    S: Service<Request<In>, Response = Response<Out>>,
    S::Future: Send + 'static,
{
    type Response = Response<Counted<Out>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<In>) -> Self::Future {
        let mut record = Record::begin(self.metrics.clone(), request.uri().path());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            // A status among the headers is the whole answer.
            if let Some(code) = code_in(answer.headers()) {
                record.end(code);
            }
            Ok(answer.map(|body| Counted { body, record }))
        })
    }
}

/// The body of a counted answer.
#[derive(Debug)]
pub struct Counted<B> {
    body: B,
    record: Record,
}

/// One request; recorded once, at the latest when it is dropped.
#[derive(Debug)]
struct Record {
    metrics: Metrics,
    method: &'static str,
    begun: Instant,
    ended: bool,
}

impl Record {
    fn begin(metrics: Metrics, path: &str) -> Self {
        metrics.grpc_begun();
        Self {
            metrics,
            method: method_of(path),
            begun: Instant::now(),
            ended: false,
        }
    }

    fn end(&mut self, code: &'static str) {
        if !std::mem::replace(&mut self.ended, true) {
            self.metrics.grpc_ended(self.method, code, self.begun.elapsed());
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.end(CANCELLED);
    }
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.record.end(code_in(trailers).unwrap_or("UNKNOWN"));
                }
            }
            Poll::Ready(Some(Err(_))) => self.record.end("INTERNAL"),
            Poll::Ready(None) => self.record.end("UNKNOWN"),
            Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: Default> Default for Counted<B> {
    /// For answers that other layers make without asking the service: there is nothing to count.
    fn default() -> Self {
        let mut record = Record {
            metrics: Metrics::new("", ""),
            method: UNKNOWN_METHOD,
            begun: Instant::now(),
            ended: false,
        };
        record.ended = true;
        Self {
            body: B::default(),
            record,
        }
    }
}

fn code_in(headers: &HeaderMap) -> Option<&'static str> {
    let code: usize = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    const NAMES: [&str; 17] = [
        "OK",
        CANCELLED,
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES.get(code).copied()
}

#[cfg(test)]
mod tests {
    use tonic::transport::{Channel, Endpoint, Server};
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    use super::*;

    #[test]
    fn methods_are_those_of_the_descriptors() {
        for path in [
            "/pinfleet.v1.Pins/Pin",
            "/pinfleet.v1.Pins/Watch",
            "/pinfleet.v1.Cluster/Status",
            "/grpc.health.v1.Health/Check",
        ] {
            assert_eq!(method_of(path), path);
        }
        assert_eq!(method_of("/pinfleet.v1.Pins/MadeUp"), UNKNOWN_METHOD);
        assert_eq!(method_of(""), UNKNOWN_METHOD);
    }

    async fn served(metrics: &Metrics) -> Channel {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_reporter, health) = tonic_health::server::health_reporter();
        let server = Server::builder()
            .layer(GrpcMetricsLayer::new(metrics.clone()))
            .add_service(health)
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
        tokio::spawn(server);
        Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn answers_are_counted_by_code() {
        let metrics = Metrics::new("a", "1");
        let channel = served(&metrics).await;
        let mut client = HealthClient::new(channel.clone());
        client.check(HealthCheckRequest::default()).await.unwrap();
        client
            .check(HealthCheckRequest {
                service: "none".to_owned(),
            })
            .await
            .unwrap_err();
        let stream = client.watch(HealthCheckRequest::default()).await.unwrap();
        assert!(metrics.encode().unwrap().contains("pinfleet_grpc_requests_in_flight 1"));
        drop(stream);
        let expected = [
            r#"pinfleet_grpc_requests_total{method="/grpc.health.v1.Health/Check",code="OK"} 1"#,
            r#"pinfleet_grpc_requests_total{method="/grpc.health.v1.Health/Check",code="NOT_FOUND"} 1"#,
            r#"pinfleet_grpc_requests_total{method="/grpc.health.v1.Health/Watch",code="CANCELLED"} 1"#,
            "pinfleet_grpc_requests_in_flight 0",
        ];
        // The server learns of the dropped stream a moment later.
        tokio::time::timeout(std::time::Duration::from_secs(10), async {
            loop {
                let text = metrics.encode().unwrap();
                if expected.iter().all(|line| text.lines().any(|found| found == *line)) {
                    break;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn methods_that_do_not_exist_make_no_series() {
        let metrics = Metrics::new("a", "1");
        let channel = served(&metrics).await;
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static("/made.up/Thing");
        let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckRequest>::default();
        grpc.unary(tonic::Request::new(HealthCheckRequest::default()), path, codec)
            .await
            .unwrap_err();
        // A caller that goes away before the answer must not make a series either.
        drop(Record::begin(metrics.clone(), "/made.up/Other"));
        let text = metrics.encode().unwrap();
        assert!(text.contains(r#"method="other",code="UNIMPLEMENTED"} 1"#), "{text}");
        assert!(text.contains(r#"method="other",code="CANCELLED"} 1"#), "{text}");
        assert!(!text.contains("made.up"));
    }
}
