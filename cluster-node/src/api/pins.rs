//! `pinfleet.v1.Pins`.

use std::pin::Pin as StdPin;
use std::sync::Arc;

use cluster_proto::v1;
use cluster_proto::v1::pins_server::Pins as PinsService;
use futures::Stream;
use node_core::command::{OpResult, PinOutcome};
use node_core::{Namespace, PinOptions};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status, Streaming};

use super::caller::{Caller, caller};
use super::convert;
use super::details::completed;
use super::error::{code_of, deadline_of, status};
use crate::service::{
    AHEAD, Answer, Error, ListRequest, NodeNames, PinFilter, PinWish, Pins, RecoverFilter, SEND_LIMIT,
    StatusAllRequest, UpdateWish, WAIT_DEFAULT, WAIT_MAX, chunks_within,
};

/// Items of one message of a bulk stream, as the API promises.
const BULK_ITEMS_MAX: usize = 1_000;

/// Messages of a bulk stream in flight: reading goes on while earlier ones are committed. How long one waits here for the
/// room is not bounded, because it depends on the cluster; each item is given up after [`WAIT_MAX`].
const BULK_AHEAD: usize = 16;

/// How long a silent peer is waited for in a list of statuses, unless the caller says.
const PEER_TIMEOUT_MS: u32 = 2_000;

/// Handlers of `pinfleet.v1.Pins`.
#[derive(Clone)]
pub struct PinsApi(pub Arc<Pins>);

type Out<T> = StdPin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answered<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl PinsService for PinsApi {
    type ListStream = Out<v1::ListResponse>;
    type StatusAllStream = Out<v1::StatusAllResponse>;
    type WatchStream = Out<v1::WatchResponse>;
    type BulkPinStream = Out<v1::BulkPinResponse>;

    async fn pin(&self, request: Request<v1::PinRequest>) -> Answered<v1::PinResponse> {
        let wait = deadline_of(&request, WAIT_DEFAULT, WAIT_MAX);
        let caller = caller(&request)?;
        let request = request.into_inner();
        let answer = async {
            let namespace = caller.namespace(&request.namespace)?;
            let options = request.options.unwrap_or_default();
            let names = self.0.names_for(!options.nodes.is_empty(), wait).await?;
            let wish = PinWish {
                key: convert::pin_key(&namespace, &request.cid, &request.slot)?,
                options: self.options(options, &names)?,
                request_id: convert::request_id(&request.request_id)?,
                allow_unplaced: request.allow_unplaced,
                held_by: Vec::new(),
                created: None,
            };
            self.0.pin(wish, wait).await
        };
        let (outcome, view) = answer.await.map_err(status)?;
        let pin = convert::pin(&view, &self.0.names());
        Ok(Response::new(v1::PinResponse {
            outcome: outcome_code(outcome),
            pin: Some(pin),
        }))
    }

    async fn unpin(&self, request: Request<v1::UnpinRequest>) -> Answered<v1::UnpinResponse> {
        let wait = deadline_of(&request, WAIT_DEFAULT, WAIT_MAX);
        let caller = caller(&request)?;
        let request = request.into_inner();
        let answer = async {
            let namespace = caller.namespace(&request.namespace)?;
            let key = convert::pin_key(&namespace, &request.cid, &request.slot)?;
            self.0.unpin(key, convert::request_id(&request.request_id)?, wait).await
        };
        let view = answer.await.map_err(status)?;
        Ok(Response::new(v1::UnpinResponse {
            pin: Some(convert::pin(&view, &self.0.names())),
        }))
    }

    async fn update(&self, request: Request<v1::UpdateRequest>) -> Answered<v1::PinResponse> {
        let wait = deadline_of(&request, WAIT_DEFAULT, WAIT_MAX);
        let caller = caller(&request)?;
        let request = request.into_inner();
        let answer = async {
            let namespace = caller.namespace(&request.namespace)?;
            let from = convert::pin_key(&namespace, &request.from, &request.slot);
            let to = convert::pin_key(&namespace, &request.to, &request.slot);
            let wish = UpdateWish {
                from: from.map_err(|error| convert::renamed(error, "from"))?,
                to: to.map_err(|error| convert::renamed(error, "to"))?,
                name: request.name,
                expire_at: request
                    .expire_at
                    .map(|at| convert::read_time("expire_at", &at))
                    .transpose()?,
                unpin_from: request.unpin_from,
                request_id: convert::request_id(&request.request_id)?,
            };
            self.0.update(wish, wait).await
        };
        let (outcome, view) = answer.await.map_err(status)?;
        let pin = convert::pin(&view, &self.0.names());
        Ok(Response::new(v1::PinResponse {
            outcome: outcome_code(outcome),
            pin: Some(pin),
        }))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Answered<v1::Pin> {
        let wait = deadline_of(&request, WAIT_DEFAULT, WAIT_MAX);
        let caller = caller(&request)?;
        let request = request.into_inner();
        let answer = async {
            let namespace = caller.namespace(&request.namespace)?;
            let key = convert::pin_key(&namespace, &request.cid, &request.slot)?;
            self.0
                .get(&key, is_linearizable(request.consistency, true)?, wait)
                .await
        };
        let view = answer.await.map_err(status)?;
        Ok(Response::new(convert::pin(&view, &self.0.names())))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Answered<Self::ListStream> {
        let wait = deadline_of(&request, WAIT_DEFAULT, WAIT_MAX);
        let caller = caller(&request)?;
        let request = request.into_inner();
        let answer = async {
            let listing = ListRequest {
                filter: self.filter(request.filter, &caller)?,
                limit: request.limit,
                cursor: request.cursor,
            };
            self.0
                .list(listing, is_linearizable(request.consistency, false)?, wait)
                .await
        };
        let chunks = answer.await.map_err(status)?;
        let names = self.0.names();
        let messages = chunks.map(move |chunk| {
            let chunk = chunk.map_err(status)?;
            let pins = chunk.pins.iter().map(|view| convert::pin(view, &names)).collect();
            Ok(v1::ListResponse {
                pins,
                cursor: chunk.cursor,
                revision: chunk.revision,
            })
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Answered<v1::PinStatus> {
        let wait = deadline_of(&request, WAIT_DEFAULT, WAIT_MAX);
        let caller = caller(&request)?;
        let request = request.into_inner();
        let answer = async {
            let cid = request.cid.parse().map_err(Error::from)?;
            let linearizable = is_linearizable(request.consistency, true)?;
            let own = match caller.confined_to() {
                Some(namespace) => Some(self.0.own_pins(namespace, &cid, linearizable, wait).await?),
                None => None,
            };
            Ok((self.0.status(cid, linearizable, wait).await?, own))
        };
        let (view, own) = answer.await.map_err(status)?;
        let mut shown = convert::pin_status(&view, &self.0.names(), false);
        // What others call it, and how many they are, is theirs.
        if let Some(own) = own {
            (shown.name, shown.pins) = (own.name, own.pins);
        }
        Ok(Response::new(shown))
    }

    async fn status_all(&self, request: Request<v1::StatusAllRequest>) -> Answered<Self::StatusAllStream> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let brief = request.brief;
        let answer = || {
            let timeout = if request.peer_timeout_ms == 0 {
                PEER_TIMEOUT_MS
            } else {
                request.peer_timeout_ms
            };
            self.0.status_all(StatusAllRequest {
                filter: self.filter(request.filter, &caller)?,
                statuses: convert::read_statuses(&request.statuses)?,
                limit: request.limit,
                cursor: request.cursor,
                brief,
                peer_timeout: std::time::Duration::from_millis(u64::from(timeout)).min(WAIT_MAX),
            })
        };
        let chunks = answer().map_err(status)?;
        let names = self.0.names();
        let is_confined = caller.confined_to().is_some();
        let messages = chunks.map(move |chunk| {
            let chunk = chunk.map_err(status)?;
            let shown = chunk.views.iter().map(|view| {
                let mut shown = convert::pin_status(view, &names, brief);
                if is_confined {
                    shown.pins = 0;
                }
                shown
            });
            Ok(v1::StatusAllResponse {
                statuses: shown.collect(),
                cursor: chunk.cursor,
                unreachable_nodes: chunk.unreachable.iter().map(|node| names.name(*node)).collect(),
            })
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Answered<v1::ExplainResponse> {
        let wait = deadline_of(&request, WAIT_DEFAULT, WAIT_MAX);
        let caller = caller(&request)?;
        let request = request.into_inner();
        let answer = async {
            let cid = request.cid.parse().map_err(Error::from)?;
            if let Some(namespace) = caller.confined_to() {
                self.0.own_pins(namespace, &cid, true, wait).await?;
            }
            let options = request.options.unwrap_or_default();
            let names = self.0.names_for(!options.nodes.is_empty(), wait).await?;
            let options = self.options(options, &names)?;
            self.0.explain(cid, &options, wait).await
        };
        let explanation = answer.await.map_err(status)?;
        let verdicts = explanation.verdicts.into_iter().map(|verdict| v1::NodeVerdict {
            node: verdict.name,
            node_id: node_core::NodeId(verdict.node).to_string(),
            chosen: verdict.chosen,
            rank: verdict.rank,
            score: verdict.score,
            reason: verdict.reason,
        });
        Ok(Response::new(v1::ExplainResponse {
            cid: request.cid,
            pinned: explanation.pinned,
            summary: explanation.summary,
            nodes: verdicts.collect(),
        }))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Answered<Self::WatchStream> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let answer = || {
            let namespace = match caller.list_namespace(&request.namespace)?.as_str() {
                "" => None,
                name => Some(Namespace::new(name)?),
            };
            self.0.watch(request.after_revision, namespace)
        };
        let messages = answer().map_err(status)?.map(|chunk| {
            let chunk = chunk.map_err(status)?;
            Ok(v1::WatchResponse {
                changes: chunk.changes.iter().map(convert::change).collect(),
                revision: chunk.revision,
            })
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn recover(&self, request: Request<v1::RecoverRequest>) -> Answered<v1::RecoverResponse> {
        let wait = deadline_of(&request, WAIT_DEFAULT, WAIT_MAX);
        let caller = caller(&request)?;
        let request = request.into_inner();
        let names = self.0.names();
        let filter = || {
            let cid = match request.cid.as_str() {
                "" => None,
                text => Some(text.parse().map_err(Error::from)?),
            };
            let node = find_node(&names, "node", &request.node)?;
            let statuses = convert::read_recoverable(&request.statuses)?;
            let class = convert::read_error_class(&request.error_class)?;
            Ok::<_, Error>(RecoverFilter {
                cid,
                node,
                statuses,
                class,
            })
        };
        let filter = filter().map_err(status)?;
        match (caller.confined_to(), &filter.cid) {
            (Some(namespace), Some(cid)) => {
                let own = self.0.own_pins(namespace, cid, true, wait).await;
                own.map_err(status)?;
            }
            (Some(_), None) => caller.need_admin("Recover without a CID").map_err(status)?,
            (None, _) => {}
        }
        let (recovered, unreachable) = self.0.recover(&filter).await.map_err(status)?;
        let unreachable_nodes = unreachable.into_iter().map(|node| names.name(node)).collect();
        Ok(Response::new(v1::RecoverResponse {
            recovered,
            unreachable_nodes,
        }))
    }

    async fn bulk_pin(&self, request: Request<Streaming<v1::BulkPinRequest>>) -> Answered<Self::BulkPinStream> {
        let caller = caller(&request)?;
        let slot = self.0.bulk_slot().map_err(status)?;
        let (begun, to_finish) = mpsc::channel(BULK_AHEAD);
        let (answers, queue) = chunks_within(AHEAD, SEND_LIMIT);
        let read = self.clone().read_bulk(request.into_inner(), caller, begun.clone());
        tokio::spawn(async move {
            let finishing = tokio::spawn(answers.send_finished(to_finish, bulk_answer));
            tokio::select! {
                () = read => {}
                // The client went away, or left its answers unread for too long: what it still sends is for nothing.
                () = begun.closed() => {}
            }
            drop(begun);
            // It fails only when it panicked; then the stream has ended too.
            let _ = finishing.await;
            drop(slot);
        });
        let messages = queue.map(|answer| answer.map_err(status)?);
        Ok(Response::new(Box::pin(messages)))
    }
}

/// An item of a bulk stream on its way.
enum Pending {
    Waiting(Answer),
    Refused(Error),
}

impl Pending {
    async fn result(self) -> v1::BulkPinResult {
        let outcome = match self {
            Self::Waiting(answer) => answer.wait().await,
            Self::Refused(error) => Err(error),
        };
        match outcome {
            Ok(OpResult::Pinned(pinned)) => v1::BulkPinResult {
                outcome: outcome_code(pinned.outcome),
                ..v1::BulkPinResult::default()
            },
            Ok(OpResult::Refused(refusal)) => bulk_error(&Error::Refused(refusal)),
            Ok(other) => bulk_error(&Error::Internal(format!("a pin was answered with {other:?}"))),
            Err(error) => bulk_error(&error),
        }
    }
}

/// What became of one message of a bulk stream, once all of its items are decided.
async fn bulk_answer(message: Result<Vec<Pending>, Status>) -> Result<v1::BulkPinResponse, Status> {
    let items = message?;
    let mut results = Vec::with_capacity(items.len());
    for item in items {
        results.push(item.result().await);
    }
    Ok(v1::BulkPinResponse { results })
}

fn bulk_error(error: &Error) -> v1::BulkPinResult {
    v1::BulkPinResult {
        outcome: 0,
        code: code_of(error).0 as i32,
        error: error.to_string(),
    }
}

impl PinsApi {
    /// Reads a bulk stream as fast as its items find room, and hands on in order what is to be answered.
    async fn read_bulk(
        self,
        mut stream: Streaming<v1::BulkPinRequest>,
        caller: Caller,
        begun: mpsc::Sender<Result<Vec<Pending>, Status>>,
    ) {
        loop {
            let message = match stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return,
                Err(error) => {
                    // Nobody is told who has gone.
                    let _ = begun.send(Err(completed(error))).await;
                    return;
                }
            };
            if message.items.len() > BULK_ITEMS_MAX {
                let count = message.items.len().to_string();
                let error = Error::invalid("items", count, "at most 1000 in one message; send more messages");
                let _ = begun.send(Err(status(error))).await;
                return;
            }
            let names = self.0.names();
            let mut pending = Vec::with_capacity(message.items.len());
            for item in message.items {
                let queued = match self.bulk_wish(item, &caller, &names) {
                    Ok(wish) => self.0.pin_queued(wish, WAIT_MAX).await,
                    Err(error) => Err(error),
                };
                pending.push(queued.map_or_else(Pending::Refused, Pending::Waiting));
            }
            if begun.send(Ok(pending)).await.is_err() {
                return;
            }
        }
    }

    fn bulk_wish(&self, item: v1::BulkPinItem, caller: &Caller, names: &NodeNames) -> Result<PinWish, Error> {
        let namespace = caller.namespace(&item.namespace)?;
        let mut wish = PinWish {
            key: convert::pin_key(&namespace, &item.cid, &item.slot)?,
            options: self.options(item.options.unwrap_or_default(), names)?,
            request_id: None,
            allow_unplaced: item.allow_unplaced,
            held_by: Vec::new(),
            created: None,
        };
        if let Some(former) = item.former {
            convert::former(former, &mut wish, |name| names.find(name).map(|node| node.id))?;
        }
        Ok(wish)
    }

    pub(super) fn options(&self, options: v1::PinOptions, names: &NodeNames) -> Result<PinOptions, Error> {
        let options = convert::pin_options(options, self.0.clock.now(), |name| names.find(name).map(|node| node.id))?;
        // The leader fills the default in; what is wrong with the numbers themselves is said before anything is sent.
        options.replication.resolve(self.0.shared.settings().replication)?;
        Ok(options)
    }

    fn filter(&self, filter: Option<v1::PinFilter>, caller: &Caller) -> Result<PinFilter, Error> {
        let mut filter = filter.unwrap_or_default();
        filter.namespace = caller.list_namespace(&filter.namespace)?;
        let node = find_node(&self.0.names(), "filter.node", &filter.node)?;
        convert::pin_filter(filter, node)
    }
}

fn find_node(names: &NodeNames, field: &str, text: &str) -> Result<Option<node_core::NodeId>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let found = names.find(text).map(|node| node.id);
    let remedy = "there is no such storage node; `cluster-ctl node ls` shows them";
    found.map(Some).ok_or_else(|| Error::invalid(field, text, remedy))
}

pub(super) fn outcome_code(outcome: PinOutcome) -> i32 {
    match outcome {
        PinOutcome::Created => v1::PinOutcome::Created,
        PinOutcome::Updated => v1::PinOutcome::Updated,
        PinOutcome::Unchanged => v1::PinOutcome::Unchanged,
    }
    .into()
}

fn is_linearizable(consistency: i32, default: bool) -> Result<bool, Error> {
    match v1::Consistency::try_from(consistency) {
        Ok(v1::Consistency::Unspecified) => Ok(default),
        Ok(v1::Consistency::Linearizable) => Ok(true),
        Ok(v1::Consistency::Stale) => Ok(false),
        Err(_) => Err(Error::invalid(
            "consistency",
            consistency.to_string(),
            "use linearizable (1) or stale (2)",
        )),
    }
}
