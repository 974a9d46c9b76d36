//! The command line of Pinfleet.
//!
//! `cli` knows every word that can be typed, `commands` what is done, `client` the way to the cluster, `output` how
//! answers look, `exit` how commands end, `secret` how tokens and passwords come in. `lines` and `bulk` carry lists of any
//! length in bounded memory, `former` knows the pinsets of IPFS Cluster, `content` carries files.

pub mod bulk;
pub mod cli;
pub mod client;
pub mod commands;
pub mod content;
pub mod exit;
pub mod former;
pub mod lines;
pub mod output;
pub mod secret;
pub mod spec;
pub mod wait;

use std::ffi::OsString;

use clap::FromArgMatches;

use cli::Cli;
use client::Client;
use exit::{Exit, Failure};
use output::{Out, Talk};
use secret::Bearer;

/// What a command works with.
pub struct Context {
    /// The cluster.
    pub client: Client,
    /// The data.
    pub out: Out,
    /// Everything else that is said.
    pub talk: Talk,
}

/// Runs a command line, with the name of the program in front, and returns the exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let parsed = cli::command()
        .try_get_matches_from(arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to tell when the terminal is gone.
            let _ = error.print();
            return if error.use_stderr() {
                Exit::Usage as u8
            } else {
                Exit::Ok as u8
            };
        }
    };
    // The convention of no-color.org: set and not empty.
    let no_color = cli.global.no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let talk = Talk::new(cli.global.quiet, no_color);
    let exit = match start(cli, talk, no_color) {
        Ok(exit) => exit,
        Err(failure) => {
            talk.failure(&failure);
            failure.exit
        }
    };
    exit as u8
}

fn start(cli: Cli, talk: Talk, no_color: bool) -> Result<Exit, Failure> {
    let global = &cli.global;
    let bearer = Bearer::find(global.token_file.as_deref(), talk)?;
    let client = Client::new(&global.api, bearer, global.timeout, talk)?;
    let out = Out::stdout(global.output, global.full, no_color, global.width);
    let mut context = Context { client, out, talk };
    // Two threads: one drives the connection while the other reads, prints and encodes.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Failure::local(format!("can't start: {e}")))?;
    let result = runtime.block_on(commands::run(&mut context, cli.command));
    let flushed = context.out.flush();
    // Left as it is: a thread that still reads from a terminal must not keep the process, and a stream that is not done
    // must break with the connection. To drop it here would cancel it in good order, which a peer may take for its end.
    std::mem::forget(runtime);
    match (result, flushed) {
        (Err(failure), _) | (Ok(_), Err(failure)) => Err(failure),
        (Ok(exit), Ok(())) => Ok(exit),
    }
}
