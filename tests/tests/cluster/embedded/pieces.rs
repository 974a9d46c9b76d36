//! Clients that send content in the smallest pieces there are.

use anyhow::{Context, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use cluster_proto::v1;
use cluster_proto::v1::add_request::Message;
use cluster_tests::cluster::Cluster;
use prost::Message as _;
use tokio::net::TcpStream;
use tonic::codegen::http::Request;

use super::{options, start_of};

/// Each is a message and a frame of its own, which a client of another make may well send: tonic's would join them.
const PIECES: usize = 7_000;

/// A message as gRPC frames it.
fn framed(message: Message) -> Bytes {
    let message = v1::AddRequest { message: Some(message) }.encode_to_vec();
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("small"));
    frame.put_slice(&message);
    frame.freeze()
}

/// They all come before the nodes are chosen, so they wait; the connection used to be broken off for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_small_pieces_at_once_are_taken() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(options()).await?;
    let address = cluster.peer(0).info().grpc;
    let (client, connection) = h2::client::handshake(TcpStream::connect(&address).await?).await?;
    let driver = tokio::spawn(connection);
    let mut client = client.ready().await?;
    let request = Request::post(format!("http://{address}/pinfleet.v1.Content/Add"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (response, mut body) = client.send_request(request, false)?;
    let entry = v1::AddEntry {
        path: "pieces".into(),
        kind: v1::add_entry::Kind::File.into(),
        ..v1::AddEntry::default()
    };
    body.send_data(framed(Message::Start(start_of(1))), false)?;
    body.send_data(framed(Message::Entry(entry)), false)?;
    let content: Vec<u8> = (0..PIECES).map(|n| (n % 251) as u8).collect();
    for byte in &content {
        body.send_data(framed(Message::Data(vec![*byte].into())), false)?;
    }
    body.send_data(framed(Message::End(v1::AddEnd {})), true)?;

    let mut answers = response.await?.into_body();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = answers.data().await {
        let chunk = chunk?;
        answers.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    let trailers = answers.trailers().await?.context("gRPC ends with trailers")?;
    let status = trailers.get("grpc-status").context("a status")?;
    ensure!(status == "0", "{trailers:?}");
    let mut done = None;
    while bytes.len() >= 5 {
        let head = bytes.split_to(5);
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let answer = v1::AddResponse::decode(bytes.split_to(length))?;
        if let Some(v1::add_response::Message::Done(last)) = answer.message {
            done = Some(last);
        }
    }
    let done = done.context("the last answer says what was added")?;
    ensure!(cluster.client(1).cat(&done.cid).await? == content, "{}", done.cid);
    driver.abort();
    cluster.stop().await
}
