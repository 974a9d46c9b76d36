//! Where a daemon listens.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use multiaddr::{Multiaddr, Protocol};
use reqwest::Url;

use cluster_ipfs::Operation;

/// The address of a daemon's RPC: a URL (`http://10.0.0.7:5001`), a multiaddr (`/ip4/10.0.0.7/tcp/5001`) or a unix socket
/// (`unix:///run/ipfs/api.sock`, `/unix/run/ipfs/api.sock`). Prints as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    text: String,
    base: Url,
    socket: Option<PathBuf>,
}

/// A text that is no address of an RPC.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not the address of a Kubo RPC: {reason}")]
pub struct AddressError {
    given: String,
    reason: String,
}

/// What a host is called on a unix socket, where the name means nothing.
const SOCKET_BASE: &str = "http://localhost/";

impl Address {
    /// The unix socket, if it is one.
    pub fn socket(&self) -> Option<&std::path::Path> {
        self.socket.as_deref()
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        self.base.scheme() == "https"
    }

    /// The URL of any path of the daemon's listener, as it is written in a request: encoded, with `/api/v0` where it has that.
    pub(crate) fn at(&self, path_and_query: &str) -> Result<Url, String> {
        let base = self.base.as_str().trim_end_matches('/');
        let url = Url::parse(&format!("{base}{path_and_query}")).map_err(|error| error.to_string())?;
        // What a path might turn into, as `//host` would, is asked of nobody.
        match url.origin() == self.base.origin() && path_and_query.starts_with('/') {
            true => Ok(url),
            false => Err("it leads elsewhere".into()),
        }
    }

    /// The URL of a call.
    pub(crate) fn call(&self, operation: Operation) -> Url {
        let path = match operation {
            Operation::Id => "id",
            Operation::Version => "version",
            Operation::RepoStat => "repo/stat",
            Operation::PinAdd => "pin/add",
            Operation::PinUpdate => "pin/update",
            Operation::PinRm => "pin/rm",
            Operation::PinLs => "pin/ls",
            Operation::SwarmConnect => "swarm/connect",
            Operation::Blocks => "block/get",
            Operation::Intake => "dag/import",
        };
        let mut url = self.base.clone();
        url.set_path(&format!("{}api/v0/{path}", self.base.path()));
        url
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let text = text.trim();
        let fail = |reason: &str| AddressError {
            given: masked(text),
            reason: reason.to_owned(),
        };
        let bad_base = |e: url_error::ParseError| fail(&e.to_string());
        if text.is_empty() {
            return Err(fail("it is empty"));
        }
        let (base, socket) = if let Some(path) = text.strip_prefix("unix://") {
            if !path.starts_with('/') || path.len() < 2 {
                return Err(fail(
                    "a unix socket needs an absolute path, for example unix:///run/ipfs/api.sock",
                ));
            }
            (Url::parse(SOCKET_BASE).map_err(bad_base)?, Some(PathBuf::from(path)))
        } else if let Some(path) = text.strip_prefix("/unix/") {
            if path.is_empty() {
                return Err(fail("a unix socket needs a path, for example /unix/run/ipfs/api.sock"));
            }
            (
                Url::parse(SOCKET_BASE).map_err(bad_base)?,
                Some(PathBuf::from(format!("/{path}"))),
            )
        } else if text.starts_with('/') {
            let url = url_of_multiaddr(text).map_err(|reason| fail(&reason))?;
            (Url::parse(&url).map_err(bad_base)?, None)
        } else {
            (base_of_url(text).map_err(|reason| fail(&reason))?, None)
        };
        Ok(Self {
            text: text.to_owned(),
            base,
            socket,
        })
    }
}

/// The type of [`Url::parse`]'s error, which reqwest does not name.
mod url_error {
    pub(super) type ParseError = <reqwest::Url as std::str::FromStr>::Err;
}

/// An address as it may be repeated in an error or a log: without what may be a password, and not longer than a line.
pub fn masked(text: &str) -> String {
    // Multiaddrs and sockets have no place for credentials; their `@` belongs to a path.
    let has_authority = !text.starts_with('/') && !text.starts_with("unix:");
    let text = match text.rfind('@').filter(|_| has_authority) {
        Some(at) => {
            let scheme = text[..at].find("://").map_or(0, |scheme| scheme + 3);
            format!("{}***{}", &text[..scheme], &text[at..])
        }
        None => text.to_owned(),
    };
    text.chars().take(120).collect()
}

fn base_of_url(text: &str) -> Result<Url, String> {
    const FORMS: &str = "use http://HOST:PORT, a multiaddr such as /ip4/127.0.0.1/tcp/5001, or unix:///PATH";
    let mut url = Url::parse(text).map_err(|e| format!("{e}; {FORMS}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(FORMS.into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials belong into their own file, not into the address".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it must end with the path".into());
    }
    // A proxy may serve the RPC below a path of its own.
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/api/v0").unwrap_or(path);
    let path = format!("{path}/");
    url.set_path(&path);
    Ok(url)
}

fn url_of_multiaddr(text: &str) -> Result<String, String> {
    let address: Multiaddr = text.parse().map_err(|e: multiaddr::Error| e.to_string())?;
    let mut parts = address.iter();
    let host = match parts.next() {
        Some(Protocol::Ip4(ip)) => ip.to_string(),
        Some(Protocol::Ip6(ip)) => format!("[{ip}]"),
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => name.into_owned(),
        _ => return Err("it must begin with /ip4, /ip6, /dns, /dns4, /dns6 or /unix".into()),
    };
    let Some(Protocol::Tcp(port)) = parts.next() else {
        return Err("the host must be followed by /tcp and the port".into());
    };
    let rest: Vec<Protocol<'_>> = parts.collect();
    let scheme = match rest.as_slice() {
        [] | [Protocol::Http] => "http",
        [Protocol::Https] | [Protocol::Tls, Protocol::Http] => "https",
        _ => return Err("the port may be followed by /http, /https or /tls/http only".into()),
    };
    Ok(format!("{scheme}://{host}:{port}/"))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_leads_to_its_calls() {
        for (text, url) in [
            ("http://10.0.0.7:5001", "http://10.0.0.7:5001/api/v0/id"),
            ("http://10.0.0.7:5001/", "http://10.0.0.7:5001/api/v0/id"),
            ("http://10.0.0.7:5001/api/v0", "http://10.0.0.7:5001/api/v0/id"),
            (
                "https://proxy.example/kubo-3/",
                "https://proxy.example/kubo-3/api/v0/id",
            ),
            ("http://[::1]:5001", "http://[::1]:5001/api/v0/id"),
            ("/ip4/127.0.0.1/tcp/5001", "http://127.0.0.1:5001/api/v0/id"),
            ("/ip4/127.0.0.1/tcp/5001/http", "http://127.0.0.1:5001/api/v0/id"),
            ("/ip6/::1/tcp/5001", "http://[::1]:5001/api/v0/id"),
            ("/dns4/kubo.example/tcp/443/https", "https://kubo.example/api/v0/id"),
            (
                "/dns/kubo.example/tcp/5001/tls/http",
                "https://kubo.example:5001/api/v0/id",
            ),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.call(Operation::Id).as_str(), url);
            assert_eq!(address.to_string(), text);
            assert_eq!(address.socket(), None);
            assert_eq!(address.is_tls(), url.starts_with("https"));
        }
    }

    #[test]
    fn paths_of_requests_are_passed_on_as_they_are() {
        let address: Address = "https://proxy.example/kubo-3/".parse().expect("an address");
        for (path, url) in [
            (
                "/api/v0/cat?arg=a%2Fb&arg=c",
                "https://proxy.example/kubo-3/api/v0/cat?arg=a%2Fb&arg=c",
            ),
            ("/", "https://proxy.example/kubo-3/"),
            ("/@evil.example/", "https://proxy.example/kubo-3/@evil.example/"),
        ] {
            assert_eq!(address.at(path).expect(path).as_str(), url);
        }
        for path in ["@evil.example/", ".evil.example/", ":80/", "", "api"] {
            let address: Address = "http://kubo.example".parse().expect("an address");
            address.at(path).expect_err(path);
        }
    }

    #[test]
    fn unix_sockets_keep_their_path() {
        for text in ["unix:///run/ipfs/api.sock", "/unix/run/ipfs/api.sock"] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.socket(), Some(std::path::Path::new("/run/ipfs/api.sock")));
            assert_eq!(
                address.call(Operation::PinAdd).as_str(),
                "http://localhost/api/v0/pin/add"
            );
        }
    }

    #[test]
    fn no_password_is_repeated() {
        for (text, shown) in [
            ("http://user:s3cret@host:5001/x", "http://***@host:5001/x"),
            ("user:s3cret@host:5001", "***@host:5001"),
            ("http://user:s3@cret@host", "http://***@host"),
            ("s3://cret@host", "s3://***@host"),
            ("unix:///run/@kubo.sock", "unix:///run/@kubo.sock"),
            ("/unix/run/@kubo.sock", "/unix/run/@kubo.sock"),
            ("http://host:5001", "http://host:5001"),
        ] {
            assert_eq!(masked(text), shown);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", "empty"),
            ("localhost:5001", "http://HOST:PORT"),
            ("127.0.0.1:5001", "http://HOST:PORT"),
            ("ftp://host/", "http://HOST:PORT"),
            ("http://", "empty host"),
            ("http://user:s3cret@host:5001", "own file"),
            ("http://host:5001/?x=1", "end with the path"),
            ("unix://relative.sock", "absolute path"),
            ("unix:///", "absolute path"),
            ("/unix/", "needs a path"),
            ("/ip4/127.0.0.1", "/tcp"),
            ("/ip4/127.0.0.1/udp/5001", "/tcp"),
            ("/ip4/127.0.0.1/tcp/5001/ws", "may be followed"),
            ("/dnsaddr/kubo.example/tcp/5001", "must begin"),
            ("/ip4/999.0.0.1/tcp/5001", ""),
        ] {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
