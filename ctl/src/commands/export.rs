//! `export`: the pinset in the form of another cluster.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use cluster_proto::v1;
use node_core::PeerId;
use tempfile::TempPath;

use super::{interrupted, invalid};
use crate::Context;
use crate::cli::ExportTo;
use crate::client::{Kind, service};
use crate::content::place::{cant_write, open_part, settle};
use crate::exit::{Exit, Failure};
use crate::former;
use crate::output::{json, words};
use crate::spec::{check_namespace, check_node};

/// `export`
pub async fn run(context: &mut Context, arguments: ExportTo) -> Result<Exit, Failure> {
    check_namespace(&arguments.namespace).map_err(invalid)?;
    for (node, _) in &arguments.map {
        check_node("map", node).map_err(invalid)?;
    }
    let is_stdout = arguments.file.as_os_str() == "-";
    let mut target = Target::new(&arguments.file, arguments.force)?;
    let (pins, left_out) = tokio::select! {
        written = write(context, &arguments, &mut target) => written?,
        () = interrupted() => return Err(Failure::new(Exit::Interrupted, "interrupted")),
    };
    target.finish(arguments.force)?;
    let to = arguments.file.display().to_string();
    if context.out.is_json() && !is_stdout {
        context.out.object(&json::PinsExported { to, pins, left_out })?;
        context.out.flush()?;
    }
    if left_out > 0 {
        context.talk.warn(&format!(
            "{} pins are left out: another pin of their CID is written, and the other cluster knows one of each",
            words::grouped(left_out)
        ));
    }
    if !is_stdout {
        let to = arguments.file.display();
        context
            .talk
            .note(&format!("{} pins are written to {to}", words::grouped(pins)));
    }
    Ok(Exit::Ok)
}

/// Writes line after line; how many, and how many pins had no line.
async fn write(context: &Context, arguments: &ExportTo, target: &mut Target) -> Result<(u64, u64), Failure> {
    let peers = peers(context, arguments).await?;
    let request = v1::ListRequest {
        filter: Some(v1::PinFilter {
            namespace: arguments.namespace.clone(),
            ..v1::PinFilter::default()
        }),
        ..v1::ListRequest::default()
    };
    let send = |channel, request| async move { service!(pins_client::PinsClient, channel).list(request).await };
    let (mut pins, mut left_out) = (0, 0);
    let mut last = String::new();
    let mut text = Vec::new();
    let each = |request: &mut v1::ListRequest, answer: v1::ListResponse| {
        request.cursor = answer.cursor;
        for pin in answer.pins {
            // In the order of the list the pins of a CID follow each other, the one without a slot first.
            if pin.cid == last {
                left_out += 1;
                continue;
            }
            serde_json::to_writer(&mut text, &former::line(&pin, &peers))
                .map_err(|error| Failure::local(format!("{} can't be written: {error}", pin.cid)))?;
            text.push(b'\n');
            last = pin.cid;
            pins += 1;
        }
        target.write(&text)?;
        text.clear();
        Ok(true)
    };
    context.client.read_stream(request, send, each).await?;
    Ok((pins, left_out))
}

/// Where the lines go.
struct Target {
    writer: Box<dyn Write + Send>,
    /// What is under way, and what it becomes.
    part: Option<(TempPath, PathBuf)>,
}

impl Target {
    fn new(file: &Path, force: bool) -> Result<Self, Failure> {
        if file.as_os_str() == "-" {
            return Ok(Self {
                writer: Box::new(BufWriter::new(io::stdout())),
                part: None,
            });
        }
        let (opened, part) = open_part(file, force)?;
        Ok(Self {
            writer: Box::new(BufWriter::new(opened)),
            part: part.map(|part| (part, file.to_owned())),
        })
    }

    fn write(&mut self, text: &[u8]) -> Result<(), Failure> {
        self.writer.write_all(text).map_err(|error| self.failed(error))
    }

    /// Lets the file appear.
    fn finish(mut self, force: bool) -> Result<(), Failure> {
        self.writer.flush().map_err(|error| self.failed(error))?;
        match self.part {
            Some((part, file)) => settle(part, &file, force),
            None => Ok(()),
        }
    }

    fn failed(&self, error: io::Error) -> Failure {
        match &self.part {
            Some((_, file)) => cant_write(file, &error),
            // A reader that went away is no error.
            None => error.into(),
        }
    }
}

/// The peer that each storage node is over there.
async fn peers(context: &Context, arguments: &ExportTo) -> Result<BTreeMap<String, PeerId>, Failure> {
    let answer = context
        .client
        .call(Kind::Read, v1::ListNodesRequest {}, |channel, request| async move {
            service!(cluster_client::ClusterClient, channel)
                .list_nodes(request)
                .await
        })
        .await?;
    let mut peers: BTreeMap<String, PeerId> = BTreeMap::new();
    for node in &answer.nodes {
        if let Ok(member) = node.member_id.parse() {
            peers.insert(node.name.clone(), member);
        }
    }
    for (node, peer) in &arguments.map {
        if !answer.nodes.iter().any(|known| known.name == *node) {
            return Err(Failure::usage(format!("map {node:?}: there is no such storage node"))
                .hint("`cluster-ctl node ls` shows them"));
        }
        peers.insert(node.clone(), *peer);
    }
    Ok(peers)
}
