//! How the Pinning Services API names pins.

use node_core::{Cid, Invalid, Namespace, PinKey, RequestId, is_request_slot};

/// A request ID as a client gave it.
///
/// | pin | its request ID |
/// |---|---|
/// | made by this API | its slot, a UUID |
/// | made otherwise, without a slot | its CID, as with IPFS Cluster 1.1.6 |
/// | made otherwise, under a slot | CID, a dot, and the slot in hexadecimal |
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestName {
    /// The one pin that was recorded under this slot.
    Slot(String),
    /// The pin of this CID and slot.
    Pin(Cid, String),
}

impl RequestName {
    /// Reads a request ID.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let remedy = "use the requestid of an earlier answer: a UUID, or for a pin that was made otherwise its CID";
        let refused = || Invalid::new("requestid", text, remedy);
        if is_request_slot(text) {
            return Ok(Self::Slot(text.to_owned()));
        }
        let (cid, slot) = match text.split_once('.') {
            Some((cid, digits)) => (cid, unhex(digits).ok_or_else(refused)?),
            None => (text, String::new()),
        };
        Ok(Self::Pin(cid.parse().map_err(|_| refused())?, slot))
    }

    /// The request ID of a pin.
    pub fn of(key: &PinKey) -> String {
        match key.slot.as_str() {
            "" => key.cid.to_string(),
            slot if is_request_slot(slot) => slot.to_owned(),
            slot => {
                let digits: String = slot.bytes().map(|byte| format!("{byte:02x}")).collect();
                format!("{}.{digits}", key.cid)
            }
        }
    }
}

fn unhex(digits: &str) -> Option<String> {
    if digits.is_empty() || !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let byte = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    let bytes: Option<Vec<u8>> = digits.as_bytes().chunks_exact(2).map(byte).collect();
    String::from_utf8(bytes?).ok()
}

/// The slot of a new pin: random, or made of what the client names its request by. A repetition then names the same pin, and
/// the log carries it out once.
pub fn request_slot(namespace: &Namespace, idempotency_key: Option<&str>) -> (String, Option<RequestId>) {
    let Some(key) = idempotency_key else {
        return (uuid::Uuid::new_v4().to_string(), None);
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"pinfleet/pinning\0");
    hasher.update(namespace.as_str().as_bytes());
    hasher.update(b"\0");
    hasher.update(key.as_bytes());
    let hash = hasher.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    let slot = uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string();
    // Names of requests are common to the whole cluster: the namespace is in the hash, so nobody's stand in another's way.
    let request = RequestId::new(&format!("pinning/{slot}")).ok();
    (slot, request)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CID: &str = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";

    fn key(slot: &str) -> PinKey {
        PinKey {
            namespace: Namespace::default(),
            cid: CID.parse().expect("a CID"),
            slot: slot.into(),
        }
    }

    #[test]
    fn pins_made_otherwise_have_request_ids_too() {
        assert_eq!(RequestName::of(&key("")), CID);
        assert_eq!(RequestName::of(&key("a/1")), format!("{CID}.612f31"));
        // Whatever base it comes in.
        let other = "zb2rhjSjogFwW5KfXiCg5vExfTUYVt6v6wB8W42BpipRE3GTC";
        assert!(matches!(RequestName::parse(other), Ok(RequestName::Pin(_, slot)) if slot.is_empty()));
    }

    #[test]
    fn what_can_be_no_request_id_is_refused() {
        for text in [
            "",
            "x",
            "..",
            ".61",
            "abc.61",
            &format!("{CID}."),
            &format!("{CID}.6"),
            &format!("{CID}.zz"),
        ] {
            let error = RequestName::parse(text).expect_err(text);
            assert_eq!(error.field, "requestid");
        }
    }

    #[test]
    fn a_named_request_is_one_pin_in_one_namespace() {
        let (first, id) = request_slot(&Namespace::default(), Some("k"));
        assert!(is_request_slot(&first) && id.is_some());
        assert_eq!(
            request_slot(&Namespace::default(), Some("k")),
            (first.clone(), id.clone())
        );
        let other = Namespace::new("other").expect("valid");
        assert_ne!(request_slot(&other, Some("k")), (first, id));
        let (one, none) = request_slot(&other, None);
        assert!(is_request_slot(&one) && none.is_none());
        assert_ne!(request_slot(&other, None).0, one);
    }

    proptest! {
        #[test]
        fn every_pin_is_found_by_its_request_id(slot in "[ -~ä]{0,20}") {
            let key = key(&slot);
            let text = RequestName::of(&key);
            let read = RequestName::parse(&text);
            prop_assert_eq!(read, Ok(RequestName::Pin(key.cid, slot)));
        }
    }
}
