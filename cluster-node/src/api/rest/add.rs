//! Adding content: parts of a body in, one object for each file and directory out, the root last.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use cluster_content::AddedEntry;
use cluster_dag::unixfs::Metadata;
use cluster_http::Limits;
use cluster_http::multipart::{Part, Parts};
use node_core::{Cid, PinMode};

use super::add_options::{self, AddAsked};
use super::options::Asked;
use super::types::AddedOutput;
use super::{Answer, Call, Rest};
use crate::api::adding::{self, Form, Purpose};
use crate::service::{AddWish, Adding, Pins};

/// `POST /add`
pub async fn add(
    State(rest): State<Arc<Rest>>,
    call: Call,
    limits: Option<Extension<Arc<Limits>>>,
    parts: Parts,
) -> Answer {
    let asked = add_options::read(&call.query)?;
    let pin = rest.asked(&call).await?;
    let limits = limits.map(|Extension(limits)| limits).unwrap_or_default();
    let place = rest.adds.place(limits.stall_timeout).await?;
    let wish = wish(&rest, &call, &asked, pin);
    let objects = Objects {
        progress: asked.progress,
        allocations: Vec::new(),
    };
    let output = adding::begin(rest.pins.clone(), place, wish, Purpose::Store, parts, objects);
    match asked.stream {
        true => Ok(adding::streamed::<Objects>(output).await),
        false => adding::collected::<Objects>(output).await,
    }
}

fn wish(rest: &Rest, call: &Call, asked: &AddAsked, pin: Asked) -> AddWish {
    let mut options = pin.options;
    options.mode = PinMode::Recursive;
    let own = rest.pins.directory.own();
    let names = rest.pins.names();
    let prefer = match asked.local && options.nodes.is_empty() {
        true => names.of_peer(own).map(|node| node.id).collect(),
        false => Vec::new(),
    };
    AddWish {
        namespace: call.namespace().clone(),
        slot: String::new(),
        options,
        request_id: None,
        format: asked.format.clone(),
        without_pin: asked.no_pin,
        every_root: false,
        prefer,
    }
}

/// Objects as IPFS Cluster has them.
struct Objects {
    progress: bool,
    /// The members that it is handed to.
    allocations: Vec<String>,
}

impl Form for Objects {
    type Output = AddedOutput;

    fn begun(&mut self, pins: &Pins, adding: &Adding) {
        let members = pins.members();
        let ids = adding.nodes().into_iter().filter_map(|node| members.id_of(node));
        self.allocations = ids.map(|id| id.to_string()).collect();
        self.allocations.sort_unstable();
    }

    fn progress(&self, part: &Part, bytes: u64) -> Option<AddedOutput> {
        // Below the entry at the top, as in IPFS Cluster.
        let below = part.path.split_once('/').map_or("", |(_, below)| below);
        self.progress.then(|| AddedOutput {
            name: below.to_owned(),
            bytes,
            ..AddedOutput::default()
        })
    }

    fn entry(&self, entry: &AddedEntry) -> Option<AddedOutput> {
        Some(AddedOutput {
            name: String::from_utf8_lossy(&entry.path).into_owned(),
            cid: Some(entry.cid.to_string()),
            bytes: 0,
            size: entry.tsize,
            allocations: self.allocations.clone(),
        })
    }

    fn car(&self, name: String, root: Cid, block_bytes: u64) -> Option<AddedOutput> {
        Some(AddedOutput {
            name,
            cid: Some(root.to_string()),
            bytes: block_bytes,
            size: 0,
            allocations: self.allocations.clone(),
        })
    }

    /// IPFS Cluster keeps nothing of it.
    fn metadata(&self, _: &Part) -> Metadata {
        Metadata::default()
    }
}
