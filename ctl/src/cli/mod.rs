//! The command line: every word that a user can type.

mod access;
mod cluster;
mod content;
mod migrate;
mod pin;

pub use access::{CredentialCommand, CredentialCreate, Grant, Scope, TokenCommand, TokenCreate};
pub use cluster::{NodeAdd, NodeCommand, NodeGc, PeerCommand, SettingsCommand, SettingsSet, StatusArgs, WatchArgs};
pub use content::{ContentAdd, ContentCat, ContentGet, Profile, UnixFsArgs};
pub use migrate::{Cluster, ExportTo, ImportFrom, Sharded};
pub use pin::{
    AddArgs, ExplainArgs, ImportArgs, ImportFormat, LsArgs, Mode, OptionArgs, PinCommand, RecoverArgs, RmArgs,
    StatusArgs as PinStatusArgs, UpdateArgs, WaitArgs,
};

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::client::parse_endpoint;
use crate::exit::EXIT_CODES;
use crate::output::Format;
use crate::spec::parse_duration;

/// Controls a Pinfleet cluster: pins, content, storage nodes, peers.
///
/// Data goes to stdout, everything else to stderr. With `--output json` every line is one object whose field names
/// stay.
#[derive(Debug, Parser)]
#[command(name = "cluster-ctl", version, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// What is to be done.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  cluster-ctl status
  cluster-ctl add photos --name photos --replicas 3
  cluster-ctl pin add bafybei… --name backup --replicas 3 --wait
  cluster-ctl pin import cids.txt
  cluster-ctl pin ls --namespace team-a --output json
  cluster-ctl --api peer-a:9098,peer-b:9098 watch";

/// The command line with all its help.
pub fn command() -> clap::Command {
    Cli::command().after_help(format!("{EXAMPLES}\n\n{EXIT_CODES}"))
}

/// Options that every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Addresses of peers, tried in order; HOST:PORT, http://…, a multiaddr or unix:PATH
    #[arg(
        long,
        global = true,
        env = "PINFLEET_API",
        value_delimiter = ',',
        value_name = "ADDR,…"
    )]
    #[arg(default_value = "http://127.0.0.1:9098", value_parser = parse_endpoint)]
    pub api: Vec<String>,
    /// A file whose first line is the token to show; else the variable PINFLEET_TOKEN holds it, or
    /// PINFLEET_TOKEN_FILE names the file
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Form of the data on stdout
    #[arg(long, short, global = true, value_enum, default_value_t, value_name = "FORM")]
    pub output: Format,
    /// How long a call may take, and a list may be silent
    #[arg(long, global = true, default_value = "30s", value_name = "TIME", value_parser = parse_timeout)]
    pub timeout: Duration,
    /// Print CIDs and peer IDs in full on a terminal too
    #[arg(long, global = true)]
    pub full: bool,
    /// Fit tables into so many columns [default: the terminal; no limit elsewhere]
    #[arg(long, global = true, value_name = "COLUMNS", value_parser = clap::value_parser!(u16).range(40..=1000))]
    pub width: Option<u16>,
    /// No colours; so does the variable NO_COLOR
    #[arg(long, global = true)]
    pub no_color: bool,
    /// Say nothing on stderr but warnings and errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        time if time < Duration::from_millis(10) => Err("at least 10ms".into()),
        time if time > Duration::from_secs(24 * 3_600) => Err("at most 24h".into()),
        time => Ok(time),
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add files and directories, or a CAR file, and pin them
    #[command(after_help = content::ADD_HELP)]
    Add(Box<ContentAdd>),
    /// Write a file or directory to the disk
    #[command(after_help = content::GET_HELP)]
    Get(ContentGet),
    /// Print the bytes of a file
    #[command(after_help = content::CAT_HELP)]
    Cat(ContentCat),
    /// Add, remove, list and follow pins
    #[command(subcommand)]
    Pin(PinCommand),
    /// Take over the pins of another cluster
    #[command(after_help = migrate::IMPORT_HELP)]
    Import(ImportFrom),
    /// Write the pinset in the form of another cluster
    #[command(after_help = migrate::EXPORT_HELP)]
    Export(ExportTo),
    /// List, admit, remove and promote peers
    #[command(subcommand)]
    Peer(PeerCommand),
    /// List, inspect, clean up, attach and take out storage nodes
    #[command(subcommand)]
    Node(NodeCommand),
    /// Make, list and revoke tokens of clients
    #[command(subcommand)]
    Token(TokenCommand),
    /// Make, list and revoke names with passwords of clients
    #[command(subcommand)]
    Credential(CredentialCommand),
    /// Show on one screen whether the cluster is well
    Status(StatusArgs),
    /// Follow the changes of the pinset
    Watch(WatchArgs),
    /// Show or set what holds for the whole cluster
    #[command(after_help = cluster::SETTINGS_HELP)]
    Settings {
        /// What is to be done; shows the settings when missing.
        #[command(subcommand)]
        command: Option<SettingsCommand>,
    },
    /// Print the completions of a shell
    #[command(
        after_help = "Examples:\n  cluster-ctl completion bash > /etc/bash_completion.d/cluster-ctl\n  \
                            cluster-ctl completion fish > ~/.config/fish/completions/cluster-ctl.fish"
    )]
    Completion {
        /// Which shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the version of this program; those of the peers are in `peer ls`
    #[command(after_help = "Examples:\n  cluster-ctl version")]
    Version,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example_and_no_long_line() {
        fn check(command: &mut clap::Command, path: &str) {
            let help = command.render_long_help().to_string();
            for line in help.lines() {
                assert!(line.chars().count() <= 100, "{path}: {line}");
            }
            let children: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
            if children.is_empty() {
                assert!(help.contains("Example"), "{path} has no example");
            }
            for name in children.iter().filter(|name| *name != "help") {
                let child = command.find_subcommand_mut(name).expect("listed above");
                check(child, &format!("{path} {name}"));
            }
        }
        /// Two arguments of one name in a command and above it would be taken for one another.
        fn no_name_twice(command: &clap::Command, above: &[String]) {
            let own = command.get_arguments().filter(|argument| !argument.is_global_set());
            for id in own.map(|argument| argument.get_id().to_string()) {
                assert!(!above.contains(&id), "{} has {id}, which is global", command.get_name());
            }
            command.get_subcommands().for_each(|child| no_name_twice(child, above));
        }
        let mut command = command();
        let global = command.get_arguments().filter(|argument| argument.is_global_set());
        no_name_twice(
            &command,
            &global.map(|argument| argument.get_id().to_string()).collect::<Vec<_>>(),
        );
        command.build();
        check(&mut command, "cluster-ctl");
    }
}
