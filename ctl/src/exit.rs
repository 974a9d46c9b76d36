//! Exit codes, and errors that say what to do.

use std::io;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// What the process exits with. Stable: scripts depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// A local or unexpected error.
    Failed = 1,
    /// The command line is wrong; nothing was sent.
    Usage = 2,
    /// What was named does not exist.
    NotFound = 3,
    /// The cluster refused: the request is invalid or can't be carried out in the present state.
    Refused = 4,
    /// No endpoint answers, there is no leader, or the cluster is overloaded.
    Unavailable = 5,
    /// The time was up; whether a write was carried out is not known.
    Unknown = 6,
    /// Some of it was done, some refused.
    Partial = 7,
    /// A wait ended because nodes gave up.
    GaveUp = 8,
    /// `status --check`: the cluster is degraded or failed.
    Unwell = 9,
    /// Interrupted by the user.
    Interrupted = 130,
}

/// The table of exit codes, as shown in the help.
pub const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  local or unexpected error
    2  wrong command line, nothing was sent
    3  what was named does not exist
    4  refused: invalid, or not possible in the present state
    5  no endpoint answers, no leader, or overloaded
    6  time was up; whether a write was carried out is not known
    7  done in part: some items were refused or some nodes did not answer
    8  a wait ended because nodes gave up
    9  `status --check`: the cluster is degraded or failed
  130  interrupted";

/// Why a command ended without success.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What the process exits with.
    pub exit: Exit,
    /// One sentence; empty when there is nothing to say.
    pub message: String,
    /// What the user can do about it.
    pub hints: Vec<String>,
    /// The gRPC code, when the cluster answered.
    pub code: Option<Code>,
}

impl Failure {
    /// An error with a message.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hints: Vec::new(),
            code: None,
        }
    }

    /// A wrong command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A local error.
    pub fn local(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// Adds what the user can do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Ends the process with another code.
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// Puts what it is about in front of the message.
    pub fn about(mut self, subject: &str) -> Self {
        self.message = format!("{subject}: {}", self.message);
        self
    }

    /// What the cluster answered, in words.
    pub fn from_status(status: &Status, is_write: bool) -> Self {
        let details = status.get_error_details();
        let message = match status.message() {
            "" => default_message(status.code()).to_owned(),
            text => text.to_owned(),
        };
        let exit = if is_outcome_unknown(status) {
            Exit::Unknown
        } else {
            exit_of(status.code())
        };
        let mut failure = Self::new(exit, message);
        failure.code = Some(status.code());
        if let Some(request) = details.bad_request() {
            for violation in &request.field_violations {
                failure
                    .hints
                    .push(format!("{}: {}", violation.field, violation.description));
            }
        }
        if let Some(hint) = reason_hint(&details).or_else(|| code_hint(status.code(), is_write)) {
            failure.hints.push(hint.to_owned());
        }
        if let Some(delay) = retry_delay(status) {
            failure
                .hints
                .push(format!("the cluster asks to wait {} before the next try", human(delay)));
        }
        if let Some(help) = details.help() {
            failure.hints.extend(
                help.links
                    .iter()
                    .map(|link| format!("{}: {}", link.description, link.url)),
            );
        }
        failure
    }
}

impl From<io::Error> for Failure {
    /// For writes to stdout: a reader that went away (`… | head`) is no error.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Exit::Ok, "");
        }
        Self::local(format!("can't write the output: {error}"))
    }
}

/// How long the cluster asks to wait before the next try.
pub fn retry_delay(status: &Status) -> Option<Duration> {
    status.get_details_retry_info().and_then(|info| info.retry_delay)
}

/// Whether the cluster says that it can't tell if a write was carried out.
pub fn is_outcome_unknown(status: &Status) -> bool {
    let info = status.get_details_error_info();
    status.code() == Code::Unknown && info.is_some_and(|info| info.reason == "OUTCOME_UNKNOWN")
}

/// Whether the peer that drives the node in question does not answer.
pub fn is_driver_silent(status: &Status) -> bool {
    let info = status.get_details_error_info();
    status.code() == Code::Unavailable && info.is_some_and(|info| info.reason == "DRIVER_SILENT")
}

/// The exit code that stands for a gRPC code.
pub fn exit_of(code: Code) -> Exit {
    match code {
        Code::Ok => Exit::Ok,
        Code::NotFound => Exit::NotFound,
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::AlreadyExists
        | Code::OutOfRange
        | Code::PermissionDenied
        | Code::Unauthenticated => Exit::Refused,
        Code::Unavailable | Code::ResourceExhausted | Code::Aborted => Exit::Unavailable,
        Code::DeadlineExceeded => Exit::Unknown,
        Code::Cancelled | Code::Unknown | Code::Unimplemented | Code::Internal | Code::DataLoss => Exit::Failed,
    }
}

/// The name of a gRPC code as the specification writes it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

fn default_message(code: Code) -> &'static str {
    match code {
        Code::NotFound => "there is no such thing",
        Code::Unavailable => "the cluster can't do this now",
        Code::ResourceExhausted => "the cluster is overloaded",
        Code::DeadlineExceeded => "the time was up",
        _ => code.description(),
    }
}

fn reason_hint(details: &ErrorDetails) -> Option<&'static str> {
    match details.error_info()?.reason.as_str() {
        "NOT_PLACEABLE" => Some(
            "`cluster-ctl pin explain CID` shows why each node was passed over; \
             --allow-unplaced records the pin all the same and places it as soon as a node can take it",
        ),
        "OUTCOME_UNKNOWN" => {
            Some("running the same command again is safe, and `cluster-ctl pin ls` shows whether it was done")
        }
        "DRIVER_SILENT" => Some("only that peer can do it; `cluster-ctl peer ls` shows which peers are reachable"),
        "NO_CREDENTIAL" => Some(
            "show a token with --token-file, PINFLEET_TOKEN or PINFLEET_TOKEN_FILE; on a peer's own host the owner of its folder \
             needs none: `cluster-ctl --api unix:DIR/admin.sock token create NAME`",
        ),
        "WRONG_CREDENTIAL" => {
            Some("whoever has the scope admin sees with `cluster-ctl token ls` whether it is there and has not expired")
        }
        "NO_LEADER" => Some("`cluster-ctl status` shows which peers are missing; a majority of the voters is needed"),
        _ => None,
    }
}

fn code_hint(code: Code, is_write: bool) -> Option<&'static str> {
    match code {
        Code::DeadlineExceeded if is_write => Some(
            "whether it was carried out is not known; running the same command again is safe, \
             and --timeout allows more time",
        ),
        Code::DeadlineExceeded => Some("--timeout allows more time"),
        Code::Unavailable => Some("`cluster-ctl status` shows what is missing; a majority of the voters is needed"),
        Code::ResourceExhausted => Some("try again later, or send less at once"),
        Code::Aborted => Some("something else changed it at the same moment; run the command again"),
        Code::Unauthenticated => Some("show a token with --token-file, PINFLEET_TOKEN or PINFLEET_TOKEN_FILE"),
        Code::PermissionDenied => Some(
            "use a credential with that scope or namespace; whoever has the scope admin sees with `cluster-ctl token ls` what \
             each allows",
        ),
        Code::Unimplemented => Some("the peer runs an older version than this cluster-ctl; see `cluster-ctl peer ls`"),
        Code::Internal | Code::Unknown | Code::DataLoss => Some("the log of the peer that answered says more"),
        _ => None,
    }
}

/// A duration in words, to the second when it is long.
pub fn human(duration: Duration) -> String {
    let rounded = if duration >= Duration::from_secs(10) {
        Duration::from_secs(duration.as_secs())
    } else {
        Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    };
    humantime::format_duration(rounded).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_become_hints() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("options.name", "at most 1024 bytes");
        details.set_retry_info(Some(Duration::from_secs(2)));
        let status = Status::with_error_details(Code::InvalidArgument, "the name is too long", details);
        let failure = Failure::from_status(&status, true);
        assert_eq!(failure.exit, Exit::Refused);
        assert_eq!(failure.message, "the name is too long");
        assert_eq!(failure.hints[0], "options.name: at most 1024 bytes");
        assert_eq!(failure.hints[1], "the cluster asks to wait 2s before the next try");
    }

    #[test]
    fn who_lacks_a_scope_is_told_to_use_another_credential() {
        let mut details = ErrorDetails::new();
        details.set_error_info("DENIED", "pinfleet", std::collections::HashMap::new());
        let status = Status::with_error_details(Code::PermissionDenied, "List needs the scope admin", details);
        let failure = Failure::from_status(&status, false);
        assert_eq!(failure.exit, Exit::Refused);
        assert!(
            failure.hints[0].starts_with("use a credential with that scope or namespace"),
            "{:?}",
            failure.hints
        );
    }

    #[test]
    fn an_unknown_outcome_is_not_called_a_failure() {
        let mut details = ErrorDetails::new();
        details.set_error_info("OUTCOME_UNKNOWN", "pinfleet", std::collections::HashMap::new());
        let status = Status::with_error_details(Code::Unknown, "the outcome is unknown", details);
        assert_eq!(Failure::from_status(&status, true).exit, Exit::Unknown);
        assert_eq!(crate::client::trouble(&status), crate::client::Trouble::Uncertain);
        let other = Status::new(Code::Unknown, "something broke");
        assert_eq!(Failure::from_status(&other, true).exit, Exit::Failed);
    }

    #[test]
    fn what_only_a_silent_peer_can_answer_is_not_asked_for_again() {
        let mut details = ErrorDetails::new();
        details.set_error_info("DRIVER_SILENT", "pinfleet", std::collections::HashMap::new());
        let status = Status::with_error_details(Code::Unavailable, "peer b does not answer", details);
        assert_eq!(crate::client::trouble(&status), crate::client::Trouble::Final);
        let failure = Failure::from_status(&status, false);
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(failure.hints[0].contains("peer ls"), "{failure:?}");
    }

    #[test]
    fn the_readme_has_the_same_codes() {
        assert!(include_str!("../README.md").contains(EXIT_CODES));
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).exit, Exit::Ok);
    }
}
