//! Whether a pin is here as it was there.

use std::collections::BTreeSet;

use cluster_proto::v1;
use serde::Serialize;

use crate::output::words;

/// A field that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Which, by its name in IPFS Cluster.
    pub field: &'static str,
    /// There.
    pub was: String,
    /// Here.
    pub is: String,
}

/// In what a pin differs from the item that was made of its line.
pub fn differences(item: &v1::BulkPinItem, pin: &v1::Pin) -> Vec<Difference> {
    let options = item.options.clone().unwrap_or_default();
    let former = item.former.clone().unwrap_or_default();
    let mut found = Vec::new();
    let mut differ = |field, was: String, is: String| {
        if was != is {
            found.push(Difference { field, was, is });
        }
    };
    differ("name", options.name.clone(), pin.name.clone());
    differ(
        "mode",
        words::mode(options.mode()).into(),
        words::mode(pin.mode()).into(),
    );
    // Zeros stand for the default there, and for ours here.
    if (options.replication_min, options.replication_max) != (0, 0) {
        differ(
            "replication_factor_min",
            options.replication_min.to_string(),
            pin.replication_min.to_string(),
        );
        differ(
            "replication_factor_max",
            options.replication_max.to_string(),
            pin.replication_max.to_string(),
        );
    }
    let pairs = |metadata: &std::collections::HashMap<String, String>| {
        let sorted: std::collections::BTreeMap<_, _> = metadata.iter().collect();
        format!("{sorted:?}")
    };
    differ("metadata", pairs(&options.metadata), pairs(&pin.metadata));
    differ("origins", options.origins.join(" "), pin.origins.join(" "));
    let expiry = match &options.expiry {
        Some(v1::pin_options::Expiry::ExpireAt(at)) => words::time(Some(at)),
        _ => None,
    };
    let never = || "never".to_owned();
    differ(
        "expire_at",
        expiry.unwrap_or_else(never),
        words::time(pin.expire_at.as_ref()).unwrap_or_else(never),
    );
    differ("pin_update", former.updated_from.clone(), pin.updated_from.clone());
    if let Some(created) = words::time(former.created.as_ref()) {
        let is = words::time(pin.created.as_ref()).unwrap_or_default();
        differ("timestamp", created, is);
    }
    found
}

/// Whether the nodes that held it, as far as they are known, are those that shall hold it.
pub fn is_where_it_was(item: &v1::BulkPinItem, pin: &v1::Pin) -> bool {
    let held_by: BTreeSet<&String> = item.former.iter().flat_map(|former| &former.held_by).collect();
    pin.everywhere || held_by.iter().all(|node| pin.nodes.contains(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (v1::BulkPinItem, v1::Pin) {
        let item = v1::BulkPinItem {
            options: Some(v1::PinOptions {
                name: "site".into(),
                replication_min: 1,
                replication_max: 2,
                ..v1::PinOptions::default()
            }),
            former: Some(v1::Former {
                held_by: vec!["kubo-1".into()],
                ..v1::Former::default()
            }),
            ..v1::BulkPinItem::default()
        };
        let pin = v1::Pin {
            name: "site".into(),
            replication_min: 1,
            replication_max: 2,
            nodes: vec!["kubo-2".into(), "kubo-1".into()],
            ..v1::Pin::default()
        };
        (item, pin)
    }

    #[test]
    fn each_field_that_differs_is_named() {
        let (item, pin) = pair();
        assert_eq!(differences(&item, &pin), []);
        let changed = |change: fn(&mut v1::Pin)| {
            let mut other = pin.clone();
            change(&mut other);
            let fields: Vec<_> = differences(&item, &other)
                .into_iter()
                .map(|found| found.field)
                .collect();
            fields
        };
        assert_eq!(changed(|pin| pin.name = "other".into()), ["name"]);
        assert_eq!(changed(|pin| pin.mode = v1::PinMode::Direct.into()), ["mode"]);
        assert_eq!(changed(|pin| pin.replication_max = 3), ["replication_factor_max"]);
        assert_eq!(changed(|pin| pin.replication_min = 2), ["replication_factor_min"]);
        assert_eq!(
            changed(|pin| drop(pin.metadata.insert("a".into(), "b".into()))),
            ["metadata"]
        );
        assert_eq!(changed(|pin| pin.origins.push("x".into())), ["origins"]);
        assert_eq!(
            changed(|pin| pin.expire_at = Some(prost_types::Timestamp::default())),
            ["expire_at"]
        );
        assert_eq!(changed(|pin| pin.updated_from = "x".into()), ["pin_update"]);
    }

    #[test]
    fn a_move_is_told_from_a_difference() {
        let (item, mut pin) = pair();
        assert!(is_where_it_was(&item, &pin));
        pin.nodes = vec!["kubo-2".into()];
        assert!(!is_where_it_was(&item, &pin));
        assert_eq!(differences(&item, &pin), []);
        pin.everywhere = true;
        assert!(is_where_it_was(&item, &pin));
    }
}
