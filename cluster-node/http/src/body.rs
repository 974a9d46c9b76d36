//! Bodies of requests that are read as a whole.

use std::error::Error;
use std::io;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use http::StatusCode;
use http_body::Body as _;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::auth::NoLongerGranted;
use crate::{Failure, Limits};

/// A whole body, as an extractor: bounded in size and time by the server's [`Limits`], whatever its content type says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole(pub Bytes);

impl Whole {
    /// Reads a body: 413 when it is larger than `body_bytes_max`, 408 when it takes longer than `body_timeout`.
    pub async fn read(body: Body, limits: &Limits) -> Result<Self, Failure> {
        let most = limits.body_bytes_max;
        let too_long = || {
            let words = format!("the body is longer than {most} bytes, which is the most that this server takes");
            Failure::new(StatusCode::PAYLOAD_TOO_LARGE, words)
        };
        // One that says so itself is not even read.
        if body.size_hint().lower() > most as u64 {
            return Err(too_long());
        }
        let gathered = async {
            let mut data = body.into_data_stream();
            let mut whole = BytesMut::new();
            while let Some(piece) = data.try_next().await.map_err(|error| failed(&error))? {
                if whole.len() + piece.len() > most {
                    return Err(too_long());
                }
                whole.extend_from_slice(&piece);
            }
            Ok(Self(whole.freeze()))
        };
        timeout(limits.body_timeout, gathered).await.unwrap_or_else(|_| {
            let limit = limits.body_timeout;
            let words = format!("the body was not there within {limit:?}");
            Err(Failure::new(StatusCode::REQUEST_TIMEOUT, words))
        })
    }

    /// Reads it as JSON; `None` if it is none, or not of that form.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.0)
    }
}

impl<S: Send + Sync> FromRequest<S> for Whole {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let limits = limits_of(request.extensions());
        Self::read(request.into_body(), &limits).await
    }
}

/// The limits of the server that a request came through.
pub(crate) fn limits_of(extensions: &http::Extensions) -> std::sync::Arc<Limits> {
    extensions.get().cloned().unwrap_or_default()
}

/// The failure for a body that could not be read on: 408 if the client sent nothing for too long, 401 if its credential was
/// revoked or has expired meanwhile, else 400.
pub fn failed(error: &(dyn Error + 'static)) -> Failure {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::TimedOut
        {
            return Failure::new(StatusCode::REQUEST_TIMEOUT, format!("the body stopped coming: {io}"));
        }
        if error.is::<NoLongerGranted>() {
            return Failure::new(StatusCode::UNAUTHORIZED, error.to_string());
        }
        cause = error.source();
    }
    Failure::bad(format!("the body can't be read: {error}"))
}
