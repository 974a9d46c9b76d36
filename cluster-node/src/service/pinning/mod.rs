//! Pins as the Pinning Services API has them: each a request of its own, found by its request ID, listed from the newest to the
//! oldest.
//!
//! | file | what |
//! |---|---|
//! | `request.rs` | request IDs |
//! | `find.rs` | which pins a filter finds in the state |
//! | `stand.rs` | where pins stand, asked of all ledgers at once |
//! | `list.rs` | pages |

mod find;
mod list;
mod request;
mod stand;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use node_core::command::{Op, Plan, Request};
use node_core::pinset::{self, KvRead};
use node_core::{Namespace, Pin, PinKey, PinMode, PinOptions, RequestId, Status};

use super::pins::not_pinned;
use super::{Error, PinView, PinWish, Pins};
pub use find::{Match, NameFilter, PINNING_PAGE_MAX, PinningFilter};
pub use list::PinningPage;
pub use request::{REQUESTS as PINNING_REQUESTS, RequestName, request_slot};
pub use stand::PinningView;

/// A pin as a client of the Pinning Services API asks for it.
#[derive(Debug, Clone)]
pub struct PinningWish {
    /// Which pin it becomes.
    pub key: PinKey,
    /// Free text.
    pub name: String,
    /// Pairs to find it by.
    pub metadata: BTreeMap<String, String>,
    /// Multiaddrs of IPFS nodes that have the content.
    pub origins: Vec<String>,
    /// Makes repetition safe.
    pub request_id: Option<RequestId>,
}

impl Pins {
    /// Records a pin. It is taken also when no node has room for it now, as the API has a state for that.
    pub async fn pinning_add(&self, wish: PinningWish, wait: Duration) -> Result<PinningView, Error> {
        let options = PinOptions {
            name: wish.name,
            metadata: wish.metadata,
            origins: wish.origins,
            ..PinOptions::default()
        };
        options.check()?;
        let wish = PinWish {
            key: wish.key,
            options,
            request_id: wish.request_id,
            allow_unplaced: true,
            held_by: Vec::new(),
            created: None,
        };
        let is_named = wish.request_id.is_some();
        let (_, view) = self.pin(wish, wait).await?;
        if is_named {
            self.still_there(&view.pin.key, wait).await?;
        }
        self.pinning_asked(view).await
    }

    /// Sees whether what a named request recorded is still there: the answer to a repetition is that of the first, and what was
    /// removed since is not to be taken for pinned.
    async fn still_there(&self, key: &PinKey, wait: Duration) -> Result<(), Error> {
        let state = self.reads.linearizable(wait).await?;
        match pinset::pin(&*state, key)? {
            Some(_) => Ok(()),
            None => Err(Error::not_found(
                "Idempotency-Key: the pin that was made under it was removed since; use a new one for each request",
            )),
        }
    }

    /// Records a pin in the place of another. What the API says nothing of, such as the number of replicas, is taken over. The
    /// content of the old one stays on its nodes until the new one is held. A pin of the same CID is changed where it is, and
    /// keeps its request ID.
    pub async fn pinning_replace(
        &self,
        old: &RequestName,
        wish: PinningWish,
        wait: Duration,
    ) -> Result<PinningView, Error> {
        let state = self.reads.linearizable(wait).await?;
        let source = find_pin(&*state, &wish.key.namespace, old)?;
        // A named request may be repeated after it has removed the old pin: the log knows, so let it say.
        let (from, mut options) = match (source, &wish.request_id, old) {
            (Some(pin), _, _) => (pin.key, pin.options),
            (None, Some(_), _) => match pinset::pin(&*state, &wish.key)? {
                Some(pin) => {
                    let placement = pinset::placement(&*state, &pin.key.cid)?;
                    return self.pinning_view(PinView { pin, placement }).await;
                }
                None => return Err(missing(&wish.key.namespace, old)),
            },
            (None, None, _) => return Err(missing(&wish.key.namespace, old)),
        };
        let key = if from.cid == wish.key.cid {
            from.clone()
        } else {
            wish.key
        };
        options.name = wish.name;
        options.metadata = wish.metadata;
        options.origins = wish.origins;
        options.mode = PinMode::Recursive;
        if key.cid != from.cid {
            options.updated_from = Some(from.cid);
        }
        // One whose time has just come is on its way out, and is not to take the new one along.
        let now = self.clock.now();
        options.expire_at = options.expire_at.filter(|at| *at > now);
        options.check()?;
        let op = Op::PutPin {
            key: key.clone(),
            options: options.clone(),
            plan: Plan {
                unplaced: Some(String::new()),
                ..Plan::default()
            },
            from: Some(from),
            unpin_from: true,
            created: None,
        };
        let is_named = wish.request_id.is_some();
        let request = Request {
            id: wish.request_id,
            op,
        };
        let result = self.proposer.submit(request, wait).await?;
        let (_, view) = self.recorded(key, options, result, is_named).await?;
        if is_named {
            self.still_there(&view.pin.key, wait).await?;
        }
        self.pinning_asked(view).await
    }

    /// Where a pin stands that was just asked for. The API has no other way to say that what was given up is to be tried again.
    async fn pinning_asked(&self, view: PinView) -> Result<PinningView, Error> {
        let cid = view.pin.key.cid;
        let stands = self.pinning_view(view.clone()).await?;
        if !stands.entries.iter().any(|entry| entry.status == Status::GaveUp) {
            return Ok(stands);
        }
        self.recover_cid(cid, false).await?;
        self.pinning_view(view).await
    }

    /// Removes a pin.
    pub async fn pinning_remove(&self, namespace: &Namespace, name: &RequestName, wait: Duration) -> Result<(), Error> {
        let key = match name {
            RequestName::Pin(cid, slot) => PinKey {
                namespace: namespace.clone(),
                cid: *cid,
                slot: slot.clone(),
            },
            RequestName::Slot(_) => {
                let state = self.reads.linearizable(wait).await?;
                find_pin(&*state, namespace, name)?
                    .ok_or_else(|| missing(namespace, name))?
                    .key
            }
        };
        self.unpin(key, None, wait).await.map(drop)
    }

    /// One pin and where it stands.
    pub async fn pinning_get(
        &self,
        namespace: &Namespace,
        name: &RequestName,
        wait: Duration,
    ) -> Result<PinningView, Error> {
        let state = self.reads.linearizable(wait).await?;
        let pin = find_pin(&*state, namespace, name)?.ok_or_else(|| missing(namespace, name))?;
        let placement = pinset::placement(&*state, &pin.key.cid)?;
        self.pinning_view(PinView { pin, placement }).await
    }

    async fn pinning_view(&self, view: PinView) -> Result<PinningView, Error> {
        let mut silent = BTreeSet::new();
        let names = self.names();
        let asked = [view.pin.key.cid];
        let mut entries = self
            .gather
            .all(&names, &asked, stand::PEER_TIMEOUT, &mut silent)
            .await?;
        let rows = entries.remove(&view.pin.key.cid).unwrap_or_default();
        Ok(stand::placed(
            view.pin,
            view.placement.as_ref(),
            rows,
            &names.everyone(),
        ))
    }
}

/// The pin that a request ID names.
fn find_pin(kv: &dyn KvRead, namespace: &Namespace, name: &RequestName) -> Result<Option<Pin>, Error> {
    let found = match name {
        RequestName::Slot(slot) => pinset::pin_under(kv, namespace, slot)?,
        RequestName::Pin(cid, slot) => {
            let key = PinKey {
                namespace: namespace.clone(),
                cid: *cid,
                slot: slot.clone(),
            };
            pinset::pin(kv, &key)?
        }
    };
    Ok(found)
}

fn missing(namespace: &Namespace, name: &RequestName) -> Error {
    match name {
        RequestName::Slot(slot) => Error::not_found(format!(
            "there is no pin with the request ID {slot} in the namespace {namespace}"
        )),
        RequestName::Pin(cid, slot) => not_pinned(&PinKey {
            namespace: namespace.clone(),
            cid: *cid,
            slot: slot.clone(),
        }),
    }
}
