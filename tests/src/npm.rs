//! Node.js and the npm packages of `tests/tools`, installed once into the user's cache folder. Each folder there with a
//! `package.json` is a set of packages of its own; scripts that need them lie beside it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

use crate::binaries::{cache, repository};
use crate::content::sha256;

/// The oldest Node.js that Helia 7 runs with.
const NODE_MAJOR: u32 = 22;

/// What says which packages are installed, and how.
const PACKAGE_FILES: [&str; 3] = ["package.json", "package-lock.json", ".npmrc"];

/// What runs a script.
#[derive(Debug, Clone)]
pub struct Tools {
    node: PathBuf,
    scripts: PathBuf,
}

impl Tools {
    /// Installs the packages of a folder of `tests/tools` and a Node.js that runs them, as far as they are missing. Takes a
    /// minute or two, once, and needs `npm`. `scripts` are the scripts of that folder; one that imports another needs both.
    pub fn install(folder: &str, scripts: &[&str]) -> anyhow::Result<Self> {
        let node = node()?;
        let packages = packages(folder)?;
        Ok(Self {
            node,
            scripts: copy_scripts(&packages, folder, scripts)?,
        })
    }

    /// Node.js with one of the scripts.
    pub fn command(&self, script: &str) -> Command {
        let mut command = Command::new(&self.node);
        command.arg(self.scripts.join(script));
        // The names of debug logs, which would be written by all libraries, and options of somebody else's Node.js.
        command.env_remove("DEBUG").env_remove("NODE_OPTIONS");
        command
    }

    /// The Node.js that runs them: a path, or a name that is found in PATH.
    pub fn node(&self) -> &Path {
        &self.node
    }

    /// The folder of the scripts.
    pub fn scripts(&self) -> &Path {
        &self.scripts
    }
}

/// `PINFLEET_NODE_BIN` if that is set, else `node` in PATH when it is new enough, else one from an npm package.
fn node() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("PINFLEET_NODE_BIN") {
        ensure!(
            is_new_enough(&path),
            "PINFLEET_NODE_BIN names {}, which is no Node.js of version {NODE_MAJOR} or later",
            path.display()
        );
        return Ok(path.into());
    }
    if is_new_enough("node".as_ref()) {
        return Ok("node".into());
    }
    let arch = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => bail!("no npm package brings Node.js for {other}; put `node` {NODE_MAJOR} or later into PATH"),
    };
    let path = packages("node")?
        .join("node_modules")
        .join(format!("node-linux-{arch}"))
        .join("bin/node");
    ensure!(is_new_enough(path.as_os_str()), "{} does not run", path.display());
    Ok(path)
}

fn is_new_enough(node: &OsStr) -> bool {
    let output = Command::new(node).arg("--version").stdin(Stdio::null()).output();
    let Ok(output) = output else { return false };
    let text = String::from_utf8_lossy(&output.stdout);
    let major = text
        .trim()
        .strip_prefix('v')
        .and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    major.is_some_and(|major| major >= NODE_MAJOR)
}

/// A name that changes with the content of these files.
pub(crate) fn digest(folder: &Path, files: &[&str]) -> anyhow::Result<String> {
    let mut all = Vec::new();
    for file in files {
        let content = fs::read(folder.join(file)).with_context(|| format!("cannot read {file} in {folder:?}"))?;
        all.extend_from_slice(&sha256(&content));
    }
    Ok(sha256(&all)[..8].iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The folder with the `node_modules` of one folder of `tests/tools`.
fn packages(name: &str) -> anyhow::Result<PathBuf> {
    let source = repository().join("tests/tools").join(name);
    let all = cache()?.join("npm");
    let folder = all.join(format!("{name}-{}", digest(&source, &PACKAGE_FILES)?));
    if folder.is_dir() {
        return Ok(folder);
    }
    fs::create_dir_all(&all)?;
    // Test binaries run at the same time; one installs, the others wait for it.
    let lock = File::create(all.join(format!("{name}.lock")))?;
    lock.lock()?;
    if folder.is_dir() {
        return Ok(folder);
    }
    eprintln!(
        "installing the npm packages of {}; this takes a while, once",
        source.display()
    );
    // Whoever holds the lock is alone with it: what lies there is of one that was killed.
    let unfinished = all.join(format!(".{name}"));
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    fs::create_dir(&unfinished)?;
    for file in PACKAGE_FILES {
        fs::copy(source.join(file), unfinished.join(file))?;
    }
    // Not `npm ci`: it takes no lock file that lacks the optional packages of other systems, and a registry which does
    // not serve those makes such lock files. All that is in the lock file is installed as it says there.
    let output = Command::new("npm")
        .args(["install", "--loglevel=error"])
        .current_dir(&unfinished)
        .stdin(Stdio::null())
        .output()
        .context("cannot run `npm`; `cargo xtask setup` installs it (Debian's packages nodejs and npm)")?;
    ensure!(
        output.status.success(),
        "npm install in {} ended with {}; does npm reach a registry?\n{}",
        unfinished.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    fs::rename(&unfinished, &folder)?;
    Ok(folder)
}

/// A copy of the scripts below the packages: that is where Node.js looks for what they import.
fn copy_scripts(packages: &Path, folder: &str, scripts: &[&str]) -> anyhow::Result<PathBuf> {
    let source = repository().join("tests/tools").join(folder);
    let copy = packages.join(format!("scripts-{}", digest(&source, scripts)?));
    if copy.is_dir() {
        return Ok(copy);
    }
    let unfinished = tempfile::Builder::new().prefix(".scripts-").tempdir_in(packages)?;
    for script in scripts {
        fs::copy(source.join(script), unfinished.path().join(script))?;
    }
    match fs::rename(unfinished.path(), &copy) {
        Ok(()) => drop(unfinished.keep()),
        // Another one was faster; the copy goes.
        Err(_) if copy.is_dir() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(copy)
}
