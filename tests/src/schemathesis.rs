//! schemathesis, which reads a document of OpenAPI and asks a server what it says: as well as it can, and as badly.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::Command;

use crate::binaries::repository;
use crate::python;

/// How much of its output is told when it found something.
const TOLD: usize = 30_000;

/// What is looked at in every answer: no 5xx, and nothing that the document does not say.
const CHECKS: [&str; 5] = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
];

/// Where a document is.
#[derive(Debug, Clone)]
pub enum Document {
    /// At this URL.
    Url(String),
    /// In this file.
    File(PathBuf),
}

/// A document that others published, by its name, in the folder `shared/data` beside the repository; none where that is not.
pub fn published(name: &str) -> Option<Document> {
    let file = repository().join("../shared/data").join(name);
    file.is_file().then_some(Document::File(file))
}

/// A run.
#[derive(Debug, Clone)]
pub struct Schemathesis {
    /// What the server says of itself, or what was published of it.
    pub document: Document,
    /// Where the server is, such as `http://127.0.0.1:9094`.
    pub base_url: String,
    /// Headers of every request.
    pub headers: Vec<(String, String)>,
    /// The same seed asks the same, as far as answers are the same.
    pub seed: u64,
    /// Cases of each operation in each phase.
    pub examples: u32,
    /// When it stops by itself, whatever is left.
    pub time: Duration,
    /// Checks beside the usual ones.
    pub more_checks: Vec<String>,
    /// Operations that are left out, by their ID.
    pub left_out: Vec<String>,
}

impl Schemathesis {
    /// A run over this document and server, as the suites want it.
    pub fn new(document: Document, base_url: impl Into<String>) -> Self {
        Self {
            document,
            base_url: base_url.into(),
            headers: Vec::new(),
            seed: 20_261_127,
            examples: 30,
            time: Duration::from_secs(45),
            more_checks: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// Runs it, in a folder of its own. What it found is the error.
    ///
    /// # Errors
    /// When it found something, could not run, or did not end in time.
    pub async fn run(&self) -> anyhow::Result<String> {
        let python = tokio::task::spawn_blocking(|| python::environment("schemathesis")).await?;
        let program = python.context("schemathesis")?.with_file_name("schemathesis");
        let folder = tempfile::tempdir()?;
        let child = self.command(&program, folder.path()).output();
        // Loading and the report come to its own time.
        let limit = self.time * 2 + Duration::from_secs(60);
        let output = tokio::time::timeout(limit, child)
            .await
            .with_context(|| format!("schemathesis did not end within {limit:?}"))?
            .context("cannot run schemathesis")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let end = text.char_indices().nth(TOLD).map_or(text.len(), |(at, _)| at);
            bail!("schemathesis ended with {}:\n{}", output.status, &text[..end]);
        }
        Ok(text)
    }

    fn command(&self, program: &Path, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.arg("run");
        match &self.document {
            Document::Url(url) => command.arg(url),
            Document::File(file) => command.arg(file),
        };
        let mut checks: Vec<&str> = CHECKS.to_vec();
        checks.extend(self.more_checks.iter().map(String::as_str));
        command
            .args(["--url", &self.base_url])
            .args(["--checks", &checks.join(",")])
            .args(["--seed", &self.seed.to_string()])
            .args(["--max-examples", &self.examples.to_string()])
            .args(["--max-time", &self.time.as_secs().max(1).to_string()])
            .args(["--request-timeout", "20"])
            .args(["--generation-database", "none"])
            .args(["--warnings", "off", "--no-color", "--no-shrink"])
            // Slow machines make slow inputs, and that is no find.
            .args(["--suppress-health-check", "all"])
            .args(["--continue-on-failure", "--output-truncate", "false"]);
        for (name, value) in &self.headers {
            command.arg("--header").arg(format!("{name}: {value}"));
        }
        for operation in &self.left_out {
            command.args(["--exclude-operation-id", operation]);
        }
        for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command.current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}
