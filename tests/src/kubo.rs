//! Real Kubo daemons for tests and demo: isolated from the network and from each other, on free loopback ports.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use node_core::Cid;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::binaries::{cache, repository};
use crate::wait::freeze;

/// The version that demo and tests run.
pub const KUBO_VERSION: &str = "0.43.0";

/// The version that the bench compares with.
pub const IPFS_CLUSTER_VERSION: &str = "1.1.6";

/// A daemon on a busy machine may take a while to start.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A daemon that has not ended by itself after this is killed.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// The `ipfs` binary: `PINFLEET_IPFS_BIN` if that is set, else the one in the user's cache folder, which is built when it
/// is missing. Building takes a few minutes, once.
pub fn kubo_binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("PINFLEET_IPFS_BIN") {
        let path = PathBuf::from(path);
        ensure!(
            path.is_file(),
            "PINFLEET_IPFS_BIN names {}, which is no file",
            path.display()
        );
        return Ok(path);
    }
    go_tool("kubo", "github.com/ipfs/kubo/cmd/ipfs", &format!("ipfs-{KUBO_VERSION}"))
}

/// The binaries `ipfs-cluster-service` and `ipfs-cluster-ctl`, built when they are missing.
pub fn ipfs_cluster_binaries() -> anyhow::Result<(PathBuf, PathBuf)> {
    let tool = |name: &str| {
        let package = format!("github.com/ipfs-cluster/ipfs-cluster/cmd/{name}");
        go_tool("ipfs-cluster", &package, &format!("{name}-{IPFS_CLUSTER_VERSION}"))
    };
    Ok((tool("ipfs-cluster-service")?, tool("ipfs-cluster-ctl")?))
}

fn go_tool(module: &str, package: &str, binary: &str) -> anyhow::Result<PathBuf> {
    let folder = cache()?.join("bin");
    let path = folder.join(binary);
    if path.is_file() {
        return Ok(path);
    }
    fs::create_dir_all(&folder)?;
    // Test binaries run at the same time; one builds, the others wait for it.
    let lock = File::create(folder.join(format!("{binary}.lock")))?;
    lock.lock()?;
    if path.is_file() {
        return Ok(path);
    }
    eprintln!("building {binary} from {package}; this takes a few minutes, once");
    let unfinished = folder.join(format!(".{binary}.{}", std::process::id()));
    let status = Command::new("go")
        .args(["build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o"])
        .arg(&unfinished)
        .arg(package)
        .current_dir(repository().join("tests/tools").join(module))
        // The daemon needs no C, and so the build needs no C compiler.
        .env("CGO_ENABLED", "0")
        .stdin(Stdio::null())
        .status()
        .context(
            "cannot run `go`; `cargo xtask test` installs Go 1.26, or set PINFLEET_IPFS_BIN to an `ipfs` binary",
        )?;
    ensure!(status.success(), "building {binary} failed: {status}");
    fs::rename(&unfinished, &path)?;
    Ok(path)
}

/// How a daemon is set up.
#[derive(Debug, Clone, Default)]
pub struct KuboOptions {
    /// Kubo's `AuthSecret` (`bearer:TOKEN` or `basic:USER:PASSWORD`) and the RPC paths that it opens. With any, all other
    /// calls are refused; the first must open `/api/v0`, since the harness uses it.
    pub authorizations: Vec<(String, Vec<String>)>,
    /// A unix socket to serve the RPC on, beside the TCP port.
    pub socket: Option<PathBuf>,
    /// `Datastore.StorageMax`, for example `10GB`.
    pub storage_max: Option<String>,
    /// Other nodes reach it over QUIC instead of TCP.
    pub quic: bool,
    /// Every block is synced when it is written, which Kubo leaves out unless it is told.
    pub sync: bool,
}

/// A running daemon. Killed when dropped.
pub struct KuboDaemon {
    folder: PathBuf,
    binary: PathBuf,
    child: Option<Child>,
    address: String,
    peer_id: String,
    swarm: Vec<String>,
    authorization: Option<String>,
    http: reqwest::Client,
}

impl KuboDaemon {
    /// Starts a daemon whose repository is `folder`; an empty or missing folder is initialized first.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        Self::start_with(folder, KuboOptions::default()).await
    }

    /// The same, set up otherwise.
    pub async fn start_with(folder: &Path, options: KuboOptions) -> anyhow::Result<Self> {
        // Looks for a binary and may build one, which blocks.
        let binary = tokio::task::spawn_blocking(kubo_binary).await??;
        fs::create_dir_all(folder)?;
        if !folder.join("config").exists() {
            let output = command(&binary, folder).args(["init", "-p", "test"]).output()?;
            ensure!(
                output.status.success(),
                "ipfs init failed: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        configure(folder, &options)?;
        // Only plain HTTP is spoken here, but the client is built with a provider and without system certificates.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build()?;
        let mut daemon = Self {
            folder: folder.to_owned(),
            binary,
            child: None,
            address: String::new(),
            peer_id: String::new(),
            swarm: Vec::new(),
            authorization: options.authorizations.first().map(|(secret, _)| secret.clone()),
            http,
        };
        daemon.launch().await?;
        Ok(daemon)
    }

    /// Its address, as a node's address is written: `http://127.0.0.1:PORT`. Stays the same over restarts.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its libp2p peer ID.
    pub fn peer_id(&self) -> &str {
        &self.peer_id
    }

    /// A multiaddr at which other daemons reach it.
    pub fn swarm_address(&self) -> &str {
        self.swarm.first().map(String::as_str).unwrap_or_default()
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Calls its RPC; an answer with another status than 200 is an error.
    pub async fn call(&self, path_and_query: &str) -> anyhow::Result<String> {
        self.send(self.http.post(format!("{}/api/v0/{path_and_query}", self.address)))
            .await
    }

    /// The same, for an answer that is no text: `cat`, `block/get`, `dag/export`.
    pub async fn read(&self, path_and_query: &str) -> anyhow::Result<Vec<u8>> {
        let request = self.http.post(format!("{}/api/v0/{path_and_query}", self.address));
        Ok(self.answer(request).await?.bytes().await?.into())
    }

    /// Adds a file without pinning it; a block is at most 256 KiB.
    pub async fn add(&self, content: &[u8]) -> anyhow::Result<Cid> {
        self.add_in_chunks(content, 256 * 1024).await
    }

    /// Adds a file of many blocks without pinning it.
    pub async fn add_in_chunks(&self, content: &[u8], chunk_bytes: usize) -> anyhow::Result<Cid> {
        let options = format!("cid-version=1&chunker=size-{chunk_bytes}");
        self.add_with(&options, &[("file", content)]).await
    }

    /// Adds a directory of files, by name and content, without pinning it; a block is at most 256 KiB.
    pub async fn add_directory(&self, files: &[(String, Vec<u8>)]) -> anyhow::Result<Cid> {
        let parts: Vec<_> = files
            .iter()
            .map(|(name, content)| (name.as_str(), content.as_slice()))
            .collect();
        let options = "cid-version=1&chunker=size-262144&wrap-with-directory=true";
        self.add_with(options, &parts).await
    }

    /// Adds files, by name and content, without pinning them, with options of Kubo's `/api/v0/add` as in a query. Gives
    /// the CID that Kubo names last: of the last file, or of the directory around them when the options ask for one.
    pub async fn add_with(&self, options: &str, files: &[(&str, &[u8])]) -> anyhow::Result<Cid> {
        let answer = self.upload(&format!("add?pin=false&{options}"), files).await?;
        let last = answer.lines().last().context("the answer to add is empty")?;
        let last: Value = serde_json::from_str(last)?;
        let cid = last["Hash"].as_str().context("the answer to add has no Hash")?;
        Ok(cid.parse()?)
    }

    /// Takes the blocks of a CAR file, without pinning its roots, and returns their number.
    pub async fn import(&self, car: &[u8]) -> anyhow::Result<u64> {
        let files = [("car", car)];
        let answer = self.upload("dag/import?pin-roots=false&stats=true", &files).await?;
        let last = answer.lines().last().context("the answer to dag/import is empty")?;
        let stats: Value = serde_json::from_str(last)?;
        let blocks = stats["Stats"]["BlockCount"].as_u64();
        blocks.context("the answer to dag/import has no number of blocks")
    }

    /// The blocks below a CID, as a CAR file.
    pub async fn export(&self, cid: &Cid) -> anyhow::Result<Vec<u8>> {
        self.read(&format!("dag/export?arg={cid}")).await
    }

    async fn upload(&self, path_and_query: &str, files: &[(&str, &[u8])]) -> anyhow::Result<String> {
        let boundary = format!("pinfleet-{}", uuid::Uuid::new_v4().simple());
        let mut body = Vec::new();
        for (name, content) in files {
            let head = format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
                 Content-Type: application/octet-stream\r\n\r\n"
            );
            body.extend_from_slice(head.as_bytes());
            body.extend_from_slice(content);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        let request = self
            .http
            .post(format!("{}/api/v0/{path_and_query}", self.address))
            .header("content-type", format!("multipart/form-data; boundary={boundary}"));
        self.send(request.body(body)).await
    }

    /// Connects it to another one.
    pub async fn connect(&self, other: &Self) -> anyhow::Result<()> {
        self.connect_to(other.swarm_address()).await
    }

    /// Connects it to whoever is at this multiaddr, which ends in a peer ID.
    pub async fn connect_to(&self, address: &str) -> anyhow::Result<()> {
        self.call(&format!("swarm/connect?arg={address}")).await.map(drop)
    }

    /// Pins, and waits for it as long as it takes up to `limit`.
    pub async fn pin(&self, cid: &Cid, limit: Duration) -> anyhow::Result<()> {
        let url = format!("{}/api/v0/pin/add?arg={cid}", self.address);
        let answer = self.answer_within(self.http.post(url), limit).await?;
        answer.bytes().await?;
        Ok(())
    }

    /// Runs Kubo's own command against it, as a person does. Gives its stdout.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let child = tokio::process::Command::from(command(&self.binary, &self.folder))
            .args(arguments)
            .kill_on_drop(true)
            .output();
        let output = child.await.context("cannot run ipfs")?;
        ensure!(
            output.status.success(),
            "`ipfs {}` ended with {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// How a CID is pinned: `recursive`, `direct`, `indirect through …`, or not at all.
    pub async fn pin_kind(&self, cid: &Cid) -> anyhow::Result<Option<String>> {
        match self.call(&format!("pin/ls?arg={cid}")).await {
            Ok(answer) => {
                let answer: Value = serde_json::from_str(&answer)?;
                let kind = answer["Keys"][cid.to_string()]["Type"].as_str();
                Ok(Some(kind.context("the answer to pin/ls has no Type")?.to_owned()))
            }
            Err(error) if error.to_string().contains("is not pinned") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All recursive and direct pins.
    pub async fn pins(&self) -> anyhow::Result<Vec<Cid>> {
        let mut pins = Vec::new();
        for kind in ["recursive", "direct"] {
            let answer: Value = serde_json::from_str(&self.call(&format!("pin/ls?type={kind}")).await?)?;
            for cid in answer["Keys"].as_object().into_iter().flat_map(|keys| keys.keys()) {
                pins.push(cid.parse()?);
            }
        }
        Ok(pins)
    }

    /// The size of a block that it has itself; nothing is fetched.
    pub async fn block_size(&self, cid: &Cid) -> anyhow::Result<Option<u64>> {
        match self.call(&format!("block/stat?arg={cid}&offline=true")).await {
            Ok(answer) => Ok(serde_json::from_str::<Value>(&answer)?["Size"].as_u64()),
            Err(error) if error.to_string().contains("not find") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Kills it at once.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        signal(&child, Signal::TERM)?;
        let deadline = Instant::now() + STOP_LIMIT;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("the daemon in {} had to be killed", self.folder.display());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Starts it again after [`KuboDaemon::kill`] or [`KuboDaemon::stop`], at the same addresses.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        if self.child.is_some() {
            self.stop().await?;
        }
        self.launch().await
    }

    /// Freezes it: connections are taken, nothing is answered.
    pub fn freeze(&self) -> anyhow::Result<()> {
        freeze(process(self.child.as_ref().context("it does not run")?)?)
    }

    /// Lets it go on after [`KuboDaemon::freeze`].
    pub fn thaw(&self) -> anyhow::Result<()> {
        signal(self.child.as_ref().context("it does not run")?, Signal::CONT)
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("daemon.log")).unwrap_or_default()
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<String> {
        Ok(self.answer(request).await?.text().await?)
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> anyhow::Result<reqwest::Response> {
        self.answer_within(request, READY_LIMIT).await
    }

    async fn answer_within(
        &self,
        request: reqwest::RequestBuilder,
        limit: Duration,
    ) -> anyhow::Result<reqwest::Response> {
        let request = match self.authorization.as_deref().and_then(|secret| secret.split_once(':')) {
            Some(("basic", rest)) => {
                let (user, password) = rest.split_once(':').unwrap_or((rest, ""));
                request.basic_auth(user, Some(password))
            }
            Some((_, token)) => request.bearer_auth(token),
            None => request,
        };
        let response = request.timeout(limit).send().await?;
        let status = response.status();
        if !status.is_success() {
            bail!("{status}: {}", response.text().await?);
        }
        Ok(response)
    }

    async fn launch(&mut self) -> anyhow::Result<()> {
        // What a killed daemon left behind would be read as the new one's.
        let api = self.folder.join("api");
        if let Err(error) = fs::remove_file(&api)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error.into());
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("daemon.log"))?;
        let child = command(&self.binary, &self.folder)
            .arg("daemon")
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {}", self.binary.display()))?;
        self.child = Some(child);
        let deadline = Instant::now() + READY_LIMIT;
        let id = loop {
            if let Some(status) = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().transpose())
                .transpose()?
            {
                bail!(
                    "the daemon in {} ended with {status}:\n{}",
                    self.folder.display(),
                    self.log()
                );
            }
            if let Some(address) = fs::read_to_string(&api).ok().as_deref().and_then(url_of) {
                self.address = address;
                if let Ok(id) = self.call("id").await {
                    break serde_json::from_str::<Value>(&id)?;
                }
            }
            if Instant::now() > deadline {
                bail!(
                    "the daemon in {} is not ready after {READY_LIMIT:?}:\n{}",
                    self.folder.display(),
                    self.log()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        self.peer_id = id["ID"].as_str().unwrap_or_default().to_owned();
        let addresses = id["Addresses"].as_array().into_iter().flatten();
        self.swarm = addresses
            .filter_map(|address| address.as_str().map(str::to_owned))
            .collect();
        keep_ports(&self.folder, &self.address, self.swarm_address())
    }
}

impl Drop for KuboDaemon {
    fn drop(&mut self) {
        // A test that ends has no use for the error.
        let _ = self.kill();
    }
}

fn command(binary: &Path, folder: &Path) -> Command {
    let mut command = Command::new(binary);
    command
        .env("IPFS_PATH", folder)
        .env("IPFS_TELEMETRY", "off")
        .stdin(Stdio::null());
    command
}

fn signal(child: &Child, signal: Signal) -> anyhow::Result<()> {
    Ok(kill_process(process(child)?, signal)?)
}

fn process(child: &Child) -> anyhow::Result<Pid> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.context("no such process")
}

/// `/ip4/127.0.0.1/tcp/PORT` as a URL; none while the file is being written.
fn url_of(multiaddr: &str) -> Option<String> {
    let port = multiaddr.trim().strip_prefix("/ip4/127.0.0.1/tcp/")?;
    port.parse::<u16>().ok().map(|port| format!("http://127.0.0.1:{port}"))
}

fn read_config(folder: &Path) -> anyhow::Result<Value> {
    Ok(serde_json::from_slice(&fs::read(folder.join("config"))?)?)
}

fn write_config(folder: &Path, config: &Value) -> anyhow::Result<()> {
    Ok(fs::write(folder.join("config"), serde_json::to_vec_pretty(config)?)?)
}

/// Cuts it off from the network: it looks nowhere for peers, names, updates or routes.
fn configure(folder: &Path, options: &KuboOptions) -> anyhow::Result<()> {
    let mut config = read_config(folder)?;
    config["AutoConf"]["Enabled"] = json!(false);
    config["Bootstrap"] = json!([]);
    config["DNS"] = json!({ "Resolvers": {} });
    config["Ipns"]["DelegatedPublishers"] = json!([]);
    config["Routing"] = json!({ "Type": "none", "DelegatedRouters": [] });
    config["Addresses"]["Gateway"] = json!([]);
    let mut rpc = vec![config["Addresses"]["API"].clone()];
    if let Some(first) = config["Addresses"]["API"]
        .as_array()
        .and_then(|addresses| addresses.first())
    {
        rpc = vec![first.clone()];
    }
    if let Some(socket) = &options.socket {
        rpc.push(json!(format!("/unix{}", socket.display())));
    }
    config["Addresses"]["API"] = json!(rpc);
    let (listen, kind) = match options.quic {
        true => ("/ip4/127.0.0.1/udp/0/quic-v1", "/udp/"),
        false => ("/ip4/127.0.0.1/tcp/0", "/tcp/"),
    };
    // One that was kept from the last start stays.
    let kept = config["Addresses"]["Swarm"].as_array().is_some_and(|addresses| {
        addresses.len() == 1 && addresses[0].as_str().is_some_and(|address| address.contains(kind))
    });
    if !kept {
        config["Addresses"]["Swarm"] = json!([listen]);
    }
    if let Some(max) = &options.storage_max {
        config["Datastore"]["StorageMax"] = json!(max);
    }
    let mounts = config["Datastore"]["Spec"]["mounts"].as_array_mut();
    for mount in mounts.into_iter().flatten().filter(|mount| mount["type"] == "flatfs") {
        mount["sync"] = json!(options.sync);
    }
    let authorizations: serde_json::Map<String, Value> = options
        .authorizations
        .iter()
        .enumerate()
        .map(|(at, (secret, paths))| {
            (
                format!("user{at}"),
                json!({ "AuthSecret": secret, "AllowedPaths": paths }),
            )
        })
        .collect();
    config["API"]["Authorizations"] = Value::Object(authorizations);
    write_config(folder, &config)
}

/// Writes the ports that were free at the first start into the configuration, so that a restart finds them again.
fn keep_ports(folder: &Path, address: &str, swarm: &str) -> anyhow::Result<()> {
    let mut config = read_config(folder)?;
    let port = address.rsplit(':').next().unwrap_or_default();
    config["Addresses"]["API"][0] = json!(format!("/ip4/127.0.0.1/tcp/{port}"));
    if let Some((listen, _)) = swarm.split_once("/p2p/") {
        config["Addresses"]["Swarm"] = json!([listen]);
    }
    write_config(folder, &config)
}
