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

    /// The headers that answer a browser's question. Without those that allow something the answer is no.
    pub(crate) fn preflight(&self, request: &HeaderMap) -> HeaderMap {
        let mut answer = HeaderMap::new();
        for name in [
            header::ORIGIN,
            header::ACCESS_CONTROL_REQUEST_METHOD,
            header::ACCESS_CONTROL_REQUEST_HEADERS,
        ] {
            answer.append(header::VARY, HeaderValue::from(name));
        }
        let Some(origin) = self.allowed_origin(request) else {
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

    /// What is added to the answer of a request.
    pub(crate) fn add(&self, method: &Method, request: &HeaderMap, answer: &mut HeaderMap) {
        answer.append(header::VARY, HeaderValue::from_static("origin"));
        let Some(origin) = self.allowed_origin(request) else {
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

    /// What is answered as the allowed origin, if there is one and it is allowed.
    fn allowed_origin(&self, request: &HeaderMap) -> Option<HeaderValue> {
        let origin = request.get(header::ORIGIN)?;
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
