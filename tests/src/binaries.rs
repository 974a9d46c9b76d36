//! Where the programs under test are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, ensure};

/// The path of one of the workspace's programs: in `PINFLEET_BIN_DIR` when that is set, else beside the running one. When
/// it is missing there, all programs are built, once.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let folder = folder()?;
    let path = folder.join(name);
    if !path.is_file() {
        static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
        let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
        if let Err(error) = built {
            anyhow::bail!("{} is missing and could not be built: {error}", path.display());
        }
    }
    ensure!(
        path.is_file(),
        "{} is missing; `cargo build --workspace --bins` makes it",
        path.display()
    );
    Ok(path)
}

/// The repository, by what cargo said to the running program or to the one that started it; both lie one folder below it.
/// What was compiled in is the last resort: clones may share a target folder.
pub fn repository() -> PathBuf {
    let own = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let own = Path::new(&own);
    own.parent().unwrap_or(own).to_owned()
}

/// `${XDG_CACHE_HOME:-$HOME/.cache}/pinfleet`: what is built or installed once, for every clone.
pub fn cache() -> anyhow::Result<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(cache) => PathBuf::from(cache),
        None => {
            PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?).join(".cache")
        }
    };
    Ok(cache.join("pinfleet"))
}

/// `target/debug` or `target/release`.
fn folder() -> anyhow::Result<PathBuf> {
    if let Some(folder) = std::env::var_os("PINFLEET_BIN_DIR") {
        return Ok(folder.into());
    }
    let own = std::env::current_exe()?;
    let folder = own.parent().context("the running program has no folder")?;
    // Test programs are one folder deeper.
    Ok(if folder.ends_with("deps") {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    }
    .to_owned())
}

fn build() -> anyhow::Result<()> {
    eprintln!("building the programs of the workspace");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--workspace", "--bins"]).stdin(Stdio::null());
    let folder = folder()?;
    // The folder's name is the profile's.
    if folder.ends_with("release") {
        command.arg("--release");
    }
    if let Some(target) = folder
        .parent()
        .filter(|_| std::env::var_os("PINFLEET_BIN_DIR").is_none())
    {
        command.env("CARGO_TARGET_DIR", target);
    }
    let status = command.current_dir(repository()).status().context("cannot run cargo")?;
    ensure!(status.success(), "cargo build ended with {status}");
    Ok(())
}
