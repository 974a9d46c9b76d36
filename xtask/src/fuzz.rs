//! Fuzzing: the targets of `tests/fuzz` under libFuzzer, with coverage.
//!
//! A stable compiler has all that is needed: the pass that counts what was reached is part of LLVM, and libFuzzer comes
//! as C++ in a crate. There is no AddressSanitizer then, and nothing for it to find: the crates forbid `unsafe`.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, bail, ensure};

use crate::build::{self, step};
use crate::machine;

/// Seconds for each target in the test command.
pub const SECONDS: u64 = 60;

/// What makes the compiler count edges, note comparisons (so that magic numbers are found), and measure the stack. The
/// flags that cargo-fuzz gives too.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares";

/// An input that takes longer than this many seconds is a find. Long, since the machine may be busy with other things.
const INPUT_SECONDS_MAX: u32 = 30;

/// Memory of a target's process, in MiB. The targets hold decoders to much tighter bounds.
const MEMORY_MIB_MAX: u32 = 1024;

/// Longest input, in bytes: several blocks, many links, and short enough for thousands of runs in a second.
const INPUT_BYTES_MAX: u32 = 8192;

/// Inputs kept between runs, for each target: beyond that they are reduced to those that reach something of their own.
const KEPT_MAX: usize = 3000;

/// What is asked for on the command line.
struct Wish {
    seconds: u64,
    targets: Vec<String>,
    input: Option<PathBuf>,
}

/// `cargo xtask fuzz [--seconds N] [--input FILE] [TARGET…]`
pub fn command(arguments: &[OsString]) -> anyhow::Result<ExitCode> {
    let known = targets()?;
    let wish = read(arguments, &known)?;
    let program = program()?;
    if let Some(input) = &wish.input {
        let [target] = &wish.targets[..] else {
            bail!("--input goes with one target; there are {}", known.join(", "));
        };
        let status = fuzzer(&program, target).arg(input).status()?;
        return Ok(if status.success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    let targets = if wish.targets.is_empty() { known } else { wish.targets };
    run(&program, &targets, wish.seconds)
}

/// All targets, for [`SECONDS`] each.
pub fn all() -> anyhow::Result<ExitCode> {
    run(&program()?, &targets()?, SECONDS)
}

fn read(arguments: &[OsString], known: &[String]) -> anyhow::Result<Wish> {
    let mut wish = Wish {
        seconds: SECONDS,
        targets: Vec::new(),
        input: None,
    };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.to_string_lossy().as_ref() {
            "--seconds" => {
                let value = rest.next().map(|value| value.to_string_lossy()).unwrap_or_default();
                wish.seconds = match value.parse() {
                    Ok(seconds @ 1..) => seconds,
                    _ => bail!("--seconds {value:?} is no number of seconds, 1 or more"),
                };
            }
            "--input" => wish.input = Some(rest.next().context("--input needs a file")?.into()),
            target if known.iter().any(|name| name == target) => wish.targets.push(target.to_owned()),
            other => bail!(
                "{other:?} is no option and no target; the targets are {}",
                known.join(", ")
            ),
        }
    }
    Ok(wish)
}

/// The targets are the folders with seeds.
fn targets() -> anyhow::Result<Vec<String>> {
    let folder = seeds();
    let entries = folder
        .read_dir()
        .with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn seeds() -> PathBuf {
    build::root().join("tests/fuzz/corpus")
}

/// Where finds, logs and what was learned are kept between runs.
fn kept() -> anyhow::Result<PathBuf> {
    Ok(machine::cache()?.join("fuzz"))
}

/// Builds the program that holds all targets.
pub fn program() -> anyhow::Result<PathBuf> {
    let triple = host()?;
    let target = build::target()?;
    build::claim(&target)?;
    step("building the fuzz targets (the first time: 2 to 4 minutes)", || {
        let mut command = build::cargo(&target);
        command.args(["build", "--quiet", "--profile", "fuzz", "--package", "cluster-fuzz"]);
        command.args(["--features", "engine", "--bin", "fuzz"]);
        // With a target named, build scripts and macros are compiled without the flags.
        command.args(["--target", &triple]).env("RUSTFLAGS", FLAGS);
        ensure!(
            command.status().context("cannot run cargo")?.success(),
            "the build failed"
        );
        Ok(target.join(&triple).join("fuzz/fuzz"))
    })
}

/// The name that the compiler has for this machine.
pub fn host() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("-vV").current_dir(build::root()).output();
    let output = output.context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

fn fuzzer(program: &Path, target: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PINFLEET_FUZZ_TARGET", target).stdin(Stdio::null());
    command.args([
        format!("-timeout={INPUT_SECONDS_MAX}"),
        format!("-rss_limit_mb={MEMORY_MIB_MAX}"),
    ]);
    command
}

/// Runs some targets, two at a time where there are two cores.
fn run(program: &Path, targets: &[String], seconds: u64) -> anyhow::Result<ExitCode> {
    let lanes = thread::available_parallelism().map_or(1, |cores| cores.get().min(2));
    let what = format!("fuzzing {} for {seconds} s each", targets.join(", "));
    let failed = step(&what, || {
        let waiting = Mutex::new(targets.iter());
        let next = || waiting.lock().ok().and_then(|mut waiting| waiting.next());
        thread::scope(|scope| {
            let lane = || {
                let mut failed = 0;
                while let Some(target) = next() {
                    match one(program, target, seconds) {
                        Ok(line) => eprintln!("xtask: {line}"),
                        Err(error) => {
                            eprintln!("xtask: fuzz target {target} failed: {error:#}");
                            failed += 1;
                        }
                    }
                }
                failed
            };
            let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
            let sums = lanes.into_iter().map(|lane| lane.join().unwrap_or(1));
            Ok(sums.sum::<usize>())
        })
    })?;
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs one target and says what it did.
fn one(program: &Path, target: &str, seconds: u64) -> anyhow::Result<String> {
    let folder = kept()?.join(target);
    let (learned, finds) = (folder.join("corpus"), folder.join("finds"));
    fs::create_dir_all(&learned)?;
    fs::create_dir_all(&finds)?;
    let seeds = seeds().join(target);
    reduce(program, target, &folder, &learned)?;
    let log = folder.join("log");
    let mut command = fuzzer(program, target);
    let mut prefix = OsString::from("-artifact_prefix=");
    prefix.push(finds.join(""));
    command.arg(prefix);
    command.args([
        format!("-max_total_time={seconds}"),
        format!("-max_len={INPUT_BYTES_MAX}"),
    ]);
    let mut dictionary = OsString::from("-dict=");
    dictionary.push(build::root().join("tests/fuzz/dictionary.txt"));
    command.arg(dictionary);
    command
        .args(["-print_final_stats=1", "-reload=0"])
        .arg(&learned)
        .arg(&seeds);
    let status = logged(&mut command, &log)?;
    let said = fs::read(&log)?;
    let said = String::from_utf8_lossy(&said);
    if !status {
        let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with('#')).collect();
        let tail = lines[lines.len().saturating_sub(40)..].join("\n");
        let written = said
            .lines()
            .find_map(|line| line.split_once("Test unit written to ").map(|(_, path)| path));
        match written {
            Some(input) => bail!(
                "the input is {input}\n{tail}\nto repeat it: cargo xtask fuzz {target} --input {input}\nwhen it is \
                 mended, keep the input in tests/fuzz/corpus/{target}/"
            ),
            None => bail!("it ended early; all that it said is in {}\n{tail}", log.display()),
        }
    }
    let number = |name: &str| {
        let line = said.lines().rev().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit(' ').next()).unwrap_or("?").to_owned()
    };
    let covered = said.lines().rev().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "cov:")?;
        words.get(at + 1).map(|edges| (*edges).to_owned())
    });
    Ok(format!(
        "fuzz target {target}: {} inputs, {} per second, {} edges reached, {} inputs kept",
        number("stat::number_of_executed_units"),
        number("stat::average_exec_per_sec"),
        covered.as_deref().unwrap_or("?"),
        count(&learned)
    ))
}

/// Keeps what was learned from growing from run to run: loading it takes part of the time.
fn reduce(program: &Path, target: &str, folder: &Path, learned: &Path) -> anyhow::Result<()> {
    if count(learned) <= KEPT_MAX {
        return Ok(());
    }
    let reduced = folder.join("reduced");
    let _ = fs::remove_dir_all(&reduced);
    fs::create_dir_all(&reduced)?;
    let mut command = fuzzer(program, target);
    command.arg("-merge=1").arg(&reduced).arg(learned);
    ensure!(
        logged(&mut command, &folder.join("log"))?,
        "what was learned can't be reduced; {} says why, and {} may be deleted",
        folder.join("log").display(),
        learned.display()
    );
    fs::remove_dir_all(learned)?;
    fs::rename(&reduced, learned)?;
    Ok(())
}

fn count(folder: &Path) -> usize {
    folder.read_dir().map_or(0, Iterator::count)
}

/// Runs a command with all that it says in a file. Whether it succeeded.
fn logged(command: &mut Command, log: &Path) -> anyhow::Result<bool> {
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    command.stdout(file.try_clone()?).stderr(file);
    let status = command.status();
    let program: &OsStr = command.get_program();
    Ok(status
        .with_context(|| format!("cannot run {}", Path::new(program).display()))?
        .success())
}
