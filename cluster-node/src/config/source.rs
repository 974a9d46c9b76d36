//! Where values come from: the defaults of the tables, the file, the environment, flags; the later wins.

use std::path::Path;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Tag, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::error::{Error, Problem};
use super::options::{OptionSpec, SectionSpec, nearest};
use super::{SECTIONS, section};

/// Begins the names of environment variables.
pub const ENV_PREFIX: &str = "PINFLEET_";

/// One value and what to call its source.
struct One {
    source: String,
    section: &'static str,
    key: &'static str,
    value: Value,
}

impl Provider for One {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.source.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut inner = Dict::new();
        inner.insert(self.key.to_owned(), self.value.clone());
        let mut outer = Dict::new();
        outer.insert(self.section.to_owned(), Value::Dict(Tag::Default, inner));
        Ok(Profile::Default.collect(outer))
    }
}

/// The value that a table writes.
pub(super) fn literal(text: &str) -> Value {
    Toml::string(&format!("value = {text}"))
        .data()
        .ok()
        .and_then(|mut profiles| profiles.remove(&Profile::Default)?.remove("value"))
        .expect("defaults in the tables are TOML, which a test reads")
}

/// Merges all sources. Wrong names from the environment and flags are problems; names in the file are checked later.
pub(super) fn gather(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
    sets: &[String],
    problems: &mut Vec<Problem>,
) -> Result<Figment, Error> {
    let mut figment = Figment::new();
    for section in SECTIONS.iter().filter(|section| !section.repeated) {
        for option in section.options {
            if let Some(default) = option.default {
                figment = figment.merge(One {
                    source: "default".to_owned(),
                    section: section.name,
                    key: option.key,
                    value: literal(default),
                });
            }
        }
    }
    if let Some(path) = file {
        if !path.is_file() {
            return Err(Error::Missing(path.to_owned()));
        }
        let toml = Toml::file_exact(path);
        if let Err(error) = toml.data() {
            return Err(Error::File {
                path: path.to_owned(),
                message: error.to_string(),
            });
        }
        figment = figment.merge(toml);
    }
    for (name, text) in env {
        // One underscore only is another kind of variable, as for the folder.
        let Some((section_name, key)) = name.strip_prefix(ENV_PREFIX).and_then(|rest| rest.split_once("__")) else {
            continue;
        };
        let option = format!("{}.{}", section_name.to_lowercase(), key.to_lowercase());
        let source = format!("environment variable {name}");
        figment = merge_one(figment, &option, source, &text, problems);
    }
    for set in sets {
        match set.split_once('=') {
            Some((option, text)) => {
                let option = option.trim();
                figment = merge_one(figment, option, format!("--set {option}"), text, problems);
            }
            None => problems.push(Problem {
                option: set.clone(),
                value: None,
                source: Some("--set".to_owned()),
                message: "must be section.key=value, such as raft.heartbeat=100ms".to_owned(),
            }),
        }
    }
    Ok(figment)
}

fn merge_one(figment: Figment, option: &str, source: String, text: &str, problems: &mut Vec<Problem>) -> Figment {
    match lookup(option) {
        Ok((section, spec)) => figment.merge(One {
            source,
            section: section.name,
            key: spec.key,
            value: spec.kind.read(text),
        }),
        Err(message) => {
            problems.push(Problem {
                option: option.to_owned(),
                value: None,
                source: Some(source),
                message,
            });
            figment
        }
    }
}

/// The option of a dotted name, or what is wrong with the name.
fn lookup(option: &str) -> Result<(&'static SectionSpec, &'static OptionSpec), String> {
    let (section_name, key) = option.split_once('.').unwrap_or((option, ""));
    let Some(section) = section(section_name) else {
        return Err(unknown_section(section_name));
    };
    if section.repeated {
        return Err(format!(
            "can be set in the file only, in [[{section_name}]] sections, since there may be several"
        ));
    }
    match section.options.iter().find(|spec| spec.key == key) {
        Some(spec) => Ok((section, spec)),
        None => Err(unknown_key(section, key)),
    }
}

/// What to say of a section that does not exist.
pub(super) fn unknown_section(given: &str) -> String {
    let names = || SECTIONS.iter().map(|section| section.name);
    match nearest(given, names()) {
        Some(name) => format!("there is no such section; did you mean [{name}]?"),
        None => format!(
            "there is no such section; there are {}",
            names().collect::<Vec<_>>().join(", ")
        ),
    }
}

/// What to say of an option that does not exist.
pub(super) fn unknown_key(section: &SectionSpec, given: &str) -> String {
    let own = section.options.iter().map(|spec| spec.key);
    if let Some(key) = nearest(given, own.clone()) {
        return format!("there is no such option; did you mean {}.{key}?", section.name);
    }
    let elsewhere = SECTIONS
        .iter()
        .find(|other| other.options.iter().any(|spec| spec.key == given));
    match elsewhere {
        Some(other) => format!("there is no such option; did you mean {}.{given}?", other.name),
        None => format!(
            "there is no such option; [{}] has {}",
            section.name,
            own.collect::<Vec<_>>().join(", ")
        ),
    }
}
