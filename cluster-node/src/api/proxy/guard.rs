//! Web pages: a page can make a browser send a `POST` to an address on loopback, where nobody is asked for credentials. Kubo
//! 0.43 refuses those by three headers that a page can't choose: `Origin`, `Referer` and `User-Agent`. The same here, for the
//! cluster's calls; what is passed on is also judged by the node.

use axum::response::{IntoResponse as _, Response};
use cluster_http::{AsIs, Cors, Failure};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::{Arc, Proxy};

/// Where a request comes from, by what its headers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Page {
    /// From no page.
    None,
    /// From a page of this origin, which the configuration allows.
    Own(HeaderValue),
    /// From a page of these origins, of which the node may know; `Origin` first, where `Referer` says another.
    Foreign(Vec<HeaderValue>),
    /// From a browser that does not say from which page, or from a page of no origin.
    Refused,
}

impl Page {
    /// What these headers say.
    pub fn of(headers: &HeaderMap, cors: &Cors) -> Self {
        let text = |name| headers.get(name).filter(|value| !value.is_empty());
        let origin = text(header::ORIGIN);
        let referer = text(header::REFERER);
        if origin.is_none() && referer.is_none() {
            let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
            let agent = agent.unwrap_or_default();
            // Requests of Electron's pages have neither, and are no web pages.
            return match agent.starts_with("Mozilla") && !agent.contains("Electron") {
                true => Self::Refused,
                false => Self::None,
            };
        }
        // Both have to be allowed where both are given.
        let referer = referer.map(|referer| of_referer(referer).unwrap_or(HeaderValue::from_static("null")));
        let (mut own, mut foreign) = (None, Vec::new());
        for origin in origin.cloned().into_iter().chain(referer) {
            if cors.allows_origin(&origin) {
                own.get_or_insert(origin);
            } else if !foreign.contains(&origin) {
                foreign.push(origin);
            }
        }
        match own.filter(|_| foreign.is_empty()) {
            Some(own) => Self::Own(own),
            None => Self::Foreign(foreign),
        }
    }

    /// The origin that the configuration allows.
    pub fn own(&self) -> Option<&HeaderValue> {
        match self {
            Self::Own(origin) => Some(origin),
            _ => None,
        }
    }
}

/// Takes away what the node would tell a page by: the call was judged here, and the node knows origins of its own address only.
pub fn hide_page(headers: &mut HeaderMap) {
    for name in [header::ORIGIN, header::REFERER, header::USER_AGENT] {
        headers.remove(name);
    }
}

/// The origin of a page's address.
fn of_referer(referer: &HeaderValue) -> Option<HeaderValue> {
    let text = referer.to_str().ok()?;
    let (scheme, rest) = text.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next()?;
    let host = host.rsplit('@').next()?;
    HeaderValue::try_from(format!("{scheme}://{host}")).ok()
}

/// In Kubo's words.
pub fn refused() -> Failure {
    Failure::forbidden(
        "403 - Forbidden: the request comes from a web page of an origin that may not ask; add it to proxy.cors_origins",
    )
}

/// Answers a browser's question for a page of an origin that is allowed.
pub fn preflight(cors: &Cors, asked: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    *response.headers_mut() = cors.preflight(asked);
    let methods = HeaderValue::from_static("OPTIONS, POST");
    response.headers_mut().insert(header::ALLOW, methods);
    response.extensions_mut().insert(AsIs);
    response
}

/// Lets a page of an origin that is allowed read an answer.
pub fn let_read(cors: &Cors, origin: &HeaderValue, headers: &mut HeaderMap) {
    cors.add(&Method::POST, Some(origin), headers);
}

impl Proxy {
    /// Whether a call of the cluster may come from there: the configuration allows it, or the node does.
    pub(super) async fn allows(self: &Arc<Self>, page: &Page, path: &str) -> bool {
        match page {
            Page::None | Page::Own(_) => true,
            Page::Refused => false,
            Page::Foreign(origins) => {
                for origin in origins {
                    let said = self.cors_of_node(origin, path).await;
                    let allowed = said.get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
                    if !allowed.is_some_and(|allowed| allowed == "*" || allowed == origin) {
                        return false;
                    }
                }
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(pairs: &[(&'static str, &str)]) -> Page {
        let headers = pairs.iter().map(|(name, value)| {
            let value = HeaderValue::from_str(value).expect("a header");
            (http::HeaderName::from_static(name), value)
        });
        let cors = Cors {
            origins: vec!["http://own.example".to_owned()],
            ..Cors::default()
        };
        Page::of(&headers.collect(), &cors)
    }

    fn origin(text: &'static str) -> HeaderValue {
        HeaderValue::from_static(text)
    }

    #[test]
    fn pages_are_told_from_programs() {
        assert_eq!(page(&[]), Page::None);
        assert_eq!(page(&[("user-agent", "curl/8")]), Page::None);
        assert_eq!(page(&[("user-agent", "Mozilla/5.0")]), Page::Refused);
        assert_eq!(page(&[("user-agent", "Mozilla/5.0 Electron/30")]), Page::None);
        // A browser that says where it comes from is judged by that.
        let own = [("user-agent", "Mozilla/5.0"), ("origin", "http://own.example")];
        assert_eq!(page(&own), Page::Own(origin("http://own.example")));
        assert_eq!(page(&[("origin", "null")]), Page::Foreign(vec![origin("null")]));
        assert_eq!(
            page(&[("referer", "http://own.example/a?b")]),
            Page::Own(origin("http://own.example"))
        );
    }

    #[test]
    fn both_headers_have_to_be_allowed() {
        let evil = origin("http://evil.example");
        for pairs in [
            [("origin", "http://own.example"), ("referer", "http://evil.example/")],
            [("origin", "http://evil.example"), ("referer", "http://own.example/")],
        ] {
            assert_eq!(page(&pairs), Page::Foreign(vec![evil.clone()]));
        }
        let two = [("origin", "http://a.example"), ("referer", "http://b.example/")];
        let both = vec![origin("http://a.example"), origin("http://b.example")];
        assert_eq!(page(&two), Page::Foreign(both));
        for tricky in [
            "http://own.example@evil.example/",
            "http://own.example.evil.example/",
            "own.example",
            "//",
        ] {
            assert!(matches!(page(&[("referer", tricky)]), Page::Foreign(_)), "{tricky}");
        }
    }
}
