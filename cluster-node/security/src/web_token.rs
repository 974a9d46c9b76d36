//! Signed web tokens (JWT, RFC 7519), as far as `POST /token` of the compatible APIs needs them: HMAC only, the user's name
//! as `iss`, and times that are kept to where they are given.
//!
//! Written here over `hmac` and `sha2`, because it is one algorithm and one page: the libraries that do all of JOSE bring
//! RSA and curves along, which nobody here signs with, and an algorithm that is not there can't be confused with another.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use multibase::Base;
use serde::{Deserialize, Serialize};
use sha2::{Sha256, Sha384, Sha512};

/// Longest text that is looked at. A token of ours has about 150 bytes.
const TEXT_BYTES_MAX: usize = 4_096;

/// What a token says. Numbers are seconds since the epoch and may have fractions (RFC 7519 section 2, NumericDate).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    /// Whose token it is: the name of a credential.
    pub iss: String,
    /// Worth nothing from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<f64>,
    /// Worth nothing before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<f64>,
    /// When it was made; one from the future is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<f64>,
}

#[derive(Deserialize)]
struct Header {
    alg: Algorithm,
    /// Extensions that must be understood (RFC 7515 section 4.1.11); none is.
    crit: Option<serde_json::Value>,
}

/// All that a token may be signed with. `none`, RSA and curves can't be read at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Algorithm {
    #[serde(rename = "HS256")]
    Hs256,
    #[serde(rename = "HS384")]
    Hs384,
    #[serde(rename = "HS512")]
    Hs512,
}

/// A token as it came: nothing that it says is believed yet, save whose key it wants to be tried with.
#[derive(Debug)]
pub struct WebToken<'a> {
    signed: &'a str,
    signature: Vec<u8>,
    algorithm: Algorithm,
    claims: Claims,
}

impl<'a> WebToken<'a> {
    /// Reads the text; none when it is no token that could be verified here.
    pub fn parse(text: &'a str) -> Option<Self> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Header = serde_json::from_slice(&decode(header)?).ok()?;
        if header.crit.is_some() {
            return None;
        }
        Some(Self {
            signed,
            signature: decode(signature)?,
            algorithm: header.alg,
            claims: serde_json::from_slice(&decode(claims)?).ok()?,
        })
    }

    /// Whose key it is to be verified with.
    pub fn issuer(&self) -> &str {
        &self.claims.iss
    }

    /// Whether it was signed with this key and its times allow `now`, which is counted from the epoch. The signature is
    /// compared in constant time.
    pub fn is_valid(&self, key: &[u8], now: Duration) -> bool {
        let signed = match self.algorithm {
            Algorithm::Hs256 => verify::<Hmac<Sha256>>(key, self.signed, &self.signature),
            Algorithm::Hs384 => verify::<Hmac<Sha384>>(key, self.signed, &self.signature),
            Algorithm::Hs512 => verify::<Hmac<Sha512>>(key, self.signed, &self.signature),
        };
        let now = now.as_secs_f64();
        let Claims { exp, nbf, iat, .. } = self.claims;
        signed
            && exp.is_none_or(|exp| now < exp)
            && nbf.is_none_or(|nbf| nbf <= now)
            && iat.is_none_or(|iat| iat <= now)
    }
}

/// The text of a token, signed with HS256.
pub fn sign(claims: &Claims, key: &[u8]) -> Option<String> {
    let claims = Base::Base64Url.encode(serde_json::to_vec(claims).ok()?);
    let header = Base::Base64Url.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let signed = format!("{header}.{claims}");
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(signed.as_bytes());
    let signature = Base::Base64Url.encode(mac.finalize().into_bytes());
    Some(format!("{signed}.{signature}"))
}

fn verify<M: Mac + KeyInit>(key: &[u8], signed: &str, signature: &[u8]) -> bool {
    <M as KeyInit>::new_from_slice(key).is_ok_and(|mut mac| {
        mac.update(signed.as_bytes());
        mac.verify_slice(signature).is_ok()
    })
}

fn decode(text: &str) -> Option<Vec<u8>> {
    Base::Base64Url.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = &[7; 32];

    fn claims() -> Claims {
        Claims {
            iss: "alice".into(),
            exp: None,
            nbf: None,
            iat: None,
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn is_valid(text: &str, now: u64) -> bool {
        WebToken::parse(text).is_some_and(|token| token.is_valid(KEY, at(now)))
    }

    fn raw(header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", Base::Base64Url.encode(header), Base::Base64Url.encode(claims));
        let mut mac = Hmac::<Sha256>::new_from_slice(KEY).unwrap();
        mac.update(signed.as_bytes());
        format!("{signed}.{}", Base::Base64Url.encode(mac.finalize().into_bytes()))
    }

    /// RFC 7515 appendix A.1.
    #[test]
    fn the_example_of_the_rfc() {
        let key = Base::Base64Url
            .decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
            .unwrap();
        let text = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
                    eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
                    dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let token = WebToken::parse(text).unwrap();
        assert_eq!(token.issuer(), "joe");
        assert!(token.is_valid(&key, at(1_300_819_379)));
        assert!(!token.is_valid(&key, at(1_300_819_380)), "it has expired");
        assert!(!token.is_valid(KEY, at(0)), "it is another's key");
    }

    #[test]
    fn what_was_signed_is_verified_and_times_are_kept_to() {
        let text = sign(&claims(), KEY).unwrap();
        assert!(is_valid(&text, 0) && is_valid(&text, 4_000_000_000));
        // The one claim that those of the reference have.
        assert!(text.contains(&Base::Base64Url.encode(r#"{"iss":"alice"}"#)), "{text}");
        let timed = |exp, nbf, iat| {
            sign(
                &Claims {
                    exp,
                    nbf,
                    iat,
                    ..claims()
                },
                KEY,
            )
            .unwrap()
        };
        assert!(is_valid(&timed(Some(10.5), Some(5.0), Some(5.0)), 5));
        assert!(is_valid(&timed(Some(10.5), None, None), 10));
        assert!(!is_valid(&timed(Some(10.5), None, None), 11));
        assert!(!is_valid(&timed(None, Some(5.0), None), 4));
        assert!(!is_valid(&timed(None, None, Some(5.0)), 4));
    }

    #[test]
    fn only_hmac_and_only_what_is_understood() {
        let good = r#"{"iss":"alice"}"#;
        assert!(is_valid(&raw(r#"{"alg":"HS256"}"#, good), 0));
        for header in [
            r#"{"alg":"none"}"#,
            r#"{"alg":"None"}"#,
            r#"{"alg":"RS256"}"#,
            r#"{"alg":"ES256"}"#,
            r#"{"alg":"hs256"}"#,
            // Another algorithm than the one it was signed with.
            r#"{"alg":"HS512"}"#,
            r#"{"alg":"HS256","crit":["b64"]}"#,
            r#"{"alg":"HS256","alg":"none"}"#,
            "{}",
            "",
        ] {
            assert!(!is_valid(&raw(header, good), 0), "{header}");
        }
        for bad in [
            "{}",
            r#"{"iss":7}"#,
            // A time that can't be read must not count as none.
            r#"{"iss":"alice","exp":"9999999999"}"#,
            r#"{"iss":"alice","nbf":[]}"#,
            r#"{"iss":"alice","iss":"bob"}"#,
        ] {
            assert!(!is_valid(&raw(r#"{"alg":"HS256"}"#, bad), 0), "{bad}");
        }
        let unsigned = raw(r#"{"alg":"HS256"}"#, good);
        let (signed, _) = unsigned.rsplit_once('.').unwrap();
        for bad in [signed, &format!("{signed}."), "a.b.c", "..", "", &"a.".repeat(4_000)] {
            assert!(!is_valid(bad, 0), "{bad}");
        }
    }

    #[test]
    fn a_change_anywhere_is_found() {
        let text = sign(&claims(), KEY).unwrap();
        // The last character holds bits that mean nothing; all others are signed, or the signature.
        for at in 0..text.len() - 1 {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(!is_valid(&String::from_utf8(changed).unwrap(), 0), "changed at {at}");
        }
    }
}
