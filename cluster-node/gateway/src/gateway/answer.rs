//! What an answer looks like.

use std::convert::Infallible;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use cluster_content::{ContentError, Scope, StoreError};
use cluster_dag::DagError;
use futures::stream::empty;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use node_core::ErrorClass;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use xxhash_rust::xxh3::xxh3_64;

use super::request::{CAR_TYPE, CarShape, Format, RAW_TYPE, Wanted};

/// For a year, as good as for ever: the specification's words.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=29030400, immutable");

/// After how many seconds another try is worth it.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// What an RFC 8187 value may hold as it is.
const ATTRIBUTE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An answer that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) words: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, words: impl Into<String>) -> Self {
        Self {
            status,
            words: words.into(),
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let status = match error.class {
            ErrorClass::NotFound => StatusCode::NOT_FOUND,
            // What the operator denies.
            ErrorClass::Unauthorized => StatusCode::GONE,
            ErrorClass::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            ErrorClass::Stalled => StatusCode::GATEWAY_TIMEOUT,
            ErrorClass::Unreachable => StatusCode::BAD_GATEWAY,
            ErrorClass::Permanent | ErrorClass::Temporary | ErrorClass::DiskFull => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.message)
    }
}

impl From<ContentError> for Refusal {
    fn from(error: ContentError) -> Self {
        let status = match error {
            ContentError::Store(error) => return error.into(),
            // The path can't be followed: a name is missing, or a block is not what it should be.
            ContentError::Dag(
                DagError::NotFound { .. } | DagError::NotADirectory { .. } | DagError::Malformed { .. },
            ) => StatusCode::NOT_FOUND,
            ContentError::Dag(_) => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, format!("{}\n", self.words)).into_response();
        let headers = response.headers_mut();
        // The content may be here in a moment.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if matches!(self.status.as_u16(), 429 | 502 | 503 | 504) {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

/// Identifies an answer. That of a block is strong. That of a CAR file is weak: it names what was asked for, and the file
/// may have been cut where a block was missing.
pub(super) fn etag(wanted: &Wanted) -> String {
    let root = wanted.root;
    match wanted.format {
        Format::Raw => format!("\"{root}.raw\""),
        Format::Car(shape) => {
            let CarShape { scope, duplicates, .. } = shape;
            let (name, range) = match scope {
                Scope::Block => ("block", String::new()),
                Scope::All => ("all", String::new()),
                Scope::Entity { from, to } => ("entity", format!("{from}:{to:?}")),
            };
            let mut rest = wanted.path.clone();
            rest.extend_from_slice(format!("\0{range}\0{duplicates}").as_bytes());
            format!("W/\"{name}.{root}.car.{:016x}\"", xxh3_64(&rest))
        }
    }
}

/// Whether the client has the answer already. Weak or strong makes no difference here.
pub(super) fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let plain = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let own = plain(etag);
    let given = headers.get_all(header::IF_NONE_MATCH);
    let tags = given.iter().filter_map(|value| value.to_str().ok());
    tags.flat_map(|value| value.split(','))
        .any(|tag| tag.trim() == "*" || plain(tag) == own)
}

/// An answer that holds content, without it.
pub(super) fn head(wanted: &Wanted, url_path: &str, query: Option<&str>, etag: &str) -> Response {
    // Of no known length: of an answer without content, HTTP takes the length for that of the content left out.
    let mut response = Response::new(Body::from_stream(empty::<Result<Bytes, Infallible>>()));
    let headers = response.headers_mut();
    let mut put = |name: HeaderName, value: String| {
        // What can't stand in a header is left out; only a file name of the client could be such.
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    };
    let (content_type, extension) = match wanted.format {
        Format::Raw => (RAW_TYPE.to_owned(), "bin"),
        Format::Car(shape) => {
            let duplicates = if shape.duplicates { 'y' } else { 'n' };
            (format!("{CAR_TYPE}; version=1; order=dfs; dups={duplicates}"), "car")
        }
    };
    put(header::CONTENT_TYPE, content_type);
    put(header::ETAG, etag.to_owned());
    let name = match &wanted.filename {
        Some(name) => name.clone(),
        None => format!("{}.{extension}", wanted.root),
    };
    put(header::CONTENT_DISPOSITION, disposition(&name));
    put(HeaderName::from_static("x-ipfs-path"), url_path.to_owned());
    let is_raw = wanted.format == Format::Raw;
    put(header::ACCEPT_RANGES, if is_raw { "bytes" } else { "none" }.into());
    let mut named = Vec::new();
    if !wanted.format_in_url {
        named.push(if is_raw { "format=raw" } else { "format=car" });
    }
    if wanted.duplicates_in_accept {
        named.push("car-dups=y");
    }
    if !named.is_empty() {
        // Where this very answer lies for whoever sends no `Accept` at all.
        let given = query.filter(|query| !query.is_empty());
        let query: Vec<&str> = given.into_iter().chain(named).collect();
        put(header::CONTENT_LOCATION, format!("{url_path}?{}", query.join("&")));
    }
    if !wanted.format_in_url || !is_raw {
        // Of a CAR file the header says what the URL does not, also when that names the format: a cache that did not know
        // would give a file with duplicates to who asked for one without, for as long as the answer is good.
        put(header::VARY, "Accept".into());
    }
    headers.insert(header::CACHE_CONTROL, IMMUTABLE);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// `attachment`, with the name in ASCII and, where that is not all of it, in UTF-8 too.
fn disposition(name: &str) -> String {
    let ascii: String = name
        .chars()
        .map(|c| match c {
            '"' | '\\' | '/' => '_',
            c if c.is_ascii_graphic() || c == ' ' => c,
            _ => '_',
        })
        .collect();
    let mut text = format!("attachment; filename=\"{ascii}\"");
    if ascii != name {
        text.push_str("; filename*=UTF-8''");
        text.extend(utf8_percent_encode(name, ATTRIBUTE));
    }
    text
}

/// A part of a block that is asked for: from this byte to before that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it: no range, several, or one that can't be read, which is as good as none.
    Whole,
    /// This.
    Range(u64, u64),
    /// Nothing that is there.
    Unsatisfiable,
}

/// What a `Range` header asks of this many bytes. A range of another version of the block does not count; there is only
/// one, so only a wrong tag is of another.
pub(super) fn part(headers: &HeaderMap, bytes: u64, etag: &str) -> Part {
    if headers
        .get(header::IF_RANGE)
        .is_some_and(|tag| tag.as_bytes() != etag.as_bytes())
    {
        return Part::Whole;
    }
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let Some((first, last)) = range
        .and_then(|range| range.trim().strip_prefix("bytes="))
        .filter(|ranges| !ranges.contains(','))
        .and_then(|range| range.split_once('-'))
    else {
        return Part::Whole;
    };
    let (start, end) = match (first.trim(), last.trim()) {
        ("", "") => return Part::Whole,
        ("", last) => match last.parse::<u64>() {
            Ok(last) => (bytes.saturating_sub(last), bytes),
            Err(_) => return Part::Whole,
        },
        (first, "") => match first.parse() {
            Ok(first) => (first, bytes),
            Err(_) => return Part::Whole,
        },
        (first, last) => match (first.parse::<u64>(), last.parse::<u64>()) {
            (Ok(first), Ok(last)) if first <= last => (first, last.saturating_add(1).min(bytes)),
            _ => return Part::Whole,
        },
    };
    if start < end {
        Part::Range(start, end)
    } else {
        Part::Unsatisfiable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_bounded() {
        let part_of = |range: &str, bytes| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, HeaderValue::from_str(range).expect("text"));
            part(&headers, bytes, "\"x\"")
        };
        for (range, expected) in [
            ("bytes=0-0", Part::Range(0, 1)),
            ("bytes=2-", Part::Range(2, 10)),
            ("bytes=-3", Part::Range(7, 10)),
            ("bytes=-30", Part::Range(0, 10)),
            ("bytes=9-18446744073709551615", Part::Range(9, 10)),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=5-4", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("lines=1-2", Part::Whole),
        ] {
            assert_eq!(part_of(range, 10), expected, "{range}");
        }
        assert_eq!(part_of("bytes=0-", 0), Part::Unsatisfiable);
        assert_eq!(part(&HeaderMap::new(), 10, "\"x\""), Part::Whole);
    }

    #[test]
    fn names_of_files_can_break_no_header() {
        assert_eq!(disposition("a b.car"), "attachment; filename=\"a b.car\"");
        assert_eq!(
            disposition("testтест.pdf"),
            "attachment; filename=\"test____.pdf\"; filename*=UTF-8''test%D1%82%D0%B5%D1%81%D1%82.pdf"
        );
        assert_eq!(
            disposition("a\"; x=\r\n"),
            "attachment; filename=\"a_; x=__\"; filename*=UTF-8''a%22%3B%20x%3D%0D%0A"
        );
    }
}
