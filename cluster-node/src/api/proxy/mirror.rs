//! Headers of the node's answers that the cluster's answers have too: what pages may do, by what the node answers to a
//! browser's question, and what it says of itself. Both are asked for once in a while, and not with every call.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::Response;
use cluster_http::AsIs;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use parking_lot::Mutex;

use super::guard::{self, Page};
use super::{Arc, Proxy, SERVER};

/// Answers that are remembered, by origin and path: 200 bytes each.
const REMEMBERED_MAX: usize = 1024;

/// Bytes of an origin and a path that are remembered. Longer ones are asked for each time.
const KEY_BYTES_MAX: usize = 512;

/// How long the node may take. It is asked while a client waits.
const ASK_TIME: Duration = Duration::from_secs(3);

/// How long a node that did not answer is not asked again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What the node says of who may ask.
const CORS: [HeaderName; 3] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::VARY,
];

#[derive(Clone)]
struct Remembered {
    until: Instant,
    headers: HeaderMap,
}

/// What was mirrored last.
#[derive(Default)]
pub struct Mirror {
    cors: Mutex<HashMap<(String, String), Remembered>>,
    own: Mutex<Option<Remembered>>,
    /// Held by who asks anew; others take what is known.
    asking: tokio::sync::Mutex<()>,
}

impl Proxy {
    /// What the node lets pages of this origin do; nothing from an embedded one, which lets none.
    pub(super) async fn cors_of_node(self: &Arc<Self>, origin: &HeaderValue, path: &str) -> HeaderMap {
        if !matches!(self.is_attached().await, Ok(true)) {
            return HeaderMap::new();
        }
        let key = (String::from_utf8_lossy(origin.as_bytes()).into_owned(), path.to_owned());
        let known = self.mirror.cors.lock().get(&key).cloned();
        if let Some(known) = &known
            && known.until > Instant::now()
        {
            return known.headers.clone();
        }
        let mut request = Request::builder().method(Method::OPTIONS).uri(path).body(Body::empty());
        if let Ok(request) = &mut request {
            let headers = request.headers_mut();
            headers.insert(header::ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("POST"));
        }
        let remembered = match self.ask(request.ok()).await {
            Some(headers) => Remembered {
                until: self.until(),
                headers: of(&headers, &CORS),
            },
            // What it said last is better than nothing.
            None => Remembered {
                until: Instant::now() + RETRY_AFTER,
                headers: known.map(|known| known.headers).unwrap_or_default(),
            },
        };
        let headers = remembered.headers.clone();
        if key.0.len() + key.1.len() <= KEY_BYTES_MAX {
            let mut cors = self.mirror.cors.lock();
            if cors.len() >= REMEMBERED_MAX {
                let now = Instant::now();
                cors.retain(|_, remembered| remembered.until > now);
                if cors.len() >= REMEMBERED_MAX {
                    cors.clear();
                }
            }
            cors.insert(key, remembered);
        }
        headers
    }

    /// What the node says of itself.
    async fn own_headers(self: &Arc<Self>) -> HeaderMap {
        let known = self.mirror.own.lock().clone();
        if let Some(known) = &known
            && known.until > Instant::now()
        {
            return known.headers.clone();
        }
        let Ok(_asking) = self.mirror.asking.try_lock() else {
            return known.map(|known| known.headers).unwrap_or_default();
        };
        let path = self.options.mirror_path.as_str();
        let request = Request::builder().method(Method::POST).uri(path).body(Body::empty());
        let remembered = match self.ask(request.ok()).await {
            Some(headers) => {
                let mut names = self.options.mirror_headers.clone();
                names.push(header::ACCESS_CONTROL_EXPOSE_HEADERS);
                Remembered {
                    until: self.until(),
                    headers: of(&headers, &names),
                }
            }
            None => Remembered {
                until: Instant::now() + RETRY_AFTER,
                headers: known.map(|known| known.headers).unwrap_or_default(),
            },
        };
        *self.mirror.own.lock() = Some(remembered.clone());
        remembered.headers
    }

    fn until(&self) -> Instant {
        Instant::now() + self.options.mirror_ttl
    }

    async fn ask(self: &Arc<Self>, request: Option<Request<Body>>) -> Option<HeaderMap> {
        let (parts, body) = request?.into_parts();
        let answer = tokio::time::timeout(ASK_TIME, self.pass(parts, body, None, &Page::None)).await;
        match answer {
            Ok(Ok(answer)) if answer.status().is_success() => Some(answer.headers().clone()),
            Ok(Ok(_)) => None,
            Ok(Err(error)) => {
                tracing::debug!(%error, "headers of the node can't be mirrored");
                None
            }
            Err(_) => {
                tracing::debug!("headers of the node can't be mirrored: it does not answer");
                None
            }
        }
    }

    /// Puts them onto an answer of the cluster, and says who answers.
    pub(super) async fn mirror_onto(self: &Arc<Self>, page: &Page, path: &str, response: &mut Response) {
        // What the node itself answered has its own.
        if response.extensions().get::<AsIs>().is_some() {
            return;
        }
        let mut mirrored = self.own_headers().await;
        match page {
            Page::Own(origin) => guard::let_read(&self.options.cors, origin, &mut mirrored),
            Page::Foreign(origins) => {
                if let Some(origin) = origins.first() {
                    mirrored.extend(self.cors_of_node(origin, path).await);
                }
            }
            Page::None | Page::Refused => {}
        }
        let headers = response.headers_mut();
        for (name, value) in &mirrored {
            headers.append(name, value.clone());
        }
        headers.insert(header::SERVER, HeaderValue::from_static(SERVER));
    }
}

fn of(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let mut found = HeaderMap::new();
    for name in names {
        for value in headers.get_all(name) {
            found.append(name.clone(), value.clone());
        }
    }
    found
}
