//! What went wrong, in the codes of HTTP.

use std::time::Duration;

use axum::http::StatusCode;
use cluster_http::Failure;
use node_core::command::RefusalKind;

use crate::service::Error;

/// What clients of IPFS Cluster know a missing pin by.
pub const NOT_PINNED: &str = "pin is not part of the pinset";

/// When it is worth trying again while there is no leader, or while this peer stops.
const SOON: Duration = Duration::from_secs(1);

/// The answer for an error of the service.
pub fn failure(error: Error) -> Failure {
    let message = error.to_string();
    let (status, retry_after) = match &error {
        Error::Invalid(_) => (StatusCode::BAD_REQUEST, None),
        Error::Refused(refusal) => (refused(refusal.kind), None),
        Error::NoLeader(_) | Error::Stopping | Error::DriverSilent { .. } | Error::ClientTooSlow { .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, Some(SOON))
        }
        Error::Overloaded { retry_after } => (StatusCode::TOO_MANY_REQUESTS, Some((*retry_after).max(SOON))),
        Error::Deadline => (StatusCode::GATEWAY_TIMEOUT, None),
        Error::HistoryGone { .. } => (StatusCode::GONE, None),
        Error::Unknown(_) | Error::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, None),
    };
    Failure {
        retry_after,
        ..Failure::new(status, message)
    }
}

fn refused(kind: RefusalKind) -> StatusCode {
    match kind {
        RefusalKind::NotFound => StatusCode::NOT_FOUND,
        RefusalKind::Invalid => StatusCode::BAD_REQUEST,
        RefusalKind::Denied => StatusCode::FORBIDDEN,
        RefusalKind::Conflict | RefusalKind::NotPlaceable | RefusalKind::AlreadyExists | RefusalKind::Precondition => {
            StatusCode::CONFLICT
        }
    }
}

/// The same where the one thing that may be missing is the pin: clients, and IPFS Cluster's own peers, look for this text.
pub fn pin_failure(error: Error) -> Failure {
    match error.is_not_found() {
        true => not_pinned(),
        false => failure(error),
    }
}

/// There is no such pin.
pub fn not_pinned() -> Failure {
    Failure::not_found(NOT_PINNED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_pin_is_told_in_the_words_that_clients_know() {
        let failure = pin_failure(Error::not_found("Qm… is not pinned in the namespace default"));
        assert_eq!(
            (failure.status, failure.message.as_str()),
            (StatusCode::NOT_FOUND, NOT_PINNED)
        );
    }

    #[test]
    fn faults_of_the_caller_are_no_faults_of_the_server() {
        for (error, status) in [
            (Error::invalid("name", "x", "shorter"), 400),
            (Error::not_found("gone"), 404),
            (Error::precondition("not now"), 409),
            (Error::NoLeader("none".into()), 503),
            (Error::Internal("disk".into()), 500),
        ] {
            assert_eq!(failure(error).status.as_u16(), status);
        }
        let busy = failure(Error::Overloaded {
            retry_after: Duration::from_millis(10),
        });
        // The header counts whole seconds; none at all would call clients back at once.
        assert_eq!((busy.status.as_u16(), busy.retry_after), (429, Some(SOON)));
    }
}
