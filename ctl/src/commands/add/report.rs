//! What an add tells its user.

use cluster_proto::v1;

use crate::Context;
use crate::cli::{ContentAdd, WaitArgs};
use crate::exit::{Exit, Failure};
use crate::output::table::{Cell, Rows};
use crate::output::{Out, json, words};
use crate::wait::{Goal, wait};

/// Nodes that are named in a line of text.
const NODES_NAMED: usize = 8;

/// Shows what becomes complete.
pub(super) struct Report {
    rows: Rows,
    cid_only: bool,
    is_pinned: bool,
    namespace: String,
    top: Option<String>,
    /// The root, as soon as it is told.
    root: Option<String>,
    /// Whoever read stdout went away. That is no reason to pin nothing.
    has_no_reader: bool,
}

impl Report {
    /// A report with nothing in it yet. `top` is the path of the entry that becomes the root.
    pub fn new(arguments: &ContentAdd, top: Option<String>) -> Self {
        Self {
            // Rows are printed as they come, so what follows must fit under the first.
            rows: Rows::new(&["CID", "SIZE", "PATH"])
                .flexible(&["PATH"])
                .at_least(&[8, 10, 16]),
            cid_only: arguments.cid_only,
            is_pinned: !arguments.no_pin,
            namespace: arguments.namespace.clone(),
            top,
            root: None,
            has_no_reader: false,
        }
    }

    /// An entry is complete.
    pub fn added(&mut self, out: &mut Out, entry: v1::AddedEntry) -> Result<(), Failure> {
        if self.top.as_ref() == Some(&entry.path) {
            self.root = Some(entry.cid.clone());
        }
        if self.cid_only || self.has_no_reader {
            return Ok(());
        }
        let shown = if out.is_json() {
            out.object(&json::Added::from(entry))
        } else {
            let path = if entry.path.is_empty() { "." } else { &entry.path };
            let row = vec![
                out.id(&entry.cid).into(),
                Cell::right(words::bytes(entry.tsize)),
                path.into(),
            ];
            self.rows.push(out, row)
        };
        self.shown(shown)
    }

    /// Shows what is complete.
    pub fn print(&mut self, out: &mut Out) -> Result<(), Failure> {
        if self.has_no_reader {
            return Ok(());
        }
        let shown = self.rows.print(out).and_then(|()| out.flush());
        self.shown(shown)
    }

    /// Whoever looks on sees what is complete. In a file or pipe it is laid out in large pieces.
    pub fn tick(&mut self, out: &mut Out) -> Result<(), Failure> {
        match out.width() {
            Some(_) => self.print(out),
            None => Ok(()),
        }
    }

    fn shown(&mut self, result: Result<(), Failure>) -> Result<(), Failure> {
        match result {
            Err(failure) if failure.exit == Exit::Ok => {
                self.has_no_reader = true;
                Ok(())
            }
            other => other,
        }
    }

    /// The end was sent and no answer came.
    pub fn unknown(&self, failure: Failure) -> Failure {
        if !self.is_pinned {
            return failure.hint("everything was sent; whether it is held is not known, adding it again is safe");
        }
        let namespace = match self.namespace.as_str() {
            "" => String::new(),
            name => format!(" --namespace {name}"),
        };
        let look = match &self.root {
            Some(root) => format!("`cluster-ctl pin ls {root}{namespace}`"),
            None => format!("`cluster-ctl pin ls{namespace}`"),
        };
        failure
            .hint(format!(
                "everything was sent; whether it was pinned is not known, and {look} shows it"
            ))
            .hint("adding it again is safe: the same content gets the same CID, and pinning that again changes nothing")
    }

    /// The last word, and the wait for the other nodes.
    pub async fn finish(self, context: &mut Context, done: v1::AddDone, wait_for: &WaitArgs) -> Result<Exit, Failure> {
        let mut done = json::AddDone::from(done);
        for failure in &done.failures {
            context.talk.warn(failure);
        }
        let cid = done.cid.clone();
        if !context.out.is_json() {
            if self.cid_only {
                let roots = match &cid {
                    Some(cid) => std::slice::from_ref(cid),
                    None => done.roots.as_slice(),
                };
                for root in roots {
                    context.out.line(&words::printable(root))?;
                }
            }
            context.out.flush()?;
            context.talk.note(&summary(&done));
        }
        let ended = match cid {
            Some(cid) if wait_for.wait => {
                let ended = wait(context, vec![cid.clone()], Goal::Pinned, wait_for.wait_timeout).await;
                ended.map(|(ends, failure)| {
                    done.status = Some(ends.get(&cid).copied().unwrap_or("waiting"));
                    failure
                })
            }
            _ => Ok(None),
        };
        if context.out.is_json() {
            context.out.object(&done)?;
            context.out.flush()?;
        } else if let Some(status) = done.status {
            context.talk.note(&format!("the nodes: {status}"));
        }
        match ended? {
            Some(failure) => Err(failure),
            None => Ok(Exit::Ok),
        }
    }
}

fn summary(done: &json::AddDone) -> String {
    let what = match &done.cid {
        Some(cid) => cid.clone(),
        None => format!("{} roots", done.roots.len()),
    };
    let nodes = match done.nodes.len() {
        0 => String::new(),
        1..=NODES_NAMED => format!(" on {}", done.nodes.join(", ")),
        count => format!(" on {count} nodes"),
    };
    let size = format!("{} blocks, {}", words::grouped(done.blocks), words::bytes(done.bytes));
    match done.outcome {
        Some(outcome) => format!("{what} is pinned{nodes} ({outcome}): {size}"),
        None => format!("{what} is held{nodes} without a pin, for ten minutes: {size}"),
    }
}
