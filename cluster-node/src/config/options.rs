//! What an option may be. The options themselves stand in the file of their section; everything that speaks of options
//! (checks, messages, the commented default file, `config show`) is made from those tables.

use std::net::SocketAddr;
use std::time::Duration;

use figment::value::{Dict, Num, Tag, Value};

/// One option.
#[derive(Debug, Clone, Copy)]
pub struct OptionSpec {
    /// Name inside its section.
    pub key: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// The default as it is written in the file; `None` when it may be missing.
    pub default: Option<&'static str>,
    /// What it does, in full sentences, one a line.
    pub doc: &'static str,
}

/// A section of the file.
#[derive(Debug)]
pub struct SectionSpec {
    /// Its name.
    pub name: &'static str,
    /// Whether there may be many (`[[name]]`).
    pub repeated: bool,
    /// What it is about.
    pub doc: &'static str,
    /// What stands in it.
    pub options: &'static [OptionSpec],
}

/// The values an option takes.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Any text.
    Text,
    /// A text that a function accepts; it answers what is allowed.
    Checked(fn(&str) -> Result<(), String>),
    /// Several texts that a function accepts; it answers what is allowed.
    CheckedList(fn(&str) -> Result<(), String>),
    /// An IP address and a port to listen at.
    Listen,
    /// `host:port` as others reach it, or empty.
    Reach,
    /// Several of `host:port`.
    ReachList,
    /// Several texts.
    TextList,
    /// Names with values.
    Map,
    /// One of these.
    Choice(&'static [&'static str]),
    /// A whole number.
    Int(i64, i64),
    /// A number above the first (or equal to it, where `true`) and up to the second.
    Float(f64, f64, bool),
    /// A length of time, in milliseconds.
    Duration(u64, u64),
    /// A number of bytes.
    Size(u64, u64),
}

const KIB: u64 = 1 << 10;

/// As it is written in the file.
pub fn format_duration(ms: u64) -> String {
    humantime::format_duration(Duration::from_millis(ms)).to_string()
}

/// As it is written in the file.
pub fn format_size(bytes: u64) -> String {
    for (factor, unit) in [(KIB * KIB * KIB, "GiB"), (KIB * KIB, "MiB"), (KIB, "KiB")] {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    format!("{bytes}B")
}

/// A round size that is allowed; the greatest where none of them is.
fn example_size(min: u64, max: u64) -> String {
    let round = [64 * KIB * KIB, 512 * KIB, 16 * KIB, 512];
    let fits = round.into_iter().find(|size| (min..max).contains(size));
    format_size(fits.unwrap_or(max))
}

/// A round length of time that is allowed; the greatest where none of them is.
fn example_duration(min: u64, max: u64) -> String {
    // In milliseconds.
    let round = [150_000, 250, 5_000];
    let fits = round.into_iter().find(|time| (min..max).contains(time));
    format_duration(fits.unwrap_or(max))
}

/// `host:port` with a host that can be reached and a port that is not 0.
pub fn is_reachable_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let host_ok = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok_and(|ip| !ip.is_unspecified()),
        None => match host.parse::<std::net::Ipv4Addr>() {
            Ok(ip) => !ip.is_unspecified(),
            Err(_) => {
                !host.is_empty()
                    && host.len() <= 253
                    && host
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
            }
        },
    };
    host_ok && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// A duration in the file.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let trimmed = text.trim();
    if trimmed == "0" {
        return Some(Duration::ZERO);
    }
    humantime::parse_duration(trimmed).ok()
}

/// A number of bytes in the file.
pub fn parse_size(text: &str) -> Option<u64> {
    text.trim().parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64())
}

impl Kind {
    /// What is allowed, to stand after "must be".
    pub fn allowed(&self) -> String {
        match self {
            Self::Text => "a text".to_owned(),
            Self::Checked(check) | Self::CheckedList(check) => check("\0").err().unwrap_or_else(|| "a text".to_owned()),
            Self::Listen => "an IP address and a port, such as \"127.0.0.1:9096\" (port 0 takes a free one)".to_owned(),
            Self::Reach => "empty or host:port as others reach it, such as \"10.0.0.1:9098\"".to_owned(),
            Self::ReachList => "a list of host:port as others reach it, such as [\"10.0.0.1:9096\"]".to_owned(),
            Self::TextList => "a list of texts, such as [\"region\", \"zone\"]".to_owned(),
            Self::Map => "names with texts, such as { zone = \"a\" }".to_owned(),
            Self::Choice(words) => {
                let words: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
                words.join(" or ")
            }
            Self::Int(min, max) => format!("a whole number from {min} to {max}"),
            Self::Float(min, max, true) => format!("a number from {min} to {max}"),
            Self::Float(min, max, false) => format!("a number above {min} and up to {max}"),
            Self::Duration(min, max) => format!(
                "a duration from {} to {}, such as \"{}\"",
                format_duration(*min),
                format_duration(*max),
                example_duration(*min, *max)
            ),
            Self::Size(min, max) => format!(
                "a size from {} to {}, such as \"{}\"",
                format_size(*min),
                format_size(*max),
                example_size(*min, *max)
            ),
        }
    }

    /// Whether the value is one of those allowed.
    pub fn accepts(&self, value: &Value) -> bool {
        let each = |check: &dyn Fn(&str) -> bool| {
            value
                .as_array()
                .is_some_and(|values| values.iter().all(|item| item.as_str().is_some_and(check)))
        };
        match self {
            Self::Text => value.as_str().is_some_and(|text| !text.contains('\0')),
            Self::Checked(check) => value.as_str().is_some_and(|text| check(text).is_ok()),
            Self::Listen => value.as_str().is_some_and(|text| text.parse::<SocketAddr>().is_ok()),
            Self::Reach => value
                .as_str()
                .is_some_and(|text| text.is_empty() || is_reachable_address(text)),
            Self::CheckedList(check) => each(&|text| check(text).is_ok()),
            Self::ReachList => each(&is_reachable_address),
            Self::TextList => each(&|text| !text.trim().is_empty()),
            Self::Map => value.as_dict().is_some_and(|map| {
                map.iter()
                    .all(|(key, value)| !key.trim().is_empty() && value.as_str().is_some())
            }),
            Self::Choice(words) => value.as_str().is_some_and(|text| words.contains(&text)),
            Self::Int(min, max) => value
                .to_i128()
                .is_some_and(|n| (i128::from(*min)..=i128::from(*max)).contains(&n)),
            Self::Float(min, max, inclusive) => {
                number(value).is_some_and(|n| n <= *max && (n > *min || (*inclusive && n == *min)))
            }
            Self::Duration(min, max) => value.as_str().and_then(parse_duration).is_some_and(|time| {
                // Whole milliseconds at the edges: what is shorter than one is not asked for anywhere.
                time >= Duration::from_millis(*min) && time <= Duration::from_millis(*max)
            }),
            Self::Size(min, max) => size(value).is_some_and(|bytes| (*min..=*max).contains(&bytes)),
        }
    }

    /// The value that a text from the environment or a flag means. What can't be understood stays a text, which is
    /// refused afterwards, with what is allowed.
    pub fn read(&self, text: &str) -> Value {
        let as_text = || Value::from(text.to_owned());
        match self {
            Self::Int(..) => text.trim().parse::<i64>().map_or_else(|_| as_text(), Value::from),
            Self::Float(..) => text.trim().parse::<f64>().map_or_else(|_| as_text(), Value::from),
            Self::ReachList | Self::TextList | Self::CheckedList(_) => {
                let inner = text
                    .trim()
                    .strip_prefix('[')
                    .and_then(|rest| rest.strip_suffix(']'))
                    .unwrap_or(text);
                let items: Vec<Value> = inner
                    .split(',')
                    .map(|item| item.trim().trim_matches('"').to_owned())
                    .filter(|item| !item.is_empty())
                    .map(Value::from)
                    .collect();
                Value::from(items)
            }
            Self::Map => {
                let mut map = Dict::new();
                for item in text.split(',').filter(|item| !item.trim().is_empty()) {
                    let Some((key, value)) = item.split_once('=') else {
                        return as_text();
                    };
                    map.insert(key.trim().to_owned(), Value::from(value.trim().to_owned()));
                }
                Value::Dict(Tag::Default, map)
            }
            _ => as_text(),
        }
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Num(_, Num::F32(n)) => Some(f64::from(*n)),
        Value::Num(_, Num::F64(n)) => Some(*n),
        // Whole numbers of a configuration are far below where a float loses digits.
        other => other.to_i128().map(|n| n as f64),
    }
    .filter(|n| n.is_finite())
}

fn size(value: &Value) -> Option<u64> {
    match value.as_str() {
        Some(text) => parse_size(text),
        None => value.to_u128().and_then(|n| u64::try_from(n).ok()),
    }
}

/// The candidate that was most likely meant.
pub fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.to_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .map(|candidate| (distance(&given, candidate), candidate))
        .filter(|(distance, candidate)| {
            // Half of it may be wrong, or it is a part of the other.
            *distance * 2 <= candidate.len().max(given.len())
                || (given.len() >= 3 && (candidate.contains(&given) || given.contains(candidate)))
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// Fewest insertions, removals and replacements that make one of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["10.0.0.1:1", "host:9096", "a.b-c.example:65535", "[::1]:80"] {
            assert!(is_reachable_address(good), "{good}");
        }
        for bad in [
            "",
            "host",
            ":80",
            "host:0",
            "host:65536",
            "0.0.0.0:80",
            "[::]:80",
            "::1:80",
            "a b:1",
            "http://h:1",
            "h:1/",
        ] {
            assert!(!is_reachable_address(bad), "{bad}");
        }
    }

    #[test]
    fn finds_what_was_meant() {
        let known = ["heartbeat", "election_timeout_min", "voters_max"];
        assert_eq!(nearest("hartbeat", known), Some("heartbeat"));
        assert_eq!(nearest("Election-Timeout-Min", known), Some("election_timeout_min"));
        assert_eq!(nearest("voters", known), Some("voters_max"));
        assert_eq!(nearest("zzz", known), None);
    }

    /// What stands behind "such as", of every option that says so.
    #[test]
    fn every_option_accepts_its_own_example() {
        let mut seen = 0;
        for section in crate::config::SECTIONS {
            for option in section.options {
                let allowed = option.kind.allowed();
                // One that is shortened can't be taken as it is.
                let Some((_, example)) = allowed.split_once(", such as ").filter(|(_, text)| !text.contains('…'))
                else {
                    continue;
                };
                // The remarks behind some of them: the shortest beginning that is a value is the example.
                let ends = (1..=example.len()).filter(|end| example.is_char_boundary(*end));
                let values =
                    ends.filter_map(|end| toml::from_str::<toml::Table>(&format!("value = {}", &example[..end])).ok());
                let value = values.into_iter().next().and_then(|table| table.get("value").cloned());
                let value = value.unwrap_or_else(|| panic!("{}.{}: {example} is no value", section.name, option.key));
                let value = Value::serialize(value).expect("TOML is a value");
                assert!(
                    option.kind.accepts(&value),
                    "{}.{} does not allow its own example {example}",
                    section.name,
                    option.key
                );
                seen += 1;
            }
        }
        assert!(seen > 50, "only {seen} options have an example");
    }

    #[test]
    fn sizes_and_durations_read_back() {
        for bytes in [0, 1, 1023, 1024, 4 << 20, 1 << 30, (1 << 30) + 1] {
            assert_eq!(parse_size(&format_size(bytes)), Some(bytes));
        }
        for ms in [0, 1, 100, 1000, 90_000, 604_800_000] {
            assert_eq!(parse_duration(&format_duration(ms)), Some(Duration::from_millis(ms)));
        }
        assert_eq!(parse_duration("0"), Some(Duration::ZERO));
        assert_eq!(parse_duration("5"), None);
        assert_eq!(parse_size("12 apples"), None);
    }

    #[test]
    fn texts_become_what_the_option_takes() {
        assert!(Kind::Int(0, 10).accepts(&Kind::Int(0, 10).read("7")));
        assert!(!Kind::Int(0, 10).accepts(&Kind::Int(0, 10).read("11")));
        assert!(!Kind::Int(0, 10).accepts(&Kind::Int(0, 10).read("many")));
        assert!(Kind::Float(0.0, 1.0, false).accepts(&Kind::Float(0.0, 1.0, false).read("1")));
        assert!(!Kind::Float(0.0, 1.0, false).accepts(&Kind::Float(0.0, 1.0, false).read("0")));
        assert!(!Kind::Float(0.0, 1.0, true).accepts(&Kind::Float(0.0, 1.0, true).read("NaN")));
        assert!(Kind::Text.accepts(&Kind::Text.read("123")));
        let list = Kind::ReachList;
        for text in ["a:1,b:2", "[\"a:1\", \"b:2\"]"] {
            let value = list.read(text);
            assert!(list.accepts(&value));
            assert_eq!(value.as_array().map(<[Value]>::len), Some(2));
        }
        assert!(list.accepts(&list.read("")));
        assert!(!list.accepts(&list.read("a")));
        let map = Kind::Map;
        assert!(map.accepts(&map.read("zone=a, rack=7")));
        assert!(!map.accepts(&map.read("zone")));
    }
}
