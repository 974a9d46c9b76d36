//! The handlers.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use cluster_http::{Failure, Principal, Query, Whole, json};
use http::{HeaderMap, StatusCode};
use node_core::PinKey;

use super::body::{self, Wanted};
use super::delegates::Reach;
use super::failures::{failure, of_list};
use super::types::{PinResults, PinStatus, Token};
use super::{Answer, Named, Pinning, query};
use crate::service::{PinningView, PinningWish, WAIT_DEFAULT, request_slot};

/// `GET /pins`
pub async fn list(State(pinning): State<Arc<Pinning>>, principal: Principal, asked: Query) -> Answer {
    let (filter, limit) = query::read(&asked, principal.namespace)?;
    let page = pinning.pins.pinning_list(filter, limit, WAIT_DEFAULT).await;
    let page = page.map_err(of_list)?;
    let (names, reach) = (pinning.pins.names(), pinning.reach().await);
    Ok(json(&PinResults::of(page, &names, &reach)))
}

/// `POST /pins`
pub async fn add(State(pinning): State<Arc<Pinning>>, principal: Principal, headers: HeaderMap, sent: Whole) -> Answer {
    let wish = wish(&principal, &headers, &sent)?;
    let view = pinning.pins.pinning_add(wish, WAIT_DEFAULT).await.map_err(failure)?;
    Ok(accepted(pinning.shown(view).await))
}

/// `GET /pins/{requestid}`
pub async fn get(State(pinning): State<Arc<Pinning>>, principal: Principal, Named(name): Named) -> Answer {
    let view = pinning
        .pins
        .pinning_get(&principal.namespace, &name, WAIT_DEFAULT)
        .await;
    let view = view.map_err(failure)?;
    Ok(pinning.shown(view).await)
}

/// `POST /pins/{requestid}`
pub async fn replace(
    State(pinning): State<Arc<Pinning>>,
    principal: Principal,
    Named(name): Named,
    headers: HeaderMap,
    sent: Whole,
) -> Answer {
    let wish = wish(&principal, &headers, &sent)?;
    let view = pinning.pins.pinning_replace(&name, wish, WAIT_DEFAULT).await;
    Ok(accepted(pinning.shown(view.map_err(failure)?).await))
}

/// `DELETE /pins/{requestid}`
pub async fn remove(State(pinning): State<Arc<Pinning>>, principal: Principal, Named(name): Named) -> Answer {
    let removed = pinning
        .pins
        .pinning_remove(&principal.namespace, &name, WAIT_DEFAULT)
        .await;
    removed.map_err(failure)?;
    Ok(cluster_http::empty(StatusCode::ACCEPTED))
}

/// `POST /token`
pub async fn token(State(pinning): State<Arc<Pinning>>, principal: Principal) -> Answer {
    let issuer = pinning.tokens.as_ref().filter(|_| principal.name.is_some());
    let issuer = issuer.ok_or_else(|| Failure::new(StatusCode::UNAUTHORIZED, "unauthorized"))?;
    let token = issuer.issue(&principal).await?;
    Ok(json(&Token { token }))
}

/// `GET /health`
pub async fn alive() -> Answer {
    Ok(cluster_http::empty(StatusCode::NO_CONTENT))
}

/// A pin that is sent, under a request ID of its own.
fn wish(principal: &Principal, headers: &HeaderMap, sent: &Whole) -> Result<PinningWish, Failure> {
    let Wanted {
        cid,
        name,
        origins,
        metadata,
    } = body::read(sent)?;
    let namespace = principal.namespace.clone();
    let (slot, request_id) = request_slot(&namespace, &cid, body::idempotency_key(headers)?);
    Ok(PinningWish {
        key: PinKey { namespace, cid, slot },
        name,
        metadata,
        origins,
        request_id,
    })
}

/// What is done goes on: 202.
fn accepted(mut answer: Response) -> Response {
    if answer.status() == StatusCode::OK {
        *answer.status_mut() = StatusCode::ACCEPTED;
    }
    answer
}

impl Pinning {
    async fn reach(&self) -> Reach {
        Reach::of(&self.pins.ipfs_seen().await)
    }

    async fn shown(&self, view: PinningView) -> Response {
        let reach = self.reach().await;
        json(&PinStatus::of(view, &self.pins.names(), &reach))
    }
}
