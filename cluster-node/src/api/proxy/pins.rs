//! `pin/add`, `pin/rm` and `pin/update`.

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use cluster_http::{ErrorForm, Failure, json};
use node_core::{Cid, NodeId, PinKey, PinMode, PinOptions};
use serde::Serialize;

use super::{Answer, Arc, Call, Proxy, waiting};
use crate::api::failure::failure;
use crate::service::{Error, PinWish, UpdateWish, WAIT_DEFAULT};

/// The CIDs that a call was about.
#[derive(Serialize)]
pub struct Pinned {
    #[serde(rename = "Pins")]
    pub pins: Vec<String>,
}

impl Pinned {
    pub fn of(cids: &[Cid]) -> Self {
        Self {
            pins: cids.iter().map(Cid::to_string).collect(),
        }
    }
}

/// What IPFS Cluster and Kubo say of a pin that is none, so that clients of either find their words.
pub fn not_pinned(cid: &Cid) -> Failure {
    Failure::not_found(format!(
        "not pinned or pinned indirectly: {cid}: pin is not part of the pinset"
    ))
}

impl Proxy {
    pub(super) async fn pin_add(self: &Arc<Self>, call: &Call, body: Body) -> Answer {
        let mode = mode(call)?;
        let options = PinOptions {
            name: call.query.get("name").unwrap_or_default().to_owned(),
            mode,
            ..PinOptions::default()
        };
        options.check().map_err(|invalid| failure(invalid.into()))?;
        let progress = call.query.bool("progress")?.unwrap_or_default();
        let place = match progress || self.options.wait {
            true => Some(waiting::place(self)?),
            false => None,
        };
        let mut cids = Vec::new();
        for argument in call.arguments(body).await? {
            let cid = self.resolve(&argument).await?;
            self.pin(call, cid, options.clone(), Vec::new()).await?;
            cids.push(cid);
        }
        match place {
            None => Ok(json(&Pinned::of(&cids))),
            Some(place) if progress => Ok(waiting::told(self.clone(), cids, place).await),
            Some(place) => waiting::waited(self, cids, place).await,
        }
    }

    /// Records a pin. Nodes that hold it already are taken first.
    pub(super) async fn pin(
        self: &Arc<Self>,
        call: &Call,
        cid: Cid,
        options: PinOptions,
        held_by: Vec<NodeId>,
    ) -> Result<(), Failure> {
        if options.mode == PinMode::Direct {
            let recorded = self.pins.first_pin(call.namespace(), &cid, true, WAIT_DEFAULT).await;
            let recorded = recorded.map_err(failure)?;
            if recorded.is_some_and(|view| view.pin.options.mode == PinMode::Recursive) {
                return Err(Failure::bad(format!("pin: {cid} already pinned recursively")));
            }
        }
        let wish = PinWish {
            key: key(call, cid),
            options,
            request_id: None,
            allow_unplaced: false,
            held_by,
            created: None,
        };
        self.pins.pin(wish, WAIT_DEFAULT).await.map_err(failure)?;
        Ok(())
    }

    pub(super) async fn pin_rm(self: &Arc<Self>, call: &Call, body: Body) -> Answer {
        let mut cids = Vec::new();
        for argument in call.arguments(body).await? {
            let cid = self.resolve(&argument).await?;
            let removed = self.pins.unpin_shown(call.namespace(), cid, WAIT_DEFAULT).await;
            removed.map_err(|error| pin_failure(error, &cid))?;
            cids.push(cid);
        }
        Ok(json(&Pinned::of(&cids)))
    }

    pub(super) async fn pin_update(self: &Arc<Self>, call: &Call) -> Answer {
        let arguments: Vec<&str> = call.argument.as_deref().into_iter().chain(call.given()).collect();
        let [from, to] = arguments[..] else {
            return Ok(two_needed(arguments.len()));
        };
        let (from, to) = (self.resolve(from).await?, self.resolve(to).await?);
        let source = self.pins.first_pin(call.namespace(), &from, true, WAIT_DEFAULT).await;
        let source = source.map_err(failure)?.ok_or_else(|| {
            Failure::not_found(format!(
                "'from' cid was not recursively pinned already: {from}: pin is not part of the pinset"
            ))
        })?;
        if from != to {
            let wish = UpdateWish {
                from: source.pin.key,
                to: key(call, to),
                name: String::new(),
                expire_at: None,
                // Only the one word keeps the old pin, as in IPFS Cluster and Kubo.
                unpin_from: call.query.bool("unpin")? != Some(false),
                request_id: None,
            };
            let updated = self.pins.update(wish, WAIT_DEFAULT).await;
            updated.map_err(|error| pin_failure(error, &from))?;
        }
        Ok(json(&Pinned::of(&[from, to])))
    }
}

fn key(call: &Call, cid: Cid) -> PinKey {
    PinKey {
        namespace: call.namespace().clone(),
        cid,
        slot: String::new(),
    }
}

/// `type` is the reference's word, `recursive` Kubo's.
fn mode(call: &Call) -> Result<PinMode, Failure> {
    match call.query.get("type") {
        Some("direct") => return Ok(PinMode::Direct),
        None | Some("recursive") => {}
        Some(_) => return Err(Failure::bad("type is recursive or direct")),
    }
    Ok(match call.query.bool("recursive")? {
        Some(false) => PinMode::Direct,
        _ => PinMode::Recursive,
    })
}

fn pin_failure(error: Error, cid: &Cid) -> Failure {
    match error.is_not_found() {
        true => not_pinned(cid),
        false => failure(error),
    }
}

/// The one mistake whose status is not 500: IPFS Cluster and Kubo answer 400.
fn two_needed(given: usize) -> Response {
    let words = match given {
        0 => "argument \"from-path\" is required",
        1 => "argument \"to-path\" is required",
        _ => "two arguments are taken: the old pin and the new one",
    };
    Failure::bad(words).respond(ErrorForm::Kubo).into_response()
}
