//! Python and the PyPI packages of `tests/tools`, installed once into the user's cache folder. Each folder there with a
//! `requirements.txt` is an environment of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

use crate::binaries::{cache, repository};
use crate::npm::digest;

/// The oldest Python that the packages are known to run with.
const PYTHON_MINOR: u32 = 11;

/// What says which packages are installed: all of them, with their exact versions.
const REQUIREMENTS: &str = "requirements.txt";

/// Stands in an environment that is whole.
const WHOLE: &str = "whole";

/// The interpreter of the environment of a folder of `tests/tools`, installed when it is missing. Takes half a minute, once.
/// Needs `python3` with venv: `PINFLEET_PYTHON_BIN` names another one.
pub fn environment(name: &str) -> anyhow::Result<PathBuf> {
    let python = std::env::var_os("PINFLEET_PYTHON_BIN").unwrap_or_else(|| "python3".into());
    let python = Path::new(&python);
    let version = version(python)?;
    let source = repository().join("tests/tools").join(name);
    let all = cache()?.join("python");
    // An environment is of one Python, whose libraries it does not bring.
    let folder = all.join(format!("{name}-3.{version}-{}", digest(&source, &[REQUIREMENTS])?));
    let own = folder.join("bin/python");
    if folder.join(WHOLE).is_file() && runs(&own) {
        return Ok(own);
    }
    fs::create_dir_all(&all)?;
    // Test binaries run at the same time; one installs, the others wait for it.
    let lock = File::create(all.join(format!("{name}.lock")))?;
    lock.lock()?;
    if folder.join(WHOLE).is_file() && runs(&own) {
        return Ok(own);
    }
    eprintln!(
        "installing the Python packages of {}; this takes a while, once",
        source.display()
    );
    // Programs of an environment name its folder, so it is made where it stays. What lies there is of one that was killed,
    // or of a Python that has gone.
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    run(Command::new(python).args(["-m", "venv"]).arg(&folder))?;
    run(Command::new(&own)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "-r",
        ])
        .arg(source.join(REQUIREMENTS)))?;
    fs::write(folder.join(WHOLE), "")?;
    Ok(own)
}

fn version(python: &Path) -> anyhow::Result<u32> {
    let output = Command::new(python)
        .args([
            "-c",
            "import sys; print(sys.version_info.major, sys.version_info.minor)",
        ])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", python.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut numbers = text.split_whitespace().map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(3)), Some(Ok(minor))) if minor >= PYTHON_MINOR => Ok(minor),
        _ => bail!(
            "{} is no Python 3.{PYTHON_MINOR} or later; set PINFLEET_PYTHON_BIN to one",
            python.display()
        ),
    }
}

fn runs(python: &Path) -> bool {
    let mut command = Command::new(python);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {:?}", command.get_program()))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}; does pip reach a registry?\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
