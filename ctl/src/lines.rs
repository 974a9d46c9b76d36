//! Lists of CIDs: files and stdin, line by line, in bounded memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use cluster_proto::v1::BulkPinItem;
use node_core::{Cid, PinMode, Replication, Timestamp};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::cli::ImportFormat;
use crate::exit::Failure;
use crate::former::{Rules, Taken};
use crate::spec::{Expiry, Spec, parse_duration, parse_time};

/// The longest line that is read. Metadata may take 32 KiB of it, written in JSON twice that.
const LINE_BYTES_MAX: usize = 128 << 10;
/// Lines that go to the sender together.
const LINES_TOGETHER: usize = 1_000;
const BYTES_TOGETHER: usize = 256 << 10;
/// Batches read ahead: enough to keep the sender busy, few enough not to matter.
const BATCHES_AHEAD: usize = 4;
/// The longest list that is taken as a whole; longer ones are streamed by `pin import`.
const LIST_MAX: usize = 1_000_000;

/// A line with something in it.
#[derive(Debug, Clone)]
pub struct Line {
    /// Counted from 1.
    pub number: u64,
    /// Offset of its first byte.
    pub start: u64,
    /// Offset behind its end.
    pub end: u64,
    /// As it stands in the file, cut when it is too long.
    pub text: String,
    /// What it asks for, or why it is refused.
    pub parsed: Result<BulkPinItem, String>,
}

/// Where lines come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Standard input.
    Stdin,
    /// A file.
    File(PathBuf),
}

impl Source {
    /// `-` is stdin.
    pub fn new(path: &Path) -> Self {
        if path.as_os_str() == "-" {
            Self::Stdin
        } else {
            Self::File(path.to_owned())
        }
    }

    /// The file, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Stdin => None,
            Self::File(path) => Some(path),
        }
    }

    /// How it is called in messages.
    pub fn name(&self) -> String {
        match self {
            Self::Stdin => "stdin".into(),
            Self::File(path) => path.display().to_string(),
        }
    }

    /// How many bytes it has, where that is known.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Stdin => None,
            // Of a named pipe it would be 0.
            Self::File(path) => path
                .metadata()
                .ok()
                .filter(|data| data.is_file())
                .map(|data| data.len()),
        }
    }

    /// Whether there is something to read.
    pub fn check(&self) -> Result<(), Failure> {
        self.path().map_or(Ok(()), check)
    }

    fn open(&self) -> Result<Box<dyn Read + Send>, Failure> {
        match self {
            Self::Stdin => Ok(Box::new(std::io::stdin())),
            Self::File(path) => Ok(Box::new(open(path)?)),
        }
    }
}

fn open(path: &Path) -> Result<File, Failure> {
    check(path)?;
    File::open(path).map_err(|error| cant_read(path, error))
}

/// Whether there is something to read, without opening it: what comes over a pipe is gone once it is read.
fn check(path: &Path) -> Result<(), Failure> {
    match path.metadata() {
        Ok(data) if data.is_dir() => Err(cant_read(path, "it is a folder")),
        Ok(_) => Ok(()),
        Err(error) => Err(cant_read(path, error)),
    }
}

fn cant_read(path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("can't read {}: {why}", path.display()))
}

/// Lines one after the other as they stand, without those that say nothing.
pub struct RawSource {
    cutter: Cutter<Box<dyn Read + Send>>,
    name: String,
}

/// A line as it stands.
pub struct RawText {
    /// Cut when it is too long, with marks where it is no UTF-8: such lines are refused by whoever reads them.
    pub text: String,
    /// Offset behind its end.
    pub end: u64,
}

impl RawSource {
    /// From the top.
    pub fn open(source: &Source) -> Result<Self, Failure> {
        Ok(Self {
            cutter: Cutter {
                reader: BufReader::with_capacity(256 << 10, source.open()?),
                offset: 0,
                number: 0,
            },
            name: source.name(),
        })
    }

    /// The next line with something in it; none at the end.
    pub fn next_line(&mut self) -> Result<Option<RawText>, Failure> {
        loop {
            let raw = self.cutter.next();
            let raw = raw.map_err(|error| Failure::local(format!("can't read {}: {error}", self.name)))?;
            let Some(raw) = raw else { return Ok(None) };
            let text = String::from_utf8_lossy(&raw.bytes);
            let content = text.trim_start_matches('\u{feff}').trim();
            if !says_nothing(content) {
                let text = content.to_owned();
                return Ok(Some(RawText { text, end: raw.end }));
            }
        }
    }
}

/// Whether a line is empty or a comment.
fn says_nothing(content: &str) -> bool {
    content.is_empty() || content.starts_with('#')
}

/// Cuts a stream of bytes into lines that say where they are.
struct Cutter<R> {
    reader: BufReader<R>,
    offset: u64,
    number: u64,
}

struct RawLine {
    number: u64,
    start: u64,
    end: u64,
    /// Without its end; the beginning only when it is too long.
    bytes: Vec<u8>,
    too_long: bool,
}

impl<R: Read> Cutter<R> {
    fn next(&mut self) -> std::io::Result<Option<RawLine>> {
        let mut bytes = Vec::new();
        let limit = LINE_BYTES_MAX as u64 + 1;
        let mut read = (&mut self.reader).take(limit).read_until(b'\n', &mut bytes)? as u64;
        if read == 0 {
            return Ok(None);
        }
        let too_long = read == limit && bytes.last() != Some(&b'\n');
        if too_long {
            bytes.truncate(200);
            read += self.skip_line()?;
        }
        while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            bytes.pop();
        }
        self.number += 1;
        let start = self.offset;
        self.offset += read;
        Ok(Some(RawLine {
            number: self.number,
            start,
            end: self.offset,
            bytes,
            too_long,
        }))
    }

    /// Drops the rest of a line without keeping it.
    fn skip_line(&mut self) -> std::io::Result<u64> {
        let mut skipped = 0;
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Ok(skipped);
            }
            let (count, done) = match buffer.iter().position(|byte| *byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (buffer.len(), false),
            };
            self.reader.consume(count);
            skipped += count as u64;
            if done {
                return Ok(skipped);
            }
        }
    }
}

/// What is done with each line.
#[derive(Debug, Clone)]
pub struct Parser {
    form: Form,
    defaults: Spec,
    now: Timestamp,
}

#[derive(Debug, Clone)]
enum Form {
    Own(ImportFormat),
    Former(Rules),
}

impl Parser {
    /// Lines get these options where they do not say otherwise. The options must have been checked.
    pub fn new(format: ImportFormat, mut defaults: Spec, now: Timestamp) -> Self {
        // An item may be sent twice, and must not expire later for that.
        defaults.fix_expiry(now);
        Self {
            form: Form::Own(format),
            defaults,
            now,
        }
    }

    /// Lines are pins of IPFS Cluster.
    pub fn of_former(rules: Rules, defaults: Spec, now: Timestamp) -> Self {
        Self {
            form: Form::Former(rules),
            defaults,
            now,
        }
    }

    /// What a line asks for; nothing when it is empty or a comment.
    fn parse(&self, raw: RawLine) -> Option<Line> {
        let RawLine {
            number,
            start,
            end,
            bytes,
            too_long,
        } = raw;
        let text = match String::from_utf8(bytes) {
            Ok(text) if !too_long => text,
            Ok(text) => {
                let parsed = Err(format!("the line is longer than {} KiB", LINE_BYTES_MAX >> 10));
                return Some(Line {
                    number,
                    start,
                    end,
                    text,
                    parsed,
                });
            }
            Err(error) => {
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                let why = if too_long {
                    "the line is too long, and no text"
                } else {
                    "the line is not UTF-8"
                };
                return Some(Line {
                    number,
                    start,
                    end,
                    text,
                    parsed: Err(why.into()),
                });
            }
        };
        let content = text.trim_start_matches('\u{feff}').trim();
        if says_nothing(content) {
            return None;
        }
        let parsed = match &self.form {
            Form::Own(ImportFormat::Auto) if content.starts_with('{') => self.json(content),
            Form::Own(ImportFormat::Json) => self.json(content),
            Form::Own(ImportFormat::Auto | ImportFormat::Lines) => self.plain(content),
            Form::Former(rules) => match rules.take(content, &self.defaults, self.now) {
                Ok(Taken::Pin(item)) => Ok(*item),
                Ok(Taken::Expired | Taken::Part) => return None,
                Err(why) => Err(why),
            },
        };
        Some(Line {
            number,
            start,
            end,
            text,
            parsed,
        })
    }

    fn plain(&self, content: &str) -> Result<BulkPinItem, String> {
        let (cid, name) = content.split_once(char::is_whitespace).unwrap_or((content, ""));
        let cid: Cid = cid.parse().map_err(|e: node_core::CidError| e.to_string())?;
        let name = name.trim();
        if name.is_empty() {
            return Ok(self.defaults.item(&cid));
        }
        let spec = Spec {
            name: name.to_owned(),
            ..self.defaults.clone()
        };
        spec.check(self.now).map_err(|e| e.to_string())?;
        Ok(spec.item(&cid))
    }

    fn json(&self, content: &str) -> Result<BulkPinItem, String> {
        let line: JsonLine = serde_json::from_str(content).map_err(|e| format!("not a JSON pin: {e}"))?;
        let (cid, spec) = line.into_spec(&self.defaults, self.now)?;
        spec.check(self.now).map_err(|e| e.to_string())?;
        Ok(spec.item(&cid))
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum CidField {
    Text(String),
    /// As IPLD writes a link.
    Link {
        #[serde(rename = "/")]
        cid: String,
    },
}

/// A line of `pin ls --output json` or of IPFS Cluster's `state export`. What only describes the old place (nodes,
/// allocations, times) is passed over.
#[derive(Deserialize)]
struct JsonLine {
    cid: CidField,
    name: Option<String>,
    namespace: Option<String>,
    slot: Option<String>,
    mode: Option<String>,
    #[serde(alias = "replication_factor_min")]
    replication_min: Option<i32>,
    #[serde(alias = "replication_factor_max")]
    replication_max: Option<i32>,
    requested_nodes: Option<Vec<String>>,
    metadata: Option<BTreeMap<String, String>>,
    origins: Option<Vec<String>>,
    expire_at: Option<String>,
    expire_in: Option<String>,
    allow_unplaced: Option<bool>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl JsonLine {
    fn into_spec(self, defaults: &Spec, now: Timestamp) -> Result<(Cid, Spec), String> {
        if let Some(kind) = self.kind.filter(|kind| kind != "pin") {
            return Err(format!(
                "type {kind:?} is a part of a sharded upload, and only whole pins can be taken over"
            ));
        }
        let (CidField::Text(cid) | CidField::Link { cid }) = self.cid;
        let cid = cid.parse().map_err(|e: node_core::CidError| e.to_string())?;
        let mut spec = defaults.clone();
        let replace = |to: &mut String, by: Option<String>| {
            if let Some(text) = by.filter(|text| !text.is_empty()) {
                *to = text;
            }
        };
        replace(&mut spec.name, self.name);
        replace(&mut spec.namespace, self.namespace);
        replace(&mut spec.slot, self.slot);
        match self.mode.as_deref() {
            None | Some("") => {}
            Some("recursive") => spec.mode = PinMode::Recursive,
            Some("direct") => spec.mode = PinMode::Direct,
            Some(other) => return Err(format!("mode {other:?}: use recursive or direct")),
        }
        let (min, max) = (self.replication_min.unwrap_or(0), self.replication_max.unwrap_or(0));
        if (min, max) != (0, 0) {
            spec.replication = Replication { min, max };
        }
        if let Some(nodes) = self.requested_nodes.filter(|nodes| !nodes.is_empty()) {
            spec.nodes = nodes;
        }
        if let Some(metadata) = self.metadata {
            spec.metadata.extend(metadata);
        }
        if let Some(origins) = self.origins.filter(|origins| !origins.is_empty()) {
            spec.origins = origins;
        }
        // Go writes an unset time as the year 1.
        if let Some(text) = self
            .expire_at
            .filter(|text| !text.is_empty() && !text.starts_with("0001-01-01"))
        {
            spec.expiry = Some(Expiry::At(parse_time(&text)?));
        } else if let Some(text) = self.expire_in {
            spec.expiry = Some(Expiry::In(parse_duration(&text)?));
            spec.fix_expiry(now);
        }
        spec.allow_unplaced = self.allow_unplaced.unwrap_or(spec.allow_unplaced);
        Ok((cid, spec))
    }
}

/// Reads lines on a thread of its own, from an offset on, at most a few batches ahead of the reader.
pub fn stream(
    source: &Source,
    parser: Parser,
    offset: u64,
    line: u64,
) -> Result<mpsc::Receiver<Result<Vec<Line>, Failure>>, Failure> {
    let reader: Box<dyn Read + Send> = match source {
        Source::Stdin => {
            let mut stdin = source.open()?;
            // A pipe can't seek; what was acknowledged is read again and dropped.
            let skipped = std::io::copy(&mut (&mut stdin).take(offset), &mut std::io::sink());
            if skipped.map_err(|e| Failure::local(format!("can't read stdin: {e}")))? < offset {
                return Err(Failure::usage("stdin is shorter than the journal says")
                    .hint("give the same list again, or begin anew with --restart"));
            }
            stdin
        }
        Source::File(path) => {
            let mut file = open(path)?;
            file.seek(SeekFrom::Start(offset))
                .map_err(|e| Failure::local(format!("can't seek in {}: {e}", path.display())))?;
            Box::new(file)
        }
    };
    let name = source.name();
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    let mut cutter = Cutter {
        reader: BufReader::with_capacity(256 << 10, reader),
        offset,
        number: line,
    };
    // Not on the runtime: a read from a terminal or a pipe blocks for as long as it likes, also when we want to end.
    std::thread::Builder::new()
        .name("read-lines".into())
        .spawn(move || {
            let mut batch = Vec::new();
            let mut bytes = 0;
            loop {
                match cutter.next() {
                    Ok(Some(raw)) => {
                        bytes += raw.bytes.len();
                        batch.extend(parser.parse(raw));
                        // When the source has no more just now, what there is goes out.
                        let full = batch.len() >= LINES_TOGETHER || bytes >= BYTES_TOGETHER;
                        if (full || cutter.reader.buffer().is_empty()) && !batch.is_empty() {
                            bytes = 0;
                            if sender.blocking_send(Ok(std::mem::take(&mut batch))).is_err() {
                                return;
                            }
                        }
                    }
                    Ok(None) => {
                        if !batch.is_empty() {
                            let _ = sender.blocking_send(Ok(batch));
                        }
                        return;
                    }
                    Err(error) => {
                        let _ = sender.blocking_send(Err(Failure::local(format!("can't read {name}: {error}"))));
                        return;
                    }
                }
            }
        })
        .map_err(|e| Failure::local(format!("can't start a thread: {e}")))?;
    Ok(receiver)
}

/// Reads a whole list of CIDs, so that all of it is checked before anything is sent.
pub fn read_list(source: &Source) -> Result<Vec<Cid>, Failure> {
    let name = source.name();
    let mut cutter = Cutter {
        reader: BufReader::new(source.open()?),
        offset: 0,
        number: 0,
    };
    let mut cids = Vec::new();
    while let Some(raw) = cutter
        .next()
        .map_err(|e| Failure::local(format!("can't read {name}: {e}")))?
    {
        let text = String::from_utf8_lossy(&raw.bytes);
        let content = text.trim_start_matches('\u{feff}').trim();
        if says_nothing(content) {
            continue;
        }
        let word = content.split_whitespace().next().unwrap_or_default();
        let cid = word.parse().map_err(|e: node_core::CidError| {
            Failure::usage(format!("{name}:{}: {e}", raw.number)).hint("nothing was sent")
        })?;
        if cids.len() >= LIST_MAX {
            return Err(Failure::usage(format!("{name} has more than {LIST_MAX} CIDs"))
                .hint("`cluster-ctl pin import` takes lists of any length"));
        }
        cids.push(cid);
    }
    if cids.is_empty() {
        return Err(Failure::usage(format!("{name} has no CID in it")));
    }
    Ok(cids)
}

/// The CIDs of a command: arguments, `-` for stdin, or a file.
pub fn cids_of(arguments: &[String], from: Option<&Path>) -> Result<Vec<Cid>, Failure> {
    if let Some(path) = from {
        return read_list(&Source::new(path));
    }
    if arguments == ["-"] {
        return read_list(&Source::Stdin);
    }
    arguments.iter().map(|text| cid_of(text)).collect()
}

/// One CID of a command.
pub fn cid_of(text: &str) -> Result<Cid, Failure> {
    text.parse().map_err(|e: node_core::CidError| {
        let failure = Failure::usage(e.to_string());
        match text {
            "-" => failure.hint("`-` reads CIDs from stdin and stands alone"),
            _ if text.starts_with("/ipfs/") || text.starts_with("/ipns/") => {
                failure.hint(format!("`ipfs resolve {text}` prints the CID"))
            }
            _ => failure.hint("a CID looks like bafybei… or Qm…"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: &str = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn";

    fn parse(text: &str) -> Option<Line> {
        let parser = Parser::new(ImportFormat::Auto, Spec::default(), Timestamp::from_millis(0));
        let mut cutter = Cutter {
            reader: BufReader::new(text.as_bytes()),
            offset: 0,
            number: 0,
        };
        parser.parse(cutter.next().expect("readable").expect("a line"))
    }

    #[test]
    fn lines_say_where_they_are() {
        let text = format!("# list\r\n\n{CID} a name\r\n{}\n{CID}", "x".repeat(LINE_BYTES_MAX + 10));
        let parser = Parser::new(ImportFormat::Auto, Spec::default(), Timestamp::from_millis(0));
        let mut cutter = Cutter {
            reader: BufReader::new(text.as_bytes()),
            offset: 0,
            number: 0,
        };
        let mut lines = Vec::new();
        while let Some(raw) = cutter.next().expect("readable") {
            lines.extend(parser.parse(raw));
        }
        assert_eq!(lines.iter().map(|l| l.number).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(lines[0].start, 9);
        assert_eq!(lines[2].end, text.len() as u64);
        assert_eq!(lines[1].end, lines[2].start);
        let options = lines[0].parsed.as_ref().expect("valid").options.as_ref().expect("set");
        assert_eq!(options.name, "a name");
        assert!(lines[1].parsed.as_ref().expect_err("too long").contains("128 KiB"));
        assert!(lines[1].text.len() < 300);
    }

    #[test]
    fn a_line_of_an_ipfs_cluster_export_is_understood() {
        let text = format!(
            r#"{{"replication_factor_min":2,"replication_factor_max":3,"name":"n","mode":"direct","shard_size":0,
            "user_allocations":null,"expire_at":"0001-01-01T00:00:00Z","metadata":{{"a":"b"}},"pin_update":null,
            "origins":[],"cid":"{CID}","type":"pin","allocations":["12D3KooW"],"max_depth":0,"reference":null,
            "timestamp":"2026-01-02T03:04:05Z"}}"#
        )
        .replace('\n', "");
        let item = parse(&text).expect("a line").parsed.expect("valid");
        let options = item.options.expect("set");
        assert_eq!(item.cid, CID);
        assert_eq!((options.replication_min, options.replication_max), (2, 3));
        assert_eq!(options.name, "n");
        assert_eq!(options.mode, i32::from(cluster_proto::v1::PinMode::Direct));
        assert_eq!(options.metadata["a"], "b");
        assert_eq!(options.expiry, None);
        assert!(options.nodes.is_empty());
    }

    #[test]
    fn bad_lines_say_why() {
        for (line, why) in [
            ("nonsense".to_owned(), "is not a CID"),
            ("{".into(), "not a JSON pin"),
            (r#"{"name":"x"}"#.into(), "missing field `cid`"),
            (format!(r#"{{"cid":"{CID}","type":"shard-pin"}}"#), "sharded"),
            (format!(r#"{{"cid":"{CID}","mode":"deep"}}"#), "use recursive or direct"),
            (
                format!(r#"{{"cid":"{CID}","replication_min":-1,"replication_max":2}}"#),
                "replication",
            ),
            (format!(r#"{{"cid":"{CID}","expire_at":"soon"}}"#), "not a time"),
            (format!(r#"{{"cid":{{"/":"{CID}"}},"namespace":"A B"}}"#), "namespace"),
        ] {
            let error = parse(&line).expect("a line").parsed.expect_err(&line);
            assert!(error.contains(why), "{line}: {error}");
        }
    }
}
