//! Times and durations as the Go clients write them.

use std::time::{Duration, UNIX_EPOCH};

use node_core::{Created, Timestamp};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What stands for "no time" wherever a time is not optional: Go's zero time.
pub const ZERO: &str = "0001-01-01T00:00:00Z";
/// Go's zero time in seconds since the Unix epoch.
const ZERO_UNIX: i64 = -62_135_596_800;
/// The last moment with a year of four digits, in milliseconds since the Unix epoch.
const END_OF_9999: u64 = 253_402_300_799_999;

/// RFC 3339 in UTC with as many digits of the fraction as are not zero, as Go writes it. [`Timestamp::ZERO`] is [`ZERO`]; what
/// lies beyond the year 9999, which RFC 3339 can't say, is written as its last moment.
pub fn rfc3339(time: Timestamp) -> String {
    if time == Timestamp::ZERO {
        return ZERO.to_owned();
    }
    let at = UNIX_EPOCH + Duration::from_millis(time.as_millis().min(END_OF_9999));
    let mut text = humantime::format_rfc3339_millis(at).to_string();
    // The point ends the zeros of the fraction, so those of the seconds stay.
    let end = text
        .trim_end_matches('Z')
        .trim_end_matches('0')
        .trim_end_matches('.')
        .len();
    text.truncate(end);
    text.push('Z');
    text
}

/// Reads RFC 3339; the zone is mandatory. Digits below a millisecond are cut. Go's zero time, in whatever zone, is
/// [`Timestamp::ZERO`]; any other time before 1970 is the first millisecond after it, so that what lies in the past never
/// turns into "never".
pub fn parse_rfc3339(text: &str) -> Result<Timestamp, InvalidTime> {
    let failed = || InvalidTime(text.chars().take(64).collect());
    // The parser takes any character between date and time; a space there is most often a plus sign that got lost in a query.
    if !matches!(text.as_bytes().get(10), Some(b'T' | b't')) {
        return Err(failed());
    }
    let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| failed())?;
    if time.unix_timestamp() == ZERO_UNIX && time.nanosecond() == 0 {
        return Ok(Timestamp::ZERO);
    }
    let millis = time.unix_timestamp_nanos().div_euclid(1_000_000);
    let millis = u64::try_from(millis.max(1)).map_err(|_| failed())?;
    Ok(Timestamp::from_millis(millis))
}

/// Reads RFC 3339 to the nanosecond, for places in the order of pins. What lies before 1970 is before every pin.
pub fn parse_created(text: &str) -> Result<Created, InvalidTime> {
    parse_rfc3339(text)?;
    let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| InvalidTime(text.chars().take(64).collect()))?;
    let nanos = u128::try_from(time.unix_timestamp_nanos()).unwrap_or_default();
    Ok(Created::from_nanos(nanos))
}

/// Not RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no time; write RFC 3339 with a zone, as 2026-05-11T10:20:30Z or 2026-05-11T10:20:30.5+02:00")]
pub struct InvalidTime(String);

/// Reads a duration in Go's syntax: numbers with units ns, us, µs, ms, s, m, h one after another, a fraction in each, a sign
/// before all; `0` alone needs no unit. Answers nanoseconds, which Go too keeps in 64 bits.
pub fn parse_go_duration(text: &str) -> Result<i64, InvalidDuration> {
    read_duration(text).ok_or_else(|| InvalidDuration(text.chars().take(64).collect()))
}

fn read_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    // The greatest amount is that of i64::MIN.
    let most = 1_u64 << 63;
    let mut total = 0_u64;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let (unit, after) = unit(after)?;
        let whole = if whole.is_empty() {
            0
        } else {
            whole.parse::<u64>().ok()?
        };
        let part = whole.checked_mul(unit)?.checked_add(part_of(fraction, unit))?;
        total = total.checked_add(part).filter(|total| *total <= most)?;
        rest = after;
    }
    if negative {
        // Exact for all amounts up to that of i64::MIN.
        return 0_i64.checked_sub_unsigned(total);
    }
    i64::try_from(total).ok()
}

fn digits(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// The unit at the beginning in nanoseconds, and what follows it.
fn unit(text: &str) -> Option<(u64, &str)> {
    let end = text
        .bytes()
        .position(|b| b == b'.' || b.is_ascii_digit())
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let nanos = match name {
        "ns" => 1,
        // Both letters that look like a mu.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    Some((nanos, rest))
}

/// `0.fraction` of a unit, cut to whole nanoseconds. Digits that can't make one are not looked at.
fn part_of(fraction: &str, unit: u64) -> u64 {
    let (mut value, mut scale) = (0_u128, 1_u128);
    for digit in fraction.bytes().take(18) {
        value = value * 10 + u128::from(digit - b'0');
        scale *= 10;
    }
    // Less than a unit.
    u64::try_from(value * u128::from(unit) / scale).unwrap_or(0)
}

/// Not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no duration; write numbers with units h, m, s, ms, us or ns, as 1h30m")]
pub struct InvalidDuration(String);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(text: &str) -> u64 {
        parse_rfc3339(text).unwrap().as_millis()
    }

    #[test]
    fn times_are_written_as_go_writes_them() {
        for (millis, text) in [
            (0, ZERO),
            (1, "1970-01-01T00:00:00.001Z"),
            (1_000, "1970-01-01T00:00:01Z"),
            (10_000, "1970-01-01T00:00:10Z"),
            (1_778_494_830_500, "2026-05-11T10:20:30.5Z"),
            (1_778_494_830_120, "2026-05-11T10:20:30.12Z"),
            (END_OF_9999 + 5, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc3339(Timestamp::from_millis(millis)), text);
        }
    }

    #[test]
    fn times_are_read_in_any_zone() {
        assert_eq!(millis("2026-05-11T10:20:30.123456789Z"), 1_778_494_830_123);
        assert_eq!(millis("2026-05-11T12:20:30+02:00"), 1_778_494_830_000);
        assert_eq!(millis("2026-05-10T23:20:30.5-11:00"), 1_778_494_830_500);
        assert_eq!(millis("2026-05-11t10:20:30z"), 1_778_494_830_000);
        // More digits than nanoseconds have.
        assert_eq!(millis("2026-05-11T10:20:30.1234567890123Z"), 1_778_494_830_123);
    }

    #[test]
    fn places_in_an_order_are_read_to_the_nanosecond() {
        let nanos = |text: &str| parse_created(text).unwrap().as_nanos();
        assert_eq!(nanos("2026-05-11T10:20:30.123000001Z"), 1_778_494_830_123_000_001);
        assert_eq!(nanos("2026-05-11T12:20:30.5+02:00"), 1_778_494_830_500_000_000);
        assert_eq!(nanos(ZERO), 0);
        assert_eq!(nanos("1969-12-31T23:59:59.999Z"), 0);
        assert!(parse_created("2026-05-11 10:20:30Z").is_err());
    }

    proptest! {
        #[test]
        fn a_moment_reads_back_as_it_is_written(millis in 0..=END_OF_9999, ordinal in 0..Created::PER_MILLI) {
            let created = Created { at: Timestamp::from_millis(millis), ordinal };
            prop_assert_eq!(parse_created(&created.to_string()), Ok(created));
        }
    }

    #[test]
    fn only_gos_zero_time_means_never() {
        assert_eq!(millis(ZERO), 0);
        assert_eq!(millis("0001-01-01T02:00:00+02:00"), 0);
        assert_eq!(millis("0001-01-01T00:00:00.5Z"), 1);
        assert_eq!(millis("0001-01-01T00:00:01Z"), 1);
        assert_eq!(millis("0000-01-01T00:00:00Z"), 1);
        assert_eq!(millis("1969-12-31T23:59:59.999Z"), 1);
        assert_eq!(millis("1970-01-01T00:00:00Z"), 1);
    }

    #[test]
    fn what_is_no_time_is_told_with_an_example() {
        for text in [
            "",
            "tomorrow",
            "2026-05-11",
            "2026-05-11T10:20:30",
            "2026-05-11 10:20:30Z",
            "2026-13-11T10:20:30Z",
            "2026-02-30T10:20:30Z",
            "2026-05-11T24:20:30Z",
            "2026-05-11T10:20:30Z ",
            "2026-05-11T10:20:30 02:00",
            "2026-05-11T1\u{e4}:20:30Z",
            "1778494830",
        ] {
            let error = parse_rfc3339(text).unwrap_err();
            assert!(error.to_string().contains("write RFC 3339 with a zone"), "{text}");
        }
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanos) in [
            ("0", 0),
            ("-0", 0),
            ("+5s", 5_000_000_000),
            ("300ms", 300_000_000),
            ("-1.5h", -5_400_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("2h45m10s", 9_910_000_000_000),
            ("1us", 1_000),
            ("1\u{b5}s", 1_000),
            ("1\u{3bc}s", 1_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("0.000000001s", 1),
            ("0.0000000009s", 0),
            ("0.3333333333333333333h", 1_200_000_000_000 - 1),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
        ] {
            assert_eq!(parse_go_duration(text), Ok(nanos), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_told_with_an_example() {
        for text in [
            "",
            "3",
            "-",
            "s",
            ".",
            ".s",
            "-.",
            "3000000h",
            "9223372036854775808ns",
            "1d",
            "1h ",
            "1 h",
            "+-1s",
            "1S",
            "1e3s",
            "1h-1m",
        ] {
            let error = parse_go_duration(text).unwrap_err();
            assert!(error.to_string().contains("as 1h30m"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(millis in 1..=END_OF_9999) {
            let time = Timestamp::from_millis(millis);
            prop_assert_eq!(parse_rfc3339(&rfc3339(time)), Ok(time));
        }

        #[test]
        fn durations_of_whole_parts_add_up(h in 0_i64..2_000_000, m in 0_i64..60, s in 0_i64..60, ns in 0_i64..1_000_000_000) {
            let nanos = ((h * 60 + m) * 60 + s) * 1_000_000_000 + ns;
            let text = format!("{h}h{m}m{s}s{ns}ns");
            prop_assert_eq!(parse_go_duration(&text), Ok(nanos));
            prop_assert_eq!(parse_go_duration(&format!("-{text}")), Ok(-nanos));
            let text = format!("{h}h{m}m{s}.{ns:09}s");
            prop_assert_eq!(parse_go_duration(&text), Ok(nanos));
        }

        #[test]
        fn no_text_breaks_the_readers(text in any::<String>(), like in "[-+0-9.hmsnuµTZ:]{0,30}") {
            for text in [text, like] {
                let _ = (parse_go_duration(&text), parse_rfc3339(&text));
            }
        }
    }
}
