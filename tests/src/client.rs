//! The public API as a client sees it, with the few calls that every suite makes in short form.

use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_proto::v1;
use cluster_proto::v1::cluster_client::ClusterClient;
use cluster_proto::v1::content_client::ContentClient;
use cluster_proto::v1::pins_client::PinsClient;
use node_core::Cid;
use tonic::transport::{Channel, Endpoint};

/// Clients of one peer. Cheap to clone; a connection that was lost is made anew by the next call.
#[derive(Debug, Clone)]
pub struct Client {
    /// `pinfleet.v1.Pins`
    pub pins: PinsClient<Channel>,
    /// `pinfleet.v1.Cluster`
    pub cluster: ClusterClient<Channel>,
    /// `pinfleet.v1.Content`
    pub content: ContentClient<Channel>,
    /// What both use.
    pub channel: Channel,
}

/// A request to pin this with the cluster's defaults.
pub fn pin_request(cid: &Cid) -> v1::PinRequest {
    v1::PinRequest {
        cid: cid.to_string(),
        ..v1::PinRequest::default()
    }
}

/// The same with so many replicas, no fewer and no more.
pub fn pin_replicas(cid: &Cid, replicas: i32) -> v1::PinRequest {
    v1::PinRequest {
        options: Some(replicas_of(replicas)),
        ..pin_request(cid)
    }
}

/// Options that ask for so many replicas, no fewer and no more.
pub fn replicas_of(replicas: i32) -> v1::PinOptions {
    v1::PinOptions {
        replication_min: replicas,
        replication_max: replicas,
        ..v1::PinOptions::default()
    }
}

impl Client {
    /// Clients of the peer at `host:port`, each call limited to `limit` unless it says otherwise.
    pub fn new(address: &str, limit: Duration) -> anyhow::Result<Self> {
        let channel = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .timeout(limit)
            .connect_lazy();
        Ok(Self {
            pins: PinsClient::new(channel.clone()).max_decoding_message_size(64 << 20),
            cluster: ClusterClient::new(channel.clone()).max_decoding_message_size(64 << 20),
            content: ContentClient::new(channel.clone()).max_decoding_message_size(64 << 20),
            channel,
        })
    }

    /// Pins with the cluster's defaults.
    pub async fn pin(&self, cid: &Cid) -> Result<v1::PinResponse, tonic::Status> {
        self.pin_as(pin_request(cid)).await
    }

    /// Pins as asked.
    pub async fn pin_as(&self, request: v1::PinRequest) -> Result<v1::PinResponse, tonic::Status> {
        Ok(self.pins.clone().pin(request).await?.into_inner())
    }

    /// Unpins in the default namespace.
    pub async fn unpin(&self, cid: &Cid) -> Result<v1::Pin, tonic::Status> {
        let request = v1::UnpinRequest {
            cid: cid.to_string(),
            ..v1::UnpinRequest::default()
        };
        let answer = self.pins.clone().unpin(request).await?.into_inner();
        answer
            .pin
            .ok_or_else(|| tonic::Status::internal("the answer has no pin"))
    }

    /// Looks a pin of the default namespace up.
    pub async fn get(&self, cid: &Cid, consistency: v1::Consistency) -> Result<v1::Pin, tonic::Status> {
        let request = v1::GetRequest {
            cid: cid.to_string(),
            consistency: consistency.into(),
            ..v1::GetRequest::default()
        };
        Ok(self.pins.clone().get(request).await?.into_inner())
    }

    /// The status of one CID.
    pub async fn status(&self, cid: &Cid) -> Result<v1::PinStatus, tonic::Status> {
        let request = v1::StatusRequest {
            cid: cid.to_string(),
            ..v1::StatusRequest::default()
        };
        Ok(self.pins.clone().status(request).await?.into_inner())
    }

    /// Well when all nodes of a CID report it pinned, and there are `nodes` of them. To be awaited.
    pub async fn pinned_on(&self, cid: &Cid, nodes: usize) -> anyhow::Result<v1::PinStatus> {
        let status = self.status(cid).await?;
        let all = status.nodes.iter().all(|node| node.status() == v1::Status::Pinned);
        ensure!(
            all && status.nodes.len() == nodes && status.status() == v1::Status::Pinned,
            "{cid} is {:?} on {:?}",
            status.status(),
            status
                .nodes
                .iter()
                .map(|node| (node.node.as_str(), node.status(), node.error.as_str()))
                .collect::<Vec<_>>()
        );
        Ok(status)
    }

    /// All pins that match.
    pub async fn list(&self, request: impl tonic::IntoRequest<v1::ListRequest>) -> Result<Vec<v1::Pin>, tonic::Status> {
        let mut stream = self.pins.clone().list(request).await?.into_inner();
        let mut pins = Vec::new();
        while let Some(chunk) = stream.message().await? {
            pins.extend(chunk.pins);
        }
        Ok(pins)
    }

    /// All pins, as this peer has them at this moment.
    pub async fn list_all(&self) -> Result<Vec<v1::Pin>, tonic::Status> {
        self.list(v1::ListRequest::default()).await
    }

    /// The status of all pins that match.
    pub async fn status_all(&self, request: v1::StatusAllRequest) -> Result<Vec<v1::PinStatus>, tonic::Status> {
        let mut stream = self.pins.clone().status_all(request).await?.into_inner();
        let mut statuses = Vec::new();
        while let Some(chunk) = stream.message().await? {
            statuses.extend(chunk.statuses);
        }
        Ok(statuses)
    }

    /// The whole cluster on one screen.
    pub async fn cluster_status(&self) -> Result<v1::ClusterStatus, tonic::Status> {
        let answer = self.cluster.clone().status(v1::ClusterStatusRequest {}).await?;
        Ok(answer.into_inner())
    }

    /// Pins many in one stream, so many a message, and returns the results in order.
    pub async fn bulk(
        &self,
        items: Vec<v1::BulkPinItem>,
        a_message: usize,
    ) -> Result<Vec<v1::BulkPinResult>, tonic::Status> {
        let messages: Vec<_> = items
            .chunks(a_message.max(1))
            .map(|items| v1::BulkPinRequest { items: items.to_vec() })
            .collect();
        let mut stream = self
            .pins
            .clone()
            .bulk_pin(tokio_stream::iter(messages))
            .await?
            .into_inner();
        let mut results = Vec::with_capacity(items.len());
        while let Some(chunk) = stream.message().await? {
            results.extend(chunk.results);
        }
        Ok(results)
    }

    /// A single-use token with which one peer can join.
    pub async fn join_token(&self) -> anyhow::Result<String> {
        let answer = self
            .cluster
            .clone()
            .create_join_token(v1::CreateJoinTokenRequest::default())
            .await
            .context("no join token was made")?;
        Ok(answer.into_inner().token)
    }

    /// Adds entries: paths with the bytes of files, or none for directories. Ends with what the cluster said last.
    pub async fn add(
        &self,
        start: v1::AddStart,
        entries: &[(&str, Option<&[u8]>)],
    ) -> Result<v1::AddDone, tonic::Status> {
        use v1::add_entry::Kind;
        use v1::add_request::Message;
        let mut messages = vec![Message::Start(start)];
        for (path, bytes) in entries {
            let kind = if bytes.is_some() { Kind::File } else { Kind::Directory };
            messages.push(Message::Entry(v1::AddEntry {
                path: (*path).to_owned(),
                kind: kind.into(),
                ..v1::AddEntry::default()
            }));
            let pieces = bytes.unwrap_or_default().chunks(1 << 20);
            messages.extend(pieces.map(|piece| Message::Data(piece.to_vec().into())));
        }
        self.add_messages(messages).await
    }

    /// The same with messages as they are.
    pub async fn add_messages(
        &self,
        mut messages: Vec<v1::add_request::Message>,
    ) -> Result<v1::AddDone, tonic::Status> {
        messages.push(v1::add_request::Message::End(v1::AddEnd {}));
        self.add_cut(messages).await
    }

    /// The same without a word that it is the end.
    pub async fn add_cut(&self, messages: Vec<v1::add_request::Message>) -> Result<v1::AddDone, tonic::Status> {
        let messages = messages
            .into_iter()
            .map(|message| v1::AddRequest { message: Some(message) });
        let answers = self.content.clone().add(tokio_stream::iter(messages)).await?;
        let mut answers = answers.into_inner();
        let mut done = None;
        while let Some(answer) = answers.message().await? {
            if let Some(v1::add_response::Message::Done(told)) = answer.message {
                done = Some(told);
            }
        }
        done.ok_or_else(|| tonic::Status::data_loss("the add ended without a word"))
    }

    /// Brings content back.
    pub async fn fetch(&self, request: v1::FetchRequest) -> Result<Vec<u8>, tonic::Status> {
        let answers = self.content.clone().fetch(request).await?;
        let mut answers = answers.into_inner();
        let mut bytes = Vec::new();
        while let Some(answer) = answers.message().await? {
            if let Some(v1::fetch_response::Message::Data(data)) = answer.message {
                bytes.extend_from_slice(&data);
            }
        }
        Ok(bytes)
    }

    /// The bytes of a file.
    pub async fn cat(&self, path: impl ToString) -> Result<Vec<u8>, tonic::Status> {
        self.fetch(v1::FetchRequest {
            path: path.to_string(),
            ..v1::FetchRequest::default()
        })
        .await
    }
}
