//! Where requests begin and end on a connection, so that each can be given the one header that hyper wants to see.
//!
//! hyper 1.12 sends the trailers of an answer only if the request said `TE: trailers` (`Conn::write_trailers`), and no client of
//! IPFS Cluster says that, though all of them read trailers. So the header is put into the bytes before hyper sees them.
//!
//! Nothing else may change, least of all where a body ends: bytes that one program takes for a body and the next one for a
//! request are a hole that other people's requests are smuggled through. Therefore:
//!
//! - heads are read by `httparse`, in the form and with the number of headers that hyper itself uses;
//! - a head is only touched if there is no doubt about its body: at most one `Content-Length`, or one `Transfer-Encoding` of
//!   exactly `chunked`, and never both;
//! - what is not understood passes, and everything behind it too: hyper alone judges it, and its answer has no trailers.
//!
//! One more thing is done to a head: in its query `"`, `<` and `>` are escaped, which the crate `http` does not take as they are.
//! Go's servers do, and clients of the Pinning Services API send JSON there. It stays the same query, and one line.

use std::ops::Range;

use bytes::BytesMut;
use httparse::{EMPTY_HEADER, Header, Request, Status};

/// What is put behind the request line.
pub const INSERTED: &[u8] = b"TE: trailers\r\n";
/// hyper answers 431 to more headers than this. A head that has all of them gets none from here.
pub const HEADERS_MAX: usize = 100;
/// Of a chunk's size: those of a u64.
const SIZE_DIGITS_MAX: u8 = 16;

/// Why a head is not even shown to hyper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The request line and the headers are too long.
    Head,
    /// The path and query are too long.
    Target,
}

/// Follows one connection.
#[derive(Debug)]
pub struct Framing {
    state: State,
    head_max: usize,
    target_max: usize,
    /// Of the bytes that wait: those that hold no end of a head.
    looked_at: usize,
    /// Nothing moves any more.
    refused: Option<Refused>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A head comes, or a new connection.
    Head,
    /// So many bytes of a body are left, not none.
    Length(u64),
    /// In a chunked body.
    Chunked(Chunk),
    /// Something was not understood.
    Passing,
}

/// Where in a chunked body. The same steps as hyper's, for what is allowed by RFC 9112.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Size { value: u64, digits: u8 },
    SizeSpace { value: u64 },
    Extension { value: u64 },
    SizeEnd { value: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    LastCr,
    LastLf,
}

enum Next {
    State(Chunk),
    End,
    Odd,
}

/// What stands at the beginning of the bytes that wait.
enum Head {
    /// Not all of it.
    Part,
    /// A head of this length, what goes into it where, and what follows.
    Whole {
        len: usize,
        /// A query that has something to be escaped.
        bare: Option<Range<usize>>,
        insert_at: Option<usize>,
        body: State,
    },
    Odd,
    Refused(Refused),
}

impl Framing {
    /// For a new connection; bounds in bytes.
    pub fn new(head_max: usize, target_max: usize) -> Self {
        Self {
            state: State::Head,
            head_max,
            target_max,
            looked_at: 0,
            refused: None,
        }
    }

    /// Whether a head comes next. Never again after something was not understood.
    pub fn at_head(&self) -> bool {
        self.state == State::Head
    }

    /// Why nothing moves any more.
    pub fn refused(&self) -> Option<Refused> {
        self.refused
    }

    /// Nothing more comes: what waits is to be moved as it is.
    pub fn end(&mut self) {
        self.state = State::Passing;
    }

    /// Moves from `raw` to `out` all that can go on, heads as wholes; how many heads these were.
    pub fn feed(&mut self, raw: &mut BytesMut, out: &mut BytesMut) -> usize {
        let mut heads = 0;
        while !raw.is_empty() && self.refused.is_none() {
            if self.state != State::Head {
                let len = self.skip(raw);
                take(raw, len, out);
                continue;
            }
            match self.head(raw) {
                Head::Part => break,
                Head::Refused(why) => self.refused = Some(why),
                Head::Odd => self.state = State::Passing,
                Head::Whole {
                    len,
                    bare,
                    insert_at,
                    body,
                } => {
                    heads += 1;
                    self.looked_at = 0;
                    self.state = body;
                    let mut at = 0;
                    if let Some(query) = bare {
                        take(raw, query.start, out);
                        escape(&raw.split_to(query.len()), out);
                        at = query.end;
                    }
                    if let Some(insert_at) = insert_at {
                        take(raw, insert_at - at, out);
                        out.extend_from_slice(INSERTED);
                        at = insert_at;
                    }
                    take(raw, len - at, out);
                }
            }
        }
        heads
    }

    /// How many of these bytes, which do not belong to a head, come before the next one. All of them are accounted for.
    pub fn skip(&mut self, bytes: &[u8]) -> usize {
        match self.state {
            State::Head => 0,
            State::Passing => bytes.len(),
            State::Length(left) => {
                let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                self.state = match left - taken as u64 {
                    0 => State::Head,
                    left => State::Length(left),
                };
                taken
            }
            State::Chunked(chunk) => self.skip_chunks(chunk, bytes),
        }
    }

    fn skip_chunks(&mut self, mut chunk: Chunk, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if let Chunk::Data { left } = chunk {
                let taken = (bytes.len() - at).min(usize::try_from(left).unwrap_or(usize::MAX));
                at += taken;
                chunk = match left - taken as u64 {
                    0 => Chunk::DataCr,
                    left => Chunk::Data { left },
                };
                continue;
            }
            match step(chunk, bytes[at]) {
                Next::State(next) => chunk = next,
                Next::End => {
                    self.state = State::Head;
                    return at + 1;
                }
                Next::Odd => {
                    self.state = State::Passing;
                    return bytes.len();
                }
            }
            at += 1;
        }
        self.state = State::Chunked(chunk);
        at
    }

    fn head(&mut self, raw: &[u8]) -> Head {
        // What has no end need not be read again; the first time it is, so that what is no HTTP at all is passed on at once.
        let worth_reading = self.looked_at == 0 || has_end(raw, self.looked_at);
        let mut headers = [EMPTY_HEADER; HEADERS_MAX];
        let mut request = Request::new(&mut headers);
        let read = if worth_reading {
            request.parse(raw)
        } else {
            Ok(Status::Partial)
        };
        match read {
            Err(_) => Head::Odd,
            Ok(Status::Partial) if raw.len() > self.head_max => Head::Refused(too_long(raw)),
            Ok(Status::Partial) => {
                self.looked_at = raw.len();
                Head::Part
            }
            Ok(Status::Complete(_)) if request.path.is_some_and(|path| path.len() > self.target_max) => {
                Head::Refused(Refused::Target)
            }
            Ok(Status::Complete(len)) if len > self.head_max => Head::Refused(Refused::Head),
            Ok(Status::Complete(len)) => understand(&request, raw, len),
        }
    }
}

/// Moves bytes without copying them, where nothing waits in front of them.
fn take(raw: &mut BytesMut, len: usize, out: &mut BytesMut) {
    let taken = raw.split_to(len);
    if out.is_empty() {
        *out = taken;
    } else {
        out.extend_from_slice(&taken);
    }
}

/// What the crate `http` does not take in a query.
fn is_bare(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>')
}

fn escape(query: &[u8], out: &mut BytesMut) {
    for byte in query {
        match byte {
            b'"' => out.extend_from_slice(b"%22"),
            b'<' => out.extend_from_slice(b"%3C"),
            b'>' => out.extend_from_slice(b"%3E"),
            byte => out.extend_from_slice(&[*byte]),
        }
    }
}

/// Where the query of a request line stands, if something in it is to be escaped.
fn bare_query(request: &Request<'_, '_>, raw: &[u8], line: usize) -> Option<Range<usize>> {
    let (method, path) = (request.method?, request.path?);
    let (from, query) = path.split_once('?').map(|(before, query)| (before.len() + 1, query))?;
    if !query.bytes().any(is_bare) {
        return None;
    }
    // One space stands behind the method.
    let start = line + method.len() + 1 + from;
    let range = start..start + query.len();
    (raw.get(range.clone()) == Some(query.as_bytes())).then_some(range)
}

/// Whether a head may end behind the first `looked_at` bytes: an empty line is a line feed that follows another, with nothing
/// but a carriage return between them.
fn has_end(raw: &[u8], looked_at: usize) -> bool {
    memchr::memchr_iter(b'\n', &raw[looked_at..]).any(|at| {
        let before = &raw[..looked_at + at];
        before.ends_with(b"\n") || before.ends_with(b"\n\r")
    })
}

/// Of a head that is too long and not there as a whole: a single line of that length is a request line.
fn too_long(raw: &[u8]) -> Refused {
    if memchr::memchr(b'\n', &raw[leading(raw)..]).is_some() {
        Refused::Head
    } else {
        Refused::Target
    }
}

/// Empty lines before a request, which every server ignores.
fn leading(raw: &[u8]) -> usize {
    raw.iter()
        .position(|byte| !matches!(byte, b'\r' | b'\n'))
        .unwrap_or(raw.len())
}

fn understand(request: &Request<'_, '_>, raw: &[u8], len: usize) -> Head {
    let headers: &[Header<'_>] = request.headers;
    let of = |name: &'static str| {
        headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
    };
    let is_1_1 = request.version == Some(1);
    let mut lengths = of("content-length").map(|header| header.value);
    let mut codings = of("transfer-encoding").map(|header| header.value);
    let body = match (lengths.next(), codings.next()) {
        (None, None) => Some(State::Head),
        (Some(digits), None) => length(digits),
        (None, Some(coding)) if is_1_1 && coding.eq_ignore_ascii_case(b"chunked") => {
            Some(State::Chunked(Chunk::Size { value: 0, digits: 0 }))
        }
        _ => None,
    };
    let more = lengths.next().is_some() || codings.next().is_some();
    let (Some(body), false) = (body, more || request.method == Some("CONNECT")) else {
        return Head::Odd;
    };
    let says_it = of("te").any(|header| {
        let tokens = header.value.split(|byte| *byte == b',');
        tokens
            .map(<[u8]>::trim_ascii)
            .any(|token| token.eq_ignore_ascii_case(b"trailers"))
    });
    let wanted = is_1_1 && !says_it && headers.len() < HEADERS_MAX;
    // A request line is one line, whatever it holds, and this head has one.
    let line = leading(raw);
    let line_end = memchr::memchr(b'\n', &raw[line..len]).map(|at| line + at + 1);
    Head::Whole {
        len,
        bare: bare_query(request, raw, line),
        insert_at: line_end.filter(|_| wanted),
        body,
    }
}

fn length(digits: &[u8]) -> Option<State> {
    // hyper takes nothing but digits, and two values at the end of the range have a meaning of their own there.
    let all_digits = digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(digits).ok().filter(|_| all_digits)?;
    match text.parse::<u64>().ok()? {
        0 => Some(State::Head),
        value if value < u64::MAX - 1 => Some(State::Length(value)),
        _ => None,
    }
}

/// What a byte does to a chunked body. Trailers of requests are left to hyper.
fn step(chunk: Chunk, byte: u8) -> Next {
    let next = match (chunk, byte) {
        (Chunk::Size { value, digits }, byte) if byte.is_ascii_hexdigit() => {
            let digit = u64::from((byte as char).to_digit(16).unwrap_or_default());
            if digits == SIZE_DIGITS_MAX {
                return Next::Odd;
            }
            Chunk::Size {
                value: value << 4 | digit,
                digits: digits + 1,
            }
        }
        (Chunk::Size { digits: 0, .. }, _) => return Next::Odd,
        (Chunk::Size { value, .. } | Chunk::SizeSpace { value }, b' ' | b'\t') => Chunk::SizeSpace { value },
        (Chunk::Size { value, .. } | Chunk::SizeSpace { value }, b';') => Chunk::Extension { value },
        (Chunk::Size { value, .. } | Chunk::SizeSpace { value } | Chunk::Extension { value }, b'\r') => {
            Chunk::SizeEnd { value }
        }
        (Chunk::Extension { value }, byte) if byte != b'\n' => Chunk::Extension { value },
        (Chunk::SizeEnd { value: 0 }, b'\n') => Chunk::LastCr,
        (Chunk::SizeEnd { value }, b'\n') => Chunk::Data { left: value },
        (Chunk::DataCr, b'\r') => Chunk::DataLf,
        (Chunk::DataLf, b'\n') => Chunk::Size { value: 0, digits: 0 },
        (Chunk::LastCr, b'\r') => Chunk::LastLf,
        (Chunk::LastLf, b'\n') => return Next::End,
        _ => return Next::Odd,
    };
    Next::State(next)
}

#[cfg(test)]
mod tests;
