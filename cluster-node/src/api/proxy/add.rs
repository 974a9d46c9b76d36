//! `add`: content into the cluster, told as Kubo tells it.

use axum::body::Body;
use cluster_content::AddedEntry;
use cluster_dag::unixfs::{Metadata, Mtime};
use cluster_http::Limits;
use cluster_http::multipart::{Part, Parts};
use http::Extensions;
use node_core::{Cid, PinMode};
use serde::Serialize;

use super::add_options::{self, Asked};
use super::{Answer, Arc, Call, Proxy};
use crate::api::adding::{self, Form, Purpose};
use crate::api::failure::failure;
use crate::api::rest::options;
use crate::service::{AddWish, Adding, Pins};

/// A step of an add.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Added {
    name: String,
    /// None while a file is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    /// A number as text, as Kubo has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<String>,
}

/// The limits of the server that a request came through.
pub fn limits(extensions: &Extensions) -> Arc<Limits> {
    extensions.get().cloned().unwrap_or_default()
}

impl Proxy {
    pub(super) async fn add(self: &Arc<Self>, call: &Call, body: Body, extensions: &Extensions) -> Answer {
        let asked = add_options::read(&call.query)?;
        let mut pin = options::read(&call.query, &self.pins.members(), self.now())?.options;
        pin.mode = PinMode::Recursive;
        if let Some(name) = &asked.pin_name {
            pin.name.clone_from(name);
            pin.check().map_err(|invalid| failure(invalid.into()))?;
        }
        let limits = limits(extensions);
        let parts = Parts::new(&call.headers, body, &limits)?;
        let place = self.adds.place(limits.stall_timeout).await?;
        let prefer = match asked.local && pin.nodes.is_empty() {
            true => {
                let names = self.pins.names();
                names.of_peer(self.pins.directory.own()).map(|node| node.id).collect()
            }
            false => Vec::new(),
        };
        let wish = AddWish {
            namespace: call.namespace().clone(),
            slot: String::new(),
            options: pin,
            request_id: None,
            format: asked.format(),
            without_pin: asked.no_pin,
            // Each file that is not wrapped is a pin of its own, as in Kubo; a CAR file has one root.
            every_root: asked.unixfs.is_some(),
            prefer,
        };
        let purpose = match asked.only_hash {
            true => Purpose::Hash,
            false => Purpose::Store,
        };
        let stream = asked.stream;
        let objects = Objects::of(asked);
        let output = adding::begin(self.pins.clone(), place, wish, purpose, parts, objects);
        match stream {
            true => Ok(adding::streamed::<Objects>(output).await),
            false => adding::collected::<Objects>(output).await,
        }
    }
}

/// Objects as Kubo has them.
struct Objects {
    asked: Asked,
    /// Whether what has no name is the directory around everything.
    wrapped: bool,
}

impl Objects {
    fn of(asked: Asked) -> Self {
        Self {
            wrapped: asked.unixfs.as_ref().is_some_and(|options| options.wrap),
            asked,
        }
    }
}

impl Form for Objects {
    type Output = Added;

    fn begun(&mut self, _: &Pins, _: &Adding) {}

    fn progress(&self, part: &Part, bytes: u64) -> Option<Added> {
        (self.asked.progress && !self.asked.silent).then(|| Added {
            name: part.path.clone(),
            hash: None,
            bytes: Some(bytes),
            size: None,
        })
    }

    fn entry(&self, entry: &AddedEntry) -> Option<Added> {
        let cid = entry.cid.to_string();
        // What came without a name is called by its CID.
        let name = match entry.path.is_empty() && !self.wrapped {
            true => cid.clone(),
            false => String::from_utf8_lossy(&entry.path).into_owned(),
        };
        (!self.asked.silent).then(|| Added {
            name,
            hash: Some(cid),
            bytes: None,
            size: Some(entry.tsize.to_string()),
        })
    }

    fn car(&self, name: String, root: Cid, block_bytes: u64) -> Option<Added> {
        (!self.asked.silent).then(|| Added {
            name,
            hash: Some(root.to_string()),
            bytes: Some(block_bytes),
            size: None,
        })
    }

    fn metadata(&self, part: &Part) -> Metadata {
        let Metadata { mode, mtime } = self.asked.metadata;
        let preserved = part.mode.filter(|_| self.asked.preserve_mode);
        let changed = part.mtime.filter(|_| self.asked.preserve_mtime);
        let changed = changed.map(|(seconds, nanos)| Mtime { seconds, nanos });
        Metadata {
            mode: mode.or(preserved),
            mtime: mtime.or(changed),
        }
    }
}

#[cfg(test)]
mod tests {
    use cluster_http::Query;
    use cluster_http::multipart::PartKind;

    use super::*;

    const CID: &str = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";

    fn objects(query: &str) -> Objects {
        Objects::of(add_options::read(&Query::parse(query)).expect(query))
    }

    fn entry(path: &str) -> AddedEntry {
        AddedEntry {
            path: path.into(),
            cid: CID.parse().expect("a CID"),
            tsize: 7,
        }
    }

    #[test]
    fn lines_are_those_of_kubo() {
        let told = |added: Option<Added>| serde_json::to_string(&added.expect("told")).expect("JSON");
        assert_eq!(
            told(objects("").entry(&entry("d/x"))),
            format!(r#"{{"Name":"d/x","Hash":"{CID}","Size":"7"}}"#)
        );
        // The directory around everything has no name, a file without one has that of its CID.
        let wrapped = objects("wrap-with-directory=true").entry(&entry("")).expect("told");
        assert_eq!(wrapped.name, "");
        assert_eq!(objects("").entry(&entry("")).expect("told").name, CID);
        let part = Part {
            path: "d/x".into(),
            kind: PartKind::File,
            abspath: None,
            mode: Some(0o600),
            mtime: Some((5, 6)),
        };
        assert_eq!(
            told(objects("progress=true").progress(&part, 0)),
            r#"{"Name":"d/x","Bytes":0}"#
        );
        assert_eq!(objects("").progress(&part, 5), None);
        assert_eq!(objects("silent=true&progress=true").entry(&entry("x")), None);

        assert_eq!(objects("").metadata(&part), Metadata::default());
        assert_eq!(objects("preserve-mode=true").metadata(&part).mode, Some(0o600));
        let kept = objects("preserve-mtime=true&mode=0644").metadata(&part);
        assert_eq!(
            (kept.mode, kept.mtime),
            (Some(0o644), Some(Mtime { seconds: 5, nanos: 6 }))
        );
    }
}
