//! What is wrong with a configuration, said so that it can be put right.

use std::fmt;
use std::path::PathBuf;

use figment::Figment;
use figment::value::Value;

use super::render::toml_text;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not there.
    #[error("{0} does not exist; `cluster-node init --dir DIR` makes one")]
    Missing(PathBuf),
    /// The file can't be read, or is no TOML.
    #[error("{path}: {message}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the parser says, with the line.
        message: String,
    },
    /// Options are wrong; each is named.
    #[error("{}", list(.0))]
    Problems(Vec<Problem>),
}

/// One wrong option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its name, such as `raft.heartbeat`.
    pub option: String,
    /// Its value as it would stand in the file, where it has one. Secrets are masked.
    pub value: Option<String>,
    /// Where it comes from.
    pub source: Option<String>,
    /// What is wrong, and what is allowed.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.option)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        if let Some(source) = &self.source {
            write!(f, " ({source})")?;
        }
        write!(f, ": {}", self.message)
    }
}

fn list(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    lines.join("\n")
}

/// Collects problems; knows what was given, and where.
pub(super) struct Problems<'a> {
    figment: &'a Figment,
    values: &'a Value,
    pub(super) list: Vec<Problem>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(figment: &'a Figment, values: &'a Value) -> Self {
        Self {
            figment,
            values,
            list: Vec::new(),
        }
    }

    /// The option's value is not what it must be.
    pub(super) fn add(&mut self, option: &str, rule: &str) {
        self.say(option, format!("must be {rule}"));
    }

    /// Something else is wrong with the option.
    pub(super) fn say(&mut self, option: &str, message: String) {
        let value = find(self.values, option);
        self.list.push(Problem {
            option: option.to_owned(),
            value: value.map(|value| toml_text(last_part(option), value)),
            source: value.and_then(|value| source_of(self.figment, value)),
            message,
        });
    }
}

fn last_part(option: &str) -> &str {
    option.rsplit('.').next().unwrap_or(option)
}

/// The value under a dotted name; numbers are places in lists.
fn find<'a>(values: &'a Value, option: &str) -> Option<&'a Value> {
    option.split('.').try_fold(values, |value, part| match value {
        Value::Dict(_, map) => map.get(part),
        Value::Array(_, items) => items.get(part.parse::<usize>().ok()?),
        _ => None,
    })
}

/// Where a value was given: file, environment variable or flag.
pub(super) fn source_of(figment: &Figment, value: &Value) -> Option<String> {
    let metadata = figment.get_metadata(value.tag())?;
    Some(match metadata.source.as_ref().and_then(|source| source.file_path()) {
        Some(path) => format!("in {}", path.display()),
        None => metadata.name.to_string(),
    })
}
