//! Taking in what comes as a CAR file.

use std::sync::Arc;
use std::time::Duration;

use async_stream::stream;
use axum::body::Body;
use axum::extract::{Extension, Multipart, State};
use axum::response::Response;
use bytes::Bytes;
use cluster_content::{Imported, import_car};
use node_core::{Cid, PinMode};
use serde_json::{Value, json};
use tokio_stream::StreamExt as _;

use super::answer::{Failure, Permit, line};
use super::files::chunked;
use super::{Arguments, Rpc, flag, value};

/// Roots of all files of one call: they are kept until the last of their blocks is there.
const ROOTS_MAX: usize = 65_536;

/// For a client that sends a CAR file to send something more of it.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Takes CAR files, one after another, and pins the roots that they name. A file that breaks off, or whose roots can't be
/// pinned, is said in the line of the root, as Kubo does, or ends the answer.
pub(super) async fn dag_import(
    State(rpc): State<Arc<Rpc>>,
    Extension(permit): Extension<Permit>,
    arguments: Arguments,
    mut parts: Multipart,
) -> Result<Response, Failure> {
    // A file of which not all is there has no whole to pin.
    let pin_roots = flag(&arguments, "pin-roots", !flag(&arguments, "local-only", false)?)?;
    let stats = flag(&arguments, "stats", false)?;
    // One for all of it, and until the last root is pinned.
    let sink = (rpc.sink)();
    let (mut blocks, mut block_bytes) = (0, 0);
    let mut roots: Vec<Cid> = Vec::new();
    while let Some(part) = parts
        .next_field()
        .await
        .map_err(|error| Failure::client(error.to_string()))?
    {
        let file = part.timeout(SILENCE_MAX).map(|piece| match piece {
            Ok(piece) => piece.map_err(|error| error.to_string()),
            Err(_) => Err(format!("nothing more came for {SILENCE_MAX:?}")),
        });
        let imported: Imported = import_car(file, sink.clone()).await?;
        blocks += imported.blocks;
        block_bytes += imported.block_bytes;
        if roots.len() + imported.roots.len() > ROOTS_MAX {
            return Err(Failure::client(
                "the CAR files name more than 65536 roots: import them in several calls",
            ));
        }
        roots.extend(imported.roots);
    }
    let node = rpc.node.clone();
    let body = stream! {
        let _held = (permit, sink);
        for root in roots {
            let pinned = match pin_roots {
                true => node.pin_add(&root, PinMode::Recursive, "", &|_| ()).await.map(|_| ()),
                false => Ok(()),
            };
            let message = pinned.err().map(|error| error.message).unwrap_or_default();
            yield Ok::<Bytes, std::convert::Infallible>(line(&root_line(&root, &message)));
        }
        if stats {
            yield Ok(line(&json!({ "Stats": { "BlockCount": blocks, "BlockBytesCount": block_bytes } })));
        }
    };
    Ok(chunked(Body::from_stream(body)))
}

fn root_line(root: &Cid, message: &str) -> Value {
    json!({ "Root": { "Cid": { "/": root.to_string() }, "PinErrorMsg": message } })
}

pub(super) fn argument(arguments: &Arguments) -> Result<&str, Failure> {
    value(arguments, "arg").ok_or_else(|| Failure::client("argument \"ipfs-path\" is required"))
}

pub(super) fn number(arguments: &Arguments, name: &str) -> Result<Option<u64>, Failure> {
    value(arguments, name)
        .map(|text| {
            text.parse()
                .map_err(|_| Failure::client(format!("{name} is a number of bytes, and no {text:?}")))
        })
        .transpose()
}
