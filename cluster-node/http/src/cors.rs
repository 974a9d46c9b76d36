//! What pages of other origins may do.

use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

/// What a browser is told of a server. The defaults are those of IPFS Cluster, but for two: trailers may be read too, and pages
/// of other origins don't get to use credentials that the browser holds unless an operator says so. (IPFS Cluster says they may
/// beside `Access-Control-Allow-Origin: *`, which every browser refuses.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// Origins that may ask: `*`, or `https://example.org`, with at most one `*` in each. Case does not matter.
    pub origins: Vec<String>,
    /// Methods that a page may use.
    pub methods: Vec<Method>,
    /// Headers that a page may send; `*` among them allows all. Those that a browser sends by itself need no mention.
    pub headers: Vec<String>,
    /// Headers that a page may read.
    pub exposed: Vec<HeaderName>,
    /// Whether a page may use credentials that the browser holds. The origin is then named in the answer instead of `*`, so
    /// set this only beside origins that are trusted.
    pub credentials: bool,
    /// For how long a browser may remember what a page may do; zero leaves it to the browser.
    pub max_age: Duration,
}

impl Default for Cors {
    fn default() -> Self {
        Self {
            origins: vec!["*".to_owned()],
            methods: vec![Method::GET],
            headers: ["accept", "content-type", "x-requested-with"]
                .map(str::to_owned)
                .to_vec(),
            exposed: [
                "content-type",
                "x-stream-output",
                "x-chunked-output",
                "x-content-length",
                "x-stream-error",
            ]
            .map(HeaderName::from_static)
            .to_vec(),
            credentials: false,
            max_age: Duration::ZERO,
        }
    }
}

impl Cors {
    /// Whether this is a browser asking what a page may do: it is answered for any path, and never asked who it is.
    pub(crate) fn is_preflight(request: &Parts) -> bool {
        request.method == Method::OPTIONS && request.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// Whether pages of this origin may ask at all.
    pub fn allows_origin(&self, origin: &HeaderValue) -> bool {
        self.allowed_origin(origin).is_some()
    }

    /// The headers that answer a browser's question. Without those that allow something the answer is no.
    pub fn preflight(&self, request: &HeaderMap) -> HeaderMap {
        const ASKED: &str = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
        let mut answer = HeaderMap::from_iter([(header::VARY, HeaderValue::from_static(ASKED))]);
        let Some(origin) = request
            .get(header::ORIGIN)
            .and_then(|origin| self.allowed_origin(origin))
        else {
            return answer;
        };
        let method = request.get(header::ACCESS_CONTROL_REQUEST_METHOD);
        let Some(method) = method.filter(|method| self.allows_method(method.as_bytes())) else {
            return answer;
        };
        let wanted = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
        if !wanted.is_none_or(|wanted| self.allows_headers(wanted)) {
            return answer;
        }
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, method.clone());
        if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
        }
        if self.credentials {
            answer.insert(
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
        if self.max_age.as_secs() > 0 {
            answer.insert(
                header::ACCESS_CONTROL_MAX_AGE,
                HeaderValue::from(self.max_age.as_secs()),
            );
        }
        answer
    }

    /// What is added to the answer of a request from this origin.
    pub fn add(&self, method: &Method, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
        answer.append(header::VARY, HeaderValue::from_static("Origin"));
        let Some(origin) = origin.and_then(|origin| self.allowed_origin(origin)) else {
            return;
        };
        if !self.allows_method(method.as_str().as_bytes()) {
            return;
        }
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let exposed: Vec<&str> = self.exposed.iter().map(HeaderName::as_str).collect();
        if let Ok(exposed) = HeaderValue::from_str(&exposed.join(", "))
            && !exposed.is_empty()
        {
            answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
        if self.credentials {
            answer.insert(
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
    }

    /// What is answered as the allowed origin, if this one is allowed.
    fn allowed_origin(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        if self.origins.iter().any(|allowed| allowed == "*") {
            // Browsers refuse `*` beside credentials, so the origin is named then.
            return Some(if self.credentials {
                origin.clone()
            } else {
                HeaderValue::from_static("*")
            });
        }
        let text = origin.to_str().ok()?.to_ascii_lowercase();
        let matches = |allowed: &String| {
            let allowed = allowed.to_ascii_lowercase();
            match allowed.split_once('*') {
                // Beginning and end must not overlap.
                Some((begin, end)) => {
                    text.len() >= begin.len() + end.len() && text.starts_with(begin) && text.ends_with(end)
                }
                None => text == allowed,
            }
        };
        self.origins.iter().any(matches).then(|| origin.clone())
    }

    fn allows_method(&self, method: &[u8]) -> bool {
        method == b"OPTIONS" || self.methods.iter().any(|allowed| allowed.as_str().as_bytes() == method)
    }

    fn allows_headers(&self, wanted: &HeaderValue) -> bool {
        if self.headers.iter().any(|allowed| allowed == "*") {
            return true;
        }
        // Those that a browser always may send by itself, and that an empty list still means.
        const ALWAYS: [&str; 4] = ["accept", "content-type", "x-requested-with", "origin"];
        let Ok(wanted) = wanted.to_str() else { return false };
        wanted
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .all(|name| {
                let allowed = |allowed: &String| allowed.eq_ignore_ascii_case(name);
                let always = self.headers.is_empty() && ALWAYS.iter().any(|a| a.eq_ignore_ascii_case(name));
                always || name.eq_ignore_ascii_case("origin") || self.headers.iter().any(allowed)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(HeaderName, &str)]) -> HeaderMap {
        headers
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    fn added(cors: &Cors, method: Method, origin: &str) -> HeaderMap {
        let mut answer = HeaderMap::new();
        cors.add(&method, Some(&origin.parse().unwrap()), &mut answer);
        answer
    }

    fn asked(cors: &Cors, origin: &str, method: &str, headers: &str) -> HeaderMap {
        cors.preflight(&map(&[
            (header::ORIGIN, origin),
            (header::ACCESS_CONTROL_REQUEST_METHOD, method),
            (header::ACCESS_CONTROL_REQUEST_HEADERS, headers),
        ]))
    }

    fn some_origins(origins: &[&str]) -> Cors {
        Cors {
            origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
            ..Cors::default()
        }
    }

    #[test]
    fn a_page_may_read_by_default_and_use_no_credentials() {
        let answer = added(&Cors::default(), Method::GET, "https://a.org");
        assert_eq!(answer[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert_eq!(answer[header::VARY], "Origin");
        let exposed = answer[header::ACCESS_CONTROL_EXPOSE_HEADERS].to_str().unwrap();
        assert!(exposed.contains(", x-stream-error"));
        assert!(!answer.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
        let answer = added(&Cors::default(), Method::POST, "https://a.org");
        assert_eq!(answer.keys().collect::<Vec<_>>(), [header::VARY]);
    }

    #[test]
    fn beside_credentials_the_origin_is_named() {
        let cors = Cors {
            credentials: true,
            ..Cors::default()
        };
        let answer = added(&cors, Method::GET, "https://a.org");
        assert_eq!(answer[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.org");
        assert_eq!(answer[header::ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
    }

    #[test]
    fn a_preflight_is_answered_as_asked_or_without_a_word() {
        let cors = Cors {
            credentials: true,
            max_age: Duration::from_secs(600),
            ..some_origins(&["myorigin"])
        };
        let answer = asked(&cors, "myorigin", "GET", "content-type");
        assert_eq!(
            answer,
            map(&[
                (
                    header::VARY,
                    "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
                ),
                (header::ACCESS_CONTROL_ALLOW_ORIGIN, "myorigin"),
                (header::ACCESS_CONTROL_ALLOW_METHODS, "GET"),
                (header::ACCESS_CONTROL_ALLOW_HEADERS, "content-type"),
                (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"),
                (header::ACCESS_CONTROL_MAX_AGE, "600"),
            ])
        );
        for refused in [
            asked(&cors, "other", "GET", "content-type"),
            asked(&cors, "myorigin", "DELETE", "content-type"),
            asked(&cors, "myorigin", "GET", "content-type, authorization"),
        ] {
            assert_eq!(refused.keys().collect::<Vec<_>>(), [header::VARY]);
        }
        let any = Cors {
            headers: vec!["*".to_owned()],
            ..cors
        };
        assert!(asked(&any, "myorigin", "GET", "x-any").contains_key(header::ACCESS_CONTROL_ALLOW_HEADERS));
    }

    #[test]
    fn origins_match_whatever_their_case_and_with_one_star() {
        let cors = some_origins(&["https://*.Example.org", "http://localhost:*", "aa*aa"]);
        for (origin, expected) in [
            ("https://a.example.org", true),
            ("HTTPS://A.B.EXAMPLE.ORG", true),
            ("https://example.org", false),
            ("https://a.example.org.evil", false),
            ("http://localhost:8080", true),
            ("https://localhost:8080", false),
            ("aaaa", true),
            ("aaa", false),
        ] {
            let answer = added(&cors, Method::GET, origin);
            assert_eq!(
                answer.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN),
                expected,
                "{origin}"
            );
        }
    }
}
