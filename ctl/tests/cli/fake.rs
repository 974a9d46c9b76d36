//! A cluster that does what a test tells it, over a real socket.

mod access;
mod content;
mod node;

pub use access::{SECRET, refused};
pub use content::{Add, Added, Ended, Served};

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

use cluster_proto::v1::access_server::AccessServer;
use cluster_proto::v1::cluster_server::{Cluster, ClusterServer};
use cluster_proto::v1::content_server::ContentServer;
use cluster_proto::v1::pins_server::{Pins, PinsServer};
use cluster_proto::v1::{self, BulkPinRequest, BulkPinResponse, BulkPinResult, PinOutcome};
use futures::Stream;
use tokio_stream::StreamExt;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

type Answer<T> = Result<Response<T>, Status>;
type Chunks<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What goes wrong with the next call of a method.
pub enum Fault {
    Status(Status),
    /// No answer, ever.
    Hang,
}

/// What happens to a stream after so many results, messages or bytes.
#[derive(Clone)]
pub enum BulkEnd {
    Break(Status),
    Stall,
    /// The test is told, and kills the server.
    Kill(mpsc::Sender<()>),
}

#[derive(Default)]
pub struct Script {
    pub faults: HashMap<&'static str, VecDeque<Fault>>,
    /// What `Status` answers for a CID, in turn; the last one stays.
    pub statuses: HashMap<String, VecDeque<v1::PinStatus>>,
    pub bulk_end: Option<(usize, BulkEnd)>,
    /// `List` breaks off behind its first chunk, once.
    pub list_breaks: bool,
    pub cluster: v1::ClusterStatus,
    pub explanation: v1::ExplainResponse,
    pub recovered: v1::RecoverResponse,
    pub changes: Vec<v1::Change>,
    pub settings: v1::Settings,
    /// What happens to an add after so many messages; `None`: after its end.
    pub add_end: Option<(Option<usize>, BulkEnd)>,
    /// Nodes that failed in an add.
    pub add_failures: Vec<String>,
    /// What `Fetch` gives out, by path and format.
    pub served: HashMap<(String, v1::FetchFormat), Served>,
    /// What happens to the next fetches after so many bytes, in turn.
    pub fetch_ends: VecDeque<(usize, BulkEnd)>,
    /// What `Node` tells, by name; without `node`, which is that of `cluster`.
    pub details: HashMap<String, v1::NodeDetails>,
    /// What `CollectGarbage` tells on its way.
    pub collecting: Vec<v1::GarbageProgress>,
    pub collected: v1::GarbageCollected,
    pub estimate: v1::GarbageEstimate,
    /// What happens to the next collection instead of its last word.
    pub collect_end: Option<BulkEnd>,
    pub credentials: Vec<v1::Credential>,
}

#[derive(Default)]
pub struct Fake {
    pub pins: Mutex<BTreeMap<String, v1::Pin>>,
    pub script: Mutex<Script>,
    /// Methods called, with what identifies the request.
    pub calls: Mutex<Vec<(&'static str, String)>>,
    /// What each call showed as `authorization`.
    pub shown: Mutex<Vec<Option<String>>>,
    /// Told after each call that was noted.
    called: Condvar,
    /// Items that were answered with "not now" once.
    deferred: Mutex<Vec<String>>,
    /// Adds that have ended in whatever way.
    pub adds: Mutex<Vec<Add>>,
}

impl Fake {
    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().expect("not poisoned"));
    }

    pub fn fault(&self, method: &'static str, fault: Fault) {
        self.script(|script| script.faults.entry(method).or_default().push_back(fault));
    }

    pub fn calls(&self, method: &str) -> Vec<String> {
        let calls = self.calls.lock().expect("not poisoned");
        calls
            .iter()
            .filter(|(name, _)| *name == method)
            .map(|(_, what)| what.clone())
            .collect()
    }

    /// Waits until a method was called.
    pub fn until_called(&self, method: &str) {
        self.until_calls(method, 1);
    }

    /// Waits until a method was called so many times.
    pub fn until_calls(&self, method: &str, count: usize) {
        let calls = self.calls.lock().expect("not poisoned");
        let called = |calls: &Vec<(&str, String)>| calls.iter().filter(|(name, _)| *name == method).count();
        let uncalled = |calls: &mut Vec<(&str, String)>| called(calls) < count;
        let waited = self.called.wait_timeout_while(calls, Duration::from_secs(30), uncalled);
        assert!(
            !waited.expect("not poisoned").1.timed_out(),
            "{method} is not called {count} times"
        );
    }

    pub fn put(&self, pin: v1::Pin) {
        self.pins.lock().expect("not poisoned").insert(pin.cid.clone(), pin);
    }

    async fn called(&self, method: &'static str, what: &str) -> Result<(), Status> {
        self.calls.lock().expect("not poisoned").push((method, what.to_owned()));
        self.called.notify_all();
        let fault = self
            .script
            .lock()
            .expect("not poisoned")
            .faults
            .get_mut(method)
            .and_then(VecDeque::pop_front);
        match fault {
            None => Ok(()),
            Some(Fault::Status(status)) => Err(status),
            Some(Fault::Hang) => std::future::pending().await,
        }
    }

    fn record(&self, namespace: String, cid: &str, slot: String, options: v1::PinOptions) -> (PinOutcome, v1::Pin) {
        let pin = v1::Pin {
            namespace: if namespace.is_empty() {
                "default".into()
            } else {
                namespace
            },
            cid: cid.to_owned(),
            slot,
            name: options.name,
            mode: options.mode,
            replication_min: options.replication_min,
            replication_max: options.replication_max,
            requested_nodes: options.nodes,
            metadata: options.metadata,
            origins: options.origins,
            nodes: vec!["kubo-1".into(), "kubo-2".into()],
            everywhere: options.replication_min == -1,
            revision: 1,
            ..v1::Pin::default()
        };
        let mut pins = self.pins.lock().expect("not poisoned");
        let outcome = match pins.get(cid) {
            None => PinOutcome::Created,
            Some(old) if *old == pin => PinOutcome::Unchanged,
            Some(_) => PinOutcome::Updated,
        };
        pins.insert(cid.to_owned(), pin.clone());
        (outcome, pin)
    }

    fn bulk_item(&self, item: v1::BulkPinItem) -> BulkPinResult {
        let options = item.options.unwrap_or_default();
        if options.name == "refuse" {
            let error = "2 storage nodes are needed and 1 can take it (kubo-2: it is full; kubo-3: it is full)".into();
            return BulkPinResult {
                outcome: 0,
                code: Code::FailedPrecondition.into(),
                error,
            };
        }
        let mut deferred = self.deferred.lock().expect("not poisoned");
        if options.name == "later" && !deferred.contains(&item.cid) {
            deferred.push(item.cid);
            return BulkPinResult {
                outcome: 0,
                code: Code::Unavailable.into(),
                error: NO_LEADER.into(),
            };
        }
        let (outcome, mut pin) = self.record(item.namespace, &item.cid, item.slot, options);
        if let Some(former) = item.former {
            pin.created = former.created;
            pin.updated_from = former.updated_from;
            if !former.held_by.is_empty() {
                pin.nodes = former.held_by;
            }
            self.put(pin);
        }
        BulkPinResult {
            outcome: outcome.into(),
            code: 0,
            error: String::new(),
        }
    }
}

fn not_found(message: String) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info("NOT_FOUND", "pinfleet", HashMap::new());
    Status::with_error_details(Code::NotFound, message, details)
}

fn not_pinned(cid: &str) -> Status {
    not_found(format!("{cid} is not pinned in the namespace default"))
}

fn unknown(cid: &str) -> Status {
    not_found(format!("{cid} is not pinned; `cluster-ctl pin add {cid}` pins it"))
}

/// In the words of the service, which are what the golden files show.
const NO_LEADER: &str = "no leader could be reached: none is elected; at least a majority of the voters must be running \
                         and see each other";
const STOPPING: &str = "this peer is stopping; ask another one";

/// The refusal of a pin that no node can take.
pub fn not_placeable() -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info("NOT_PLACEABLE", "pinfleet", HashMap::new());
    let message = "2 storage nodes are needed and 1 can take it (kubo-2: it is cordoned; kubo-3: it is full)";
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

/// A peer that can't now.
pub fn no_leader(retry: Duration) -> Status {
    let mut details = ErrorDetails::new();
    details
        .set_retry_info(Some(retry))
        .set_error_info("NO_LEADER", "pinfleet", HashMap::new());
    Status::with_error_details(Code::Unavailable, NO_LEADER, details)
}

struct Service(Arc<Fake>);

#[tonic::async_trait]
impl Pins for Service {
    async fn pin(&self, request: Request<v1::PinRequest>) -> Answer<v1::PinResponse> {
        let request = request.into_inner();
        self.0.called("pin", &request.request_id).await?;
        let (outcome, pin) = self.0.record(
            request.namespace,
            &request.cid,
            request.slot,
            request.options.unwrap_or_default(),
        );
        Ok(Response::new(v1::PinResponse {
            outcome: outcome.into(),
            pin: Some(pin),
        }))
    }

    async fn unpin(&self, request: Request<v1::UnpinRequest>) -> Answer<v1::UnpinResponse> {
        let request = request.into_inner();
        self.0.called("unpin", &request.request_id).await?;
        let removed = self.0.pins.lock().expect("not poisoned").remove(&request.cid);
        let pin = removed.ok_or_else(|| not_pinned(&request.cid))?;
        Ok(Response::new(v1::UnpinResponse { pin: Some(pin) }))
    }

    async fn update(&self, request: Request<v1::UpdateRequest>) -> Answer<v1::PinResponse> {
        let request = request.into_inner();
        self.0.called("update", &request.request_id).await?;
        let mut pins = self.0.pins.lock().expect("not poisoned");
        let from = pins
            .get(&request.from)
            .cloned()
            .ok_or_else(|| not_pinned(&request.from))?;
        let pin = v1::Pin {
            cid: request.to.clone(),
            updated_from: request.from,
            ..from
        };
        pins.insert(request.to, pin.clone());
        Ok(Response::new(v1::PinResponse {
            outcome: PinOutcome::Created.into(),
            pin: Some(pin),
        }))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Answer<v1::Pin> {
        let request = request.into_inner();
        let pin = self.0.pins.lock().expect("not poisoned").get(&request.cid).cloned();
        pin.map(Response::new).ok_or_else(|| not_pinned(&request.cid))
    }

    type ListStream = Chunks<v1::ListResponse>;

    async fn list(&self, request: Request<v1::ListRequest>) -> Answer<Self::ListStream> {
        let request = request.into_inner();
        self.0.called("list", &request.cursor).await?;
        let filter = request.filter.unwrap_or_default();
        let limit = if request.limit == 0 {
            usize::MAX
        } else {
            usize::try_from(request.limit).expect("small")
        };
        let pins: Vec<v1::Pin> = self.0.pins.lock().expect("not poisoned").values().cloned().collect();
        let pins: Vec<v1::Pin> = pins
            .into_iter()
            .filter(|pin| pin.cid > request.cursor && pin.name.starts_with(&filter.name_prefix))
            .filter(|pin| filter.namespace.is_empty() || pin.namespace == filter.namespace)
            .filter(|pin| filter.cids.is_empty() || filter.cids.contains(&pin.cid))
            .take(limit)
            .collect();
        let mut chunks: Vec<Result<v1::ListResponse, Status>> = pins
            .chunks(1_000)
            .map(|pins| {
                let cursor = pins.last().expect("not empty").cid.clone();
                Ok(v1::ListResponse {
                    pins: pins.to_vec(),
                    cursor,
                    revision: 7,
                })
            })
            .collect();
        if std::mem::take(&mut self.0.script.lock().expect("not poisoned").list_breaks) {
            chunks.truncate(1);
            chunks.push(Err(Status::unavailable(STOPPING)));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::PinStatus> {
        let cid = request.into_inner().cid;
        self.0.called("status", &cid).await?;
        let mut script = self.0.script.lock().expect("not poisoned");
        let statuses = script.statuses.get_mut(&cid).ok_or_else(|| unknown(&cid))?;
        let next = if statuses.len() > 1 {
            statuses.pop_front()
        } else {
            statuses.front().cloned()
        };
        next.map(Response::new).ok_or_else(|| unknown(&cid))
    }

    type StatusAllStream = Chunks<v1::StatusAllResponse>;

    async fn status_all(&self, request: Request<v1::StatusAllRequest>) -> Answer<Self::StatusAllStream> {
        let request = request.into_inner();
        self.0.called("status_all", &request.cursor).await?;
        let cids = request.filter.unwrap_or_default().cids;
        let script = self.0.script.lock().expect("not poisoned");
        let all: BTreeMap<_, _> = script.statuses.iter().collect();
        let statuses: Vec<v1::PinStatus> = all
            .into_iter()
            .filter(|(cid, _)| cids.is_empty() || cids.contains(cid))
            .filter_map(|(_, statuses)| statuses.front().cloned())
            .filter(|pin| {
                let has = |node: &v1::NodeStatus| request.statuses.contains(&node.status);
                request.statuses.is_empty() || pin.nodes.iter().any(has)
            })
            .collect();
        let cursor = statuses.last().map(|status| status.cid.clone()).unwrap_or_default();
        let chunk = v1::StatusAllResponse {
            statuses,
            cursor,
            unreachable_nodes: vec!["kubo-3".into()],
        };
        Ok(Response::new(Box::pin(tokio_stream::iter([Ok(chunk)]))))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Answer<v1::ExplainResponse> {
        self.0.called("explain", &request.into_inner().cid).await?;
        Ok(Response::new(
            self.0.script.lock().expect("not poisoned").explanation.clone(),
        ))
    }

    type WatchStream = Chunks<v1::WatchResponse>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let after = request.into_inner().after_revision;
        self.0.called("watch", &after.to_string()).await?;
        let changes = self.0.script.lock().expect("not poisoned").changes.clone();
        let next = changes.into_iter().find(|change| change.revision > after);
        // One change a stream, then it breaks: who watches must come back for each.
        let stream = async_stream::stream! {
            if let Some(change) = next {
                let revision = change.revision;
                yield Ok(v1::WatchResponse { changes: vec![change], revision });
            }
            yield Err(Status::unavailable(STOPPING));
        };
        Ok(Response::new(Box::pin(stream)))
    }

    async fn recover(&self, request: Request<v1::RecoverRequest>) -> Answer<v1::RecoverResponse> {
        let request = request.into_inner();
        self.0
            .called(
                "recover",
                &format!("{} {} {}", request.cid, request.node, request.error_class),
            )
            .await?;
        Ok(Response::new(
            self.0.script.lock().expect("not poisoned").recovered.clone(),
        ))
    }

    type BulkPinStream = Chunks<BulkPinResponse>;

    async fn bulk_pin(&self, request: Request<Streaming<BulkPinRequest>>) -> Answer<Self::BulkPinStream> {
        self.0.called("bulk_pin", "").await?;
        let mut requests = request.into_inner();
        let fake = Arc::clone(&self.0);
        let end = fake.script.lock().expect("not poisoned").bulk_end.take();
        let stream = async_stream::stream! {
            let mut answered = 0;
            while let Some(Ok(message)) = requests.next().await {
                for item in message.items {
                    if let Some((after, end)) = &end && answered >= *after {
                        match end {
                            BulkEnd::Break(status) => {
                                yield Err(status.clone());
                                return;
                            }
                            BulkEnd::Stall => std::future::pending::<()>().await,
                            BulkEnd::Kill(tell) => {
                                tell.send(()).expect("the test waits");
                                std::future::pending::<()>().await;
                            }
                        }
                    }
                    fake.calls.lock().expect("not poisoned").push(("item", item.cid.clone()));
                    let result = fake.bulk_item(item);
                    answered += 1;
                    yield Ok(BulkPinResponse { results: vec![result] });
                }
            }
        };
        Ok(Response::new(Box::pin(stream)))
    }
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn status(&self, _: Request<v1::ClusterStatusRequest>) -> Answer<v1::ClusterStatus> {
        self.0.called("cluster_status", "").await?;
        Ok(Response::new(
            self.0.script.lock().expect("not poisoned").cluster.clone(),
        ))
    }

    async fn list_peers(&self, _: Request<v1::ListPeersRequest>) -> Answer<v1::ListPeersResponse> {
        self.0.called("list_peers", "").await?;
        let peers = self.0.script.lock().expect("not poisoned").cluster.peers.clone();
        Ok(Response::new(v1::ListPeersResponse { peers }))
    }

    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Answer<v1::CreateJoinTokenResponse> {
        self.0
            .called("create_join_token", &request.into_inner().valid_for_ms.to_string())
            .await?;
        let expires = Some(prost_types::Timestamp {
            seconds: 1_798_718_400,
            nanos: 0,
        });
        Ok(Response::new(v1::CreateJoinTokenResponse {
            token: "pfj1-3q2-7wE".into(),
            expires,
        }))
    }

    async fn remove_peer(&self, request: Request<v1::RemovePeerRequest>) -> Answer<v1::RemovePeerResponse> {
        self.0.called("remove_peer", &request.into_inner().peer_id).await?;
        Ok(Response::new(v1::RemovePeerResponse {}))
    }

    async fn promote_peer(&self, request: Request<v1::PromotePeerRequest>) -> Answer<v1::PromotePeerResponse> {
        self.0.called("promote_peer", &request.into_inner().peer_id).await?;
        Ok(Response::new(v1::PromotePeerResponse {}))
    }

    async fn list_nodes(&self, _: Request<v1::ListNodesRequest>) -> Answer<v1::ListNodesResponse> {
        self.0.called("list_nodes", "").await?;
        let nodes = self.0.script.lock().expect("not poisoned").cluster.nodes.clone();
        Ok(Response::new(v1::ListNodesResponse { nodes }))
    }

    async fn add_node(&self, request: Request<v1::AddNodeRequest>) -> Answer<v1::StorageNode> {
        let request = request.into_inner();
        self.0.called("add_node", &request.request_id).await?;
        Ok(Response::new(v1::StorageNode {
            id: "n9".into(),
            name: request.name,
            peer: request.peer,
            kind: "kubo".into(),
            api: request.api,
            tags: request.tags,
            weight: request.weight,
            state: v1::NodeState::Active.into(),
            report: None,
            ..v1::StorageNode::default()
        }))
    }

    async fn remove_node(&self, request: Request<v1::RemoveNodeRequest>) -> Answer<v1::RemoveNodeResponse> {
        self.0.called("remove_node", &request.into_inner().node).await?;
        Ok(Response::new(v1::RemoveNodeResponse {}))
    }

    async fn set_node_state(&self, request: Request<v1::SetNodeStateRequest>) -> Answer<v1::StorageNode> {
        let request = request.into_inner();
        self.0.called("set_node_state", &request.node).await?;
        let node = self.0.find_node(&request.node)?;
        Ok(Response::new(v1::StorageNode {
            state: request.state,
            ..node
        }))
    }

    async fn node(&self, request: Request<v1::NodeRequest>) -> Answer<v1::NodeDetails> {
        self.0.show_node(&request.into_inner().name).await.map(Response::new)
    }

    type CollectGarbageStream = Chunks<v1::CollectGarbageResponse>;

    async fn collect_garbage(&self, request: Request<v1::CollectGarbageRequest>) -> Answer<Self::CollectGarbageStream> {
        let steps = Fake::collect(Arc::clone(&self.0), request.into_inner()).await?;
        Ok(Response::new(steps))
    }

    async fn update_settings(&self, request: Request<v1::UpdateSettingsRequest>) -> Answer<v1::Settings> {
        self.0.called("update_settings", "").await?;
        let mut script = self.0.script.lock().expect("not poisoned");
        if let Some(wanted) = request.into_inner().settings {
            let settings = &mut script.settings;
            settings.replication_min = wanted.replication_min.or(settings.replication_min);
            settings.replication_max = wanted.replication_max.or(settings.replication_max);
            if !wanted.spread_by.is_empty() {
                settings.spread_by = wanted.spread_by.into_iter().filter(|name| !name.is_empty()).collect();
            }
        }
        Ok(Response::new(script.settings.clone()))
    }
}

/// A fake that listens. Dropping it cuts every connection, as kill -9 does.
pub struct Server {
    pub fake: Arc<Fake>,
    address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Server {
    pub fn start() -> Self {
        Self::with(Arc::new(Fake::default()))
    }

    pub fn with(fake: Arc<Fake>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        // A runtime of its own, so that all of its tasks can be ended at once.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("starts");
        let service = Arc::clone(&fake);
        runtime.spawn(async move {
            let incoming = tokio::net::TcpListener::from_std(listener).expect("a socket");
            let noted = Arc::clone(&service);
            let note = move |request: Request<()>| {
                let value = request.metadata().get("authorization");
                let value = value.map(|value| value.to_str().expect("text").to_owned());
                noted.shown.lock().expect("not poisoned").push(value);
                Ok(request)
            };
            tonic::transport::Server::builder()
                .layer(tonic::service::InterceptorLayer::new(note))
                .add_service(AccessServer::new(Service(Arc::clone(&service))))
                .add_service(PinsServer::new(Service(Arc::clone(&service))))
                .add_service(ContentServer::new(Service(Arc::clone(&service))))
                .add_service(ClusterServer::new(Service(service)))
                .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(incoming))
                .await
                .expect("serves");
        });
        Self {
            fake,
            address,
            runtime: Some(runtime),
        }
    }

    pub fn api(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
