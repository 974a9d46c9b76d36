//! What all HTTP APIs of a peer share: where they listen, TLS, limits, CORS. Each has a section of its own with all of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cluster_http::Limits;
use http::{HeaderName, HeaderValue, Method};
use serde::Deserialize;

use super::error::Problems;
use super::options::{Kind, OptionSpec, SectionSpec};
use super::values;

/// Checked values of `[rest]`, and of what other sections share with it. Unknown keys are found by the tables, before.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct HttpApi {
    /// Where clients connect; empty = nowhere.
    pub listen: Vec<SocketAddr>,
    /// Certificates in PEM; empty = no TLS.
    pub tls_cert_file: PathBuf,
    /// The key of the first of them.
    pub tls_key_file: PathBuf,
    /// Connections at the same time.
    pub connections_max: u32,
    /// Requests at the same time.
    pub requests_max: u32,
    /// Bytes of request line and headers.
    #[serde(deserialize_with = "values::bytes")]
    pub head_bytes_max: u64,
    /// Bytes of path and query.
    #[serde(deserialize_with = "values::bytes")]
    pub target_bytes_max: u64,
    /// For a head to come whole.
    #[serde(deserialize_with = "values::duration")]
    pub head_timeout: Duration,
    /// Between two requests of a connection.
    #[serde(deserialize_with = "values::duration")]
    pub idle_timeout: Duration,
    /// Between two pieces of a body.
    #[serde(deserialize_with = "values::duration")]
    pub body_idle_timeout: Duration,
    /// For a body that is read as a whole.
    #[serde(deserialize_with = "values::duration")]
    pub body_timeout: Duration,
    /// Bytes of such a body.
    #[serde(deserialize_with = "values::bytes")]
    pub body_bytes_max: u64,
    /// For a client to take something of its answer.
    #[serde(deserialize_with = "values::duration")]
    pub stall_timeout: Duration,
    /// Parts of one add. Not an option of an API that takes none; there it has no effect.
    #[serde(default = "parts_max")]
    pub parts_max: u32,
    /// Bytes of all headers of a part. Where it is no option it has no effect either.
    #[serde(default = "part_head_bytes_max", deserialize_with = "values::bytes")]
    pub part_head_bytes_max: u64,
    /// Origins whose pages may ask.
    pub cors_origins: Vec<String>,
    /// With which methods.
    pub cors_methods: Vec<String>,
    /// With which headers.
    pub cors_headers: Vec<String>,
    /// What they may read of an answer.
    pub cors_exposed_headers: Vec<String>,
    /// Whether they may use credentials that a browser holds.
    pub cors_credentials: Allowed,
    /// How long a browser may remember that.
    #[serde(deserialize_with = "values::duration")]
    pub cors_max_age: Duration,
    /// Put onto the answers in JSON that the peer makes itself.
    pub headers: BTreeMap<String, String>,
}

/// Whether something may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Allowed {
    /// It may.
    Yes,
    /// It may not.
    No,
}

fn parts_max() -> u32 {
    u32::try_from(Limits::default().parts_max).unwrap_or(u32::MAX)
}

fn part_head_bytes_max() -> u64 {
    Limits::default().part_head_bytes_max as u64
}

fn listen(text: &str) -> Result<(), String> {
    text.parse::<SocketAddr>().map(drop).map_err(|_| {
        "a list of IP addresses with ports, such as [\"127.0.0.1:9094\"] (port 0 takes a free one), or empty".to_owned()
    })
}

fn method(text: &str) -> Result<(), String> {
    match Method::from_bytes(text.as_bytes()) {
        Ok(_) => Ok(()),
        Err(_) => Err("a list of HTTP methods, such as [\"GET\", \"POST\"]".to_owned()),
    }
}

fn header_name(text: &str) -> Result<(), String> {
    match HeaderName::try_from(text) {
        Ok(_) => Ok(()),
        Err(_) => Err("a list of names of headers, such as [\"content-type\"]".to_owned()),
    }
}

/// Also any.
fn header_or_any(text: &str) -> Result<(), String> {
    match text {
        "*" => Ok(()),
        name => header_name(name),
    }
}

fn origin(text: &str) -> Result<(), String> {
    let fits = text.bytes().all(|byte| byte.is_ascii_graphic()) && text.matches('*').count() <= 1 && !text.is_empty();
    match fits {
        true => Ok(()),
        false => Err("a list of origins, such as [\"https://*.example.org\"], each with one * at most".to_owned()),
    }
}

const KIB: u64 = 1 << 10;
const HOUR_MS: u64 = 3_600_000;

/// Where the servers differ.
pub(super) struct Defaults {
    pub listen: &'static str,
    pub listen_doc: &'static str,
    pub cors_origins: &'static str,
    pub cors_methods: &'static str,
    pub cors_headers: &'static str,
}

/// How many options all have that take adds.
pub(super) const COMMON: usize = 22;

/// Those that say how an add is read.
const OF_ADDS: [&str; 2] = ["parts_max", "part_head_bytes_max"];

/// The options that all have.
pub(super) const fn options(defaults: &Defaults) -> [OptionSpec; COMMON] {
    [
        OptionSpec {
            key: "listen",
            kind: Kind::CheckedList(listen),
            default: Some(defaults.listen),
            doc: defaults.listen_doc,
        },
        OptionSpec {
            key: "tls_cert_file",
            kind: Kind::Text,
            default: Some(r#""""#),
            doc: "File with the certificates in PEM, the server's first. Empty: no TLS.",
        },
        OptionSpec {
            key: "tls_key_file",
            kind: Kind::Text,
            default: Some(r#""""#),
            doc: "File with its key in PEM.",
        },
        OptionSpec {
            key: "connections_max",
            kind: Kind::Int(1, 1_000_000),
            default: Some("4096"),
            doc: "Connections at the same time, idle ones included: of those the longest idle makes room.",
        },
        OptionSpec {
            key: "requests_max",
            kind: Kind::Int(1, 100_000),
            default: Some("1024"),
            doc: "Requests that are answered at the same time; a further one is told to come again (503).",
        },
        OptionSpec {
            key: "head_bytes_max",
            kind: Kind::Size(4 * KIB, 1024 * KIB),
            default: Some(r#""80KiB""#),
            doc: "Bytes of request line and headers; more gets 431.",
        },
        OptionSpec {
            key: "target_bytes_max",
            kind: Kind::Size(256, 65_534),
            default: Some(r#""65534B""#),
            doc: "Bytes of path and query, which bounds `cids`; more gets 414.",
        },
        OptionSpec {
            key: "head_timeout",
            kind: Kind::Duration(100, HOUR_MS),
            default: Some(r#""15s""#),
            doc: "How long a request line and its headers may take to come; more gets 408.",
        },
        OptionSpec {
            key: "idle_timeout",
            kind: Kind::Duration(100, 24 * HOUR_MS),
            default: Some(r#""2m""#),
            doc: "How long a connection may rest between two requests; then it is closed.",
        },
        OptionSpec {
            key: "body_idle_timeout",
            kind: Kind::Duration(100, 24 * HOUR_MS),
            default: Some(r#""1m""#),
            doc: "How long a body, of an add too, may stop coming; more gets 408.",
        },
        OptionSpec {
            key: "body_timeout",
            kind: Kind::Duration(100, HOUR_MS),
            default: Some(r#""30s""#),
            doc: "How long a body that is read as a whole may take; more gets 408.",
        },
        OptionSpec {
            key: "body_bytes_max",
            kind: Kind::Size(KIB, 64 * 1024 * KIB),
            default: Some(r#""1MiB""#),
            doc: "Bytes of a body that is read as a whole; more gets 413. An add has no bound: it is never held.",
        },
        OptionSpec {
            key: "stall_timeout",
            kind: Kind::Duration(100, 24 * HOUR_MS),
            default: Some(r#""1m""#),
            doc: "How long a client may take nothing of its answer; then the connection is broken.",
        },
        OptionSpec {
            key: "parts_max",
            kind: Kind::Int(1, 100_000_000),
            default: Some("1000000"),
            doc: "Files, directories and links of one add; more gets 413.",
        },
        OptionSpec {
            key: "part_head_bytes_max",
            kind: Kind::Size(KIB, 1024 * KIB),
            default: Some(r#""16KiB""#),
            doc: "Bytes of all headers of one of them; more gets 400.",
        },
        OptionSpec {
            key: "cors_origins",
            kind: Kind::CheckedList(origin),
            default: Some(defaults.cors_origins),
            doc: "Origins whose pages a browser lets ask. Empty: none.",
        },
        OptionSpec {
            key: "cors_methods",
            kind: Kind::CheckedList(method),
            default: Some(defaults.cors_methods),
            doc: "Methods that such a page may use.",
        },
        OptionSpec {
            key: "cors_headers",
            kind: Kind::CheckedList(header_or_any),
            default: Some(defaults.cors_headers),
            doc: "Headers that such a page may send; \"*\" for any. With credentials it needs \"authorization\".",
        },
        OptionSpec {
            key: "cors_exposed_headers",
            kind: Kind::CheckedList(header_name),
            default: Some(
                r#"["content-type", "x-stream-output", "x-chunked-output", "x-content-length", "x-stream-error", "x-next-cursor"]"#,
            ),
            doc: "Headers and trailers of an answer that such a page may read.",
        },
        OptionSpec {
            key: "cors_credentials",
            kind: Kind::Choice(&["yes", "no"]),
            default: Some(r#""no""#),
            doc: "Whether such a page may use credentials that the browser holds: only beside origins that are trusted.",
        },
        OptionSpec {
            key: "cors_max_age",
            kind: Kind::Duration(0, 24 * HOUR_MS),
            default: Some(r#""0s""#),
            doc: "How long a browser may remember all that. 0: as long as it likes.",
        },
        OptionSpec {
            key: "headers",
            kind: Kind::Map,
            default: Some("{}"),
            doc: "Headers that are put onto the answers that are JSON, errors too, such as { X-Served-By = \"pinfleet\" }. \
                  Redirects do without, and what a node answered and is passed on.",
        },
    ]
}

/// The options of a section that has some of its own behind those that all have.
pub(super) const fn joined<const OWN: usize, const ALL: usize>(
    common: &[OptionSpec; COMMON],
    own: &[OptionSpec; OWN],
) -> [OptionSpec; ALL] {
    assert!(ALL == COMMON + OWN, "as many as both together");
    let mut all = [common[0]; ALL];
    let mut at = 0;
    while at < ALL {
        all[at] = if at < COMMON { common[at] } else { own[at - COMMON] };
        at += 1;
    }
    all
}

/// The options of an API that takes no adds: one that has no effect would only be believed.
const fn without_adds<const LEFT: usize>(common: &[OptionSpec; COMMON]) -> [OptionSpec; LEFT] {
    assert!(LEFT == COMMON - OF_ADDS.len(), "all but those");
    let mut left = [common[0]; LEFT];
    let (mut from, mut to) = (0, 0);
    while from < COMMON {
        if !is_of_adds(common[from].key) {
            left[to] = common[from];
            to += 1;
        }
        from += 1;
    }
    assert!(to == LEFT, "each of them is there once");
    left
}

const fn is_of_adds(key: &str) -> bool {
    let mut at = 0;
    while at < OF_ADDS.len() {
        if is_same(OF_ADDS[at].as_bytes(), key.as_bytes()) {
            return true;
        }
        at += 1;
    }
    false
}

/// Comparing texts is not for constants yet.
const fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}

const REST: [OptionSpec; COMMON] = options(&Defaults {
    listen: r#"["127.0.0.1:9094"]"#,
    listen_doc: "Where clients connect. Empty: nowhere, the API is off. Unless `api.auth = \"required\"` whoever reaches it \
                 may do anything, whether or not there are credentials.",
    cors_origins: r#"["*"]"#,
    cors_methods: r#"["GET"]"#,
    cors_headers: r#"["accept", "content-type", "x-requested-with"]"#,
});

/// `[rest]`
pub(super) const REST_SECTION: SectionSpec = SectionSpec {
    name: "rest",
    repeated: false,
    doc: "The REST API of IPFS Cluster 1.1.6, for its clients.",
    options: &REST,
};

const PINNING: [OptionSpec; COMMON - OF_ADDS.len()] = without_adds(&options(&Defaults {
    listen: r#"["127.0.0.1:9097"]"#,
    listen_doc: "Where clients connect. Empty: nowhere, the API is off. Unless `api.auth = \"required\"` whoever reaches it \
                 may pin and unpin, whether or not there are credentials. A token is bound to a namespace, and sees the \
                 pins of that.",
    cors_origins: r#"["*"]"#,
    // A page pins with a token of its user, which it sends itself.
    cors_methods: r#"["GET", "POST", "DELETE"]"#,
    cors_headers: r#"["accept", "authorization", "content-type", "idempotency-key", "x-requested-with"]"#,
}));

/// `[pinning]`
pub(super) const PINNING_SECTION: SectionSpec = SectionSpec {
    name: "pinning",
    repeated: false,
    doc: "The IPFS Pinning Services API 1.0.0, as Kubo's `ipfs pin remote` speaks it.",
    options: &PINNING,
};

impl HttpApi {
    pub(super) fn check(&self, section: &str, problems: &mut Problems<'_>) {
        let given = |file: &PathBuf| !file.as_os_str().is_empty();
        for (one, other, has_one, has_other) in [
            ("cert", "key", given(&self.tls_cert_file), given(&self.tls_key_file)),
            ("key", "cert", given(&self.tls_key_file), given(&self.tls_cert_file)),
        ] {
            if !has_one && has_other {
                let option = format!("{section}.tls_{one}_file");
                problems.add(
                    &option,
                    &format!("given, since `{section}.tls_{other}_file` is: TLS takes both"),
                );
            }
        }
        for (name, value) in &self.headers {
            if HeaderName::try_from(name).is_err() || HeaderValue::try_from(value).is_err() {
                problems.add(
                    &format!("{section}.headers"),
                    "names and values that a header of HTTP may have",
                );
                break;
            }
        }
    }

    /// Whether it speaks TLS.
    pub fn has_tls(&self) -> bool {
        !self.tls_cert_file.as_os_str().is_empty()
    }
}
