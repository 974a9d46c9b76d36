//! A fake Kubo as a process of its own. Prints one JSON line with its address when it is ready, stops on SIGTERM.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use cluster_tests::fake_kubo::{FakeKubo, FakeOptions, Listen, Settings};
use tokio::signal::unix::{SignalKind, signal};

/// A stand-in for a Kubo daemon that does as it is told; steered below /fake/ at its address.
#[derive(Parser)]
#[command(name = "fake-kubo", version)]
struct Arguments {
    /// The TCP address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0", conflicts_with = "unix")]
    listen: SocketAddr,
    /// The unix socket to listen on instead.
    #[arg(long)]
    unix: Option<PathBuf>,
    /// The whole Authorization header to ask for.
    #[arg(long)]
    authorization: Option<String>,
    /// Milliseconds that each call waits.
    #[arg(long, default_value_t = 0)]
    delay_millis: u64,
    /// Bytes that the repository is configured to take.
    #[arg(long)]
    max_bytes: Option<u64>,
    /// Bytes that each pin adds to the repository.
    #[arg(long)]
    bytes_per_pin: Option<u64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut terminated = signal(SignalKind::terminate())?;
    let mut settings = Settings {
        authorization: arguments.authorization,
        delay_millis: arguments.delay_millis,
        ..Settings::default()
    };
    settings.max_bytes = arguments.max_bytes.unwrap_or(settings.max_bytes);
    settings.bytes_per_pin = arguments.bytes_per_pin.unwrap_or(settings.bytes_per_pin);
    let listen = arguments.unix.map_or(Listen::Tcp(arguments.listen), Listen::Unix);
    let fake = FakeKubo::start(FakeOptions { listen, settings }).await?;
    let ready = serde_json::json!({ "address": fake.address(), "peer_id": fake.peer_id(), "pid": std::process::id() });
    println!("{ready}");
    tokio::select! {
        _ = terminated.recv() => {}
        ended = tokio::signal::ctrl_c() => ended?,
    }
    fake.down().await;
    Ok(())
}
