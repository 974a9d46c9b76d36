//! Who may call.

use std::fmt;

use http::HeaderMap;
use http::header;
use multibase::Base;

use super::answer::Failure;

/// What a caller has to show; Kubo's `AuthSecret` of either form. Its `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum RpcCredential {
    /// `Authorization: Bearer TOKEN`.
    Bearer(String),
    /// `Authorization: Basic`, of these two.
    Basic {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
}

impl fmt::Debug for RpcCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bearer(_) => "Bearer(…)",
            Self::Basic { .. } => "Basic(…)",
        })
    }
}

impl RpcCredential {
    /// The value of the header that shows it.
    fn header(&self) -> (&'static str, Vec<u8>) {
        match self {
            Self::Bearer(token) => ("bearer", token.clone().into_bytes()),
            Self::Basic { user, password } => (
                "basic",
                Base::Base64Pad.encode(format!("{user}:{password}")).into_bytes(),
            ),
        }
    }

    /// Takes as long whichever byte is wrong: hashes are compared, in constant time.
    fn is_shown(&self, scheme: &str, shown: &[u8]) -> bool {
        let (wanted_scheme, wanted) = self.header();
        scheme.eq_ignore_ascii_case(wanted_scheme) && blake3::hash(&wanted) == blake3::hash(shown)
    }
}

/// Lets a call pass that shows one of these, or any when there are none; never one that a browser sends for a page.
pub(super) fn check(credentials: &[RpcCredential], headers: &HeaderMap) -> Result<(), Failure> {
    if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") {
        return Err(Failure::forbidden("calls from web pages are not answered here"));
    }
    if credentials.is_empty() {
        return Ok(());
    }
    let shown = headers
        .get(header::AUTHORIZATION)
        .map_or(&b""[..], |value| value.as_bytes());
    let at = shown.iter().position(|byte| *byte == b' ').unwrap_or(shown.len());
    let (scheme, rest) = shown.split_at(at);
    let scheme = std::str::from_utf8(scheme).unwrap_or_default();
    let rest = rest.trim_ascii();
    // All are compared: how long it takes tells nothing about which was near.
    let fitting = credentials
        .iter()
        .filter(|credential| credential.is_shown(scheme, rest))
        .count();
    if fitting == 0 {
        return Err(Failure::forbidden(
            "the call shows no valid credentials: send an Authorization header with those that the node was given",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let value = HeaderValue::from_str(value).expect("text");
            (header::HeaderName::from_static(name), value)
        });
        pairs.collect()
    }

    #[test]
    fn only_who_shows_a_credential_is_let_in() {
        let credentials = [
            RpcCredential::Bearer("secret".into()),
            RpcCredential::Basic {
                user: "Aladdin".into(),
                password: "open sesame".into(),
            },
        ];
        for shown in ["Bearer secret", "bearer  secret", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="] {
            check(&credentials, &headers(&[("authorization", shown)])).expect(shown);
        }
        for shown in [
            "",
            "secret",
            "Bearer",
            "Bearer Secret",
            "Basic secret",
            "Bearer secret2",
            "Bearer QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
        ] {
            check(&credentials, &headers(&[("authorization", shown)])).expect_err(shown);
        }
        check(&credentials, &HeaderMap::new()).expect_err("none shown");
        check(&[], &HeaderMap::new()).expect("none wanted");
        assert!(!format!("{credentials:?}").contains("se"));
    }

    #[test]
    fn pages_are_not_let_in() {
        for header in ["origin", "sec-fetch-site"] {
            check(&[], &headers(&[(header, "http://127.0.0.1:5001")])).expect_err(header);
        }
    }
}
