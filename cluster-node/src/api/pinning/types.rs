//! What is answered. Field names are those of the specification.

use std::collections::BTreeMap;

use node_core::{PinKey, PinningStatus};
use serde::Serialize;

use super::delegates::Reach;
use super::details;
use crate::service::{NodeNames, PinningPage, PinningView, RequestName};

/// A pin and where it stands.
#[derive(Debug, Serialize)]
pub struct PinStatus {
    pub requestid: String,
    pub status: &'static str,
    pub created: String,
    pub pin: Pin,
    pub delegates: Vec<String>,
    pub info: BTreeMap<&'static str, String>,
}

/// A pin as it was asked for. What is empty is left out.
#[derive(Debug, Serialize)]
pub struct Pin {
    pub cid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
}

/// A page of pins.
#[derive(Debug, Serialize)]
pub struct PinResults {
    pub count: i32,
    pub results: Vec<PinStatus>,
}

/// A bearer token.
#[derive(Debug, Serialize)]
pub struct Token {
    pub token: String,
}

impl PinStatus {
    /// As it is shown.
    pub fn of(view: PinningView, names: &NodeNames, reach: &Reach) -> Self {
        let PinningView {
            pin,
            status,
            entries,
            nodes,
            unplaced,
        } = view;
        let expires = pin.options.expire_at;
        let info = details::info(status, &entries, &nodes, unplaced.as_deref(), expires, names);
        let created = pin.created().to_string();
        let key: PinKey = pin.key;
        Self {
            requestid: RequestName::of(&key),
            status: PinningStatus::as_str(status),
            created,
            delegates: reach.delegates(&nodes),
            info,
            pin: Pin {
                cid: key.cid.to_string(),
                name: pin.options.name,
                origins: pin.options.origins,
                meta: pin.options.metadata,
            },
        }
    }
}

impl PinResults {
    /// As it is shown. Clients take a `count` above the number of results for the sign that there are more, and go on behind the
    /// last one.
    pub fn of(page: PinningPage, names: &NodeNames, reach: &Reach) -> Self {
        let count = i32::try_from(page.count).unwrap_or(i32::MAX);
        let views = page.views.into_iter();
        Self {
            count,
            results: views.map(|view| PinStatus::of(view, names, reach)).collect(),
        }
    }
}
