//! The daemon: flags, configuration, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use cluster_node::cli::{self, Cli, EXIT_FAILURE};
use cluster_node::config::{DataDir, Loaded};
use cluster_node::{node, telemetry};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    cli::dispatch(Cli::parse(), run)
}

/// Threads that answer clients. One core is left to Raft, which has threads of its own: with as many threads as cores
/// each call is handed from one sleeping thread to another, and on two cores that takes longer than the call.
fn api_threads(cores: usize) -> usize {
    (cores - 1).max(1)
}

fn run(dir: DataDir, loaded: Loaded) -> ExitCode {
    let config = loaded.config;
    if let Err(error) = telemetry::init_logging(&config.telemetry.log_level, config.telemetry.log_format) {
        return cli::fail(EXIT_FAILURE, &error);
    }
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    cluster_security::install_default_provider();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(api_threads(cores))
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return cli::fail(EXIT_FAILURE, &error),
    };
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let asked = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            asked.cancel();
        });
        node::run(dir, config, stop).await
    });
    // Lists of clients that went away may still hold a thread for a moment.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::fail(EXIT_FAILURE, &format_args!("{error:#}")),
    }
}
