//! The configuration as text: the commented default file, and `config show`.

use std::fmt::Write;

use figment::Figment;
use figment::value::{Dict, Num, Value};

use super::SECTIONS;
use super::error::source_of;
use super::node;
use super::options::{OptionSpec, SectionSpec};

const WIDTH: usize = 110;
const HEADER: &str = "\
# Configuration of cluster-node.
#
# Lines with one # before an option show its default; remove the # to change it. Values are overridden by environment
# variables PINFLEET_SECTION__KEY (PINFLEET_RAFT__HEARTBEAT=100ms) and those by flags (--set raft.heartbeat=100ms).
# `cluster-node config check` says what is wrong, `cluster-node config show` what is in effect and where it comes from.
";

/// The commented file with all defaults; with the name of the peer where one is given, and with an embedded node of the
/// name `embedded`.
pub fn default_file(name: Option<&str>, embedded: Option<&str>) -> String {
    let mut text = HEADER.to_owned();
    for section in SECTIONS {
        begin_section(&mut text, section);
        let node = embedded.filter(|_| section.name == "node");
        if section.repeated {
            let mark = if node.is_some() { "" } else { "#" };
            let _ = writeln!(text, "{mark}[[{}]]", section.name);
        } else {
            let _ = writeln!(text, "[{}]", section.name);
        }
        for option in section.options {
            describe(&mut text, option);
            match (section.name, option.key, name, node) {
                ("peer", "name", Some(name), _) => {
                    let _ = writeln!(text, "name = {}", quoted(name));
                }
                ("node", "name", _, Some(node)) => {
                    let _ = writeln!(text, "name = {}", quoted(node));
                }
                ("node", "kind", _, Some(_)) => {
                    let _ = writeln!(text, "kind = \"embedded\"");
                }
                _ => {
                    // Of a section that may be there or not, what it looks like says more than what is left out.
                    let shown = if section.repeated {
                        example(option.key).or(option.default)
                    } else {
                        option.default
                    };
                    let value = shown.unwrap_or(r#""""#);
                    let _ = writeln!(text, "#{} = {value}", option.key);
                }
            }
        }
    }
    text
}

fn example(key: &str) -> Option<&'static str> {
    node::EXAMPLES
        .iter()
        .find(|(of, _)| *of == key)
        .map(|(_, value)| *value)
}

/// All values that are in effect, with comments. Can be used as a file.
pub(super) fn show(figment: &Figment, values: &Value) -> String {
    let mut text = String::new();
    let Value::Dict(_, sections) = values else {
        return text;
    };
    for section in SECTIONS {
        match sections.get(section.name) {
            Some(Value::Dict(_, keys)) => {
                begin_section(&mut text, section);
                show_section(&mut text, &format!("[{}]", section.name), section, keys, figment);
            }
            Some(Value::Array(_, items)) => {
                begin_section(&mut text, section);
                for item in items {
                    if let Value::Dict(_, keys) = item {
                        show_section(&mut text, &format!("[[{}]]", section.name), section, keys, figment);
                    }
                }
            }
            _ => {}
        }
    }
    text.trim_start().to_owned()
}

fn show_section(text: &mut String, head: &str, section: &SectionSpec, keys: &Dict, figment: &Figment) {
    let _ = writeln!(text, "{head}");
    for option in section.options {
        let Some(value) = keys.get(option.key) else {
            continue;
        };
        comment(text, option.doc);
        let source = source_of(figment, value).unwrap_or_else(|| "default".to_owned());
        let _ = writeln!(text, "{} = {} # {source}", option.key, toml_text(option.key, value));
    }
}

fn begin_section(text: &mut String, section: &SectionSpec) {
    text.push('\n');
    comment(text, section.doc);
}

fn describe(text: &mut String, option: &OptionSpec) {
    comment(text, option.doc);
    comment(text, &format!("Allowed: {}.", option.kind.allowed()));
}

/// Wrapped lines behind `# `.
fn comment(text: &mut String, words: &str) {
    let mut line = "#".to_owned();
    for word in words.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            let _ = writeln!(text, "{line}");
            line = "#".to_owned();
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(text, "{line}");
}

/// A value as it stands in a file. Values of secret options are masked, whatever they are.
pub(super) fn toml_text(key: &str, value: &Value) -> String {
    if is_secret(key) {
        return r#""********""#.to_owned();
    }
    match value {
        Value::String(_, text) => quoted(text),
        Value::Char(_, c) => quoted(&c.to_string()),
        Value::Bool(_, bool) => bool.to_string(),
        Value::Num(_, Num::F32(n)) => format!("{n:?}"),
        Value::Num(_, Num::F64(n)) => format!("{n:?}"),
        Value::Num(_, _) => match (value.to_i128(), value.to_u128()) {
            (Some(n), _) => n.to_string(),
            (None, Some(n)) => n.to_string(),
            (None, None) => "?".to_owned(),
        },
        Value::Empty(..) => r#""""#.to_owned(),
        Value::Dict(_, map) if map.is_empty() => "{}".to_owned(),
        Value::Dict(_, map) => {
            let items: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{} = {}", bare(key), toml_text(key, value)))
                .collect();
            format!("{{ {} }}", items.join(", "))
        }
        Value::Array(_, items) => {
            let items: Vec<String> = items.iter().map(|item| toml_text(key, item)).collect();
            format!("[{}]", items.join(", "))
        }
    }
}

fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    ["token", "secret", "password", "passphrase"]
        .iter()
        .any(|word| key.ends_with(word))
}

fn quoted(text: &str) -> String {
    // TOML's own rules for what must be escaped.
    toml::Value::String(text.to_owned()).to_string()
}

fn bare(key: &str) -> String {
    let plain = !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if plain { key.to_owned() } else { quoted(key) }
}

#[cfg(test)]
mod tests {
    use figment::value::{Tag, Value};

    use super::*;

    #[test]
    fn masks_what_is_secret() {
        let secret = Value::from("hunter2");
        for key in ["password", "api_token", "Client_Secret"] {
            assert!(!toml_text(key, &secret).contains("hunter2"));
        }
        let mut map = Dict::new();
        map.insert("password".to_owned(), secret);
        let nested = Value::Dict(Tag::Default, map);
        assert!(!toml_text("headers", &nested).contains("hunter2"));
        assert_eq!(toml_text("auth_file", &Value::from("/etc/x")), r#""/etc/x""#);
    }

    #[test]
    fn values_are_toml() {
        assert_eq!(toml_text("a", &Value::from(1.0)), "1.0");
        assert_eq!(toml_text("a", &Value::from(-3)), "-3");
        assert_eq!(toml_text("a", &Value::from(vec!["x", "y"])), r#"["x", "y"]"#);
        let odd = "a \"quoted\" \\ \n thing";
        let line = format!("a = {}", toml_text("a", &Value::from(odd)));
        let parsed: toml::Table = line.parse().unwrap();
        assert_eq!(parsed["a"].as_str(), Some(odd));
    }
}
