//! What each command does.

mod access;
mod add;
mod bytes;
mod cluster;
mod export;
mod files;
mod get;
mod import;
mod import_from;
mod journal;
mod list;
mod node;
mod peer;
mod pin;
mod watch;

use std::io::Write;

use node_core::Invalid;

use crate::Context;
use crate::cli::{Command, NodeCommand, PinCommand};
use crate::exit::{Exit, Failure};
use crate::output::json;

/// Carries a command out.
pub async fn run(context: &mut Context, command: Command) -> Result<Exit, Failure> {
    let command = match command {
        // An import keeps a journal, content leaves nothing half done behind, and garbage is gone bit by bit, so these end
        // in their own way.
        Command::Pin(PinCommand::Import(arguments)) => return import::run(context, arguments).await,
        Command::Add(arguments) => return add::run(context, *arguments).await,
        Command::Get(arguments) => return get::run(context, arguments).await,
        Command::Cat(arguments) => return bytes::cat(context, arguments).await,
        Command::Import(arguments) => return import_from::run(context, arguments).await,
        Command::Export(arguments) => return export::run(context, arguments).await,
        Command::Node(NodeCommand::Gc(arguments)) => return node::gc(context, arguments).await,
        command => command,
    };
    tokio::select! {
        result = dispatch(context, command) => result,
        () = interrupted() => Err(Failure::new(Exit::Interrupted, "interrupted")
            .hint("what was acknowledged is recorded; `cluster-ctl pin status CID` tells")),
    }
}

async fn dispatch(context: &mut Context, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Pin(PinCommand::Add(arguments)) => pin::add(context, arguments).await,
        Command::Pin(PinCommand::Rm(arguments)) => pin::rm(context, arguments).await,
        Command::Pin(PinCommand::Update(arguments)) => pin::update(context, arguments).await,
        Command::Pin(PinCommand::Explain(arguments)) => pin::explain(context, arguments).await,
        Command::Pin(PinCommand::Recover(arguments)) => pin::recover(context, arguments).await,
        Command::Pin(PinCommand::Ls(arguments)) => list::ls(context, arguments).await,
        Command::Pin(PinCommand::Status(arguments)) => list::status(context, arguments).await,
        Command::Pin(PinCommand::Import(arguments)) => import::run(context, arguments).await,
        Command::Add(arguments) => add::run(context, *arguments).await,
        Command::Get(arguments) => get::run(context, arguments).await,
        Command::Cat(arguments) => bytes::cat(context, arguments).await,
        Command::Import(arguments) => import_from::run(context, arguments).await,
        Command::Export(arguments) => export::run(context, arguments).await,
        Command::Peer(command) => peer::run(context, command).await,
        Command::Node(command) => node::run(context, command).await,
        Command::Token(command) => access::tokens(context, command).await,
        Command::Credential(command) => access::credentials(context, command).await,
        Command::Status(arguments) => cluster::status(context, arguments).await,
        Command::Watch(arguments) => watch::run(context, arguments).await,
        Command::Settings { command } => cluster::settings(context, command).await,
        Command::Completion { shell } => completion(shell),
        Command::Version => version(context),
    }
}

/// Ends when the user wants the command to end. Listens from the call on, not from the first poll: a command that has
/// begun must not be killed by a signal instead of ended by it.
pub(crate) fn interrupted() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let listening = signal(SignalKind::interrupt()).and_then(|int| Ok((int, signal(SignalKind::terminate())?)));
    async move {
        let Ok((mut interrupt, mut terminate)) = listening else {
            // Without handlers the signals end the process, which is as good.
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

/// A value that can't be sent; names the option.
pub(crate) fn invalid(error: Invalid) -> Failure {
    Failure::usage(error.to_string())
}

fn completion(shell: clap_complete::Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut crate::cli::command(), "cluster-ctl", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(Exit::Ok)
}

fn version(context: &mut Context) -> Result<Exit, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    if context.out.is_json() {
        context.out.object(&json::Version { version })?;
    } else {
        context.out.line(&format!("cluster-ctl {version}"))?;
    }
    Ok(Exit::Ok)
}
