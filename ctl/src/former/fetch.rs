//! The pinset of an IPFS Cluster that runs, over its REST API.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::BodyExt as _;
use reqwest::{Client, RequestBuilder, Url};
use serde::Deserialize;
use tokio::io::{AsyncWriteExt as _, BufWriter};
use tokio::time::timeout;

use crate::content::place::{cant_write, open_part, settle};
use crate::exit::{Exit, Failure};
use crate::output::meter::Meter;
use crate::output::{Talk, words};
use crate::secret;

/// A peer has nothing to do before it answers but to open its state.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A list of members is short; no honest one has more.
const PEERS_BYTES_MAX: usize = 16 << 20;
/// Bytes of a list that go to the disk together.
const WRITTEN_TOGETHER: usize = 256 << 10;
/// What is shown of an answer that is no list.
const SHOWN_BYTES_MAX: usize = 2_000;

/// A cluster that can be asked.
pub struct Cluster {
    http: Client,
    base: Url,
    authorization: Option<Authorization>,
    /// For how long it may be silent.
    patience: Duration,
}

enum Authorization {
    Bearer(String),
    Basic { user: String, password: String },
}

/// What is read of a member.
#[derive(Debug, Deserialize)]
struct Member {
    id: String,
    #[serde(default)]
    ipfs: Option<MemberIpfs>,
}

#[derive(Debug, Deserialize)]
struct MemberIpfs {
    #[serde(default)]
    id: String,
}

impl Cluster {
    /// Nothing is asked yet. `auth_file` holds one line, `bearer:TOKEN` or `basic:USER:PASSWORD`.
    pub fn new(url: &str, auth_file: Option<&Path>, patience: Duration, talk: Talk) -> Result<Self, Failure> {
        let wrong = |what: &str| Failure::usage(format!("from-url {url:?}: {what}"));
        let mut base = Url::parse(url).map_err(|_| wrong("give an address such as http://10.0.0.1:9094"))?;
        if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
            return Err(wrong(
                "give an address that begins with http:// or https:// and names a host",
            ));
        }
        if base.query().is_some() || base.fragment().is_some() || !base.username().is_empty() {
            return Err(wrong(
                "give the address without ?, # and user; --from-auth-file takes credentials",
            ));
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let authorization = auth_file.map(|file| Authorization::of_file(file, talk)).transpose()?;
        // The first one in the process wins, and all of this workspace install the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder().connect_timeout(CONNECT_TIMEOUT);
        if base.scheme() == "http" {
            // Does without the system's certificates, which a small machine lacks.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| wrong(&chain(&error)))?;
        Ok(Self {
            http,
            base,
            authorization,
            patience,
        })
    }

    /// The file that its list is kept in unless another is named.
    pub fn list_name(&self) -> PathBuf {
        let host: String = self.base.host_str().unwrap_or_default().chars().map(plain).collect();
        match self.base.port() {
            Some(port) => format!("ipfs-cluster-{host}-{port}.jsonl").into(),
            None => format!("ipfs-cluster-{host}.jsonl").into(),
        }
    }

    /// Writes all pins to a file, one a line. The file appears when the list is complete.
    pub async fn download(&self, to: &Path, talk: Talk) -> Result<u64, Failure> {
        let request = self.get("allocations").query(&[("filter", "all")]);
        let mut body = self.answer(request).await?;
        let (file, part) = open_part(to, true)?;
        let mut file = BufWriter::with_capacity(WRITTEN_TOGETHER, tokio::fs::File::from_std(file));
        let cant_write = |error: io::Error| cant_write(to, &error);
        let mut meter = Meter::new(talk, None);
        let (mut lines, mut ends_a_line) = (0_u64, true);
        while let Some(frame) = self.in_time(body.frame()).await? {
            let frame = frame.map_err(|error| self.broken(&chain(&error)))?;
            if let Some(bytes) = frame.data_ref() {
                lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
                ends_a_line = bytes.last().map_or(ends_a_line, |byte| *byte == b'\n');
                file.write_all(bytes).await.map_err(cant_write)?;
                meter.add(bytes.len() as u64);
                meter.extra(format!("{} pins", words::grouped(lines)));
                meter.tick();
            } else if let Some(trailers) = frame.trailers_ref() {
                // How the reference tells of an error in the middle of a list.
                let error = trailers.get_all("x-stream-error").iter().find(|text| !text.is_empty());
                if let Some(error) = error {
                    return Err(self.broken(&String::from_utf8_lossy(error.as_bytes())));
                }
            }
        }
        meter.clear();
        if !ends_a_line {
            return Err(self.broken("the list ends in the middle of a line"));
        }
        file.flush().await.map_err(cant_write)?;
        // The name must not appear before the content is there.
        file.get_ref().sync_all().await.map_err(cant_write)?;
        if let Some(part) = part {
            settle(part, to, true)?;
        }
        Ok(lines)
    }

    /// Which IPFS daemon each member drives: their peer IDs. What a member does not tell is left out.
    pub async fn daemons(&self) -> Result<BTreeMap<String, String>, Failure> {
        let mut body = self.answer(self.get("peers")).await?;
        let mut text = Vec::new();
        while let Some(frame) = self.in_time(body.frame()).await? {
            let frame = frame.map_err(|error| self.broken(&chain(&error)))?;
            if let Ok(bytes) = frame.into_data() {
                if text.len() + bytes.len() > PEERS_BYTES_MAX {
                    return Err(self.broken("its list of peers is longer than 16 MiB"));
                }
                text.extend_from_slice(&bytes);
            }
        }
        read_daemons(&text).map_err(|error| self.broken(&format!("its list of peers can't be read: {error}")))
    }

    fn get(&self, path: &str) -> RequestBuilder {
        // Joined to a base that ends in a slash, so its path stays.
        let url = self.base.join(path).unwrap_or_else(|_| self.base.clone());
        let request = self.http.get(url);
        match &self.authorization {
            None => request,
            Some(Authorization::Bearer(token)) => request.bearer_auth(token),
            Some(Authorization::Basic { user, password }) => request.basic_auth(user, Some(password)),
        }
    }

    async fn answer(&self, request: RequestBuilder) -> Result<reqwest::Body, Failure> {
        let response = self.in_time(request.send()).await?;
        let response = response.map_err(|error| {
            Failure::new(
                Exit::Unavailable,
                format!("{} can't be reached: {}", self.base, chain(&error)),
            )
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(http::Response::from(response).into_body());
        }
        let exit = match status.as_u16() {
            401 | 403 => Exit::Refused,
            _ => Exit::Unavailable,
        };
        let text = self.in_time(response.bytes()).await?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text[..text.len().min(SHOWN_BYTES_MAX)]).into_owned();
        let failure = Failure::new(
            exit,
            format!("{} answered {status}: {}", self.base, words::printable(text.trim())),
        );
        Err(match status.as_u16() {
            401 => failure.hint("--from-auth-file FILE shows credentials, as `basic:USER:PASSWORD` or `bearer:TOKEN`"),
            404 => failure.hint("is it the REST API of an IPFS Cluster, version 1? It listens at port 9094"),
            _ => failure,
        })
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        let silent = || self.broken(&format!("silent for {}", words::coarse(self.patience)));
        timeout(self.patience, work).await.map_err(|_| silent())
    }

    fn broken(&self, why: &str) -> Failure {
        let why = words::printable(why);
        Failure::new(Exit::Unavailable, format!("the list of {} broke off: {why}", self.base))
            .hint("nothing was imported; the same command begins anew, --timeout allows more silence")
    }
}

impl Authorization {
    fn of_file(file: &Path, talk: Talk) -> Result<Self, Failure> {
        let line = secret::first_line(file, talk)?;
        let wrong = || {
            Failure::usage(format!(
                "{} must hold one line, `bearer:TOKEN` or `basic:USER:PASSWORD`",
                file.display()
            ))
        };
        match line.trim().split_once(':').ok_or_else(wrong)? {
            ("bearer", token) if !token.is_empty() => Ok(Self::Bearer(token.to_owned())),
            ("basic", pair) => {
                let (user, password) = pair.split_once(':').ok_or_else(wrong)?;
                let (user, password) = (user.to_owned(), password.to_owned());
                Ok(Self::Basic { user, password })
            }
            _ => Err(wrong()),
        }
    }
}

/// One object a line, or, before version 1.0, an array of them.
fn read_daemons(text: &[u8]) -> Result<BTreeMap<String, String>, serde_json::Error> {
    let members: Vec<Member> = match text.trim_ascii_start().first() {
        Some(b'[') => serde_json::from_slice(text)?,
        _ => serde_json::Deserializer::from_slice(text)
            .into_iter()
            .collect::<Result<_, _>>()?,
    };
    let known = members.into_iter().filter_map(|member| {
        let daemon = member.ipfs?.id;
        (!daemon.is_empty()).then_some((member.id, daemon))
    });
    Ok(known.collect())
}

/// Keeps what earlier runs read of the daemons beside the list.
pub fn keep_daemons(list: &Path, daemons: &BTreeMap<String, String>) -> Result<(), Failure> {
    let path = daemons_of(list);
    let text = serde_json::to_vec_pretty(daemons).map_err(|error| Failure::local(error.to_string()))?;
    fs::write(&path, text).map_err(|error| Failure::local(format!("can't write {}: {error}", path.display())))
}

/// Whether this program read that list: what it kept of the peers is beside it.
pub fn has_daemons(list: &Path) -> bool {
    daemons_of(list).exists()
}

/// What was kept; nothing when there is no such file.
pub fn kept_daemons(list: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let path = daemons_of(list);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(Failure::usage(format!("can't read {}: {error}", path.display()))),
    };
    serde_json::from_slice(&text).map_err(|error| {
        Failure::usage(format!("{} is damaged: {error}", path.display())).hint("--restart reads it anew")
    })
}

fn daemons_of(list: &Path) -> PathBuf {
    let mut name = list.as_os_str().to_owned();
    name.push(".peers");
    name.into()
}

fn plain(character: char) -> char {
    match character {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' => character,
        _ => '-',
    }
}

/// An error with its causes: reqwest's own words name only the address.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemons_are_read_in_both_forms() {
        let lines = br#"{"id":"A","ipfs":{"id":"X","error":""},"error":""}
{"id":"B","error":"can't be reached","ipfs":{"error":"down"}}
{"id":"C"}
"#;
        let expected = BTreeMap::from([("A".to_owned(), "X".to_owned())]);
        assert_eq!(read_daemons(lines).expect("lines"), expected);
        assert_eq!(
            read_daemons(br#"[{"id":"A","ipfs":{"id":"X"}}]"#).expect("an array"),
            expected
        );
        assert!(read_daemons(b"").expect("nobody").is_empty());
        assert!(read_daemons(b"<html>").is_err());
    }

    #[test]
    fn addresses_that_are_none_are_refused() {
        let talk = Talk::new(true, true);
        let new = |url: &str| Cluster::new(url, None, Duration::from_secs(1), talk);
        for url in ["", "10.0.0.1:9094", "ftp://x", "http://a?b=c", "http://user@a:1"] {
            assert!(new(url).is_err(), "{url}");
        }
        let at = |url: &str| new(url).map(|cluster| cluster.list_name()).ok();
        assert_eq!(
            at("http://10.0.0.1:9094"),
            Some("ipfs-cluster-10.0.0.1-9094.jsonl".into())
        );
        assert_eq!(
            at("http://[::1]:9094/sub"),
            Some("ipfs-cluster----1--9094.jsonl".into())
        );
    }
}
