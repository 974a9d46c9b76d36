//! `pin import`: a list of any length in one stream.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster_proto::v1;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::journal::{self, Journal, State};
use super::{files, interrupted, invalid};
use crate::Context;
use crate::bulk::{self, Sink, Verdict};
use crate::cli::ImportArgs;
use crate::client::{Kind, service};
use crate::exit::{Exit, Failure, code_name};
use crate::lines::{self, Line, Parser, Source};
use crate::output::{Talk, words};
use crate::spec::Spec;

/// The journal is written after so many settled lines, or so much time: seldom enough to cost nothing, often enough
/// that little is sent twice.
const SAVE_LINES: u64 = 10_000;
const SAVE_TIME: Duration = Duration::from_secs(1);
/// Refused lines shown one by one; a wrong file would otherwise fill the screen a million times.
const SHOWN_MAX: u64 = 20;
/// Where no bar can be drawn, a line now and then.
const SAY_TIME: Duration = Duration::from_secs(10);

/// `pin import`
pub async fn run(context: &mut Context, arguments: ImportArgs) -> Result<Exit, Failure> {
    let source = Source::new(&arguments.file);
    let spec = Spec {
        namespace: arguments.namespace,
        slot: arguments.slot,
        allow_unplaced: arguments.allow_unplaced,
        ..arguments.options.spec()
    };
    spec.check(words::now()).map_err(invalid)?;
    let job = Job {
        purpose: format!("{:?} {spec:?}", arguments.format),
        parser: Parser::new(arguments.format, spec, words::now()),
        source,
        journal: arguments.journal,
        restart: arguments.restart,
        rejects: arguments.rejects,
    };
    carry_out(context, job).await
}

/// A list on its way into the cluster.
pub(super) struct Job {
    /// Where it comes from.
    pub source: Source,
    /// How its lines are read.
    pub parser: Parser,
    /// The same in words, and what they do not say.
    pub purpose: String,
    /// Where progress is kept; none: beside the list.
    pub journal: Option<PathBuf>,
    /// Whether to begin at the top whatever the journal says.
    pub restart: bool,
    /// Where refused lines go.
    pub rejects: Option<PathBuf>,
}

/// Sends a list, from where an earlier run ended.
pub(super) async fn carry_out(context: &mut Context, job: Job) -> Result<Exit, Failure> {
    let Job { source, parser, .. } = job;
    let path = journal::path_of(job.journal, &source);
    files::apart(&[
        ("the list", source.path()),
        ("--journal", path.as_deref()),
        ("--rejects", job.rejects.as_deref()),
    ])?;
    source.check()?;
    if let Some(rejects) = &job.rejects {
        files::check_place(rejects)?;
    }
    let purpose = format!("{} {}", cluster_id(context).await?, job.purpose);
    let journal = Journal::new(path, &source, &purpose);
    let state = journal.load(job.restart)?;
    let resumed_at = state.line;
    let lines = lines::stream(&source, parser, state.offset, state.line)?;
    if state.offset > 0 {
        context.talk.note(&format!(
            "going on behind line {} of {}, where an earlier run ended",
            words::grouped(state.line),
            source.name()
        ));
    }
    let rejects = job
        .rejects
        .as_deref()
        .map(|path| Rejects::open(path, state.rejects_bytes))
        .transpose()?;
    let mut import = Import {
        talk: context.talk,
        name: source.name(),
        bar: bar(context.talk, &source, state.offset),
        first_offset: state.offset,
        length: source.length(),
        state,
        rejects,
        shown: 0,
        started: Instant::now(),
        saved: Instant::now(),
        saved_line: resumed_at,
        said: Instant::now(),
        settled: 0,
        journal,
    };
    let ended = tokio::select! {
        result = bulk::run(&context.client, context.talk, lines, &mut import) => result,
        () = interrupted() => Err(Failure::new(Exit::Interrupted, "interrupted")),
    };
    if let Some(bar) = import.bar.take() {
        bar.finish_and_clear();
    }
    if let Err(failure) = ended {
        import.save()?;
        return Err(import.how_to_resume(failure));
    }
    import.finish(context, resumed_at)
}

/// Which cluster it is: a journal of one is not gone on with in another.
async fn cluster_id(context: &Context) -> Result<String, Failure> {
    let asked = context
        .client
        .call(Kind::Read, v1::ClusterStatusRequest {}, |channel, request| async move {
            service!(cluster_client::ClusterClient, channel).status(request).await
        });
    let asked = asked.await;
    Ok(asked
        .map_err(|failure| failure.hint("nothing was sent; the same command goes on where an earlier one ended"))?
        .cluster_id)
}

fn bar(talk: Talk, source: &Source, offset: u64) -> Option<ProgressBar> {
    if !talk.can_draw() {
        return None;
    }
    let (bar, template) = match source.length() {
        Some(length) => (ProgressBar::new(length), "{bar:30} {percent}%  {msg}  ETA {eta}"),
        None => (ProgressBar::new_spinner(), "{spinner} {msg}  {elapsed}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_position(offset);
    // The time that is left is reckoned from what this run does.
    bar.reset_eta();
    Some(bar)
}

struct Import {
    talk: Talk,
    name: String,
    bar: Option<ProgressBar>,
    first_offset: u64,
    length: Option<u64>,
    state: State,
    journal: Journal,
    rejects: Option<Rejects>,
    shown: u64,
    started: Instant,
    saved: Instant,
    saved_line: u64,
    said: Instant,
    /// Lines of this run.
    settled: u64,
}

impl Sink for Import {
    fn settled(&mut self, line: Line, verdict: Verdict) -> Result<(), Failure> {
        use cluster_proto::v1::PinOutcome;
        match verdict {
            Verdict::Recorded(PinOutcome::Unchanged) => self.state.unchanged += 1,
            Verdict::Recorded(PinOutcome::Updated) => self.state.updated += 1,
            Verdict::Recorded(PinOutcome::Created | PinOutcome::Unspecified) => self.state.created += 1,
            Verdict::Refused { code, error } => {
                self.state.refused += 1;
                self.show_refused(&line, &format!("{error} ({})", code_name(code)));
                if let Some(rejects) = &mut self.rejects {
                    rejects.write(&line, &error)?;
                }
            }
        }
        self.state.passed(&line);
        self.settled += 1;
        if self.state.line - self.saved_line >= SAVE_LINES {
            self.save()?;
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), Failure> {
        if self.saved.elapsed() >= SAVE_TIME && self.state.line != self.saved_line {
            self.save()?;
        }
        if let Some(bar) = &self.bar {
            bar.set_position(self.state.offset);
            bar.set_message(self.rate());
        } else if self.said.elapsed() >= SAY_TIME {
            self.said = Instant::now();
            let share = self.length.filter(|length| *length > 0).map(|length| {
                let done = self.state.offset.saturating_sub(self.first_offset);
                let left = length.saturating_sub(self.state.offset);
                let seconds = self.started.elapsed().as_secs_f64() * left as f64 / done.max(1) as f64;
                let eta = words::coarse(Duration::from_secs_f64(seconds.min(1e9)));
                format!(", {}%, ETA {eta}", self.state.offset.saturating_mul(100) / length)
            });
            self.talk.note(&format!("{}{}", self.rate(), share.unwrap_or_default()));
        }
        Ok(())
    }
}

impl Import {
    fn rate(&self) -> String {
        let per_second = self.settled as f64 / self.started.elapsed().as_secs_f64().max(0.001);
        let refused = match self.state.refused {
            0 => String::new(),
            refused => format!(", {} refused", words::grouped(refused)),
        };
        let line = words::grouped(self.state.line);
        format!("line {line}, {}/s{refused}", words::grouped(per_second as u64))
    }

    fn show_refused(&mut self, line: &Line, error: &str) {
        self.shown += 1;
        let text = match self.shown {
            ..=SHOWN_MAX => format!("{}:{}: {error}", self.name, line.number),
            shown if shown == SHOWN_MAX + 1 => {
                "further refused lines are only counted; --rejects FILE keeps them all".into()
            }
            _ => return,
        };
        match &self.bar {
            Some(bar) => bar.suspend(|| self.talk.warn(&text)),
            None => self.talk.warn(&text),
        }
    }

    fn save(&mut self) -> Result<(), Failure> {
        // Refused lines come first: a journal that is ahead of them would lose some.
        if let Some(rejects) = &mut self.rejects {
            self.state.rejects_bytes = rejects.flush()?;
        }
        // A list that was interrupted before its first answer needs no journal.
        if self.state.line > 0 {
            self.journal.save(&self.state)?;
        }
        self.saved = Instant::now();
        self.saved_line = self.state.line;
        Ok(())
    }

    fn how_to_resume(&self, failure: Failure) -> Failure {
        let line = words::grouped(self.state.line);
        let Some(path) = self.journal.path() else {
            return failure.hint(format!(
                "{line} lines were settled; sending the list again is safe, and --journal FILE would go on behind them"
            ));
        };
        failure.hint(format!(
            "{line} lines are settled, as {} says; the same command goes on behind them",
            path.display()
        ))
    }

    fn finish(mut self, context: &mut Context, resumed_at: u64) -> Result<Exit, Failure> {
        if let Some(rejects) = &mut self.rejects {
            rejects.flush()?;
        }
        self.journal.remove()?;
        let counts = self.state.counts(resumed_at);
        let pins = counts.created + counts.updated + counts.unchanged;
        if context.out.is_json() {
            context.out.object(&counts)?;
        } else {
            context.out.line(&format!(
                "{} pins recorded: {} created, {} updated, {} unchanged; {} lines refused",
                words::grouped(pins),
                words::grouped(counts.created),
                words::grouped(counts.updated),
                words::grouped(counts.unchanged),
                words::grouped(counts.refused)
            ))?;
        }
        context.out.flush()?;
        let seconds = self.started.elapsed().as_secs_f64();
        self.talk.note(&format!(
            "{} lines in {seconds:.1} s, {}/s; follow the content with `cluster-ctl pin status`",
            words::grouped(self.settled),
            words::grouped((self.settled as f64 / seconds.max(0.001)) as u64)
        ));
        if counts.refused == 0 {
            return Ok(Exit::Ok);
        }
        let exit = if pins == 0 { Exit::Refused } else { Exit::Partial };
        let failure = Failure::new(exit, format!("{} lines were refused", words::grouped(counts.refused)));
        Err(match &self.rejects {
            Some(rejects) => failure.hint(format!(
                "{} has them with their reasons; correct and import it",
                rejects.path.display()
            )),
            None => failure.hint("--rejects FILE keeps them in a form that can be corrected and imported"),
        })
    }
}

/// The refused lines as they stood in the list, each behind a comment with its reason: a list in itself.
struct Rejects {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Rejects {
    /// What an interrupted run wrote after its journal is cut off: those lines come again.
    fn open(path: &Path, keep: u64) -> Result<Self, Failure> {
        let cut = || -> io::Result<File> {
            let mut file = OpenOptions::new().write(true).open(path)?;
            file.set_len(keep.min(file.metadata()?.len()))?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        let file = match keep {
            0 => files::create("--rejects", path)?,
            _ => cut().map_err(|error| Failure::usage(format!("can't write {}: {error}", path.display())))?,
        };
        Ok(Self {
            path: path.to_owned(),
            file: BufWriter::new(file),
        })
    }

    fn write(&mut self, line: &Line, error: &str) -> Result<(), Failure> {
        let reason = words::printable(error);
        writeln!(self.file, "# line {}: {reason}\n{}", line.number, line.text).map_err(|e| self.failed(&e))
    }

    fn flush(&mut self) -> Result<u64, Failure> {
        let end = self.file.flush().and_then(|()| self.file.get_mut().stream_position());
        end.map_err(|e| self.failed(&e))
    }

    fn failed(&self, error: &io::Error) -> Failure {
        Failure::local(format!("can't write {}: {error}", self.path.display()))
    }
}
