//! What Kubo's RPC authorization asks for.

use std::fmt;
use std::path::{Path, PathBuf};

use reqwest::RequestBuilder;

/// A bearer token, or a user and a password. Never printed, not even by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials(Secret);

#[derive(Clone, PartialEq, Eq)]
enum Secret {
    Bearer(String),
    Basic { user: String, password: String },
}

/// Why there are no credentials. Never repeats the secret.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The text has another form.
    #[error("credentials must be one line, `bearer:TOKEN` or `basic:USER:PASSWORD`, of printable ASCII")]
    Form,
    /// The file can't be read.
    #[error("cannot read the credentials in {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl Credentials {
    /// Parses `bearer:TOKEN` or `basic:USER:PASSWORD`, the forms of Kubo's own `AuthSecret`.
    pub fn parse(line: &str) -> Result<Self, CredentialsError> {
        let line = line.trim();
        // Only these may stand in a header.
        if !line.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            return Err(CredentialsError::Form);
        }
        let secret = match line.split_once(':') {
            Some(("bearer", token)) if !token.is_empty() => Secret::Bearer(token.to_owned()),
            Some(("basic", rest)) => match rest.split_once(':') {
                Some((user, password)) if !user.is_empty() => Secret::Basic {
                    user: user.to_owned(),
                    password: password.to_owned(),
                },
                _ => return Err(CredentialsError::Form),
            },
            _ => return Err(CredentialsError::Form),
        };
        Ok(Self(secret))
    }

    /// Reads them from a file of one line.
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        let text = std::fs::read_to_string(path).map_err(|source| CredentialsError::File {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text)
    }

    pub(crate) fn apply(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.0 {
            Secret::Bearer(token) => request.bearer_auth(token),
            Secret::Basic { user, password } => request.basic_auth(user, Some(password)),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Secret::Bearer(_) => "bearer:***",
            Secret::Basic { .. } => "basic:***",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_never_printed() {
        for text in [
            "bearer:s3cret",
            "basic:s3cret:s3cret",
            "basic:user:s3cret:with:colons\n",
        ] {
            let credentials = Credentials::parse(text).expect(text);
            assert!(!format!("{credentials:?}").contains("s3cret"));
        }
    }

    #[test]
    fn other_forms_are_refused_without_repeating_them() {
        for text in [
            "",
            "s3cret",
            "bearer:",
            "basic:s3cret",
            "basic::s3cret",
            "digest:s3cret",
            "bearer:s3cret\nx",
            "bearer:s3crét",
        ] {
            let error = Credentials::parse(text).expect_err(text).to_string();
            assert!(!error.contains("s3cr"), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Credentials::read(Path::new("/nowhere/rpc"))
            .expect_err("missing")
            .to_string();
        assert!(error.contains("/nowhere/rpc"), "{error}");
    }
}
