//! Secrets on their way in: the token that is shown to the cluster, and passwords that are set. Never from the command line,
//! which every user of the machine can read.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::exit::Failure;
use crate::output::Talk;

/// Names the token itself.
const TOKEN: &str = "PINFLEET_TOKEN";
/// Names a file with it.
const TOKEN_FILE: &str = "PINFLEET_TOKEN_FILE";

/// More is certainly no secret of ours.
const BYTES_MAX: u64 = 16 * 1024;

/// Shows the token, if there is one, with every call.
#[derive(Clone, Default)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    /// The token of the file that was named, or else of the environment.
    pub fn find(file: Option<&Path>, talk: Talk) -> Result<Self, Failure> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(file) = file {
            return Self::of_file(file, talk);
        }
        if let Some(token) = variable(TOKEN) {
            let token = token.into_string().unwrap_or_default();
            return Self::of(token.trim(), TOKEN);
        }
        match variable(TOKEN_FILE) {
            Some(file) => Self::of_file(Path::new(&file), talk),
            None => Ok(Self::default()),
        }
    }

    fn of_file(file: &Path, talk: Talk) -> Result<Self, Failure> {
        let shown = file.display().to_string();
        let text = first_line(file, talk)?;
        Self::of(text.trim(), &shown)
    }

    fn of(token: &str, source: &str) -> Result<Self, Failure> {
        let is_token = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
        let value = is_token.then(|| format!("Bearer {token}").parse().ok()).flatten();
        // What it holds instead is not told: it may be a secret all the same.
        let mut value: MetadataValue<Ascii> = value.ok_or_else(|| {
            Failure::usage(format!(
                "{source} holds no token; it is one word, and `cluster-ctl token create` prints one"
            ))
        })?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// The first line of a file, without its end. Others than its owner should not be able to read it.
pub fn first_line(file: &Path, talk: Talk) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::usage(format!("{} can't be read: {error}", file.display()));
    let opened = File::open(file).map_err(failed)?;
    let mode = opened.metadata().map_err(failed)?.mode();
    if mode & 0o077 != 0 {
        let path = file.display();
        talk.warn(&format!(
            "{path} can be read by others; `chmod 600 {path}` keeps it to you"
        ));
    }
    line_of(opened).map_err(failed)
}

/// A password that is set: the first line of stdin, or typed twice at the terminal.
pub async fn ask_password(name: &str) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::local(format!("the password can't be read: {error}"));
    if !io::stdin().is_terminal() {
        return blocking(|| line_of(io::stdin())).await.map_err(failed);
    }
    // Held here and not by the thread that reads, so that an interruption gives the terminal back as it was.
    let _quiet = Quiet::begin().map_err(failed)?;
    let ask = async |prompt: String| {
        eprint!("{prompt}");
        let line = blocking(|| line_of(io::stdin())).await;
        eprintln!();
        line.map_err(failed)
    };
    let first = ask(format!("Password for {name}: ")).await?;
    let second = ask("The same again: ".to_owned()).await?;
    if first == second {
        Ok(first)
    } else {
        Err(Failure::usage("the two passwords differ; nothing was sent"))
    }
}

async fn blocking(read: impl FnOnce() -> io::Result<String> + Send + 'static) -> io::Result<String> {
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}

fn line_of(source: impl Read) -> io::Result<String> {
    let mut line = Vec::new();
    // One byte at a time would be asked of the system for a buffer of one; what lies behind the line is left unread by a
    // terminal anyhow.
    let mut source = io::BufReader::new(source.take(BYTES_MAX + 1));
    source.read_until(b'\n', &mut line)?;
    if line.len() as u64 > BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its first line is too long"));
    }
    while matches!(line.last(), Some(b'\n' | b'\r')) {
        line.pop();
    }
    String::from_utf8(line).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not text"))
}

/// While it lives, the terminal does not show what is typed.
struct Quiet(Termios);

impl Quiet {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // The terminal is gone when this fails.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_where_it_ends() {
        for (text, line) in [
            ("a b\nc\n", "a b"),
            ("a", "a"),
            ("", ""),
            ("a\r\n", "a"),
            (" a ", " a "),
        ] {
            assert_eq!(line_of(text.as_bytes()).expect("text"), line);
        }
        assert!(line_of(&[0xff][..]).is_err());
        assert!(line_of(&vec![b'a'; 1 << 20][..]).is_err());
    }

    #[test]
    fn a_token_is_one_word_and_never_told() {
        let Bearer(value) = Bearer::of("pft_abc", "FILE").expect("a word");
        let value = value.expect("set");
        assert_eq!(value.to_str().ok(), Some("Bearer pft_abc"));
        assert!(!format!("{value:?}").contains("abc"));
        for bad in ["", "two words", "a\u{e9}", "a\nb"] {
            let failure = Bearer::of(bad, "FILE").err().expect("refused");
            assert!(failure.message.starts_with("FILE holds no token"), "{failure:?}");
            assert!(!failure.message.contains("two words"));
        }
    }
}
