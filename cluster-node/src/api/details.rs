//! Details for errors that arise below the handlers: messages that are too large or can't be read, methods that do not
//! exist. A client finds an `ErrorInfo` in every error, whoever made it.

use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use tower::{Layer, Service};

use super::error::DOMAIN;

const DETAILS: &str = "grpc-status-details-bin";

/// Completes the errors of the services below it; for `layer` of tonic's server.
#[derive(Debug, Clone, Copy)]
pub struct ErrorDetailsLayer;

/// A service whose errors are completed.
#[derive(Debug, Clone)]
pub struct WithErrorDetails<S>(S);

impl<S> Layer<S> for ErrorDetailsLayer {
    type Service = WithErrorDetails<S>;

    fn layer(&self, inner: S) -> Self::Service {
        WithErrorDetails(inner)
    }
}

impl<S, In, Out> Service<Request<In>> for WithErrorDetails<S>
where
    S: Service<Request<In>, Response = Response<Out>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<In>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            let mut answer = answer.await?;
            // What goes wrong before a handler runs is told in the headers: there is no message to put trailers behind.
            let headers = answer.headers_mut();
            if let Some(status) = Status::from_header_map(headers)
                && status.code() != Code::Ok
                && status.details().is_empty()
            {
                let complete = completed(status);
                for name in ["grpc-status", "grpc-message", DETAILS] {
                    headers.remove(name);
                }
                // A status with these few details fits into headers; if it did not, the bare one would have to do.
                if complete.add_header(headers).is_err() {
                    headers.insert("grpc-status", http::HeaderValue::from(complete.code() as i32));
                }
            }
            Ok(answer)
        })
    }
}

/// A status with details. One that the library made of a bad message becomes the refusal of a bad value, which it is:
/// `OUT_OF_RANGE` and `INTERNAL`, as the library has it, would send the caller elsewhere.
pub fn completed(status: Status) -> Status {
    if !status.details().is_empty() {
        return status;
    }
    let message = status.message();
    let mut details = ErrorDetails::new();
    let is_large = message.contains("decoded message length too large");
    if is_large
        || message.starts_with("failed to decode Protobuf message")
        || message.contains("Unexpected EOF decoding")
    {
        let remedy = if is_large {
            format!("{message}; send less in one message, or raise api.message_bytes_max on the peer")
        } else {
            format!("{message}; send what the service's .proto file describes")
        };
        details.set_error_info("INVALID", DOMAIN, HashMap::new());
        details.add_bad_request_violation("message", &remedy);
        return Status::with_error_details(Code::InvalidArgument, format!("message: {remedy}"), details);
    }
    details.set_error_info(reason_of(status.code()), DOMAIN, HashMap::new());
    Status::with_error_details_and_metadata(status.code(), message, details, status.metadata().clone())
}

/// The name of a code, as a reason.
fn reason_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID",
        Code::DeadlineExceeded => "DEADLINE",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "DENIED",
        Code::ResourceExhausted => "OVERLOADED",
        Code::FailedPrecondition => "PRECONDITION",
        Code::Aborted => "CONFLICT",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_too_large_is_a_bad_value() {
        let made =
            Status::out_of_range("Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes");
        let status = completed(made);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(
            status.message().contains("api.message_bytes_max"),
            "{}",
            status.message()
        );
        let details = status.get_error_details();
        assert_eq!(details.bad_request().expect("set").field_violations[0].field, "message");
        assert_eq!(details.error_info().expect("set").reason, "INVALID");
    }

    #[test]
    fn details_that_are_there_stay() {
        let status = crate::api::status(crate::service::Error::Stopping);
        let again = completed(status.clone());
        assert_eq!((again.code(), again.details()), (status.code(), status.details()));
    }

    #[tokio::test]
    async fn errors_in_headers_are_completed() {
        let inner = tower::service_fn(|_: Request<()>| async {
            Ok::<_, std::convert::Infallible>(Status::unimplemented("").into_http::<String>())
        });
        let mut service = ErrorDetailsLayer.layer(inner);
        let answer = service.call(Request::new(())).await.expect("infallible");
        let status = Status::from_header_map(answer.headers()).expect("a status");
        assert_eq!(status.code(), Code::Unimplemented);
        assert_eq!(
            status.get_error_details().error_info().expect("set").reason,
            "UNIMPLEMENTED"
        );
        assert_eq!(answer.headers().get_all("grpc-status").iter().count(), 1);
    }
}
