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

/// What the names of these requests begin with. They can be worked out by who knows a namespace and a key, so the other APIs take
/// none that begin so.
pub const REQUESTS: &str = "pinning/";

/// The slot of a new pin: random, or made of what the client names its request by, and of the CID. A repetition then names the
/// same pin, and the log carries it out once; and when a name is used for another CID after its request was forgotten, the pins
/// have request IDs of their own.
pub fn request_slot(namespace: &Namespace, cid: &Cid, idempotency_key: Option<&str>) -> (String, Option<RequestId>) {
    let Some(key) = idempotency_key else {
        return (uuid::Uuid::new_v4().to_string(), None);
    };
    let made_of = |cid: &[u8]| {
        let mut hasher = blake3::Hasher::new();
        for part in [b"pinfleet/pinning", namespace.as_str().as_bytes(), key.as_bytes()] {
            hasher.update(part);
            hasher.update(b"\0");
        }
        hasher.update(cid);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
    };
    // Names of requests are common to the whole cluster: the namespace is in the hash, so nobody's stand in another's way. The
    // CID is not, so a name that is used for another one at once is refused.
    let request = RequestId::new(&format!("{REQUESTS}{}", made_of(b""))).ok();
    (made_of(&cid.to_bytes()), request)
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
        let cid = key("").cid;
        let another: Cid = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn".parse().expect("a CID");
        let own = Namespace::default();
        let (first, id) = request_slot(&own, &cid, Some("k"));
        assert!(is_request_slot(&first) && id.is_some());
        assert_eq!(request_slot(&own, &cid, Some("k")), (first.clone(), id.clone()));
        let other = Namespace::new("other").expect("valid");
        let (theirs, their_id) = request_slot(&other, &cid, Some("k"));
        assert!(theirs != first && their_id != id);
        // The name is the same, so it is refused while it is remembered; the pin would not be.
        let (second, same_id) = request_slot(&own, &another, Some("k"));
        assert!(second != first && same_id == id);
        let (one, none) = request_slot(&other, &cid, None);
        assert!(is_request_slot(&one) && none.is_none());
        assert_ne!(request_slot(&other, &cid, None).0, one);
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
