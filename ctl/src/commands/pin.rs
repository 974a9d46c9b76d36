//! `pin add|rm|update|explain|recover`

use cluster_proto::v1;
use futures::StreamExt;
use node_core::{Cid, check_slot};
use tokio::sync::mpsc;

use super::invalid;
use crate::Context;
use crate::bulk::{self, Sink, Verdict};
use crate::cli::{AddArgs, ExplainArgs, RecoverArgs, RmArgs, UpdateArgs, WaitArgs};
use crate::client::{Kind, request_id, service};
use crate::exit::{Exit, Failure, code_name};
use crate::lines::{Line, cid_of, cids_of};
use crate::output::table::{Cell, Rows};
use crate::output::{Out, Talk, Tone, json, words};
use crate::spec::{Spec, check_namespace, check_node};
use crate::wait::{Ends, Goal, wait};

/// Longer lists go over one stream, whose answers are short: with a call each they would wait for one commit each.
const CALLS_MAX: usize = 16;
/// Removals on the way at the same time. The leader puts them into common batches.
const REMOVALS_AT_ONCE: usize = 64;

/// `pin add`
pub async fn add(context: &mut Context, arguments: AddArgs) -> Result<Exit, Failure> {
    let mut spec = Spec {
        namespace: arguments.namespace,
        slot: arguments.slot,
        allow_unplaced: arguments.allow_unplaced,
        ..arguments.options.spec()
    };
    spec.check(words::now()).map_err(invalid)?;
    let cids = cids_of(&arguments.cids, arguments.from.as_deref())?;
    let mut report = Report::new(context.talk, &arguments.wait);
    if cids.len() <= CALLS_MAX {
        for cid in &cids {
            let request = spec.request(cid, request_id());
            let answer = context
                .client
                .call(Kind::Write, request, |channel, request| async move {
                    service!(pins_client::PinsClient, channel).pin(request).await
                })
                .await;
            report.answered(
                &mut context.out,
                &spec.namespace,
                &cid.to_string(),
                &spec.slot,
                answer.map(recorded),
            )?;
        }
    } else {
        spec.fix_expiry(words::now());
        add_stream(context, &spec, cids, &mut report).await?;
    }
    report.finish(context, Goal::Pinned, &arguments.wait).await
}

async fn add_stream(context: &mut Context, spec: &Spec, cids: Vec<Cid>, report: &mut Report) -> Result<(), Failure> {
    let (sender, receiver) = mpsc::channel(1);
    let template = spec.clone();
    let feed = async move {
        let mut number = 0;
        for chunk in cids.chunks(1_000) {
            let lines = chunk.iter().map(|cid| {
                number += 1;
                Line {
                    number,
                    start: 0,
                    end: 0,
                    text: cid.to_string(),
                    parsed: Ok(template.item(cid)),
                }
            });
            if sender.send(Ok(lines.collect())).await.is_err() {
                return;
            }
        }
    };
    let Context { client, out, talk } = context;
    let mut sink = AddSink { spec, report, out };
    let (result, ()) = tokio::join!(bulk::run(client, *talk, receiver, &mut sink), feed);
    result
}

struct AddSink<'a> {
    spec: &'a Spec,
    report: &'a mut Report,
    out: &'a mut Out,
}

impl Sink for AddSink<'_> {
    fn settled(&mut self, line: Line, verdict: Verdict) -> Result<(), Failure> {
        let answer = match verdict {
            Verdict::Recorded(outcome) => Ok(json::Written {
                outcome: words::outcome(outcome),
                ..json::Written::default()
            }),
            Verdict::Refused { code, error } => {
                let mut failure = Failure::new(crate::exit::exit_of(code), error);
                failure.code = Some(code);
                Err(failure)
            }
        };
        self.report
            .answered(self.out, &self.spec.namespace, &line.text, &self.spec.slot, answer)
    }

    fn tick(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

fn recorded(response: v1::PinResponse) -> json::Written {
    let outcome = words::outcome(response.outcome());
    let pin = response.pin.unwrap_or_default();
    json::Written {
        outcome,
        nodes: Some(pin.nodes),
        everywhere: pin.everywhere,
        unplaced: (!pin.unplaced.is_empty()).then_some(pin.unplaced),
        ..json::Written::default()
    }
}

/// `pin rm`
pub async fn rm(context: &mut Context, arguments: RmArgs) -> Result<Exit, Failure> {
    check_namespace(&arguments.namespace).map_err(invalid)?;
    check_slot(&arguments.slot).map_err(invalid)?;
    let cids = cids_of(&arguments.cids, arguments.from.as_deref())?;
    let mut report = Report::new(context.talk, &arguments.wait);
    let Context { client, out, .. } = context;
    let client = &*client;
    let mut answers = futures::stream::iter(&cids)
        .map(|cid| {
            let request = v1::UnpinRequest {
                namespace: arguments.namespace.clone(),
                cid: cid.to_string(),
                slot: arguments.slot.clone(),
                request_id: request_id(),
            };
            async move {
                let answer = client
                    .call(Kind::Write, request, |channel, request| async move {
                        service!(pins_client::PinsClient, channel).unpin(request).await
                    })
                    .await;
                (cid, answer)
            }
        })
        .buffered(REMOVALS_AT_ONCE);
    while let Some((cid, answer)) = answers.next().await {
        let written = match answer {
            Ok(_) => Ok(json::Written {
                outcome: "removed",
                ..json::Written::default()
            }),
            Err(failure) if failure.exit == Exit::NotFound && arguments.ignore_missing => Ok(json::Written {
                outcome: "missing",
                ..json::Written::default()
            }),
            Err(failure) => Err(failure),
        };
        report.answered(out, &arguments.namespace, &cid.to_string(), &arguments.slot, written)?;
    }
    drop(answers);
    report.finish(context, Goal::Released, &arguments.wait).await
}

/// `pin update`
pub async fn update(context: &mut Context, arguments: UpdateArgs) -> Result<Exit, Failure> {
    let (from, to) = (cid_of(&arguments.from)?, cid_of(&arguments.to)?);
    if from == to {
        return Err(
            Failure::usage("FROM and TO are the same CID").hint("`cluster-ctl pin add` changes the options of a pin")
        );
    }
    let now = words::now();
    let expire_at = arguments.expire_at.or(arguments.expire_in.map(|time| now.plus(time)));
    let spec = Spec {
        namespace: arguments.namespace,
        slot: arguments.slot,
        name: arguments.name.unwrap_or_default(),
        expiry: expire_at.map(crate::spec::Expiry::At),
        ..Spec::default()
    };
    spec.check(now).map_err(invalid)?;
    let request = v1::UpdateRequest {
        namespace: spec.namespace.clone(),
        from: from.to_string(),
        to: to.to_string(),
        slot: spec.slot.clone(),
        name: spec.name.clone(),
        expire_at: expire_at.map(words::proto_time),
        unpin_from: arguments.unpin,
        request_id: request_id(),
    };
    let answer = context
        .client
        .call(Kind::Write, request, |channel, request| async move {
            service!(pins_client::PinsClient, channel).update(request).await
        })
        .await;
    let mut report = Report::new(context.talk, &arguments.wait);
    report.answered(
        &mut context.out,
        &spec.namespace,
        &to.to_string(),
        &spec.slot,
        answer.map(recorded),
    )?;
    report.finish(context, Goal::Pinned, &arguments.wait).await
}

/// Collects and prints what became of each CID.
struct Report {
    talk: Talk,
    rows: Rows,
    /// With `--wait` the data comes at the end of the wait, with how it ended.
    held_back: Option<Vec<json::Written>>,
    done: u64,
    /// Refused for itself, one by one; the first is the error of the command when nothing was done.
    refused: u64,
    first: Option<Failure>,
}

impl Report {
    fn new(talk: Talk, wait: &WaitArgs) -> Self {
        let header: &[&str] = if wait.wait {
            &["CID", "OUTCOME", "NODES", "STATUS"]
        } else {
            &["CID", "OUTCOME", "NODES"]
        };
        Self {
            talk,
            rows: Rows::new(header).flexible(&["NODES"]),
            held_back: wait.wait.then(Vec::new),
            done: 0,
            refused: 0,
            first: None,
        }
    }

    fn answered(
        &mut self,
        out: &mut Out,
        namespace: &str,
        cid: &str,
        slot: &str,
        answer: Result<json::Written, Failure>,
    ) -> Result<(), Failure> {
        let name = |written| json::Written {
            namespace: if namespace.is_empty() {
                node_core::Namespace::DEFAULT
            } else {
                namespace
            }
            .to_owned(),
            cid: cid.to_owned(),
            slot: slot.to_owned(),
            ..written
        };
        match answer {
            Ok(written) => {
                self.done += 1;
                let written = name(written);
                match &mut self.held_back {
                    Some(list) => list.push(written),
                    None => self.print(out, &written)?,
                }
            }
            // What hits every item alike ends the command; going on would only repeat it.
            Err(failure) if !matches!(failure.exit, Exit::NotFound | Exit::Refused) => {
                self.rows.print(out)?;
                return Err(if self.done > 0 {
                    failure
                        .about(cid)
                        .hint(format!("{} before it went well", words::grouped(self.done)))
                } else {
                    failure
                });
            }
            Err(failure) => {
                self.refused += 1;
                if out.is_json() {
                    out.object(&name(json::Written {
                        outcome: "refused",
                        code: failure.code.map(code_name),
                        error: Some(failure.message.clone()),
                        ..json::Written::default()
                    }))?;
                }
                // Some answers name the CID themselves.
                let failure = if failure.message.contains(cid) {
                    failure
                } else {
                    failure.about(cid)
                };
                match &self.first {
                    None => self.first = Some(failure),
                    Some(_) => self.talk.warn(&failure.message),
                }
            }
        }
        Ok(())
    }

    fn print(&mut self, out: &mut Out, written: &json::Written) -> Result<(), Failure> {
        if out.is_json() {
            return out.object(written);
        }
        let tone = if written.unplaced.is_some() {
            Tone::Warn
        } else {
            Tone::Good
        };
        let nodes = match (&written.nodes, written.everywhere, &written.unplaced) {
            (_, _, Some(reason)) => format!("unplaced: {reason}"),
            (_, true, None) => "all".into(),
            (Some(nodes), false, None) => nodes.join(", "),
            (None, false, None) => String::new(),
        };
        let mut row = vec![
            out.id(&written.cid).into(),
            Cell::toned(written.outcome, tone),
            nodes.into(),
        ];
        if let Some(status) = written.status {
            let tone = if matches!(status, "pinned" | "released") {
                Tone::Good
            } else {
                Tone::Warn
            };
            row.push(Cell::toned(status, tone));
        }
        self.rows.push(out, row)
    }

    async fn finish(mut self, context: &mut Context, goal: Goal, wait_for: &WaitArgs) -> Result<Exit, Failure> {
        self.rows.print(&mut context.out)?;
        context.out.flush()?;
        let mut end = None;
        if let Some(list) = self.held_back.take() {
            let cids: Vec<String> = list.iter().map(|written| written.cid.clone()).collect();
            if !cids.is_empty() {
                self.talk
                    .note(&format!("{}, waiting for the nodes", count(cids.len() as u64, goal)));
            }
            let (ends, failure) = match cids.is_empty() {
                true => (Ends::new(), None),
                false => wait(context, cids, goal, wait_for.wait_timeout).await?,
            };
            for mut written in list {
                written.status = Some(ends.get(&written.cid).copied().unwrap_or("waiting"));
                self.print(&mut context.out, &written)?;
            }
            self.rows.print(&mut context.out)?;
            context.out.flush()?;
            end = failure;
        } else if self.done > 0 {
            let follow = if goal == Goal::Pinned {
                "; follow the content with `cluster-ctl pin status CID`"
            } else {
                ""
            };
            self.talk.note(&format!("{}{follow}", count(self.done, goal)));
        }
        match (self.first, end) {
            (Some(first), end) if self.done > 0 => {
                self.talk.warn(&first.message);
                first
                    .hints
                    .iter()
                    .for_each(|hint| self.talk.note(&format!("hint: {hint}")));
                if let Some(end) = end {
                    self.talk.warn(&end.message);
                }
                let total = self.done + self.refused;
                Err(Failure::new(
                    Exit::Partial,
                    format!("{} of {total} were refused", words::grouped(self.refused)),
                ))
            }
            (Some(first), _) => {
                // Nothing was done: the first refusal tells the kind of the end.
                Err(if self.refused > 1 {
                    first.hint(format!("{} others were refused too", words::grouped(self.refused - 1)))
                } else {
                    first
                })
            }
            (None, Some(end)) => Err(end),
            (None, None) => Ok(Exit::Ok),
        }
    }
}

fn count(number: u64, goal: Goal) -> String {
    let noun = if number == 1 { "pin" } else { "pins" };
    let verb = if goal == Goal::Pinned { "recorded" } else { "removed" };
    format!("{} {noun} {verb}", words::grouped(number))
}

/// `pin explain`
pub async fn explain(context: &mut Context, arguments: ExplainArgs) -> Result<Exit, Failure> {
    let cid = cid_of(&arguments.cid)?;
    let spec = arguments.options.spec();
    spec.check(words::now()).map_err(invalid)?;
    let request = v1::ExplainRequest {
        cid: cid.to_string(),
        options: Some(spec.options()),
    };
    let answer = context
        .client
        .call(Kind::Read, request, |channel, request| async move {
            service!(pins_client::PinsClient, channel).explain(request).await
        })
        .await?;
    let out = &mut context.out;
    let explanation = json::Explanation::from(answer);
    if out.is_json() {
        out.object(&explanation)?;
        return Ok(Exit::Ok);
    }
    let state = if explanation.pinned { "pinned" } else { "not pinned" };
    let line = format!(
        "{}: {state}. {}",
        out.id(&explanation.cid),
        words::printable(&explanation.summary)
    );
    out.line(&line)?;
    let mut rows = Rows::new(&["RANK", "NODE", "ID", "CHOSEN", "SCORE", "REASON"]).flexible(&["REASON", "NODE"]);
    for node in explanation.nodes {
        let chosen = if node.chosen {
            Cell::toned("yes", Tone::Good)
        } else {
            Cell::toned("no", Tone::Dim)
        };
        rows.push(
            out,
            vec![
                Cell::right(node.rank.map_or("-".into(), |rank| rank.to_string())),
                node.node.into(),
                node.node_id.into(),
                chosen,
                Cell::right(node.score.map_or("-".into(), |score| format!("{score:.3}"))),
                node.reason.into(),
            ],
        )?;
    }
    rows.print(out)?;
    Ok(Exit::Ok)
}

/// `pin recover`
pub async fn recover(context: &mut Context, arguments: RecoverArgs) -> Result<Exit, Failure> {
    let named = cids_of(&arguments.cids, arguments.from.as_deref())?;
    let mut cids: Vec<String> = named.iter().map(ToString::to_string).collect();
    if let Some(node) = &arguments.node {
        check_node("node", node).map_err(invalid)?;
    }
    if cids.is_empty() {
        cids.push(String::new());
    }
    let mut total = json::Recovered {
        recovered: 0,
        unreachable_nodes: Vec::new(),
    };
    for cid in cids {
        let request = v1::RecoverRequest {
            cid,
            node: arguments.node.clone().unwrap_or_default(),
            statuses: arguments
                .status
                .iter()
                .map(|status| words::proto_status(*status).into())
                .collect(),
            error_class: arguments
                .class
                .map(|class| class.as_str().to_owned())
                .unwrap_or_default(),
        };
        let answer = context
            .client
            .call(Kind::Write, request, |channel, request| async move {
                service!(pins_client::PinsClient, channel).recover(request).await
            })
            .await?;
        total.recovered += answer.recovered;
        total.unreachable_nodes.extend(answer.unreachable_nodes);
    }
    total.unreachable_nodes.sort();
    total.unreachable_nodes.dedup();
    if context.out.is_json() {
        context.out.object(&total)?;
    } else {
        context
            .out
            .line(&format!("{} entries are tried again", words::grouped(total.recovered)))?;
    }
    if total.unreachable_nodes.is_empty() {
        return Ok(Exit::Ok);
    }
    Err(Failure::new(
        Exit::Partial,
        format!("no answer for the nodes {}", total.unreachable_nodes.join(", ")),
    )
    .hint("run the command again when their peers are back; `cluster-ctl peer ls` shows which are missing"))
}
