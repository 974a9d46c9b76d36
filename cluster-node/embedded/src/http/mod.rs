//! What is asked of others over HTTP: who has something, and blocks themselves.

mod gateway;
mod routing;

pub(crate) use gateway::{Answered, Gateways};
pub use gateway::{GATEWAYS_MAX, GatewayConfig, GatewayReport, REQUESTS_MAX};
pub use routing::{Provider, ROUTERS_MAX, RouterReport, Routers, RoutingConfig, RoutingError};

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use node_core::Invalid;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, Response, Url};
use tokio::time::timeout;

/// Idle connections kept to one server. A server that knows HTTP/2 gets one for everything.
const IDLE_CONNECTIONS_MAX: usize = 32;

/// Redirects followed: public gateways redirect once, to the subdomain of a CID.
const REDIRECTS_MAX: usize = 3;

/// A client for all of it.
pub(crate) fn client(connect_timeout: Duration, agent: &str) -> Result<Client, String> {
    // The first one in the process wins, and all of this workspace install the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        Client::builder()
            .connect_timeout(connect_timeout)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .redirect(reqwest::redirect::Policy::limited(REDIRECTS_MAX))
            .user_agent(agent)
    };
    // A small container has no certificates, which matters only where https is asked for: that fails by itself then.
    let client = builder().build().or_else(|_| builder().tls_certs_only([]).build());
    client.map_err(|error| chain(&error))
}

/// Checks the base address of a service and makes it end in a slash, so that paths can be joined to it.
pub(crate) fn base(field: &str, text: &str) -> Result<Url, Invalid> {
    let invalid = |remedy: &str| Invalid::new(field, text, remedy);
    let mut url = Url::parse(text).map_err(|_| invalid("give an address such as https://example.net"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(invalid(
            "give an address that begins with https:// or http:// and names a host",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(invalid("give the address without ? and #"));
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

/// An error with its causes: reqwest's own words name only the address.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words.push_str(": ");
            words.push_str(&cause_words);
        }
        source = cause.source();
    }
    words
}

/// How long the server asks to be left alone, where it says so in seconds. Dates are not read: clocks differ.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(24 * 3600)))
}

/// Why a body could not be read.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// It is longer than the bound.
    TooLong,
    /// Nothing came for this long.
    Silent(Duration),
    /// The connection broke.
    Lost(String),
}

/// The next piece of a body.
pub(crate) async fn piece(response: &mut Response, silence: Duration) -> Result<Option<Bytes>, BodyError> {
    match timeout(silence, response.chunk()).await {
        Ok(Ok(piece)) => Ok(piece),
        Ok(Err(error)) => Err(BodyError::Lost(chain(&error))),
        Err(_) => Err(BodyError::Silent(silence)),
    }
}

/// A body as a whole, of at most so many bytes.
pub(crate) async fn whole(response: &mut Response, silence: Duration, bytes_max: usize) -> Result<Bytes, BodyError> {
    if response
        .content_length()
        .is_some_and(|length| length > bytes_max as u64)
    {
        return Err(BodyError::TooLong);
    }
    let mut body = BytesMut::new();
    while let Some(piece) = piece(response, silence).await? {
        if body.len() + piece.len() > bytes_max {
            return Err(BodyError::TooLong);
        }
        body.extend_from_slice(&piece);
    }
    Ok(body.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_and_end_in_a_slash() {
        for (given, is) in [
            ("https://example.net", "https://example.net/"),
            ("http://127.0.0.1:8080/base", "http://127.0.0.1:8080/base/"),
            ("https://example.net/base/", "https://example.net/base/"),
        ] {
            assert_eq!(base("gateways", given).expect(given).as_str(), is);
        }
        for bad in [
            "",
            "example.net",
            "ftp://example.net",
            "https://",
            "https://a/?x=1",
            "https://a/#x",
            "unix:/x",
        ] {
            let error = base("gateways", bad).expect_err(bad);
            assert_eq!(error.field, "gateways");
        }
    }

    #[test]
    fn only_seconds_are_read_and_no_more_than_a_day_of_them() {
        let of = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().expect("header"));
            retry_after(&headers)
        };
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of("99999999999"), Some(Duration::from_secs(86_400)));
        assert_eq!(of("Wed, 21 Oct 2015 07:28:00 GMT"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
