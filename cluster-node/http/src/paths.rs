//! Paths as IPFS Cluster routes them: without a slash at the end, cleaned, and by the segments of the decoded path.

use std::borrow::Cow;

use http::uri::{PathAndQuery, Uri};
use http::{HeaderValue, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use crate::Failure;

/// All but what RFC 3986 allows in a path as it is, and the slash between segments.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// What is made of a path.
#[derive(Debug)]
pub(crate) enum Tidied {
    /// It is fine as it is.
    Fine,
    /// The same path in the form that routes are written in.
    Rewritten(Uri),
    /// The client is to ask there.
    Redirect(StatusCode, HeaderValue),
    /// It is none.
    Bad(Failure),
}

/// Looks at the path of a request. A slash at its end is redirected away, or only taken off.
pub(crate) fn tidy(uri: &Uri, redirect_slash: bool) -> Tidied {
    let raw = uri.path();
    let Some(mut decoded) = decode(raw) else {
        return Tidied::Bad(Failure::bad(
            "the path has a % without two hexadecimal digits behind it",
        ));
    };
    if !decoded.starts_with(b"/") {
        // `*`, which belongs to OPTIONS and has no route.
        return Tidied::Fine;
    }
    if !redirect_slash && decoded.len() > 1 && decoded.ends_with(b"/") {
        let kept = decoded.len() - 1;
        decoded = Cow::Owned(decoded[..kept].to_vec());
    }
    if redirect_slash && decoded.len() > 1 && decoded.ends_with(b"/") {
        // What stood before that slash stays as it was written.
        let kept = match raw.strip_suffix('/') {
            Some(kept) => Cow::Borrowed(kept.as_bytes()),
            None => Cow::Owned(encode(&decoded[..decoded.len() - 1]).into_bytes()),
        };
        return redirect(StatusCode::TEMPORARY_REDIRECT, &kept, uri.query());
    }
    let cleaned = clean(&decoded);
    if cleaned != *decoded {
        return redirect(StatusCode::MOVED_PERMANENTLY, encode(&cleaned).as_bytes(), uri.query());
    }
    let path = encode(&decoded);
    if path == raw {
        return Tidied::Fine;
    }
    match with_query(path, uri.query()).parse::<PathAndQuery>() {
        Ok(target) => Tidied::Rewritten(Uri::from(target)),
        // Encoding made it longer than a URI may be.
        Err(_) => Tidied::Bad(Failure::new(StatusCode::URI_TOO_LONG, "the path is too long")),
    }
}

fn redirect(status: StatusCode, path: &[u8], query: Option<&str>) -> Tidied {
    // Two slashes at the beginning, or what browsers take for them, would name another host.
    let path = path
        .iter()
        .position(|byte| !matches!(byte, b'/' | b'\\'))
        .map_or(&b""[..], |at| &path[at..]);
    let text = String::from_utf8_lossy(path).replace('\\', "%5C");
    match HeaderValue::try_from(with_query(format!("/{text}"), query)) {
        Ok(location) => Tidied::Redirect(status, location),
        Err(_) => Tidied::Bad(Failure::bad("the path can't be sent back as a redirect")),
    }
}

fn with_query(mut path: String, query: Option<&str>) -> String {
    if let Some(query) = query {
        path.push('?');
        path.push_str(query);
    }
    path
}

/// `None` if an escape is none.
fn decode(raw: &str) -> Option<Cow<'_, [u8]>> {
    let bytes = raw.as_bytes();
    let fine = memchr::memchr_iter(b'%', bytes).all(|at| {
        let digits = bytes.get(at + 1..at + 3);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    fine.then(|| Cow::from(percent_decode_str(raw)))
}

fn encode(path: &[u8]) -> String {
    percent_encode(path, ENCODED).to_string()
}

/// An absolute path without empty segments, `.` and `..`; what would lead above the root stays there.
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for segment in path.split(|byte| *byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    [b"/", kept.join(&b'/').as_slice()].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(target: &str) -> String {
        told_with(target, true)
    }

    fn told_with(target: &str, redirect_slash: bool) -> String {
        match tidy(&target.parse().unwrap(), redirect_slash) {
            Tidied::Fine => "fine".to_owned(),
            Tidied::Rewritten(uri) => uri.to_string(),
            Tidied::Redirect(status, location) => format!("{} {}", status.as_u16(), location.to_str().unwrap()),
            Tidied::Bad(failure) => failure.status.as_u16().to_string(),
        }
    }

    #[test]
    fn paths_are_redirected_or_read_by_decoded_segments() {
        for (target, expected) in [
            ("/", "fine"),
            ("/pins", "fine"),
            ("/pins?a=b/", "fine"),
            ("http://host/pins?a", "fine"),
            ("*", "fine"),
            ("/pins/?cids=a,b", "307 /pins?cids=a,b"),
            ("/pins//", "307 /pins/"),
            ("/a%2f/", "307 /a%2f"),
            ("/a%2F", "307 /a"),
            ("//", "307 /"),
            ("/pins//a", "301 /pins/a"),
            ("/pins/./a?x=1&y", "301 /pins/a?x=1&y"),
            ("/pins/../id", "301 /id"),
            ("/../..", "301 /"),
            ("/a%2F..%2Fb", "301 /b"),
            ("/a%2F%2Fb c", "301 /a/b%20c"),
            ("/pins/ipfs%2FQm%2Fa", "/pins/ipfs/Qm/a"),
            ("/a%2Fb%3Fc?d", "/a/b%3Fc?d"),
            ("/a%62", "/ab"),
            ("/a%25b", "fine"),
            ("/%C3%A4", "fine"),
            ("/%c3%a4", "/%C3%A4"),
            ("/a%zz", "400"),
            ("/a%4", "400"),
        ] {
            assert_eq!(told(&target.replace(' ', "%20")), expected, "{target}");
        }
    }

    #[test]
    fn a_slash_at_the_end_may_be_taken_off_without_a_redirect() {
        for (target, expected) in [
            ("/", "fine"),
            ("/pin/add", "fine"),
            ("/pin/add/?arg=x", "/pin/add?arg=x"),
            ("/pin/add%2F", "/pin/add"),
            ("/pin%2Fadd", "/pin/add"),
            ("/pin/add//", "301 /pin/add"),
            ("//", "/"),
            ("/pin/../add/", "301 /add"),
        ] {
            assert_eq!(told_with(target, false), expected, "{target}");
        }
    }

    #[test]
    fn no_redirect_leads_to_another_host() {
        for target in [
            "//evil.org/",
            "///evil.org/",
            "/%2Fevil.org/",
            "/\\evil.org/",
            "//evil.org/.",
            "/%5Cevil.org/",
        ] {
            let location = told(target);
            let path = location.split(' ').nth(1).unwrap();
            assert!(
                path.starts_with('/') && !path.starts_with("//") && !path.contains('\\'),
                "{target}: {location}"
            );
        }
    }

    proptest! {
        #[test]
        fn cleaning_ends_and_leads_nowhere_outside(path in "[a./]{0,20}") {
            let cleaned = clean(path.as_bytes());
            prop_assert_eq!(&clean(&cleaned), &cleaned);
            prop_assert!(cleaned.starts_with(b"/"));
            let mut segments = cleaned[1..].split(|b| *b == b'/');
            prop_assert!(cleaned == b"/" || segments.all(|s| !matches!(s, b"" | b"." | b"..")));
        }

        #[test]
        fn redirects_come_to_an_end(path in "/([a.%2F/]|%2F|%2E|%5C|\\\\){0,12}") {
            let Ok(mut uri) = path.parse::<Uri>() else { return Ok(()) };
            for _ in 0..path.len() + 2 {
                match tidy(&uri, true) {
                    Tidied::Redirect(_, location) => uri = location.to_str().unwrap().parse().unwrap(),
                    _ => return Ok(()),
                }
            }
            prop_assert!(false, "{} goes on for ever", path);
        }
    }
}
