//! A stand-in for a Kubo daemon that does as it is told.
//!
//! It speaks the part of Kubo's RPC that a cluster uses, keeps a real set of pins, answers at once unless a [`Fault`] says
//! otherwise, and counts what it is asked. It runs inside a test or, as the binary `fake-kubo`, as a process of its own;
//! there everything that this API offers is offered below `/fake/` too.
//!
//! | request | does |
//! |---|---|
//! | `GET /fake/state` | a [`Snapshot`] as JSON |
//! | `GET /fake/pins` | the pins, one line `CID KIND` each |
//! | `POST /fake/faults` | adds the [`Rule`] in the body |
//! | `DELETE /fake/faults` | drops all rules |
//! | `POST /fake/settings` | changes the [`Settings`] that the body names |
//! | `DELETE /fake/counters` | sets counts and highest concurrencies to zero |
//! | `POST /fake/pins?arg=CID&type=KIND&name=NAME` | pins by hand, past all faults |
//! | `DELETE /fake/pins?arg=CID` | unpins by hand |

mod fault;
mod rpc;
mod state;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use node_core::Cid;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

pub use fault::{Fault, Rule};
pub use state::{Call, PinKind, Settings, Snapshot};

use state::State;

/// Where a fake listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A unix socket. A file that is in the way is removed.
    Unix(PathBuf),
}

impl Default for Listen {
    fn default() -> Self {
        Self::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))
    }
}

/// How a fake starts.
#[derive(Debug, Clone, Default)]
pub struct FakeOptions {
    /// Where it listens.
    pub listen: Listen,
    /// What can be changed at run time.
    pub settings: Settings,
}

/// A running fake. Stops listening when dropped.
pub struct FakeKubo {
    state: Arc<State>,
    address: String,
    listen: Listen,
    server: Mutex<Option<Server>>,
}

struct Server {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    async fn bind(listen: &Listen) -> anyhow::Result<Self> {
        Ok(match listen {
            Listen::Tcp(address) => Self::Tcp(
                TcpListener::bind(address)
                    .await
                    .with_context(|| format!("cannot listen on {address}"))?,
            ),
            Listen::Unix(path) => {
                if path.exists() {
                    std::fs::remove_file(path)?;
                }
                Self::Unix(UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?)
            }
        })
    }

    async fn accept(&self) -> std::io::Result<Either<TcpStream, UnixStream>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Either::Left(stream))
            }
            Self::Unix(listener) => Ok(Either::Right(listener.accept().await?.0)),
        }
    }
}

/// Cuts one connection when cancelled, wherever its answer stands.
#[derive(Clone)]
struct Connection(CancellationToken);

impl FakeKubo {
    /// Starts one on a free loopback port, without limits or faults.
    pub async fn new() -> anyhow::Result<Self> {
        Self::start(FakeOptions::default()).await
    }

    /// Starts one; it answers when this returns.
    pub async fn start(options: FakeOptions) -> anyhow::Result<Self> {
        let listener = Listener::bind(&options.listen).await?;
        let (listen, address) = match (&listener, options.listen) {
            (Listener::Tcp(listener), _) => {
                let address = listener.local_addr()?;
                (Listen::Tcp(address), format!("http://{address}"))
            }
            (Listener::Unix(_), Listen::Unix(path)) => {
                let address = format!("unix://{}", path.display());
                (Listen::Unix(path), address)
            }
            (Listener::Unix(_), Listen::Tcp(_)) => unreachable!("the listener was bound to what the options say"),
        };
        let state = Arc::new(State::new(options.settings, address.clone()));
        let server = serve(state.clone(), listener);
        Ok(Self {
            state,
            address,
            listen,
            server: Mutex::new(Some(server)),
        })
    }

    /// Its address, as a node's address is written: `http://127.0.0.1:PORT` or `unix:///PATH`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its libp2p peer ID.
    pub fn peer_id(&self) -> String {
        self.state.peer_id()
    }

    /// Stops listening and cuts all connections, as a killed daemon does. Pins and counts stay.
    pub async fn down(&self) {
        let server = self.server.lock().take();
        if let Some(Server { stop, task }) = server {
            stop.cancel();
            // It has nothing to report, and no error but the end of the runtime.
            let _ = task.await;
        }
        self.state.changed();
    }

    /// Listens again at the same address.
    pub async fn up(&self) -> anyhow::Result<()> {
        if self.server.lock().is_some() {
            return Ok(());
        }
        let listener = Listener::bind(&self.listen).await?;
        *self.server.lock() = Some(serve(self.state.clone(), listener));
        Ok(())
    }

    /// Adds a rule. The latest rule that fits a call counts; one for the CID counts before one for all.
    pub fn add_rule(&self, rule: Rule) {
        self.state.add_rule(rule);
    }

    /// Lets every call but `id` and `version` fail in this way, until the rules are dropped.
    pub fn fail(&self, fault: Fault) {
        self.add_rule(Rule::new(fault));
    }

    /// Lets every pin of this CID fail in this way, until the rules are dropped.
    pub fn fail_pin(&self, cid: &Cid, fault: Fault) {
        self.add_rule(Rule::new(fault).of_call(Call::PinAdd).of_cid(cid));
    }

    /// Drops all rules. Calls that hang under one go on hanging until their connection ends.
    pub fn clear_rules(&self) {
        self.state.clear_rules();
    }

    /// Changes settings.
    pub fn set(&self, change: impl FnOnce(&mut Settings)) {
        self.state.set(change);
    }

    /// What is pinned, in order.
    pub fn pins(&self) -> BTreeMap<Cid, PinKind> {
        self.state.pins()
    }

    /// How one CID is pinned.
    pub fn pin(&self, cid: &Cid) -> Option<PinKind> {
        self.state.pin(&cid.to_string())
    }

    /// The name under which one CID is pinned; empty when it has none.
    pub fn pin_name(&self, cid: &Cid) -> Option<String> {
        self.state.held(&cid.to_string()).map(|held| held.name.into())
    }

    /// Pins by hand, as a user of the daemon would.
    pub fn pin_by_hand(&self, cid: &Cid, kind: PinKind) {
        self.state.insert(cid.to_string(), kind, "");
    }

    /// Pins by hand under a name.
    pub fn pin_by_hand_as(&self, cid: &Cid, kind: PinKind, name: &str) {
        self.state.insert(cid.to_string(), kind, name);
    }

    /// Unpins by hand, as a user of the daemon would.
    pub fn unpin_by_hand(&self, cid: &Cid) -> bool {
        self.state.remove(&cid.to_string())
    }

    /// Forgets all pins, as a wiped repository does.
    pub fn wipe(&self) {
        self.state.wipe();
    }

    /// Becomes another daemon at the same address: another peer ID, and no pins.
    pub fn replace(&self) {
        self.state.replace();
    }

    /// Counts, and how full it is.
    pub fn snapshot(&self) -> Snapshot {
        self.state.snapshot()
    }

    /// Calls of a kind that came in.
    pub fn calls(&self, call: Call) -> u64 {
        self.snapshot().calls[&call].received
    }

    /// Calls of a kind that are being answered now.
    pub fn in_flight(&self, call: Call) -> u64 {
        self.snapshot().calls[&call].in_flight
    }

    /// Most calls of a kind that were being answered at the same time.
    pub fn in_flight_max(&self, call: Call) -> u64 {
        self.snapshot().calls[&call].in_flight_max
    }

    /// Sets counts and highest concurrencies to zero.
    pub fn reset_counters(&self) {
        self.state.reset_counters();
    }

    /// Addresses that `swarm/connect` was called with, the latest 1,000.
    pub fn origins(&self) -> Vec<String> {
        self.state.origins()
    }

    /// Waits until `condition` holds, looking again after each call that came or ended.
    pub async fn wait(&self, what: &str, limit: Duration, condition: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let met = async {
            loop {
                let changed = self.state.next_change();
                tokio::pin!(changed);
                // From here on no change is missed.
                changed.as_mut().enable();
                if condition(self) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(limit, met).await.with_context(|| {
            format!(
                "waited {limit:?} for the fake at {} to: {what}; {:?}",
                self.address,
                self.snapshot()
            )
        })
    }
}

impl Drop for FakeKubo {
    fn drop(&mut self) {
        if let Some(server) = self.server.lock().take() {
            server.stop.cancel();
        }
        if let Listen::Unix(path) = &self.listen {
            // Best effort: the folder is a test's, and goes with it.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn serve(state: Arc<State>, listener: Listener) -> Server {
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let router = Router::new().fallback(rpc::answer).with_state(state);
    let task = tokio::spawn(async move {
        // Dropped with this task, which cuts what is still open. Bounded by the process's open files.
        let mut connections = JoinSet::new();
        loop {
            let stream = tokio::select! {
                () = stopped.cancelled() => return,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => match accepted {
                    Ok(stream) => stream,
                    // Out of open files, or the caller has gone already.
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    }
                },
            };
            let cut = CancellationToken::new();
            let service = TowerToHyperService::new(router.clone().layer(Extension(Connection(cut.clone()))));
            connections.spawn(async move {
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new()).http1_only();
                let served = builder.serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    // An error is the caller's going away.
                    _ = served => {}
                    () = cut.cancelled() => {}
                }
            });
        }
    });
    Server { stop, task }
}
