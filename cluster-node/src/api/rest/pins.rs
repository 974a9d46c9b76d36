//! One pin at a time.

use std::sync::Arc;

use axum::extract::State;
use cluster_http::{Failure, json};
use http::StatusCode;
use node_core::{Cid, PinKey, PinMode, pinset};

use super::options::{self, Asked, read_cid};
use super::pin_info::GlobalPinInfo;
use super::tracker::Filter;
use super::types::Pin;
use super::{Answer, Call, Rest, Segment, paths};
use crate::api::failure::{failure, not_pinned, pin_failure};
use crate::service::{PinView, PinWish, UpdateWish, WAIT_DEFAULT};

/// `POST /pins/{hash}`
pub async fn pin(State(rest): State<Arc<Rest>>, call: Call, Segment(hash): Segment) -> Answer {
    let cid = read_cid(&hash)?;
    rest.pin(&call, cid).await
}

/// `POST /pins/ipfs/{path}` and `/pins/ipld/{path}`
pub async fn pin_path(State(rest): State<Arc<Rest>>, call: Call, Segment(path): Segment) -> Answer {
    // What is wrong with the options is said before content is looked for.
    rest.asked(&call).await?;
    let cid = paths::resolve(&rest, &path).await?;
    rest.pin(&call, cid).await
}

/// `POST` and `DELETE /pins/ipns/{path}`
pub async fn name(_: Call, Segment(path): Segment) -> Answer {
    Err(paths::no_names(&path))
}

/// `DELETE /pins/{hash}`
pub async fn unpin(State(rest): State<Arc<Rest>>, call: Call, Segment(hash): Segment) -> Answer {
    let cid = read_cid(&hash)?;
    rest.unpin(&call, cid).await
}

/// `DELETE /pins/ipfs/{path}` and `/pins/ipld/{path}`
pub async fn unpin_path(State(rest): State<Arc<Rest>>, call: Call, Segment(path): Segment) -> Answer {
    let cid = paths::resolve(&rest, &path).await?;
    rest.unpin(&call, cid).await
}

/// `GET /allocations/{hash}`
pub async fn allocation(State(rest): State<Arc<Rest>>, call: Call, Segment(hash): Segment) -> Answer {
    let cid = read_cid(&hash)?;
    let found = rest.pins.first_pin(call.namespace(), &cid, true, WAIT_DEFAULT).await;
    let view = found.map_err(failure)?.ok_or_else(not_pinned)?;
    Ok(json(&Pin::of(&view, &rest.pins.members())))
}

/// `GET /pins/{hash}`
pub async fn status(State(rest): State<Arc<Rest>>, call: Call, Segment(hash): Segment) -> Answer {
    let cid = read_cid(&hash)?;
    let local = call.is_local()?;
    Ok(json(&rest.status(&call, cid, local).await?))
}

/// `POST /pins/{hash}/recover`
pub async fn recover(State(rest): State<Arc<Rest>>, call: Call, Segment(hash): Segment) -> Answer {
    let cid = read_cid(&hash)?;
    let local = call.is_local()?;
    let found = rest.pins.first_pin(call.namespace(), &cid, true, WAIT_DEFAULT).await;
    if found.map_err(failure)?.is_some() {
        rest.pins.recover_cid(cid, local).await.map_err(failure)?;
    } else if local {
        return Err(not_pinned());
    }
    Ok(json(&rest.status(&call, cid, local).await?))
}

impl Rest {
    /// Where a CID stands; one that is not pinned stands everywhere as that.
    pub(super) async fn status(&self, call: &Call, cid: Cid, local: bool) -> Result<GlobalPinInfo, Failure> {
        let shown = self.pins.shown_cid(call.namespace(), cid, local, WAIT_DEFAULT).await;
        let view = self.view(local).await;
        let shown = shown.map_err(failure)?;
        let shown = shown.filter(|shown| shown.pin.is_some() || call.sees_leaving());
        let info = shown.and_then(|shown| GlobalPinInfo::of(&view, shown, Filter::default()));
        Ok(info.unwrap_or_else(|| GlobalPinInfo::unpinned(&view, cid)))
    }

    /// The options of a call. Members are looked up as they are now: one may have been added a moment ago through another
    /// peer.
    pub(super) async fn asked(&self, call: &Call) -> Result<Asked, Failure> {
        let asked = options::read(&call.query, &self.pins.members(), self.now())?;
        if asked.user_allocations.len() > asked.options.nodes.len() {
            let names = self.pins.names_for(true, WAIT_DEFAULT).await.map_err(failure)?;
            let members = crate::service::Members::of(names.ever(), &self.pins.directory.present());
            return options::read(&call.query, &members, self.now());
        }
        Ok(asked)
    }

    async fn pin(&self, call: &Call, cid: Cid) -> Answer {
        let asked = self.asked(call).await?;
        let key = self.key(call, cid);
        let view = match asked.update.filter(|from| *from != cid) {
            Some(from) => self.update(call, from, key, &asked).await?,
            None => {
                let replication = asked.options.replication;
                let default = self.pins.shared.settings().replication;
                replication
                    .resolve(default)
                    .map_err(|invalid| failure(invalid.into()))?;
                self.check_mode(call, &cid, asked.options.mode).await?;
                let wish = PinWish {
                    key,
                    options: asked.options.clone(),
                    request_id: None,
                    allow_unplaced: false,
                    held_by: Vec::new(),
                    created: None,
                };
                self.pins.pin(wish, WAIT_DEFAULT).await.map_err(failure)?.1
            }
        };
        Ok(json(&Pin::of(&view, &self.pins.members()).answered(&asked)))
    }

    /// A pin of the whole may not shrink to its root by accident; IPFS Cluster refuses it too.
    async fn check_mode(&self, call: &Call, cid: &Cid, mode: PinMode) -> Result<(), Failure> {
        if mode == PinMode::Recursive {
            return Ok(());
        }
        let recorded = self.pins.first_pin(call.namespace(), cid, true, WAIT_DEFAULT).await;
        let recorded = recorded.map_err(failure)?;
        if recorded.is_some_and(|view| view.pin.options.mode == PinMode::Recursive) {
            let words = format!("{cid} is pinned recursively; unpin it before you pin it directly");
            return Err(Failure::new(StatusCode::CONFLICT, words));
        }
        Ok(())
    }

    /// Everything of another pin but what the call names: a name, and an expiry.
    async fn update(&self, call: &Call, from: Cid, to: PinKey, asked: &Asked) -> Result<PinView, Failure> {
        let source = self.pins.first_pin(call.namespace(), &from, true, WAIT_DEFAULT).await;
        let source = source.map_err(failure)?.ok_or_else(not_pinned)?;
        let wish = UpdateWish {
            from: source.pin.key,
            to,
            name: asked.options.name.clone(),
            expire_at: asked.options.expire_at,
            unpin_from: false,
            request_id: None,
        };
        let updated = self.pins.update(wish, WAIT_DEFAULT).await;
        Ok(updated.map_err(pin_failure)?.1)
    }

    async fn unpin(&self, call: &Call, cid: Cid) -> Answer {
        let placement = pinset::placement(&*self.pins.reads.stale(), &cid).map_err(|error| failure(error.into()))?;
        let removed = self.pins.unpin_shown(call.namespace(), cid, WAIT_DEFAULT).await;
        let removed = removed.map_err(pin_failure)?;
        let view = PinView { placement, ..removed };
        Ok(json(&Pin::of(&view, &self.pins.members())))
    }

    fn key(&self, call: &Call, cid: Cid) -> PinKey {
        PinKey {
            namespace: call.namespace().clone(),
            cid,
            slot: String::new(),
        }
    }
}
