//! The query of a request, read as the Go clients write it.

use std::borrow::Cow;
use std::time::Duration;

use axum::extract::FromRequestParts;
use http::request::Parts;
use node_core::{Created, Timestamp};

use crate::Failure;
use crate::time::{parse_created, parse_go_duration, parse_rfc3339};

/// Keys and values, decoded as a form: `+` is a space. The first value of a key wins, an empty one counts as absent, keys that
/// nobody asks for are ignored, and so are pairs that can't be decoded: a `%` without two hexadecimal digits, or a `;`.
///
/// Bounded by [`Limits::target_bytes_max`](crate::Limits::target_bytes_max): what is held is no larger than that, and 48 bytes
/// for each pair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(String, String)>,
    /// The first pair that can't be decoded.
    malformed: Option<String>,
}

/// Bytes of a pair that can't be decoded which are kept to be shown.
const SHOWN_BYTES: usize = 64;

impl Query {
    /// Reads what stands behind the question mark.
    pub fn parse(text: &str) -> Self {
        let pairs = text
            .split('&')
            .filter(|pair| !pair.is_empty() && is_well_formed(pair.as_bytes()))
            .flat_map(|pair| form_urlencoded::parse(pair.as_bytes()))
            .map(|(key, value)| (key.into_owned(), value.into_owned()))
            .collect();
        let malformed = text.split('&').find(|pair| !is_well_formed(pair.as_bytes()));
        Self {
            pairs,
            malformed: malformed.map(|pair| pair.chars().take(SHOWN_BYTES).collect()),
        }
    }

    /// An error where a pair can't be decoded, for calls that are not to go on without one.
    pub fn well_formed(&self) -> Result<(), Failure> {
        self.malformed.as_ref().map_or(Ok(()), |pair| {
            Err(Failure::bad(format!(
                "query {pair:?}: it can't be decoded; encode `;` as %3B and `%` as %25"
            )))
        })
    }

    /// The first value of the key, unless it is empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.all(key).next().filter(|value| !value.is_empty())
    }

    /// All values of the key in their order, empty ones too.
    pub fn all<'a>(&'a self, key: &str) -> impl Iterator<Item = &'a str> {
        self.pairs
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// All pairs whose key begins so, without that beginning: what is left may be empty, and keys may repeat.
    pub fn with_prefix<'a>(&'a self, prefix: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.pairs
            .iter()
            .filter_map(move |(k, v)| Some((k.strip_prefix(prefix)?, v.as_str())))
    }

    /// The parts between commas; none if the key is absent. Parts are neither trimmed nor left out when they are empty.
    pub fn list<'a>(&'a self, key: &str) -> impl Iterator<Item = &'a str> {
        self.get(key).into_iter().flat_map(|text| text.split(','))
    }

    /// `1 t T TRUE true True` or `0 f F FALSE false False`, as Go reads it.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, Failure> {
        let Some(text) = self.get(key) else { return Ok(None) };
        match text {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Some(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Some(false)),
            _ => Err(invalid(key, &format!("{} is neither true nor false", shown(text)))),
        }
    }

    /// A whole number in base 10 with an optional sign.
    pub fn int(&self, key: &str) -> Result<Option<i64>, Failure> {
        self.number(key, "a whole number")
    }

    /// A whole number in base 10 that is not negative.
    pub fn uint(&self, key: &str) -> Result<Option<u64>, Failure> {
        self.number(key, "a whole number that is not negative")
    }

    fn number<T: std::str::FromStr>(&self, key: &str, wanted: &str) -> Result<Option<T>, Failure> {
        let Some(text) = self.get(key) else { return Ok(None) };
        let failed = |_| invalid(key, &format!("{} is not {wanted} of 64 bits", shown(text)));
        text.parse().map(Some).map_err(failed)
    }

    /// A duration in Go's syntax that is not negative.
    pub fn duration(&self, key: &str) -> Result<Option<Duration>, Failure> {
        let Some(text) = self.get(key) else { return Ok(None) };
        let nanos = parse_go_duration(text).map_err(|error| invalid(key, &error.to_string()))?;
        let nanos = u64::try_from(nanos).map_err(|_| invalid(key, &format!("{} is negative", shown(text))))?;
        Ok(Some(Duration::from_nanos(nanos)))
    }

    /// A time in RFC 3339 to the nanosecond; see [`parse_created`].
    pub fn created(&self, key: &str) -> Result<Option<Created>, Failure> {
        let Some(text) = self.get(key) else { return Ok(None) };
        parse_created(text)
            .map(Some)
            .map_err(|error| invalid(key, &error.to_string()))
    }

    /// A time in RFC 3339; see [`parse_rfc3339`] for what lies before 1970.
    pub fn time(&self, key: &str) -> Result<Option<Timestamp>, Failure> {
        let Some(text) = self.get(key) else { return Ok(None) };
        parse_rfc3339(text)
            .map(Some)
            .map_err(|error| invalid(key, &error.to_string()))
    }
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

/// The 400 for a parameter; its beginning is that of IPFS Cluster.
pub fn invalid(key: &str, reason: &str) -> Failure {
    Failure::bad(format!("parameter {key} invalid: {reason}"))
}

/// What was sent, in quotes and cut: an answer is not to be as long as a query.
fn shown(text: &str) -> String {
    const MOST: usize = 64;
    let mut chars = text.chars();
    let beginning: Cow<'_, str> = chars.by_ref().take(MOST).collect();
    let rest = if chars.next().is_some() { "…" } else { "" };
    format!("{beginning:?}{rest}")
}

fn is_well_formed(pair: &[u8]) -> bool {
    let escaped = |at: usize| {
        pair.get(at + 1..at + 3)
            .is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
    };
    pair.iter().enumerate().all(|(at, byte)| match byte {
        b';' => false,
        b'%' => escaped(at),
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_are_decoded_and_the_first_value_wins() {
        let query =
            Query::parse("name=a+b%2Bc&name=second&mode=&expire-in=1h30m&=x&flag&meta-a=1&meta-=2&meta-a=3&n=%C3%A4");
        assert_eq!(query.get("name"), Some("a b+c"));
        assert_eq!(query.all("name").collect::<Vec<_>>(), ["a b+c", "second"]);
        assert_eq!(query.get("mode"), None);
        assert_eq!(query.get("flag"), None);
        assert_eq!(query.get("nothing"), None);
        assert_eq!(query.get("n"), Some("ä"));
        assert_eq!(query.duration("expire-in").unwrap(), Some(Duration::from_secs(5400)));
        let meta: Vec<_> = query.with_prefix("meta-").collect();
        assert_eq!(meta, [("a", "1"), ("", "2"), ("a", "3")]);
    }

    #[test]
    fn an_empty_first_value_hides_the_second() {
        assert_eq!(Query::parse("a=&a=1").get("a"), None);
    }

    #[test]
    fn pairs_that_cant_be_decoded_are_left_out() {
        let query = Query::parse("a=%zz&b=1;2&c=%4&d=%41&%=1&&e=%C3");
        assert_eq!(query.pairs, [("d".into(), "A".into()), ("e".into(), "\u{fffd}".into())]);
        let failure = query.well_formed().expect_err("some can't");
        assert!(failure.message.contains("\"a=%zz\""), "{}", failure.message);
        Query::parse("a=%20&b=c+d&&e").well_formed().expect("all can");
    }

    #[test]
    fn lists_are_split_at_commas() {
        let query = Query::parse("cids=a,b,,c&empty=");
        assert_eq!(query.list("cids").collect::<Vec<_>>(), ["a", "b", "", "c"]);
        assert_eq!(query.list("empty").count(), 0);
        assert_eq!(query.list("absent").count(), 0);
    }

    #[test]
    fn values_of_a_type_are_read_or_refused_by_name() {
        for (text, value) in [
            ("1", true),
            ("t", true),
            ("TRUE", true),
            ("0", false),
            ("False", false),
            ("F", false),
        ] {
            assert_eq!(Query::parse(&format!("a={text}")).bool("a").unwrap(), Some(value));
        }
        let query =
            Query::parse("a=-5&b=%2B7&c=yes&d=18446744073709551615&e=-1s&f=2026-05-11T10:20:30%2B02:00&g=2026&h=");
        assert_eq!(query.int("a").unwrap(), Some(-5));
        assert_eq!(query.int("b").unwrap(), Some(7));
        assert_eq!(query.uint("d").unwrap(), Some(u64::MAX));
        assert_eq!(
            query.time("f").unwrap(),
            Some(Timestamp::from_millis(1_778_487_630_000))
        );
        assert_eq!(query.int("h").unwrap(), None);
        assert_eq!(query.bool("h").unwrap(), None);
        assert_eq!(query.time("h").unwrap(), None);
        for failure in [
            query.bool("c").unwrap_err(),
            query.int("d").unwrap_err(),
            query.uint("a").unwrap_err(),
            query.duration("e").unwrap_err(),
            query.duration("a").unwrap_err(),
            query.time("g").unwrap_err(),
        ] {
            assert_eq!(failure.status, 400);
            let words: Vec<_> = failure.message.split(' ').take(3).collect();
            assert!(words[0] == "parameter" && words[2] == "invalid:", "{failure}");
        }
    }

    #[test]
    fn a_long_value_is_not_sent_back_as_a_whole() {
        let failure = Query::parse(&format!("a={}", "ä".repeat(10_000)))
            .bool("a")
            .unwrap_err();
        assert!(failure.message.len() < 300);
    }

    proptest! {
        #[test]
        fn what_a_form_encodes_is_read_again(pairs in prop::collection::vec((any::<String>(), any::<String>()), 0..8)) {
            let text = form_urlencoded::Serializer::new(String::new()).extend_pairs(&pairs).finish();
            prop_assert_eq!(Query::parse(&text).pairs, pairs);
        }

        #[test]
        fn no_text_breaks_it_or_makes_it_larger(text in any::<String>()) {
            let query = Query::parse(&text);
            let bytes: usize = query.pairs.iter().map(|(k, v)| k.len() + v.len()).sum();
            // A byte that is no text becomes a replacement of three bytes.
            prop_assert!(bytes <= 3 * text.len());
        }
    }
}
