//! `node gc`: what nothing refers to goes.

use cluster_proto::v1;
use cluster_proto::v1::collect_garbage_response::Message;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use crate::Context;
use crate::cli::NodeGc;
use crate::client::{Kind, innermost_of, service};
use crate::commands::{interrupted, invalid};
use crate::exit::{Exit, Failure, human};
use crate::output::meter::ShareMeter;
use crate::output::{json, words};
use crate::spec::check_node;

/// What holds however it was cut short.
const CUT_SHORT: &str = "what was deleted by then is gone, nothing that is pinned is touched, and the rest stays until the \
                         next time; running the command again is safe";

/// `node gc`
pub async fn run(context: &mut Context, arguments: NodeGc) -> Result<Exit, Failure> {
    check_node("node", &arguments.node).map_err(invalid)?;
    let interrupt = interrupted();
    let mut meter = ShareMeter::new(context.talk);
    let last = tokio::select! {
        last = collect(context, &arguments, &mut meter) => last,
        () = interrupt => Err(match arguments.estimate {
            true => Failure::new(Exit::Interrupted, "interrupted"),
            false => Failure::new(Exit::Interrupted, "interrupted").hint(CUT_SHORT),
        }),
    };
    drop(meter);
    match last? {
        Last::Done(done) => print_done(context, arguments.node, done)?,
        Last::Estimate(estimate) => print_estimate(context, arguments.node, estimate)?,
    }
    Ok(Exit::Ok)
}

/// How a stream ends when all is well.
enum Last {
    Done(v1::GarbageCollected),
    Estimate(v1::GarbageEstimate),
}

async fn collect(context: &Context, arguments: &NodeGc, meter: &mut ShareMeter) -> Result<Last, Failure> {
    let client = &context.client;
    let request = v1::CollectGarbageRequest {
        node: arguments.node.clone(),
        estimate_only: arguments.estimate,
    };
    let mut steps: Streaming<v1::CollectGarbageResponse> = client
        .call(Kind::Stream, request, |channel, request| async move {
            service!(cluster_client::ClusterClient, channel)
                .collect_garbage(request)
                .await
        })
        .await?;
    loop {
        let step = match timeout(client.timeout(), steps.message()).await {
            Ok(step) => step,
            Err(_) => Err(Status::deadline_exceeded(format!(
                "nothing was heard for {}",
                human(client.timeout())
            ))),
        };
        match step {
            Ok(Some(step)) => match step.message {
                Some(Message::Progress(progress)) => {
                    let freed = format!(
                        "{} blocks, {} freed",
                        words::grouped(progress.deleted_blocks),
                        words::bytes(progress.deleted_bytes)
                    );
                    let look = match progress.looks {
                        0 | 1 => String::new(),
                        looks => format!(", look {looks}"),
                    };
                    meter.set(progress.done, freed + &look);
                }
                Some(Message::Done(done)) => return Ok(Last::Done(done)),
                Some(Message::Estimate(estimate)) => return Ok(Last::Estimate(estimate)),
                // Of a newer version.
                None => {}
            },
            Ok(None) => return Err(broken(context, arguments, "the peer ended it before its last word")),
            // What the peer answered, and what became of the connection.
            Err(status) if std::error::Error::source(&status).is_none() => {
                let failure = Failure::from_status(&status, false);
                return Err(match arguments.estimate {
                    true => failure,
                    false => failure.hint(CUT_SHORT),
                });
            }
            Err(status) => return Err(broken(context, arguments, &innermost_of(&status))),
        }
    }
}

/// The stream is over without a last word. The collection ends with it, at the node too.
fn broken(context: &Context, arguments: &NodeGc, reason: &str) -> Failure {
    let address = context.client.address();
    let failure = Failure::new(Exit::Unavailable, format!("{address}: the stream broke off ({reason})"));
    match arguments.estimate {
        true => failure.hint("run the command again, --api names other peers"),
        false => failure.hint(CUT_SHORT),
    }
}

fn print_done(context: &mut Context, node: String, done: v1::GarbageCollected) -> Result<(), Failure> {
    let out = &mut context.out;
    if out.is_json() {
        return out.object(&json::Collected::new(node, done));
    }
    out.line(&format!(
        "{}: {} blocks deleted, {} freed",
        words::printable(&node),
        words::grouped(done.deleted_blocks),
        words::bytes(done.deleted_bytes)
    ))?;
    out.flush()?;
    context.talk.note(&format!(
        "{} blocks looked at in {}; the file system shows the space as soon as the store has compacted its files",
        words::grouped(done.scanned),
        words::span(done.took_ms)
    ));
    Ok(())
}

fn print_estimate(context: &mut Context, node: String, estimate: v1::GarbageEstimate) -> Result<(), Failure> {
    let out = &mut context.out;
    if out.is_json() {
        return out.object(&json::Estimated::new(node, estimate));
    }
    let is_exact = estimate.looked_at >= 1.0;
    out.line(&format!(
        "{}: {}{} blocks would be deleted, {} freed",
        words::printable(&node),
        if is_exact { "" } else { "about " },
        words::grouped(estimate.blocks),
        words::bytes(estimate.bytes)
    ))?;
    out.flush()?;
    if !is_exact {
        context.talk.note(&format!(
            "{} of the store was looked at; the rest is taken to be alike",
            words::percent(estimate.looked_at)
        ));
    }
    Ok(())
}
