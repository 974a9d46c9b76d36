//! What goes wrong with a request, in the form of the server that answers it.

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

/// How a server writes an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ErrorForm {
    /// `{"code":404,"message":"…"}` and a newline, as IPFS Cluster's REST API does. `code` is the status: its Go client
    /// trusts the body and not the status line.
    #[default]
    Rest,
    /// `{"error":{"reason":"…","details":"…"}}` and a newline, as the Pinning Services API does; `details` only if there are
    /// any.
    Pinning,
    /// `{"Message":"…","Code":0,"Type":"error"}`, as Kubo's RPC does.
    Kubo,
}

impl ErrorForm {
    /// The body of an answer that is an error.
    pub fn body(self, failure: &Failure) -> Bytes {
        #[derive(Serialize)]
        struct Rest<'a> {
            code: u16,
            message: &'a str,
        }
        #[derive(Serialize)]
        struct Pinning<'a> {
            error: Reason<'a>,
        }
        #[derive(Serialize)]
        struct Reason<'a> {
            reason: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            details: Option<&'a str>,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Kubo<'a> {
            message: &'a str,
            code: u8,
            r#type: &'a str,
        }
        let message = failure.message.as_str();
        let written = match self {
            Self::Rest => serde_json::to_vec(&Rest {
                code: failure.status.as_u16(),
                message,
            }),
            Self::Pinning => serde_json::to_vec(&Pinning {
                error: Reason {
                    reason: message,
                    details: failure.details.as_deref(),
                },
            }),
            Self::Kubo => serde_json::to_vec(&Kubo {
                message,
                code: 0,
                r#type: "error",
            }),
        };
        // Texts and numbers are always written; without a body the status still says what it was.
        let mut written = written.unwrap_or_default();
        if self != Self::Kubo {
            written.push(b'\n');
        }
        written.into()
    }
}

/// Why a request has no result. As an answer it takes the form of its server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The status, 4xx or 5xx.
    pub status: StatusCode,
    /// What is wrong and what helps, for a human; clients show it.
    pub message: String,
    /// More of it, where the form of the server has a place for that ([`ErrorForm::Pinning`]).
    pub details: Option<String>,
    /// When the same request may well succeed; sent as `Retry-After` in whole seconds, at least 1.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure of any status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            details: None,
            retry_after: None,
        }
    }

    /// 400: the request makes no sense, and never will.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 403: it is known who asks, and this is not for them.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 500: not the caller's fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// 503: not now, but after `retry_after`.
    pub fn busy(message: impl Into<String>, retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
        }
    }

    /// The same with details.
    #[must_use]
    pub fn with_details(self, details: impl Into<String>) -> Self {
        Self {
            details: Some(details.into()),
            ..self
        }
    }

    /// The answer in a form that is known; inside a server [`IntoResponse`] finds it by itself.
    pub fn respond(&self, form: ErrorForm) -> Response {
        let mut response = Response::new(Body::from(form.body(self)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        response
    }
}

impl IntoResponse for Failure {
    /// In the form of IPFS Cluster's REST API, with the failure beside it: a server of another form writes the body again.
    fn into_response(self) -> Response {
        let mut response = self.respond(ErrorForm::Rest);
        response.extensions_mut().insert(self);
        response
    }
}

/// A text as the value of a header: one line of at most `most` bytes, whatever was in it.
pub(crate) fn header_text(text: &str, most: usize) -> HeaderValue {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = text.get(..end).unwrap_or_default().trim();
    let line: Cow<'_, str> = if text.chars().any(char::is_control) {
        text.chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect::<String>()
            .into()
    } else {
        text.into()
    };
    // What is no control character may stand in a header.
    HeaderValue::from_str(&line).unwrap_or(HeaderValue::from_static("error"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(form: ErrorForm, failure: &Failure) -> String {
        String::from_utf8(form.body(failure).to_vec()).unwrap()
    }

    #[test]
    fn each_server_has_its_form() {
        let failure = Failure::not_found("pin is not part of the pinset");
        assert_eq!(
            text(ErrorForm::Rest, &failure),
            "{\"code\":404,\"message\":\"pin is not part of the pinset\"}\n"
        );
        assert_eq!(
            text(ErrorForm::Pinning, &failure),
            "{\"error\":{\"reason\":\"pin is not part of the pinset\"}}\n"
        );
        assert_eq!(
            text(ErrorForm::Pinning, &failure.clone().with_details("of \"a\"")),
            "{\"error\":{\"reason\":\"pin is not part of the pinset\",\"details\":\"of \\\"a\\\"\"}}\n"
        );
        assert_eq!(
            text(ErrorForm::Kubo, &failure),
            "{\"Message\":\"pin is not part of the pinset\",\"Code\":0,\"Type\":\"error\"}"
        );
    }

    #[test]
    fn when_to_come_back_is_told_in_whole_seconds() {
        for (after, told) in [(Duration::from_millis(1), "1"), (Duration::from_secs(7), "7")] {
            let response = Failure::busy("later", after).into_response();
            assert_eq!(response.status(), 503);
            assert_eq!(response.headers()[header::RETRY_AFTER], told);
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_header_of_one_bounded_line(text in any::<String>(), most in 0_usize..40) {
            let value = header_text(&text, most);
            prop_assert!(value.as_bytes().len() <= most.max(5));
            prop_assert!(!value.as_bytes().iter().any(|b| matches!(b, b'\r' | b'\n' | 0)));
        }
    }
}
