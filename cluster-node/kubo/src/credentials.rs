//! What Kubo's RPC authorization asks for.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use reqwest::RequestBuilder;

/// A file with one line is far smaller; a larger one is another file, named by mistake.
const FILE_BYTES_MAX: u64 = 64 * 1024;

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
        source: io::Error,
    },
    /// Others could have read it.
    #[error(
        "{path} can be read by others (mode {mode:03o}); run `chmod 600 {path}`, and replace the credentials if somebody may have seen them"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds something else.
    #[error("the credentials in {path} are not usable: {reason}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
}

/// What credentials are made of, for who checks what a caller shows.
pub enum Shown<'a> {
    /// A bearer token.
    Bearer(&'a str),
    /// A user and a password.
    Basic(&'a str, &'a str),
}

impl Credentials {
    /// What a caller who has them shows.
    pub fn shown(&self) -> Shown<'_> {
        match &self.0 {
            Secret::Bearer(token) => Shown::Bearer(token),
            Secret::Basic { user, password } => Shown::Basic(user, password),
        }
    }

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

    /// Reads them from a file of one line that only its owner may read. Waits for the disk, so never call it on an async
    /// thread.
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        let failed = |source| CredentialsError::File {
            path: path.to_owned(),
            source,
        };
        let unusable = |reason| CredentialsError::Unusable {
            path: path.to_owned(),
            reason,
        };
        // Before it is opened: opening a pipe waits for somebody who writes.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            return Err(unusable("it is not a file"));
        }
        let file = File::open(path).map_err(failed)?;
        // And of the open file, so that what is checked is what is read.
        let facts = file.metadata().map_err(failed)?;
        if !facts.is_file() {
            return Err(unusable("it is not a file"));
        }
        if facts.mode() & 0o077 != 0 {
            return Err(CredentialsError::Exposed {
                path: path.to_owned(),
                mode: facts.mode() & 0o777,
            });
        }
        if facts.len() > FILE_BYTES_MAX {
            return Err(unusable("it is larger than 64 KiB"));
        }
        let mut text = String::new();
        file.take(FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(|source| match source.kind() {
                io::ErrorKind::InvalidData => unusable("it is not text"),
                _ => failed(source),
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
    fn only_a_small_file_that_nobody_else_reads_is_taken() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("rpc");
        let write = |content: &[u8], mode| {
            std::fs::write(&file, content).expect("written");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("mode");
            Credentials::read(&file).map_err(|error| error.to_string())
        };
        write(b"bearer:s3cret\n", 0o600).expect("read");
        for (content, mode, words) in [
            (&b"bearer:s3cret\n"[..], 0o640, "chmod 600"),
            (&[b' '; 70_000], 0o600, "64 KiB"),
            (&[0xff, 0xfe], 0o600, "not text"),
            (b"s3cret", 0o600, "bearer:TOKEN"),
        ] {
            let error = write(content, mode).expect_err(words);
            assert!(error.contains(words) && !error.contains("s3cret"), "{error}");
        }
        let error = Credentials::read(folder.path()).expect_err("a folder").to_string();
        assert!(error.contains("not a file"), "{error}");
        // A device never ends, and a pipe waits for ever.
        let error = Credentials::read(Path::new("/dev/zero"))
            .expect_err("a device")
            .to_string();
        assert!(error.contains("not a file"), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Credentials::read(Path::new("/nowhere/rpc"))
            .expect_err("missing")
            .to_string();
        assert!(error.contains("/nowhere/rpc"), "{error}");
    }
}
