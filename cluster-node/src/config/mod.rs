//! Configuration: defaults, a TOML file, environment variables `PINFLEET_SECTION__KEY`, `--set section.key=value`; the
//! later wins. Everything is checked before anything opens.
//!
//! Each section has a file with its table of options and its type. The tables are the only place where an option is
//! described: checks and messages, the commented default file and `config show` come from them.

mod api;
mod data_dir;
mod embedded;
mod error;
mod http_api;
mod init;
mod node;
mod options;
mod peer;
mod proxy;
mod raft;
mod render;
mod replication;
mod shutdown;
mod source;
mod storage;
mod telemetry;
mod values;
mod worker;

use std::path::Path;

use figment::value::{Dict, Tag, Value};
use figment::{Figment, Profile, Provider};
use serde::Deserialize;

pub use api::{Api, Auth};
pub use data_dir::DataDir;
pub use embedded::{Announce, Dht, Embedded};
pub use error::{Error, Problem};
pub use http_api::{Allowed, HttpApi};
pub use init::{InitError, InitOptions, Initialized, init};
pub use node::{Node, NodeKind};
pub use options::{Kind, OptionSpec, SectionSpec};
pub use peer::Peer;
pub use proxy::Proxy;
pub use raft::Raft;
pub use render::default_file;
pub use replication::ReplicationDefaults;
pub use shutdown::Shutdown;
pub use source::ENV_PREFIX;
pub use storage::Storage;
pub use telemetry::{LogFormat, Telemetry};
pub use worker::Worker;

use error::Problems;

/// All sections, in the order of the file.
pub static SECTIONS: &[SectionSpec] = &[
    peer::SECTION,
    api::SECTION,
    http_api::REST_SECTION,
    proxy::SECTION,
    http_api::PINNING_SECTION,
    telemetry::SECTION,
    raft::SECTION,
    replication::SECTION,
    storage::SECTION,
    worker::SECTION,
    node::SECTION,
    embedded::SECTION,
    shutdown::SECTION,
];

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[peer]`
    pub peer: Peer,
    /// `[api]`
    pub api: Api,
    /// `[rest]`
    pub rest: HttpApi,
    /// `[proxy]`
    pub proxy: Proxy,
    /// `[pinning]`
    pub pinning: HttpApi,
    /// `[telemetry]`
    pub telemetry: Telemetry,
    /// `[raft]`
    pub raft: Raft,
    /// `[replication]`
    pub replication: ReplicationDefaults,
    /// `[storage]`
    pub storage: Storage,
    /// `[worker]`
    pub worker: Worker,
    /// `[[node]]`
    #[serde(rename = "node", default)]
    pub nodes: Vec<Node>,
    /// `[embedded]`
    pub embedded: Embedded,
    /// `[shutdown]`
    pub shutdown: Shutdown,
}

/// A checked configuration, and where its values come from.
#[derive(Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    figment: Figment,
    values: Value,
}

impl Default for Config {
    fn default() -> Self {
        Loaded::read(None, [], &[])
            .expect("the defaults are valid, which a test checks")
            .config
    }
}

impl Config {
    /// Reads the file of a data folder, the environment and flags.
    pub fn load(dir: &DataDir, sets: &[String]) -> Result<Self, Error> {
        Loaded::load(dir, sets).map(|loaded| loaded.config)
    }

    /// The sections of the HTTP APIs by name.
    pub fn http_apis(&self) -> [(&'static str, &HttpApi); 3] {
        [
            ("rest", &self.rest),
            ("proxy", &self.proxy.http),
            ("pinning", &self.pinning),
        ]
    }

    /// Settings that are allowed and yet worth a line in the log.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let asks = self.api.auth == Auth::Required;
        let of_http = self.http_apis().into_iter().flat_map(|(section, http)| {
            let listens = http.listen.iter();
            listens.map(move |address| (format!("{section}.listen"), *address, asks, http.has_tls()))
        });
        for (option, address, asks, is_sealed) in [
            ("api.grpc_listen".to_owned(), self.api.grpc_listen, asks, false),
            (
                "telemetry.http_listen".to_owned(),
                self.telemetry.http_listen,
                false,
                false,
            ),
        ]
        .into_iter()
        .chain(of_http)
        {
            if !address.ip().is_loopback() && asks && is_sealed {
                continue;
            }
            if !address.ip().is_loopback() && asks {
                warnings.push(format!(
                    "{option} = \"{address}\" is reachable from other hosts, and what clients show there is not encrypted"
                ));
            } else if !address.ip().is_loopback() {
                warnings.push(format!(
                    "{option} = \"{address}\" is reachable from other hosts, and asks nobody who they are"
                ));
            }
        }
        warnings
    }

    fn check(&self, problems: &mut Problems<'_>) {
        self.peer.check(problems);
        self.api.check(problems);
        for (section, http) in self.http_apis() {
            http.check(section, problems);
        }
        self.proxy.check(problems);
        self.raft.check(problems);
        self.replication.check(problems);
        self.worker.check(problems);
        self.embedded.check(problems);
        node::check(&self.nodes, problems);
    }
}

impl Loaded {
    /// Reads the file of a data folder, the environment and flags.
    pub fn load(dir: &DataDir, sets: &[String]) -> Result<Self, Error> {
        // Names and values that are no text can't be options of ours.
        let env =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self::read(Some(&dir.config_file()), env, sets)
    }

    /// The same from named sources.
    pub fn read(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        sets: &[String],
    ) -> Result<Self, Error> {
        let mut found = Vec::new();
        let figment = source::gather(file, env, sets, &mut found)?;
        let values = figment
            .data()
            .map_err(|error| Error::File {
                path: file.unwrap_or(Path::new("")).to_owned(),
                message: error.to_string(),
            })?
            .remove(&Profile::Default)
            .unwrap_or_default();
        let mut values = Value::Dict(Tag::Default, values);
        let mut problems = Problems::new(&figment, &values);
        problems.list = found;
        check_values(&values, &mut problems);
        let mut list = problems.list;
        if !list.is_empty() {
            return Err(Error::Problems(list));
        }
        fill_nodes(&mut values);
        let mut config: Config = values.deserialize().map_err(|error| {
            // Not reached while tables and types agree, which a test checks option by option.
            Error::Problems(vec![Problem {
                option: error.path.join("."),
                value: None,
                source: None,
                message: error.to_string(),
            }])
        })?;
        if config.peer.name.is_empty() {
            config.peer.name = host_name();
        }
        let mut problems = Problems::new(&figment, &values);
        config.check(&mut problems);
        list = problems.list;
        if !list.is_empty() {
            return Err(Error::Problems(list));
        }
        Ok(Self {
            config,
            figment,
            values,
        })
    }

    /// The effective configuration as a file with comments: what each option does, and where its value comes from.
    /// Secrets are masked.
    pub fn show(&self) -> String {
        render::show(&self.figment, &self.values)
    }
}

/// The section of a name.
fn section(name: &str) -> Option<&'static SectionSpec> {
    SECTIONS.iter().find(|section| section.name == name)
}

fn check_values(values: &Value, problems: &mut Problems<'_>) {
    let Value::Dict(_, sections) = values else {
        return;
    };
    for (name, content) in sections {
        let Some(spec) = section(name) else {
            problems.say(name, source::unknown_section(name));
            continue;
        };
        match (spec.repeated, content) {
            (false, Value::Dict(_, keys)) => check_section(spec, name, keys, problems),
            (true, Value::Array(_, items)) => {
                for (at, item) in items.iter().enumerate() {
                    let path = format!("{name}.{at}");
                    match item {
                        Value::Dict(_, keys) => check_section(spec, &path, keys, problems),
                        _ => problems.add(&path, &format!("a [[{name}]] section")),
                    }
                }
            }
            (false, _) => problems.add(name, &format!("a [{name}] section")),
            (true, _) => problems.add(name, &format!("a list of [[{name}]] sections")),
        }
    }
}

fn check_section(spec: &SectionSpec, path: &str, keys: &Dict, problems: &mut Problems<'_>) {
    for (key, value) in keys {
        let option = format!("{path}.{key}");
        match spec.options.iter().find(|option| option.key == key) {
            None => problems.say(&option, source::unknown_key(spec, key)),
            Some(known) if known.kind.accepts(value) => {}
            Some(known) => problems.add(&option, &known.kind.allowed()),
        }
    }
    for required in node::REQUIRED.iter().filter(|_| spec.repeated) {
        if !keys.contains_key(*required) {
            problems.say(
                &format!("{path}.{required}"),
                format!("is missing; each [[{}]] section needs it", spec.name),
            );
        }
    }
}

/// Sections of which there may be many get their defaults one by one.
fn fill_nodes(values: &mut Value) {
    let Value::Dict(_, sections) = values else {
        return;
    };
    for spec in SECTIONS.iter().filter(|section| section.repeated) {
        let Some(Value::Array(_, items)) = sections.get_mut(spec.name) else {
            continue;
        };
        for item in items {
            let Value::Dict(_, keys) = item else { continue };
            for option in spec.options {
                if let Some(default) = option.default {
                    keys.entry(option.key.to_owned())
                        .or_insert_with(|| source::literal(default));
                }
            }
        }
    }
}

/// The host's name, as far as it can be a peer's name.
fn host_name() -> String {
    let given = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"))
        .unwrap_or_default();
    let name: String = given
        .trim()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') {
                c
            } else {
                '-'
            }
        })
        .take(63)
        .collect();
    if node_core::check_name("peer name", &name).is_ok() {
        name
    } else {
        "peer".to_owned()
    }
}

#[cfg(test)]
mod tests;
