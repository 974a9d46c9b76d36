//! What happens to each request before a router sees it, and to each answer behind it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use futures::future::{BoxFuture, FutureExt as _};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Version, header};
use http_body::Body as _;
use tokio::sync::Semaphore;
use tower::ServiceExt as _;

use super::access::User;
use super::lasting::Over;
use super::options::{Paths, ServerOptions};
use super::service::Answer;
use crate::auth::{OVER, Shown, Unreadable, is_exempt};
use crate::paths::{Tidied, tidy};
use crate::stream::Held;
use crate::{AsIs, Authenticate, Cors, Denied, ErrorForm, Failure, Limits, Principal};

/// When it is worth asking again after there were too many requests.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The way of each request through one server.
pub struct Pipeline {
    router: Router,
    options: ServerOptions,
    auth: Arc<dyn Authenticate>,
    limits: Arc<Limits>,
    places: Arc<Semaphore>,
}

impl Pipeline {
    pub fn new(router: Router, options: ServerOptions, auth: Arc<dyn Authenticate>) -> Self {
        let places = options.limits.requests_max.min(Semaphore::MAX_PERMITS);
        Self {
            router,
            auth,
            limits: Arc::new(options.limits.clone()),
            places: Arc::new(Semaphore::new(places)),
            options,
        }
    }

    async fn through(self: Arc<Self>, request: Request) -> Response {
        let (mut parts, body) = request.into_parts();
        let response = match self.admit(&mut parts).await {
            Ok(Admitted { user, ends }) => {
                let mut response = match ends {
                    None => self.cors(parts, body).await,
                    Some(ends) => self.while_granted(ends, parts, body).await,
                };
                if let Some(user) = user {
                    response.extensions_mut().insert(User(user));
                }
                response
            }
            Err(refused) => *refused,
        };
        self.finish(response)
    }

    /// Lets a request in, with who asks among its extensions.
    async fn admit(&self, parts: &mut Parts) -> Result<Admitted, Box<Response>> {
        check_host(parts).map_err(|failure| {
            let mut response = failure.into_response();
            // Programs on the way may have taken it for somebody else, and what follows it too.
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
            Box::new(response)
        })?;
        let (principal, ends) = if is_exempt(&parts.method, parts.uri.path()) {
            (Principal::nobody(), None)
        } else {
            self.who(parts).await.map_err(Box::new)?
        };
        let user = principal.name.clone();
        parts.extensions.insert(principal);
        Ok(Admitted { user, ends })
    }

    /// Who asks, and until when they may.
    async fn who(&self, parts: &Parts) -> Result<(Principal, Option<Ends>), Response> {
        let shown = match Shown::read(&parts.headers) {
            Ok(shown) => shown,
            Err(Unreadable) => {
                let refused = self.auth.unreadable();
                refused.map_err(|denied| self.denied(&denied, Some(Unreadable::TOLD)))?;
                None
            }
        };
        let denied = |denied: Denied| self.denied(&denied, None);
        let Some(shown) = shown else {
            return Ok((self.auth.authenticate(None).await.map_err(denied)?, None));
        };
        let principal = self.auth.authenticate(Some(shown.presented())).await.map_err(denied)?;
        let over = self.auth.until_over(shown.presented()).await.map_err(denied)?;
        let ends = Ends {
            over: Over::new(over),
            told: shown.denied(),
        };
        Ok((principal, Some(ends)))
    }

    /// The answer to who may not go on; in these words, if there are better ones.
    fn denied(&self, denied: &Denied, words: Option<&str>) -> Response {
        let (mut failure, challenges) = denied.told(&self.options.realm);
        if let Some(words) = words {
            words.clone_into(&mut failure.message);
        }
        let mut response = failure.into_response();
        for (name, value) in challenges {
            response.headers_mut().append(name, value);
        }
        response
    }

    /// Answers as long as what the client showed is worth something.
    async fn while_granted(&self, ends: Ends, parts: Parts, body: Body) -> Response {
        let Ends { over, told } = ends;
        let answered = self.cors(parts, over.clone().asked(body));
        tokio::select! {
            // What was done before is told.
            biased;
            response = answered => over.answered(response),
            () = over.clone().wait() => {
                let mut response = self.denied(&told, Some(OVER));
                // What the client still sends is for nobody.
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
                response
            }
        }
    }

    async fn cors(&self, parts: Parts, body: Body) -> Response {
        let Some(cors) = &self.options.cors else {
            return self.paths(parts, body).await;
        };
        if Cors::is_preflight(&parts) {
            let mut response = StatusCode::NO_CONTENT.into_response();
            *response.headers_mut() = cors.preflight(&parts.headers);
            return response;
        }
        let (method, origin) = (parts.method.clone(), parts.headers.get(header::ORIGIN).cloned());
        let mut response = self.paths(parts, body).await;
        if response.extensions().get::<AsIs>().is_none() {
            cors.add(&method, origin.as_ref(), response.headers_mut());
        }
        response
    }

    async fn paths(&self, mut parts: Parts, body: Body) -> Response {
        // The target of CONNECT is no path.
        if self.options.paths != Paths::AsIs && parts.method != Method::CONNECT {
            match tidy(&parts.uri, self.options.paths == Paths::Tidy) {
                Tidied::Fine => {}
                Tidied::Rewritten(uri) => parts.uri = uri,
                Tidied::Redirect(status, location) => return (status, [(header::LOCATION, location)]).into_response(),
                Tidied::Bad(failure) => return failure.into_response(),
            }
        }
        self.route(parts, body).await
    }

    async fn route(&self, mut parts: Parts, body: Body) -> Response {
        // Whether the peer is alive is also answered while it has much to do.
        let counted = !is_exempt(&parts.method, parts.uri.path());
        let place = match self.places.clone().try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) if counted => {
                let words = format!(
                    "this server answers {} requests at the same time, which is the most; try again",
                    self.limits.requests_max
                );
                return Failure::busy(words, RETRY_AFTER).into_response();
            }
            Err(_) => None,
        };
        parts.extensions.insert(self.limits.clone());
        let routed = self.router.clone().oneshot(Request::from_parts(parts, body));
        let response = routed.await.unwrap_or_else(|never| match never {});
        // The place is free when the body is over.
        response.map(|body| Body::new(Held::new(body, place)))
    }

    /// Gives errors the form of this server, and JSON the configured headers.
    fn finish(&self, mut response: Response) -> Response {
        if response.extensions().get::<AsIs>().is_some() {
            return response;
        }
        if let Some(failure) = response.extensions_mut().remove::<Failure>() {
            if self.options.error_form != ErrorForm::Rest {
                self.write(&mut response, &failure);
            }
        } else if response.body().size_hint().exact() == Some(0) && !has_content_type(&response) {
            // What the router itself answers.
            let words = match response.status() {
                StatusCode::NOT_FOUND => "not found",
                StatusCode::METHOD_NOT_ALLOWED => "method not allowed",
                _ => return response,
            };
            let failure = Failure::new(response.status(), words);
            self.write(&mut response, &failure);
        }
        if is_json(&response) {
            for (name, _) in &self.options.headers {
                response.headers_mut().remove(name);
            }
            for (name, value) in &self.options.headers {
                response.headers_mut().append(name, value.clone());
            }
        }
        response
    }

    fn write(&self, response: &mut Response, failure: &Failure) {
        *response.body_mut() = Body::from(self.options.error_form.body(failure));
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
}

/// A request that was let in.
struct Admitted {
    /// The name of who asks.
    user: Option<String>,
    /// None where nothing was shown that could end.
    ends: Option<Ends>,
}

/// The end of what a client showed.
struct Ends {
    over: Over,
    /// What is said of it then.
    told: Denied,
}

impl Answer for Pipeline {
    fn answer(self: Arc<Self>, request: Request) -> BoxFuture<'static, Response> {
        self.through(request).boxed()
    }

    fn name(&self) -> &'static str {
        self.options.name
    }

    fn form(&self) -> ErrorForm {
        self.options.error_form
    }

    fn answered(&self, status: StatusCode, took: Duration) {
        if let Some(observer) = &self.options.observer {
            observer.answered(self.options.name, status, took);
        }
    }
}

fn has_content_type(response: &Response) -> bool {
    response.headers().contains_key(header::CONTENT_TYPE)
}

fn is_json(response: &Response) -> bool {
    let content_type = response.headers().get(header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/json"))
}

/// RFC 9112, section 3.2: a request of HTTP/1.1 says once which host it is for. Go's servers refuse others too.
fn check_host(parts: &Parts) -> Result<(), Failure> {
    match parts.headers.get_all(header::HOST).iter().count() {
        1 => Ok(()),
        0 if parts.version < Version::HTTP_11 => Ok(()),
        0 => Err(Failure::bad("the request has no Host header")),
        _ => Err(Failure::bad("the request has more than one Host header")),
    }
}
