//! How values of the file become types. What is wrong with a value was said before, by the table of options; the errors
//! here only keep the types honest.

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::options::{parse_duration, parse_size};

/// For `deserialize_with`: a duration such as `2m 30s`.
pub fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    parse_duration(&text).ok_or_else(|| Error::custom("not a duration"))
}

/// For `deserialize_with`: a size such as `4MiB`, or a number of bytes.
pub fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Number(u64),
        Text(String),
    }
    match Size::deserialize(from)? {
        Size::Number(bytes) => Ok(bytes),
        Size::Text(text) => parse_size(&text).ok_or_else(|| Error::custom("not a size")),
    }
}
