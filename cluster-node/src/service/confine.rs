//! What one namespace may know of a CID that others may have pinned too.

use std::time::Duration;

use node_core::pinset::{self, KvRead, Table, decode_pin, keys};
use node_core::{Cid, Namespace, PinKey};

use super::{Error, Pins};

/// The pins that a namespace has of one CID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPins {
    /// Of the first that has one.
    pub name: String,
    /// How many there are; at least one.
    pub pins: u32,
}

impl Pins {
    /// The pins of a CID in one namespace. Refused when there is none, whoever else has pinned it.
    pub async fn own_pins(
        &self,
        namespace: &Namespace,
        cid: &Cid,
        linearizable: bool,
        wait: Duration,
    ) -> Result<OwnPins, Error> {
        let state = self.reads.with(linearizable, wait).await?;
        own_pins(&*state, namespace, cid)?
            .ok_or_else(|| Error::not_found(format!("{cid} is not pinned in the namespace {namespace}")))
    }
}

fn own_pins(kv: &dyn KvRead, namespace: &Namespace, cid: &Cid) -> Result<Option<OwnPins>, Error> {
    // A CID carries its length, so what begins with namespace and CID is of no other CID; the slot comes behind.
    let first = keys::pin(&PinKey {
        namespace: namespace.clone(),
        cid: *cid,
        slot: String::new(),
    });
    let mut found: Option<OwnPins> = None;
    let mut failed = None;
    kv.scan(
        Table::Pins,
        &first,
        keys::after_prefix(&first).as_deref(),
        &mut |key, value| {
            match keys::read_pin(key).and_then(|key| decode_pin(key, value)) {
                Ok(pin) => {
                    let own = found.get_or_insert_with(|| OwnPins {
                        name: String::new(),
                        pins: 0,
                    });
                    own.pins += 1;
                    if own.name.is_empty() {
                        own.name = pin.options.name;
                    }
                }
                Err(error) => failed = Some(error),
            }
            failed.is_none()
        },
    )?;
    failed.map_or(Ok(found), |error: pinset::KvError| Err(error.into()))
}

#[cfg(test)]
mod tests {
    use node_core::command::{CommandBatch, Op, Plan, Request};
    use node_core::pinset::{Effects, MemoryKv};
    use node_core::{PinOptions, Replication, Timestamp};

    use super::*;

    #[test]
    fn only_pins_of_the_namespace_count() {
        let cid: Cid = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
            .parse()
            .expect("a CID");
        let mut kv = MemoryKv::default();
        let team = Namespace::new("team-a").expect("valid");
        for (namespace, slot, name) in [("team-a", "", ""), ("team-a", "2", "second"), ("team-b", "", "secret")] {
            let op = Op::PutPin {
                key: PinKey {
                    namespace: Namespace::new(namespace).expect("valid"),
                    cid,
                    slot: slot.into(),
                },
                options: PinOptions {
                    name: name.into(),
                    replication: Replication::EVERYWHERE,
                    ..PinOptions::default()
                },
                plan: Plan {
                    based_on: pinset::placement(&kv, &cid)
                        .expect("memory")
                        .map_or(0, |placement| placement.revision),
                    ..Plan::default()
                },
                from: None,
                unpin_from: false,
                created: None,
            };
            let batch = CommandBatch {
                time: Timestamp::from_millis(1),
                requests: vec![Request { id: None, op }],
            };
            pinset::apply(&mut kv, 2, &batch, &mut Effects::default()).expect("memory");
        }
        let own = own_pins(&kv, &team, &cid).expect("memory");
        assert_eq!(
            own,
            Some(OwnPins {
                name: "second".into(),
                pins: 2
            })
        );
        let none = own_pins(&kv, &Namespace::new("team").expect("valid"), &cid);
        assert_eq!(none, Ok(None));
    }
}
