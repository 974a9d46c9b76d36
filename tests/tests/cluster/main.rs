//! Whole clusters of real processes over fake Kubo daemons: what is promised, and what holds when something fails.

mod access;
mod api;
mod bad_input;
mod ctl;
mod embedded;
mod failures;
mod faults;
mod kubo;
mod lists;
mod membership;
mod pins;

use cluster_proto::v1;
use cluster_tests::client::Client;
use node_core::Cid;
use tonic::Status;
use tonic_types::StatusExt;

/// The stable reason in an error's details.
fn reason(status: &Status) -> String {
    status
        .get_error_details()
        .error_info()
        .map(|info| info.reason.clone())
        .unwrap_or_default()
}

/// An item of a bulk pin with this many replicas.
fn item(cid: &Cid, replicas: i32) -> v1::BulkPinItem {
    v1::BulkPinItem {
        cid: cid.to_string(),
        options: Some(cluster_tests::client::replicas_of(replicas)),
        ..v1::BulkPinItem::default()
    }
}

/// Pins the CIDs of these numbers in one stream; all must be recorded.
async fn bulk(client: &Client, numbers: std::ops::Range<u64>, replicas: i32) -> anyhow::Result<Vec<Cid>> {
    let cids: Vec<Cid> = numbers.map(cluster_tests::content::cid).collect();
    let items = cids.iter().map(|cid| item(cid, replicas)).collect();
    let results = client.bulk(items, 500).await?;
    anyhow::ensure!(
        results.len() == cids.len(),
        "{} results for {} items",
        results.len(),
        cids.len()
    );
    if let Some(refused) = results.iter().find(|result| result.code != 0) {
        anyhow::bail!("refused with {}: {}", refused.code, refused.error);
    }
    Ok(cids)
}

/// Messages as they are.
#[derive(Debug, Clone, Copy, Default)]
struct Bytes;

impl tonic::codec::Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl tonic::codec::Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = bytes::Buf::remaining(buffer);
        Ok(Some(bytes::Buf::copy_to_bytes(buffer, length).to_vec()))
    }
}
