//! Answers and errors as Kubo writes them.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use cluster_content::ContentError;
use cluster_ipfs::{Error, MESSAGE_BYTES_MAX, cut};
use http::StatusCode;
use http::header::{self, HeaderValue};
use node_core::ErrorClass;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

/// The place of a call among those that are answered. It is held by whoever answers last: the body of a stream.
#[derive(Clone)]
pub(super) struct Permit(#[expect(dead_code, reason = "it is held")] Arc<OwnedSemaphorePermit>);

impl Permit {
    pub(super) fn new(permit: OwnedSemaphorePermit) -> Self {
        Self(Arc::new(permit))
    }
}

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    status: StatusCode,
    code: u64,
    words: String,
}

/// What Kubo writes of an error, as an answer or as a line of one.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(rename = "Message")]
    message: &'a str,
    #[serde(rename = "Code")]
    code: u64,
    #[serde(rename = "Type")]
    kind: &'static str,
}

/// The codes of go-ipfs-cmds.
const NORMAL: u64 = 0;
const CLIENT: u64 = 1;
const RATE_LIMITED: u64 = 3;
const FORBIDDEN: u64 = 4;

impl Failure {
    /// What Kubo says of most errors.
    pub(super) fn normal(words: impl Into<String>) -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            code: NORMAL,
            words: words.into(),
        }
    }

    /// The call itself is wrong.
    pub(super) fn client(words: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            code: CLIENT,
            words: words.into(),
        }
    }

    pub(super) fn forbidden(words: impl Into<String>) -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            code: FORBIDDEN,
            words: words.into(),
        }
    }

    pub(super) fn overloaded(words: impl Into<String>) -> Self {
        Self {
            status: StatusCode::TOO_MANY_REQUESTS,
            code: RATE_LIMITED,
            words: words.into(),
        }
    }

    /// An error of this class. Kubo tells most of them apart by words alone, and so do its clients: where the words do not
    /// say it, those of Kubo are put in front.
    pub(super) fn of(class: ErrorClass, words: &str) -> Self {
        let said = |part: &str, status, code| Self {
            status,
            code,
            words: match words.contains(part) {
                true => words.to_owned(),
                false => format!("{part}: {words}"),
            },
        };
        let internal = StatusCode::INTERNAL_SERVER_ERROR;
        match class {
            ErrorClass::NotFound => said("ipld: could not find", internal, NORMAL),
            ErrorClass::DiskFull => said("maximum storage limit exceeded", internal, NORMAL),
            ErrorClass::Overloaded => said("resource limit exceeded", StatusCode::TOO_MANY_REQUESTS, RATE_LIMITED),
            ErrorClass::Permanent => Self {
                status: internal,
                code: CLIENT,
                words: words.to_owned(),
            },
            ErrorClass::Unauthorized => Self::forbidden(words),
            // Our node is there, it only can't do this now: to its driver that is no daemon that does not answer.
            ErrorClass::Stalled | ErrorClass::Unreachable | ErrorClass::Temporary => Self::normal(words),
        }
    }

    /// The error as a line of a stream that has begun.
    pub(super) fn line(&self) -> Bytes {
        line(&self.written())
    }

    fn written(&self) -> Written<'_> {
        Written {
            message: &self.words,
            code: self.code,
            kind: "error",
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::of(error.class, &error.message)
    }
}

impl From<ContentError> for Failure {
    fn from(error: ContentError) -> Self {
        Self::of(error.class(), &cut(&error.to_string(), MESSAGE_BYTES_MAX))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.written())).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

/// A value as a line of JSON.
pub(super) fn line<T: Serialize>(value: &T) -> Bytes {
    // Only maps whose keys are no texts can't be written, and there are none here.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line.into()
}
