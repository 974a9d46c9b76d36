//! The command line of the daemon, and those of its commands that need no running peer.

use std::fmt::Display;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use cluster_security::Identity;

use crate::config::{self, DataDir, InitOptions, Loaded};

/// Something failed that is not the caller's fault.
pub const EXIT_FAILURE: u8 = 1;
/// Flags, environment or configuration are wrong.
pub const EXIT_USAGE: u8 = 2;

/// A Pinfleet peer.
///
/// Replicates the pinset with the other peers and makes the storage nodes that it drives hold what they were assigned.
/// Exit codes: 0 done, 1 failed, 2 wrong flags or configuration.
#[derive(Debug, Parser)]
#[command(name = "cluster-node", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the daemon's binary can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the folder of a new peer: key, configuration, join token
    Init(InitArgs),
    /// Run the peer until SIGTERM
    Run(RunArgs),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the peer's ID
    Id(DirArgs),
}

/// Where the peer lives.
#[derive(Debug, Args)]
pub struct DirArgs {
    /// Folder of the peer
    #[arg(long, env = "PINFLEET_DIR", value_name = "DIR")]
    pub dir: PathBuf,
}

/// Flags of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub dir: DirArgs,
    /// Name of the peer, unique in the cluster [default: the host's name]
    #[arg(long)]
    pub name: Option<String>,
    /// Join a cluster with a token of `cluster-ctl peer join-token`; `-` reads it from standard input, which keeps it
    /// out of the list of processes. Without it the peer begins a new cluster
    #[arg(long, value_name = "TOKEN")]
    pub join: Option<String>,
    /// Put an IPFS node into the peer: it holds content itself, and needs no daemon
    #[arg(long)]
    pub embedded: bool,
    /// Replace configuration and join token that are there; the key is never replaced
    #[arg(long)]
    pub force: bool,
}

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub settings: SettingsArgs,
}

/// Folder and overridden options.
#[derive(Debug, Args)]
pub struct SettingsArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub dir: DirArgs,
    /// Override an option; may be given several times
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub sets: Vec<String>,
}

/// What can be asked of the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say what is wrong with it, all at once
    Check(SettingsArgs),
    /// Print what is in effect, with what each option does and where its value comes from; secrets are masked
    Show(SettingsArgs),
    /// Print the commented default file
    Default,
}

impl SettingsArgs {
    /// The folder.
    pub fn data_dir(&self) -> DataDir {
        DataDir::new(&self.dir.dir)
    }

    /// Reads and checks the configuration.
    pub fn load(&self) -> Result<Loaded, config::Error> {
        Loaded::load(&self.data_dir(), &self.sets)
    }
}

/// Says on standard error what went wrong, with all causes.
pub fn fail(code: u8, error: &(impl Display + ?Sized)) -> ExitCode {
    eprintln!("cluster-node: {error}");
    ExitCode::from(code)
}

/// Runs a command. `run` is the daemon itself: it gets the checked configuration and answers the exit code.
pub fn dispatch(cli: Cli, run: impl FnOnce(DataDir, Loaded) -> ExitCode) -> ExitCode {
    match cli.command {
        Command::Init(args) => init(args),
        Command::Id(args) => match Identity::load(&DataDir::new(args.dir).identity_key()) {
            Ok(identity) => say(&identity.peer_id()),
            Err(error) => fail(EXIT_FAILURE, &error),
        },
        Command::Config(ConfigCommand::Default) => say(&config::default_file(None, None).trim_end()),
        Command::Config(ConfigCommand::Show(args)) => match args.load() {
            Ok(loaded) => say(&loaded.show().trim_end()),
            Err(error) => fail(EXIT_USAGE, &error),
        },
        Command::Config(ConfigCommand::Check(args)) => match args.load() {
            Ok(loaded) => {
                for warning in loaded.config.warnings() {
                    eprintln!("warning: {warning}");
                }
                say(&format_args!("{} is valid", args.data_dir().config_file().display()))
            }
            Err(error) => fail(EXIT_USAGE, &error),
        },
        Command::Run(args) => match args.settings.load() {
            Ok(loaded) => run(args.settings.data_dir(), loaded),
            Err(error) => fail(EXIT_USAGE, &error),
        },
    }
}

/// Prints a line; a reader that has gone away is no failure worth a panic.
fn say(line: &impl Display) -> ExitCode {
    use std::io::Write;
    match writeln!(std::io::stdout(), "{line}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(EXIT_FAILURE),
    }
}

fn init(args: InitArgs) -> ExitCode {
    let join = match args.join.as_deref() {
        Some("-") => {
            let mut text = String::new();
            // A token is short; more than this is something else.
            match std::io::stdin().take(64 * 1024).read_to_string(&mut text) {
                Ok(_) => Some(text),
                Err(error) => return fail(EXIT_FAILURE, &format_args!("standard input: {error}")),
            }
        }
        _ => args.join,
    };
    let dir = DataDir::new(&args.dir.dir);
    let options = InitOptions {
        name: args.name,
        join,
        embedded: args.embedded,
        force: args.force,
    };
    let made = match config::init(&dir, &options) {
        Ok(made) => made,
        Err(error) => return fail(if error.is_usage() { EXIT_USAGE } else { EXIT_FAILURE }, &error),
    };
    let kept = if made.kept_key {
        " (the key was there already)"
    } else {
        ""
    };
    eprintln!("peer {}{kept} in {}", made.peer_id, dir.root().display());
    match &made.joins {
        Some(cluster) => eprintln!("it joins cluster {cluster} when it is first started"),
        None => eprintln!("it begins a new cluster when it is first started"),
    }
    eprintln!(
        "next: look at {}, then `cluster-node run --dir {}`",
        dir.config_file().display(),
        dir.root().display()
    );
    say(&made.peer_id)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &[&str]) -> Cli {
        Cli::try_parse_from(std::iter::once("cluster-node").chain(line.iter().copied())).unwrap()
    }

    fn never(_: DataDir, _: Loaded) -> ExitCode {
        panic!("must not run");
    }

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_new_peer_from_init_to_run() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("peer");
        let dir = dir.to_str().unwrap();
        let success = ExitCode::SUCCESS;
        assert_eq!(dispatch(parse(&["init", "--dir", dir, "--name", "a"]), never), success);
        assert_eq!(
            dispatch(parse(&["init", "--dir", dir]), never),
            ExitCode::from(EXIT_USAGE)
        );
        for line in [
            vec!["id", "--dir", dir],
            vec!["config", "check", "--dir", dir],
            vec!["config", "show", "--dir", dir],
            vec!["config", "default"],
        ] {
            assert_eq!(dispatch(parse(&line), never), success);
        }
        let ran = dispatch(
            parse(&["run", "--dir", dir, "--set", "peer.listen=127.0.0.1:0"]),
            |at, loaded| {
                assert_eq!(at.root().to_str(), Some(dir));
                assert_eq!(loaded.config.peer.name, "a");
                assert_eq!(loaded.config.peer.listen.port(), 0);
                ExitCode::from(7)
            },
        );
        assert_eq!(ran, ExitCode::from(7));
    }

    #[test]
    fn what_is_wrong_does_not_run() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().to_str().unwrap();
        let usage = ExitCode::from(EXIT_USAGE);
        assert_eq!(dispatch(parse(&["run", "--dir", dir]), never), usage);
        assert_eq!(dispatch(parse(&["config", "check", "--dir", dir]), never), usage);
        assert_eq!(dispatch(parse(&["init", "--dir", dir, "--name", "a b"]), never), usage);
        assert_eq!(
            dispatch(parse(&["id", "--dir", dir]), never),
            ExitCode::from(EXIT_FAILURE)
        );
        std::fs::write(folder.path().join("pinfleet.toml"), "").unwrap();
        assert_eq!(
            dispatch(parse(&["run", "--dir", dir, "--set", "raft.voters_max=0"]), never),
            usage
        );
    }
}
