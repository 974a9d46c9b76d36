//! Single nodes: what they say of themselves, and their garbage.

use std::sync::Arc;

use cluster_proto::v1;
use cluster_proto::v1::collect_garbage_response::Message;
use tonic::Status;

use super::{BulkEnd, Chunks, Fake, not_found};

impl Fake {
    /// In the words of the service.
    pub fn find_node(&self, name: &str) -> Result<v1::StorageNode, Status> {
        let nodes = self.script.lock().expect("not poisoned").cluster.nodes.clone();
        let node = nodes.into_iter().find(|node| node.name == name || node.id == name);
        node.ok_or_else(|| {
            not_found(format!(
                "there is no storage node {name:?}; `cluster-ctl node ls` shows them"
            ))
        })
    }

    pub async fn show_node(&self, name: &str) -> Result<v1::NodeDetails, Status> {
        self.called("node", name).await?;
        let mut node = self.find_node(name)?;
        let details = self
            .script
            .lock()
            .expect("not poisoned")
            .details
            .get(&node.name)
            .cloned();
        let details = details.unwrap_or_default();
        if details.embedded.is_some() {
            node.kind = "embedded".into();
            node.api = String::new();
        }
        Ok(v1::NodeDetails {
            node: Some(node),
            ..details
        })
    }

    pub async fn collect(
        fake: Arc<Self>,
        request: v1::CollectGarbageRequest,
    ) -> Result<Chunks<v1::CollectGarbageResponse>, Status> {
        let what = if request.estimate_only { "estimate" } else { "collect" };
        fake.called("collect_garbage", &format!("{} {what}", request.node))
            .await?;
        let node = fake.find_node(&request.node)?;
        let (is_embedded, steps, last, end) = {
            let mut script = fake.script.lock().expect("not poisoned");
            let details = script.details.get(&node.name);
            let is_embedded = details.is_some_and(|details| details.embedded.is_some());
            let (steps, last) = match request.estimate_only {
                true => (vec![], Message::Estimate(script.estimate)),
                false => (script.collecting.clone(), Message::Done(script.collected)),
            };
            (is_embedded, steps, last, script.collect_end.take())
        };
        if !is_embedded {
            return Err(Status::failed_precondition(format!(
                "the storage node {:?} is a kubo daemon, which collects its garbage by itself: run `ipfs repo gc` on its \
                 machine, or start the daemon with --enable-gc; what is pinned there stays",
                node.name
            )));
        }
        let message = |message| v1::CollectGarbageResponse { message: Some(message) };
        Ok(Box::pin(async_stream::stream! {
            for step in steps {
                yield Ok(message(Message::Progress(step)));
            }
            match end {
                None => yield Ok(message(last)),
                Some(BulkEnd::Break(status)) if status.code() == tonic::Code::Ok => {}
                Some(BulkEnd::Break(status)) => yield Err(status),
                Some(BulkEnd::Stall) => {
                    fake.note("stalled", "");
                    std::future::pending::<()>().await;
                }
                Some(BulkEnd::Kill(tell)) => {
                    tell.send(()).expect("the test waits");
                    std::future::pending::<()>().await;
                }
            }
        }))
    }
}
