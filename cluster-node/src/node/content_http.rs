//! What the embedded node serves over HTTP: the gateway, and the part of Kubo's RPC.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use axum::Router;
use cluster_content::{Sink, Source, StoreError};
use cluster_dag::Block;
use cluster_embedded::{EmbeddedNode, NodeSource};
use cluster_gateway::{Blocks, GatewayOptions, RpcCredential, RpcNode, RpcOptions, gateway, limits, rpc};
use cluster_http::serve_router;
use cluster_kubo::{Credentials, Shown};
use node_core::{Cid, ErrorClass};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::inside::InsideNode;
use crate::config;

/// The servers of an embedded node.
pub struct ContentHttp {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl ContentHttp {
    /// Listens where the configuration says, and serves on the node's own runtime.
    pub async fn start(node: &EmbeddedNode, given: &config::Embedded, runtime: &Handle) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let mut tasks = Vec::new();
        if let Some(address) = given.gateway_listen {
            let router = gateway::router(Arc::new(Public(node.clone())), GatewayOptions::default());
            tasks.push(listen("embedded.gateway_listen", address, router, runtime, &stop).await?);
        }
        if let Some(address) = given.rpc_listen {
            let options = RpcOptions {
                credentials: credentials(given)?,
                ..RpcOptions::default()
            };
            let router = rpc::router(parts(node), options);
            tasks.push(listen("embedded.rpc_listen", address, router, runtime, &stop).await?);
        }
        Ok(Self { stop, tasks })
    }

    /// Ends the servers; what is being answered gets its time.
    pub async fn stop(self, limit: Duration) {
        self.stop.cancel();
        // What is cut off here is cut off by the runtime's end.
        let _ = tokio::time::timeout(limit, futures::future::join_all(self.tasks)).await;
    }
}

/// The node as its RPC serves it.
fn parts(node: &EmbeddedNode) -> RpcNode {
    RpcNode {
        node: Arc::new(node.clone()),
        source: {
            let node = node.clone();
            Arc::new(move || Arc::new(Looked::new(&node)) as Arc<dyn Source>)
        },
        held: Some(Arc::new(node.source(false))),
        sink: {
            let node = node.clone();
            Arc::new(move || Arc::new(node.keeper()) as Arc<dyn Sink>)
        },
        inside: Some(Arc::new(InsideNode(node.clone()))),
    }
}

/// The node's RPC for a caller inside this peer, who has checked who asks.
pub fn inner_rpc(node: &EmbeddedNode) -> Router {
    rpc::inner_router(parts(node), RpcOptions::default())
}

async fn listen(
    option: &'static str,
    address: SocketAddr,
    router: Router,
    runtime: &Handle,
    stop: &CancellationToken,
) -> anyhow::Result<JoinHandle<()>> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("{option} = \"{address}\": can't listen there"))?;
    let bound = listener.local_addr()?;
    let listener = listener.into_std()?;
    let stop = stop.clone();
    let served = async move {
        match TcpListener::from_std(listener) {
            Ok(listener) => serve_router(listener, option, router, limits(), stop.cancelled()).await,
            Err(error) => tracing::error!(%bound, %error, "a listener could not be taken over"),
        }
    };
    tracing::info!(option, %bound, "the embedded node serves over HTTP");
    Ok(runtime.spawn(served))
}

fn credentials(given: &config::Embedded) -> anyhow::Result<Vec<RpcCredential>> {
    if given.rpc_auth_file.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let read = Credentials::read(&given.rpc_auth_file).context("embedded.rpc_auth_file")?;
    Ok(vec![match read.shown() {
        Shown::Bearer(token) => RpcCredential::Bearer(token.to_owned()),
        Shown::Basic(user, password) => RpcCredential::Basic {
            user: user.to_owned(),
            password: password.to_owned(),
        },
    }])
}

/// The node's own blocks, as anybody may see them.
struct Public(EmbeddedNode);

#[async_trait]
impl Source for Public {
    async fn get(&self, cid: &Cid) -> Result<Block, StoreError> {
        self.0.source(false).get(cid).await
    }
}

#[async_trait]
impl Blocks for Public {
    async fn size(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        let (store, asked) = (self.0.store().clone(), [*cid]);
        let failed = |error: String| StoreError::new(ErrorClass::Temporary, error);
        let sizes = tokio::task::spawn_blocking(move || store.sizes(&asked)).await;
        let sizes = sizes.map_err(|error| failed(error.to_string()))?;
        let sizes = sizes.map_err(|error| failed(error.to_string()))?;
        let stored = sizes.first().copied().flatten().map(|size| size as u64);
        Ok(stored.or_else(|| Block::empty(*cid).map(|_| 0)))
    }

    fn denied(&self, cid: &Cid) -> Option<String> {
        self.0
            .is_denied(cid)
            .then(|| "the operator of this node denies it".to_owned())
    }
}

/// What the node has, and what it finds with others: for one call of who drives it.
struct Looked {
    node: EmbeddedNode,
    own: NodeSource,
    /// Begun with the first block that is not here. The network has room for a thousand of these: one for each block of a
    /// call would leave pins without.
    found: OnceLock<NodeSource>,
}

impl Looked {
    fn new(node: &EmbeddedNode) -> Self {
        Self {
            node: node.clone(),
            own: node.source(false),
            found: OnceLock::new(),
        }
    }
}

#[async_trait]
impl Source for Looked {
    async fn get(&self, cid: &Cid) -> Result<Block, StoreError> {
        match self.own.get(cid).await {
            Err(error) if error.class == ErrorClass::NotFound => {
                self.found.get_or_init(|| self.node.source(true)).get(cid).await
            }
            answer => answer,
        }
    }
}
