//! `watch`

use cluster_proto::v1;
use tokio::time::{Instant, sleep};

use super::invalid;
use crate::Context;
use crate::cli::WatchArgs;
use crate::client::{Kind, Trouble, innermost_of, service, trouble};
use crate::exit::{Exit, Failure};
use crate::output::table::{Cell, Rows};
use crate::output::{json, words};
use crate::spec::check_namespace;

/// Between a broken stream and the next try, so that a peer that is starting is not hammered.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(500);

/// `watch`: until it is interrupted.
pub async fn run(context: &mut Context, arguments: WatchArgs) -> Result<Exit, Failure> {
    check_namespace(&arguments.namespace).map_err(invalid)?;
    let Context { client, out, talk } = context;
    let mut after = match arguments.after {
        Some(revision) => revision,
        // From a known revision on, so that a peer lost before the first change leaves no gap.
        None => {
            client
                .call(Kind::Read, v1::ClusterStatusRequest {}, |channel, request| async move {
                    service!(cluster_client::ClusterClient, channel).status(request).await
                })
                .await?
                .revision
        }
    };
    let mut left = arguments.limit;
    let mut rows = Rows::new(&["REVISION", "TIME", "CHANGE", "NAMESPACE", "CID"])
        .flexible(&["NAMESPACE"])
        // The first change may be all there is for hours; the later ones stand below it all the same.
        .at_least(&[10, 20, 17, 12]);
    // The last sign of life: without one for the timeout, somebody should look.
    let mut heard = Instant::now();
    loop {
        let request = v1::WatchRequest {
            after_revision: after,
            namespace: arguments.namespace.clone(),
        };
        let opened = client
            .call(Kind::Stream, request, |channel, request| async move {
                service!(pins_client::PinsClient, channel).watch(request).await
            })
            .await;
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(failure) if failure.exit == Exit::Unavailable && heard.elapsed() < client.timeout() => {
                talk.note(&format!("{}; trying again", failure.message));
                sleep(PAUSE).await;
                continue;
            }
            Err(failure) => return Err(too_old(failure, after)),
        };
        let status = loop {
            match stream.message().await {
                Ok(Some(message)) => {
                    let seen = message.revision;
                    for change in message.changes {
                        after = after.max(change.revision);
                        if out.is_json() {
                            out.object(&json::Change::from(change))?;
                        } else {
                            let cid = out.id(&change.cid);
                            let cid = if change.slot.is_empty() {
                                cid
                            } else {
                                format!("{cid} [{}]", change.slot)
                            };
                            let row = vec![
                                Cell::right(change.revision.to_string()),
                                words::time_short(change.time.as_ref()).into(),
                                words::change(change.kind()).into(),
                                change.namespace.into(),
                                cid.into(),
                            ];
                            rows.push(out, row)?;
                        }
                        if let Some(left) = &mut left {
                            *left -= 1;
                            if *left == 0 {
                                rows.print(out)?;
                                return Ok(Exit::Ok);
                            }
                        }
                    }
                    // Also what was passed over is behind us: a quiet watcher must not fall out of the kept history.
                    after = after.max(seen);
                    rows.print(out)?;
                    out.flush()?;
                }
                Ok(None) => break tonic::Status::unavailable("the peer ended the stream"),
                Err(status) => break status,
            }
        };
        heard = Instant::now();
        if trouble(&status) == Trouble::Final {
            return Err(too_old(Failure::from_status(&status, false), after));
        }
        let reason = innermost_of(&status);
        talk.note(&format!(
            "{}: the stream broke off ({reason}), going on behind revision {after}",
            client.address()
        ));
        client.move_on();
        sleep(PAUSE).await;
    }
}

fn too_old(failure: Failure, after: u64) -> Failure {
    if failure.code != Some(tonic::Code::OutOfRange) {
        return failure;
    }
    failure.hint(format!(
        "the changes behind revision {after} are no longer kept: list anew with `cluster-ctl pin ls`, then watch"
    ))
}
