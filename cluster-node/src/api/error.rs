//! Errors as gRPC statuses with the details that clients act on.

use std::collections::HashMap;
use std::time::Duration;

use node_core::command::RefusalKind;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::service::Error;

pub(super) const DOMAIN: &str = "pinfleet";

/// The status of an error.
pub fn status(error: Error) -> Status {
    let message = error.to_string();
    let (code, reason) = code_of(&error);
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, DOMAIN, HashMap::new());
    match &error {
        Error::Invalid(invalid) => {
            details.add_bad_request_violation(&invalid.field, format!("{:?}: {}", invalid.value, invalid.remedy));
        }
        Error::Refused(refusal) if refusal.kind == RefusalKind::Invalid => {
            let (field, description) = violation_of(&refusal.message);
            details.add_bad_request_violation(field, description);
        }
        Error::Overloaded { retry_after } => {
            details.set_retry_info(Some(*retry_after));
        }
        Error::NoLeader(_) | Error::Stopping | Error::ClientTooSlow { .. } => {
            details.set_retry_info(Some(Duration::from_millis(500)));
        }
        _ => {}
    }
    Status::with_error_details(code, message, details)
}

/// The field and the rest of a refusal that was made of an [`Invalid`](node_core::Invalid), which reads
/// `field "value": remedy`. Other texts name no field.
fn violation_of(message: &str) -> (&str, &str) {
    match message.split_once(" \"") {
        Some((field, _)) if !field.is_empty() && !field.contains(' ') => (field, &message[field.len() + 1..]),
        _ => ("", message),
    }
}

/// The code and the stable reason of an error.
pub fn code_of(error: &Error) -> (Code, &'static str) {
    match error {
        Error::Invalid(_) => (Code::InvalidArgument, "INVALID"),
        Error::Refused(refusal) => match refusal.kind {
            RefusalKind::NotFound => (Code::NotFound, "NOT_FOUND"),
            RefusalKind::Invalid => (Code::InvalidArgument, "INVALID"),
            RefusalKind::Conflict => (Code::Aborted, "CONFLICT"),
            RefusalKind::NotPlaceable => (Code::FailedPrecondition, "NOT_PLACEABLE"),
            RefusalKind::AlreadyExists => (Code::AlreadyExists, "ALREADY_EXISTS"),
            RefusalKind::Precondition => (Code::FailedPrecondition, "PRECONDITION"),
            RefusalKind::Denied => (Code::PermissionDenied, "DENIED"),
        },
        Error::NoLeader(_) => (Code::Unavailable, "NO_LEADER"),
        Error::Overloaded { .. } => (Code::ResourceExhausted, "OVERLOADED"),
        Error::Unknown(_) => (Code::Unknown, "OUTCOME_UNKNOWN"),
        Error::Deadline => (Code::DeadlineExceeded, "DEADLINE"),
        Error::HistoryGone { .. } => (Code::OutOfRange, "HISTORY_GONE"),
        Error::DriverSilent { .. } => (Code::Unavailable, "DRIVER_SILENT"),
        Error::Stopping => (Code::Unavailable, "STOPPING"),
        Error::ClientTooSlow { .. } => (Code::Unavailable, "CLIENT_TOO_SLOW"),
        Error::Internal(_) => (Code::Internal, "INTERNAL"),
    }
}

/// How long the caller of a request still waits: what its `grpc-timeout` header says, `default` without one, at most `max`.
pub fn deadline_of<T>(request: &tonic::Request<T>, default: Duration, max: Duration) -> Duration {
    let header = request
        .metadata()
        .get("grpc-timeout")
        .and_then(|value| value.to_str().ok());
    let asked = header.and_then(parse_grpc_timeout).unwrap_or(default).min(max);
    // What was waited for in vain is said before the caller's own deadline cuts the answer off: "no leader" tells more
    // than "timeout".
    asked - (asked / 10).min(Duration::from_millis(250))
}

/// A `grpc-timeout`: up to eight digits and a unit, as the gRPC protocol over HTTP/2 defines it.
fn parse_grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use node_core::command::Refusal;

    use super::*;

    #[test]
    fn grpc_timeouts() {
        assert_eq!(parse_grpc_timeout("100m"), Some(Duration::from_millis(100)));
        assert_eq!(
            parse_grpc_timeout("99999999H"),
            Some(Duration::from_secs(99_999_999 * 3600))
        );
        for bad in ["", "m", "1", "1x", "123456789S", "-1S", "é"] {
            assert_eq!(parse_grpc_timeout(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_refusal_by_the_cluster_names_its_field_too() {
        let invalid = node_core::Invalid::new("expire_at", "1970", "it must be in the future");
        let refusal = Refusal::new(RefusalKind::Invalid, invalid.to_string());
        let status = status(Error::Refused(refusal));
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        let violation = &details.bad_request().expect("set").field_violations[0];
        assert_eq!(violation.field, "expire_at");
        assert_eq!(violation.description, "\"1970\": it must be in the future");
        assert_eq!(violation_of("no field is named"), ("", "no field is named"));
    }

    #[test]
    fn a_broken_rule_names_its_field() {
        let status = status(Error::invalid("cid", "Qm", "it is not a CID"));
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        assert_eq!(details.bad_request().expect("set").field_violations[0].field, "cid");
        assert_eq!(details.error_info().expect("set").reason, "INVALID");
    }
}
