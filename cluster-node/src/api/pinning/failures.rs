//! What went wrong, in the codes and words of this API: 409 stands there for a lack of funds, and nobody sends a `request_id`.

use std::time::Duration;

use cluster_http::Failure;
use http::StatusCode;
use node_core::command::RefusalKind;

use crate::service::{Error, PINNING_REQUESTS};

/// When what met something else is worth trying again.
const SOON: Duration = Duration::from_secs(1);

/// The answer for an error of the service. Nothing was done, unless it says that it may have been.
pub fn failure(error: Error) -> Failure {
    let words = words(&error);
    let kind = match &error {
        Error::Refused(refusal) => Some(refusal.kind),
        _ => None,
    };
    let failure = crate::api::failure::failure(error);
    let (status, retry_after) = match kind {
        Some(RefusalKind::Conflict) => (StatusCode::SERVICE_UNAVAILABLE, Some(SOON)),
        Some(RefusalKind::Precondition | RefusalKind::AlreadyExists | RefusalKind::NotPlaceable) => {
            (StatusCode::UNPROCESSABLE_ENTITY, None)
        }
        _ => (failure.status, failure.retry_after),
    };
    Failure {
        status,
        retry_after,
        message: words.unwrap_or(failure.message),
        ..failure
    }
}

/// A list that found nothing in the time that it has.
pub fn of_list(error: Error) -> Failure {
    let is_late = matches!(error, Error::Deadline);
    let failure = failure(error);
    match is_late {
        true => Failure {
            message:
                "no such pin was found in the time that a list has; narrow it down by name, meta, cid, before or after"
                    .into(),
            ..failure
        },
        false => failure,
    }
}

/// Where the service's own words name what this API has not.
fn words(error: &Error) -> Option<String> {
    match error {
        Error::Unknown(_) => Some(
            "whether it was done is not known; list the pins of this CID, or send the same again if it had an \
             Idempotency-Key"
                .into(),
        ),
        Error::NoLeader(_) => Some("the cluster has no leader at the moment; try again".into()),
        Error::Refused(refusal) if refusal.message.starts_with(&format!("request_id \"{PINNING_REQUESTS}")) => Some(
            "Idempotency-Key: it was used for another request within the last 24 hours; use a new one for each request"
                .into(),
        ),
        Error::Invalid(invalid) => {
            let field = invalid.field.strip_prefix("metadata")?;
            let (value, remedy) = (&invalid.value, &invalid.remedy);
            Some(node_core::Invalid::new(format!("meta{field}"), value, remedy.clone()).to_string())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use node_core::command::Refusal;

    use super::*;

    #[test]
    fn a_conflict_is_no_lack_of_funds() {
        for (kind, status) in [
            (RefusalKind::Conflict, 503),
            (RefusalKind::Precondition, 422),
            (RefusalKind::AlreadyExists, 422),
            (RefusalKind::NotFound, 404),
            (RefusalKind::Invalid, 400),
        ] {
            let failure = failure(Error::Refused(Refusal::new(kind, "no")));
            assert_eq!((failure.status.as_u16(), failure.message.as_str()), (status, "no"));
        }
    }

    #[test]
    fn nothing_is_named_that_this_api_has_not() {
        let reused = Refusal::new(RefusalKind::Invalid, "request_id \"pinning/0f9e\": it was used");
        for (error, says) in [
            (Error::Refused(reused), "Idempotency-Key"),
            (Error::Unknown("lost".into()), "Idempotency-Key"),
            (Error::NoLeader("ask for a stale read".into()), "no leader"),
            (Error::invalid("metadata.k", "v", "shorter"), "meta.k"),
        ] {
            let message = failure(error).message;
            assert!(message.contains(says), "{message}");
            for word in ["request_id", "request ID", "stale", "metadata"] {
                assert!(!message.contains(word), "{message}");
            }
        }
        assert!(of_list(Error::Deadline).message.contains("narrow it down"));
    }
}
