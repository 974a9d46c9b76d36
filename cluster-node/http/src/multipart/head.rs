//! The head of a part: what it is, and where it lies.

use std::borrow::Cow;

use httparse::{EMPTY_HEADER, Header, Status};
use percent_encoding::percent_decode;

use super::params;
use crate::paths::clean;
use crate::{Failure, Query};

/// More headers than any client sends for a part.
const HEADERS_MAX: usize = 32;

/// What a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartKind {
    /// A directory (`application/x-directory`, or `multipart/form-data`); what follows may lie in it. Its content means
    /// nothing.
    Directory,
    /// A symbolic link (`application/symlink`); its content is where it points to.
    Symlink,
    /// Anything else.
    File,
}

/// The head of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Where it lies below the upload: decoded, cleaned, without a slash at either end, and never outside. Empty if the part
    /// has no name.
    pub path: String,
    /// What it is.
    pub kind: PartKind,
    /// Where the file lies at its owner, or its URL, as far as the client says.
    pub abspath: Option<String>,
    /// Its Unix mode, as far as the client says.
    pub mode: Option<u32>,
    /// When it was changed last, in seconds and nanoseconds since 1970, as far as the client says.
    pub mtime: Option<(i64, u32)>,
}

/// Reads the head that the buffer begins with; also answers its length. `None` if it is not there as a whole.
pub fn parse(buffer: &[u8]) -> Result<Option<(usize, Part)>, Failure> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    match httparse::parse_headers(buffer, &mut headers) {
        Ok(Status::Partial) => Ok(None),
        Ok(Status::Complete((len, headers))) => Ok(Some((len, part(headers)?))),
        Err(error) => Err(Failure::bad(format!("the headers of a part can't be read: {error}"))),
    }
}

fn part(headers: &[Header<'_>]) -> Result<Part, Failure> {
    let of = |name: &str| {
        let mut found = headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        found.next().map(|header| header.value)
    };
    let disposition = of("content-disposition").and_then(params::parse);
    let filename = disposition
        .as_ref()
        .and_then(|(_, params)| params::find(params, "filename"));
    let decoded = unescape(filename.as_deref().unwrap_or_default());
    let cleaned = clean(&decoded).split_off(1);
    let path = String::from_utf8(cleaned).map_err(|error| {
        let shown = String::from_utf8_lossy(error.as_bytes())
            .chars()
            .take(64)
            .collect::<String>();
        Failure::bad(format!("the path of a part is not UTF-8: {shown:?}; rename the file"))
    })?;
    let kind = match of("content-type")
        .and_then(params::parse)
        .as_ref()
        .map(|(kind, _)| kind.as_str())
    {
        Some("application/x-directory" | "multipart/form-data") => PartKind::Directory,
        Some("application/symlink") => PartKind::Symlink,
        _ => PartKind::File,
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let named = disposition
        .as_ref()
        .and_then(|(_, params)| params::find(params, "name"));
    let (mode, mtime) = stat(named.as_deref().unwrap_or_default());
    let encoded = of("abspath-encoded").map(|value| text(&unescape(value)));
    Ok(Part {
        path,
        kind,
        abspath: encoded.or_else(|| of("abspath").map(text)),
        mode,
        mtime,
    })
}

/// Mode and time of change, which Kubo's clients write behind the name of the part: `file?mode=0644&mtime=1700000000`. What
/// can't be read is passed over, as by Kubo.
fn stat(name: &[u8]) -> (Option<u32>, Option<(i64, u32)>) {
    let text = String::from_utf8_lossy(name);
    let Some((_, query)) = text.split_once('?') else {
        return (None, None);
    };
    let query = Query::parse(query);
    let mode = query.get("mode").and_then(|mode| u32::from_str_radix(mode, 8).ok());
    let seconds = query.get("mtime").and_then(|seconds| seconds.parse().ok());
    let nanos = query.get("mtime-nsecs").and_then(|nanos| nanos.parse().ok());
    let nanos = nanos.filter(|nanos| *nanos < 1_000_000_000).unwrap_or_default();
    (mode, seconds.map(|seconds| (seconds, nanos)))
}

/// As in a query, with a plus for a space; as it is, if it is not written that way.
fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    let fine = memchr::memchr_iter(b'%', text).all(|at| {
        let digits = text.get(at + 1..at + 3);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    if !fine {
        return Cow::Borrowed(text);
    }
    let spaced: Vec<u8> = text
        .iter()
        .map(|byte| if *byte == b'+' { b' ' } else { *byte })
        .collect();
    Cow::Owned(percent_decode(&spaced).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_and_time_are_read_from_the_name() {
        assert_eq!(stat(b"file"), (None, None));
        assert_eq!(stat(b"file?mode=0644"), (Some(0o644), None));
        assert_eq!(
            stat(b"file?mode=0100755&mtime=-5&mtime-nsecs=7"),
            (Some(0o100_755), Some((-5, 7)))
        );
        assert_eq!(stat(b"file?mode=9&mtime=x&mtime-nsecs=1"), (None, None));
        assert_eq!(stat(b"file?mtime=1&mtime-nsecs=1000000000"), (None, Some((1, 0))));
    }
}
