//! What an answer means: one pure function from what the daemon said to what follows from it.
//!
//! Kubo gives nearly every failure the status 500 and the code 0, so its words are all there is to tell them apart. They
//! were taken from Kubo 0.43 and boxo 0.42, by reading and by trying. Words not known here are temporary: trying again
//! in vain costs little, giving up in vain costs a replica.

use cluster_ipfs::{MESSAGE_BYTES_MAX, Operation, cut};
use node_core::ErrorClass;
use serde::Deserialize;

/// What follows from an answer that is not the plain result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// What was asked for is so already.
    Done,
    /// Direct was asked for, and it is pinned recursively.
    HeldRecursively,
    /// It is not pinned.
    NotPinned,
    /// The pin to update from is not there.
    SourceNotPinned,
    /// It failed.
    Failed(ErrorClass),
}

/// An error as the daemon wrote it: Kubo's JSON, or whatever text a proxy in between sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) words: String,
    pub(crate) code: Option<u64>,
}

impl Said {
    pub(crate) fn parse(body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Kubo {
            #[serde(rename = "Message")]
            message: String,
            #[serde(rename = "Code", default)]
            code: u64,
        }
        match serde_json::from_slice::<Kubo>(body) {
            Ok(kubo) => Self {
                words: cut(&kubo.message, MESSAGE_BYTES_MAX),
                code: Some(kubo.code),
            },
            Err(_) => Self {
                words: cut(&String::from_utf8_lossy(body), MESSAGE_BYTES_MAX),
                code: None,
            },
        }
    }

    pub(crate) fn text(words: &str) -> Self {
        Self {
            words: cut(words, MESSAGE_BYTES_MAX),
            code: None,
        }
    }
}

/// The codes of go-ipfs-cmds.
mod code {
    pub(super) const CLIENT: u64 = 1;
    pub(super) const RATE_LIMITED: u64 = 3;
    pub(super) const FORBIDDEN: u64 = 4;
}

/// Parts of Kubo's words, and what they mean for any call. The first that fits counts.
const WORDS: [(&str, ErrorClass); 35] = [
    // The disk. The first two are the system's, the third is Kubo's own limit.
    ("no space left on device", ErrorClass::DiskFull),
    ("disk quota exceeded", ErrorClass::DiskFull),
    ("maximum storage limit exceeded", ErrorClass::DiskFull),
    // The daemon's limits.
    ("resource limit exceeded", ErrorClass::Overloaded),
    ("too many open files", ErrorClass::Overloaded),
    ("cannot allocate memory", ErrorClass::Overloaded),
    ("rate limit", ErrorClass::Overloaded),
    ("too many requests", ErrorClass::Overloaded),
    // Limits of time come before what was being looked for: the words of both stand in one message.
    ("context deadline exceeded", ErrorClass::Temporary),
    ("context canceled", ErrorClass::Temporary),
    // Nobody has it.
    ("block was not found locally", ErrorClass::NotFound),
    ("ipld: could not find", ErrorClass::NotFound),
    ("merkledag: not found", ErrorClass::NotFound),
    ("could not find provider", ErrorClass::NotFound),
    ("no providers found", ErrorClass::NotFound),
    // What the CID itself says is refused.
    ("no decoder registered for multicodec", ErrorClass::Permanent),
    ("potentially insecure hash functions not allowed", ErrorClass::Permanent),
    ("digest too small", ErrorClass::Permanent),
    ("digest too large", ErrorClass::Permanent),
    ("invalid path", ErrorClass::Permanent),
    ("invalid cid", ErrorClass::Permanent),
    ("selected encoding not supported", ErrorClass::Permanent),
    // The block is there and is not what its codec says.
    ("protobuf: ", ErrorClass::Permanent),
    ("failed to decode Protocol Buffers", ErrorClass::Permanent),
    ("incorrectly formatted merkledag node", ErrorClass::Permanent),
    ("was not a valid merkledag node", ErrorClass::Permanent),
    ("invalid majorByte", ErrorClass::Permanent),
    ("invalid wireType", ErrorClass::Permanent),
    ("expected protobuf dag node", ErrorClass::Permanent),
    ("raw nodes cannot be decoded from non-raw blocks", ErrorClass::Permanent),
    ("cid links must begin with", ErrorClass::Permanent),
    // An origin that can't be one.
    ("found no ipfs peers at", ErrorClass::Permanent),
    ("invalid p2p multiaddr", ErrorClass::Permanent),
    ("failed to parse multiaddr", ErrorClass::Permanent),
    ("dial to self attempted", ErrorClass::Permanent),
];

/// Judges an answer that is not the plain result: its status (200 when the error came in the middle of a stream), the
/// daemon's code and its words.
pub(crate) fn judge(operation: Operation, status: u16, said: &Said) -> Verdict {
    match status {
        // 200 and 500 are Kubo's own, 400 is it too where it understood the request: their words decide.
        200..=299 | 400 | 500 => {}
        401 | 403 | 407 => return Verdict::Failed(ErrorClass::Unauthorized),
        429 | 503 => return Verdict::Failed(ErrorClass::Overloaded),
        507 => return Verdict::Failed(ErrorClass::DiskFull),
        // A proxy that can't reach the daemon, or something that is not Kubo's RPC.
        300..=399 | 404 | 405 | 408 | 501 | 502 | 504 => return Verdict::Failed(ErrorClass::Unreachable),
        _ => return Verdict::Failed(ErrorClass::Temporary),
    }
    let words = said.words.as_str();
    let says = |part: &str| words.contains(part);
    match operation {
        Operation::PinAdd if says("already pinned recursively") => return Verdict::HeldRecursively,
        Operation::PinUpdate if says("'to' cid was already recursively pinned") => return Verdict::Done,
        Operation::PinUpdate if says("'from' cid was not recursively pinned") => return Verdict::SourceNotPinned,
        Operation::PinRm if says("not pinned") => return Verdict::NotPinned,
        Operation::PinLs if says("is not pinned") => return Verdict::NotPinned,
        _ => {}
    }
    if let Some((_, class)) = WORDS.iter().find(|(part, _)| says(part)) {
        return Verdict::Failed(*class);
    }
    Verdict::Failed(match (said.code, status) {
        (Some(code::RATE_LIMITED), _) => ErrorClass::Overloaded,
        (Some(code::FORBIDDEN), _) => ErrorClass::Unauthorized,
        (Some(code::CLIENT), _) | (_, 400) => ErrorClass::Permanent,
        _ => ErrorClass::Temporary,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ErrorClass::*;
    use Operation::*;

    const CID: &str = "bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6am";

    #[test]
    fn every_outcome_has_its_verdict() {
        let json = |message: &str| format!(r#"{{"Message":{message:?},"Code":0,"Type":"error"}}"#);
        let coded = |code: u64| format!(r#"{{"Message":"x","Code":{code},"Type":"error"}}"#);
        let table: Vec<(Operation, u16, String, Verdict)> = vec![
            // As real daemons answered.
            (PinRm, 500, json("not pinned or pinned indirectly"), Verdict::NotPinned),
            (
                PinLs,
                500,
                json(&format!("path '{CID}' is not pinned")),
                Verdict::NotPinned,
            ),
            (
                PinAdd,
                500,
                json(&format!("pin: {CID} already pinned recursively")),
                Verdict::HeldRecursively,
            ),
            (
                PinUpdate,
                500,
                json("'to' cid was already recursively pinned"),
                Verdict::Done,
            ),
            (
                PinUpdate,
                500,
                json("'from' cid was not recursively pinned already"),
                Verdict::SourceNotPinned,
            ),
            (
                PinAdd,
                500,
                json("pin: write /blocks/.temp/temp-25: no space left on device"),
                Verdict::Failed(DiskFull),
            ),
            (
                PinAdd,
                500,
                json(&format!(
                    "pin: block was not found locally (offline): ipld: could not find {CID}"
                )),
                Verdict::Failed(NotFound),
            ),
            (
                PinAdd,
                500,
                json("pin: could not choose a decoder: no decoder registered for multicodec code 39321 (0x9999)"),
                Verdict::Failed(Permanent),
            ),
            (
                PinAdd,
                500,
                json("pin: potentially insecure hash functions not allowed"),
                Verdict::Failed(Permanent),
            ),
            (
                PinAdd,
                500,
                json("pin: digest too small: sha2-256 digest got 10 bytes, minimum 20"),
                Verdict::Failed(Permanent),
            ),
            (
                PinAdd,
                500,
                json("pin: protobuf: (PBNode) invalid wireType, expected 2, got 0"),
                Verdict::Failed(Permanent),
            ),
            (
                PinAdd,
                500,
                json("pin: invalid majorByte: 0xff"),
                Verdict::Failed(Permanent),
            ),
            (
                PinAdd,
                500,
                json("invalid path \"notacid\": path does not have enough components"),
                Verdict::Failed(Permanent),
            ),
            (
                PinAdd,
                400,
                "argument \"ipfs-path\" is required\n".into(),
                Verdict::Failed(Permanent),
            ),
            (
                PinAdd,
                200,
                "context deadline exceeded".into(),
                Verdict::Failed(Temporary),
            ),
            (
                PinUpdate,
                500,
                json(&format!("get {CID}: context deadline exceeded")),
                Verdict::Failed(Temporary),
            ),
            (
                Id,
                403,
                "Kubo RPC Access Denied: Please provide a valid authorization token as defined in the \
                 API.Authorizations configuration.\n"
                    .into(),
                Verdict::Failed(Unauthorized),
            ),
            (Id, 404, "404 page not found\n".into(), Verdict::Failed(Unreachable)),
            (Id, 405, String::new(), Verdict::Failed(Unreachable)),
            (
                SwarmConnect,
                500,
                json("connect 12D3 failure: failed to dial: all dials failed"),
                Verdict::Failed(Temporary),
            ),
            (
                SwarmConnect,
                500,
                json("found no ipfs peers at /ip4/127.0.0.1/tcp/1"),
                Verdict::Failed(Permanent),
            ),
            // As read in the source, or as proxies answer.
            (
                PinAdd,
                500,
                json("pin: maximum storage limit exceeded. Try to unpin some files"),
                Verdict::Failed(DiskFull),
            ),
            (
                PinAdd,
                500,
                json("open /blocks/x: too many open files"),
                Verdict::Failed(Overloaded),
            ),
            (PinAdd, 500, json("pinner closed"), Verdict::Failed(Temporary)),
            (
                PinAdd,
                500,
                json("something nobody has read yet"),
                Verdict::Failed(Temporary),
            ),
            (
                PinAdd,
                500,
                "<html>Internal Server Error</html>".into(),
                Verdict::Failed(Temporary),
            ),
            (PinAdd, 500, coded(3), Verdict::Failed(Overloaded)),
            (PinAdd, 500, coded(4), Verdict::Failed(Unauthorized)),
            (PinAdd, 500, coded(1), Verdict::Failed(Permanent)),
            (Id, 401, String::new(), Verdict::Failed(Unauthorized)),
            (Id, 302, String::new(), Verdict::Failed(Unreachable)),
            (Id, 429, String::new(), Verdict::Failed(Overloaded)),
            (Id, 502, String::new(), Verdict::Failed(Unreachable)),
            (Id, 503, String::new(), Verdict::Failed(Overloaded)),
            (Id, 504, String::new(), Verdict::Failed(Unreachable)),
            (PinAdd, 507, String::new(), Verdict::Failed(DiskFull)),
            (PinAdd, 413, String::new(), Verdict::Failed(Temporary)),
            // Words count only for the call that they belong to.
            (
                Id,
                500,
                json("not pinned or pinned indirectly"),
                Verdict::Failed(Temporary),
            ),
            (
                PinRm,
                500,
                json("x already pinned recursively"),
                Verdict::Failed(Temporary),
            ),
            // A status that already tells is not overruled by words.
            (PinRm, 403, json("not pinned"), Verdict::Failed(Unauthorized)),
        ];
        for (operation, status, body, verdict) in table {
            assert_eq!(
                judge(operation, status, &Said::parse(body.as_bytes())),
                verdict,
                "{operation} {status} {body}"
            );
        }
    }

    #[test]
    fn the_daemons_words_are_kept() {
        let said = Said::parse(br#"{"Message":"pin: pinner closed","Code":0,"Type":"error"}"#);
        assert_eq!(
            said,
            Said {
                words: "pin: pinner closed".into(),
                code: Some(0)
            }
        );
        assert_eq!(Said::parse(b"404 page not found\n"), Said::text("404 page not found"));
        assert_eq!(Said::parse(&[0xff, b'x']).words, "\u{fffd}x");
        assert_eq!(Said::parse(&[b'y'; 100_000]).words.len(), MESSAGE_BYTES_MAX);
    }
}
