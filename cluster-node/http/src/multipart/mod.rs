//! Multipart bodies, as the Go, JavaScript and Python clients send files and directories.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::HeaderMap;

use crate::{Failure, Limits};

/// What a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartKind {
    /// A directory; what follows may lie in it. It has no content.
    Directory,
    /// A symbolic link; its content is where it points to.
    Symlink,
    /// Anything else.
    File,
}

/// The head of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Where it lies below the upload: decoded, cleaned, without a slash at either end, and never outside. Empty if the part
    /// has no name.
    pub path: String,
    /// What it is.
    pub kind: PartKind,
    /// Where the file lies at its owner, or its URL, as far as the client says.
    pub abspath: Option<String>,
}

/// The parts of a body, one after another.
pub struct Parts {
    _body: Body,
}

impl Parts {
    /// For a request with these headers: 400 if it is not multipart.
    pub fn new(_headers: &HeaderMap, body: Body, _limits: &Limits) -> Result<Self, Failure> {
        Ok(Self { _body: body })
    }

    /// The next part; what is left of the one before is skipped. `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Part>, Failure> {
        Ok(None)
    }

    /// The next piece of this part's content; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        Ok(None)
    }
}

impl<S: Send + Sync> FromRequest<S> for Parts {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let limits = crate::body::limits_of(request.extensions());
        let (parts, body) = request.into_parts();
        Self::new(&parts.headers, body, &limits)
    }
}
