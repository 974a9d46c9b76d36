//! Values as words: states, sizes, times.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cluster_proto::v1;
use node_core::Timestamp;

use super::Tone;

/// Text without control characters: what a name or an error of a daemon holds must not move the cursor.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_control() {
            clean.extend(c.escape_default())
        } else {
            clean.push(c)
        }
    }
    Cow::Owned(clean)
}

/// A number with its thousands apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number of bytes.
pub fn bytes(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}

/// A moment in RFC 3339, to the millisecond.
pub fn time(time: Option<&prost_types::Timestamp>) -> Option<String> {
    timestamp(time).map(|time| time.to_string())
}

/// A moment in RFC 3339, to the second; empty when unset.
pub fn time_short(time: Option<&prost_types::Timestamp>) -> String {
    let Some(time) = timestamp(time) else {
        return String::new();
    };
    let text = Timestamp::from_millis(time.as_millis() / 1_000 * 1_000).to_string();
    text.strip_suffix(".000Z")
        .map_or(text.clone(), |head| format!("{head}Z"))
}

/// A moment of the wire as one of the core; unset, and what lies before 1970, is none.
pub fn timestamp(time: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    let time = time?;
    let seconds = u64::try_from(time.seconds).ok()?;
    let nanos = u64::try_from(time.nanos).ok()?;
    Some(Timestamp::from_millis(
        seconds.checked_mul(1_000)?.checked_add(nanos / 1_000_000)?,
    ))
}

/// A moment of the core as one of the wire.
pub fn proto_time(time: Timestamp) -> prost_types::Timestamp {
    let millis = time.as_millis();
    prost_types::Timestamp {
        seconds: i64::try_from(millis / 1_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(millis % 1_000).unwrap_or(0) * 1_000_000,
    }
}

/// The clock of this machine. Only for what the user sees or types; the leader's clock decides.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// How far away a moment is, in its largest unit: `in 2h`, `3d ago`.
pub fn distance(time: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    let Some(time) = timestamp(time) else {
        return String::new();
    };
    if time > now {
        format!("in {}", coarse(time.since(now)))
    } else {
        format!("{} ago", coarse(now.since(time)))
    }
}

/// A duration in its largest unit.
pub fn coarse(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..=59 => format!("{seconds}s"),
        60..=3_599 => format!("{}m", seconds / 60),
        3_600..=86_399 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A duration of a machine's doings, as exact as it is of use: `350ms`, `12s`, `3m 5s`, `22h`.
pub fn span(millis: u64) -> String {
    let duration = match millis {
        0..=9_999 => Duration::from_millis(millis),
        10_000..=3_599_999 => Duration::from_secs(millis / 1_000),
        _ => Duration::from_secs(millis / 60_000 * 60),
    };
    humantime::format_duration(duration).to_string()
}

/// A share as a percentage. Only all of it is 100 %, and only nothing is 0 %.
pub fn percent(share: f64) -> String {
    let share = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
    if share > 0.0 && share < 0.01 {
        return "<1 %".into();
    }
    format!("{} %", (share * 100.0).floor())
}

/// The word of whether a node is reached from outside, and its tone.
pub fn reachability(reachability: v1::Reachability) -> (&'static str, Tone) {
    match reachability {
        v1::Reachability::Unspecified => ("unknown", Tone::Plain),
        v1::Reachability::Public => ("public", Tone::Good),
        v1::Reachability::Private => ("private", Tone::Warn),
    }
}

/// The word of a state of a pin, and its tone.
pub fn status(status: v1::Status) -> (&'static str, Tone) {
    match status {
        v1::Status::Unspecified => ("unknown", Tone::Warn),
        v1::Status::Queued => ("queued", Tone::Warn),
        v1::Status::Pinning => ("pinning", Tone::Warn),
        v1::Status::Pinned => ("pinned", Tone::Good),
        v1::Status::Retrying => ("retrying", Tone::Warn),
        v1::Status::GaveUp => ("gave_up", Tone::Bad),
        v1::Status::Unpinning => ("unpinning", Tone::Warn),
        v1::Status::Unreachable => ("unreachable", Tone::Bad),
        v1::Status::Unplaced => ("unplaced", Tone::Bad),
    }
}

/// The state that a word of the core stands for on the wire.
pub fn proto_status(status: node_core::Status) -> v1::Status {
    match status {
        node_core::Status::Queued => v1::Status::Queued,
        node_core::Status::Pinning => v1::Status::Pinning,
        node_core::Status::Pinned => v1::Status::Pinned,
        node_core::Status::Retrying => v1::Status::Retrying,
        node_core::Status::GaveUp => v1::Status::GaveUp,
        node_core::Status::Unpinning => v1::Status::Unpinning,
        node_core::Status::Unreachable => v1::Status::Unreachable,
        node_core::Status::Unplaced => v1::Status::Unplaced,
    }
}

/// The word of a mode.
pub fn mode(mode: v1::PinMode) -> &'static str {
    match mode {
        v1::PinMode::Direct => "direct",
        v1::PinMode::Unspecified | v1::PinMode::Recursive => "recursive",
    }
}

/// The word of an outcome.
pub fn outcome(outcome: v1::PinOutcome) -> &'static str {
    match outcome {
        v1::PinOutcome::Unspecified => "recorded",
        v1::PinOutcome::Created => "created",
        v1::PinOutcome::Updated => "updated",
        v1::PinOutcome::Unchanged => "unchanged",
    }
}

/// The word of a change.
pub fn change(kind: v1::ChangeKind) -> &'static str {
    match kind {
        v1::ChangeKind::Unspecified => "unknown",
        v1::ChangeKind::PinCreated => "pin_created",
        v1::ChangeKind::PinUpdated => "pin_updated",
        v1::ChangeKind::PinRemoved => "pin_removed",
        v1::ChangeKind::PinExpired => "pin_expired",
        v1::ChangeKind::PlacementChanged => "placement_changed",
    }
}

/// The word of a peer's role.
pub fn role(role: v1::PeerRole) -> &'static str {
    match role {
        v1::PeerRole::Unspecified => "unknown",
        v1::PeerRole::Voter => "voter",
        v1::PeerRole::Learner => "learner",
        v1::PeerRole::Joining => "joining",
    }
}

/// The word of a node's state, and its tone.
pub fn node_state(state: v1::NodeState) -> (&'static str, Tone) {
    match state {
        v1::NodeState::Unspecified => ("unknown", Tone::Warn),
        v1::NodeState::Active => ("active", Tone::Good),
        v1::NodeState::Cordoned => ("cordoned", Tone::Warn),
        v1::NodeState::Draining => ("draining", Tone::Warn),
        v1::NodeState::Gone => ("gone", Tone::Dim),
    }
}

/// The word of what a credential allows, and its tone.
pub fn scope(scope: v1::Scope) -> (&'static str, Tone) {
    match scope {
        v1::Scope::Unspecified => ("unknown", Tone::Warn),
        v1::Scope::Read => ("read", Tone::Plain),
        v1::Scope::Pin => ("pin", Tone::Plain),
        v1::Scope::Admin => ("admin", Tone::Warn),
    }
}

/// The word of the cluster's health, and its tone.
pub fn health(health: v1::Health) -> (&'static str, Tone) {
    match health {
        v1::Health::Unspecified => ("unknown", Tone::Warn),
        v1::Health::Ok => ("ok", Tone::Good),
        v1::Health::Degraded => ("degraded", Tone::Warn),
        v1::Health::Failed => ("failed", Tone::Bad),
    }
}

/// How many nodes hold a pin: `2`, `2-3`, `all`, `default`.
pub fn replication(min: i32, max: i32) -> String {
    match (min, max) {
        (-1, _) => "all".into(),
        (0, 0) => "default".into(),
        (min, max) if min == max => min.to_string(),
        (min, max) => format!("{min}-{max}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_sizes() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(3 << 20), "3.0 MiB");
    }

    #[test]
    fn spans_and_shares() {
        let spans = [0, 350, 9_999, 12_345, 185_000, 79_200_000, 79_215_000].map(span);
        assert_eq!(spans, ["0s", "350ms", "9s 999ms", "12s", "3m 5s", "22h", "22h"]);
        let shares = [0.0, 0.001, 0.5, 0.999, 1.0, 7.0, f64::NAN].map(percent);
        assert_eq!(shares, ["0 %", "<1 %", "50 %", "99 %", "100 %", "100 %", "0 %"]);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[31mb\n"), "a\\u{1b}[31mb\\n");
        assert_eq!(printable("größer 漢字"), "größer 漢字");
    }

    #[test]
    fn times_are_rfc_3339() {
        let moment = prost_types::Timestamp {
            seconds: 1_767_323_045,
            nanos: 678_000_000,
        };
        assert_eq!(time(Some(&moment)).as_deref(), Some("2026-01-02T03:04:05.678Z"));
        assert_eq!(time_short(Some(&moment)), "2026-01-02T03:04:05Z");
        let now = Timestamp::from_millis(1_767_323_045_000);
        assert_eq!(
            distance(
                Some(&prost_types::Timestamp {
                    seconds: 1_767_330_000,
                    nanos: 0
                }),
                now
            ),
            "in 1h"
        );
        assert_eq!(
            distance(
                Some(&prost_types::Timestamp {
                    seconds: 1_767_000_000,
                    nanos: 0
                }),
                now
            ),
            "3d ago"
        );
        assert_eq!(
            time(Some(&prost_types::Timestamp {
                seconds: -62_135_596_800,
                nanos: 0
            })),
            None
        );
    }
}
