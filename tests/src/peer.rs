//! One peer: a real `cluster-node` process with its folder, log and configuration.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::binaries::binary;
use crate::client::Client;
use crate::wait::{freeze, wait_until};

/// A peer on a busy machine may take a while to start.
pub const READY_LIMIT: Duration = Duration::from_secs(60);

/// Longer than the daemon gives itself.
pub const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How long a call of a test may take unless it says otherwise.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// What a peer writes into its folder when it is ready.
#[derive(Debug, Clone, Deserialize)]
pub struct RunInfo {
    /// Its peer ID.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// `host:port` of the gRPC API.
    pub grpc: String,
    /// `host:port` of the REST API; none when it is off.
    #[serde(default)]
    pub rest: Option<String>,
    /// `host:port` of the IPFS proxy; none when it is off.
    #[serde(default)]
    pub proxy: Option<String>,
    /// `host:port` of the Pinning Services API; none when it is off.
    #[serde(default)]
    pub pinning: Option<String>,
    /// `host:port` for other peers.
    pub peer: String,
    /// `host:port` of metrics and health.
    pub http: String,
    /// Its configuration file.
    pub config: PathBuf,
}

/// A peer's process. Killed when dropped.
pub struct Peer {
    name: String,
    dir: PathBuf,
    log: PathBuf,
    /// Wrapped, so that a test can kill it while other tasks use it.
    child: Mutex<Option<Child>>,
    run: Mutex<Option<RunInfo>>,
    client: Mutex<Option<Client>>,
    http: reqwest::Client,
}

impl Peer {
    /// A peer whose folder is `root/NAME`. Nothing is made or started.
    pub fn new(root: &Path, name: &str) -> anyhow::Result<Self> {
        // Only plain HTTP is spoken here, but the client is built with a provider and without system certificates.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self {
            name: name.to_owned(),
            dir: root.join(name),
            log: root.join(format!("{name}.log")),
            child: Mutex::new(None),
            run: Mutex::new(None),
            client: Mutex::new(None),
            http: reqwest::Client::builder().no_proxy().tls_certs_only([]).build()?,
        })
    }

    /// Whether its folder has been made.
    pub fn is_made(&self) -> bool {
        self.config_file().is_file()
    }

    /// Makes its folder with the daemon's own command.
    pub async fn init(&self, join: Option<&str>) -> anyhow::Result<()> {
        match join {
            Some(token) => self.init_with(&["--join", token]).await,
            None => self.init_with(&[]).await,
        }
    }

    async fn init_with(&self, flags: &[&str]) -> anyhow::Result<()> {
        let mut command = daemon()?;
        command
            .arg("init")
            .arg("--dir")
            .arg(&self.dir)
            .args(["--name", &self.name])
            .args(flags);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        ensure!(
            output.status.success(),
            "`cluster-node init` of {} ended with {}: {}",
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Replaces its configuration file.
    pub fn configure(&self, config: &toml::Table) -> anyhow::Result<()> {
        let text = toml::to_string(config)?;
        fs::write(self.config_file(), text).with_context(|| format!("cannot configure {}", self.name))
    }

    /// Its configuration as it stands in the file.
    pub fn configuration(&self) -> anyhow::Result<toml::Table> {
        Ok(toml::from_str(&fs::read_to_string(self.config_file())?)?)
    }

    /// Loses all but its key, as a machine does that is set up anew, and joins again with a token when there is one.
    pub async fn wipe(&self, join: Option<&str>) -> anyhow::Result<()> {
        ensure!(self.child.lock().is_none(), "{} runs", self.name);
        fs::remove_dir_all(self.dir.join("cluster"))?;
        let Some(token) = join else { return Ok(()) };
        let config = self.configuration()?;
        self.init_with(&["--force", "--join", token]).await?;
        self.configure(&config)
    }

    /// Starts its process, and does not wait for it.
    pub fn launch(&self) -> anyhow::Result<()> {
        let mut child = self.child.lock();
        ensure!(child.is_none(), "{} runs already", self.name);
        // What a killed process left behind would be read as the new one's.
        match fs::remove_file(self.dir.join("run.json")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        let process = daemon()?
            .arg("run")
            .arg("--dir")
            .arg(&self.dir)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run cluster-node")?;
        *child = Some(process);
        Ok(())
    }

    /// Waits until it says that it is ready.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let what = format!("{} is ready", self.name);
        let waited = wait_until(&what, READY_LIMIT, async || {
            if let Some(status) = self.exit_status()? {
                // No use in waiting on; told apart by the text below.
                return Ok(Err(status));
            }
            let text = fs::read_to_string(self.dir.join("run.json")).context("it has not written run.json")?;
            let run: RunInfo = serde_json::from_str(&text).context("run.json can't be read")?;
            ensure!(Some(run.pid) == self.pid(), "run.json is of another process");
            let answer = self.http.get(format!("http://{}/readyz", run.http)).send().await?;
            let status = answer.status();
            ensure!(
                status.is_success(),
                "/readyz answers {status}: {}",
                answer.text().await?
            );
            Ok(Ok(run))
        });
        let run = match waited.await {
            Ok(Ok(run)) => run,
            Ok(Err(status)) => bail!(
                "{} ended with {status}; its log ends with:\n{}",
                self.name,
                self.log_tail()
            ),
            Err(error) => {
                return Err(error.context(format!("the log of {} ends with:\n{}", self.name, self.log_tail())));
            }
        };
        *self.client.lock() = Some(Client::new(&run.grpc, CALL_LIMIT)?);
        *self.run.lock() = Some(run);
        Ok(())
    }

    /// Starts it and waits until it is ready.
    pub async fn start(&self) -> anyhow::Result<()> {
        self.launch()?;
        self.ready().await
    }

    /// Kills it at once, as `kill -9` does.
    pub fn kill9(&self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.lock().take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Asks it to stop, and waits until it has. It must end with exit code 0.
    pub async fn stop(&self) -> anyhow::Result<()> {
        if self.child.lock().is_none() {
            return Ok(());
        }
        self.signal(Signal::TERM)?;
        let begun = Instant::now();
        while self.exit_status()?.is_none() {
            if begun.elapsed() > STOP_LIMIT {
                self.kill9()?;
                bail!(
                    "{} had to be killed; its log ends with:\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let status = self.child.lock().take().map(|mut child| child.wait()).transpose()?;
        ensure!(
            status.is_some_and(|status| status.success()),
            "{} ended with {status:?}; its log ends with:\n{}",
            self.name,
            self.log_tail()
        );
        Ok(())
    }

    /// Freezes it: connections are taken, nothing is answered.
    pub fn freeze(&self) -> anyhow::Result<()> {
        freeze(self.process()?)
    }

    /// Lets it go on after [`Peer::freeze`].
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Stops it when it runs, and starts it again.
    pub async fn restart(&self) -> anyhow::Result<()> {
        self.stop().await?;
        self.start().await
    }

    /// How it ended, while it was not asked for by [`Peer::stop`] or [`Peer::kill9`].
    pub fn exit_status(&self) -> anyhow::Result<Option<ExitStatus>> {
        match self.child.lock().as_mut() {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }

    /// Forgets a process that has ended by itself, so that another can be started.
    pub fn forget(&self) {
        *self.child.lock() = None;
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("pinfleet.toml")
    }

    /// What it said when it was last ready.
    pub fn info(&self) -> RunInfo {
        self.run.lock().clone().expect("a peer is asked after it was ready")
    }

    /// Its peer ID.
    pub fn id(&self) -> String {
        self.info().id
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.lock().as_ref().map(Child::id)
    }

    /// Whether its process runs.
    pub fn runs(&self) -> bool {
        self.child.lock().is_some() && matches!(self.exit_status(), Ok(None))
    }

    /// Clients of its API.
    pub fn client(&self) -> Client {
        self.client.lock().clone().expect("a peer is asked after it was ready")
    }

    /// The body of an answer of its HTTP port, for example of `/metrics`.
    pub async fn http_get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let answer = self
            .http
            .get(format!("http://{}{path}", self.info().http))
            .send()
            .await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// Bytes of memory that its process holds now.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let pid = self.pid().context("it does not run")?;
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line
            .and_then(|line| line.trim().strip_suffix("kB"))
            .context("no VmRSS")?;
        Ok(kib.trim().parse::<u64>()? * 1024)
    }

    /// All that it wrote.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The end of it.
    pub fn log_tail(&self) -> String {
        const LINES: usize = 40;
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(self.process()?, signal)?)
    }

    fn process(&self) -> anyhow::Result<Pid> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.name))?;
        i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .context("no such process")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // A test that ends has no use for the error.
        let _ = self.kill9();
    }
}

/// The daemon's program, to be given a command: deaf to the settings of whoever runs the tests.
pub fn daemon() -> anyhow::Result<Command> {
    let mut command = Command::new(binary("cluster-node")?);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PINFLEET_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    Ok(command)
}
