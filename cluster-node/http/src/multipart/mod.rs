//! Multipart bodies, as the Go, JavaScript and Python clients send files and directories.
//!
//! Nothing is collected: what is held is one piece of the body as hyper read it, and the head of one part. A part may have any
//! disposition and need have no name; its path is decoded and can't lead out of the upload. [`Parts`] can be moved into the
//! stream that answers, so that the answer goes out while the body still comes in.

mod head;
mod params;

use std::fmt;

use axum::body::{Body, BodyDataStream};
use axum::extract::{FromRequest, Request};
use bytes::{Buf as _, Bytes, BytesMut};
use futures::TryStreamExt as _;
use http::{HeaderMap, StatusCode, header};
use memchr::memmem::Finder;

pub use self::head::{Part, PartKind};
use crate::body::{failed, limits_of};
use crate::{Failure, Limits};

/// Before the first part, where nothing of use stands.
const PREAMBLE_BYTES_MAX: usize = 64 * 1024;
/// Of a boundary. RFC 2046 allows 70.
const BOUNDARY_BYTES_MAX: usize = 200;
/// Spaces behind a boundary.
const PADDING_BYTES_MAX: usize = 256;

/// The parts of a body, one after another; an extractor too.
pub struct Parts {
    data: BodyDataStream,
    /// What came in and is not used yet.
    buffer: BytesMut,
    /// A line break, two dashes and the boundary.
    delimiter: Finder<'static>,
    place: Place,
    /// Nothing of this part's content was looked at yet.
    fresh: bool,
    preamble: usize,
    parts: usize,
    parts_max: usize,
    head_bytes_max: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the first boundary.
    Preamble,
    /// Behind the boundary of a part.
    Head,
    /// In the content of a part.
    Content,
    /// Behind the last boundary.
    End,
    /// It failed, and what follows makes no sense any more.
    Broken,
}

/// What the buffer begins with.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// So many bytes that belong to no boundary, not none.
    Data(usize),
    /// A boundary of this length, with its line.
    Boundary { len: usize, last: bool },
    /// It depends on what comes next.
    Unclear,
}

impl Parts {
    /// For a request with these headers: 400 if it is not multipart. The body is not read yet.
    pub fn new(headers: &HeaderMap, body: Body, limits: &Limits) -> Result<Self, Failure> {
        let boundary = boundary(headers)?;
        let delimiter = [b"\r\n--", boundary.as_slice()].concat();
        Ok(Self {
            data: body.into_data_stream(),
            // The first boundary need have no line break before it.
            buffer: BytesMut::from(&b"\r\n"[..]),
            delimiter: Finder::new(&delimiter).into_owned(),
            place: Place::Preamble,
            fresh: false,
            preamble: 0,
            parts: 0,
            parts_max: limits.parts_max,
            head_bytes_max: limits.part_head_bytes_max,
        })
    }

    /// The next part; what is left of the one before is skipped. `None` at the end.
    ///
    /// 400 for what is no multipart body, 408 if it stops coming, 413 if there are too many parts. After an error every call
    /// fails.
    pub async fn next(&mut self) -> Result<Option<Part>, Failure> {
        let next = self.read_next().await;
        if next.is_err() {
            self.place = Place::Broken;
        }
        next
    }

    /// The next piece of this part's content, never empty; `None` at its end. Errors as for [`Self::next`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        let chunk = self.read_chunk().await;
        if chunk.is_err() {
            self.place = Place::Broken;
        }
        chunk
    }

    /// The rest of this part's content as text of at most so many bytes, as the target of a link.
    pub async fn text(&mut self, bytes_max: usize) -> Result<String, Failure> {
        let mut whole = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if whole.len() + chunk.len() > bytes_max {
                let words = format!("a part that is to be a short text is longer than {bytes_max} bytes");
                return Err(Failure::bad(words));
            }
            whole.extend_from_slice(&chunk);
        }
        String::from_utf8(whole).map_err(|_| Failure::bad("a part that is to be text is not UTF-8"))
    }

    async fn read_next(&mut self) -> Result<Option<Part>, Failure> {
        while matches!(self.place, Place::Preamble | Place::Content) {
            let before = self.place;
            while let Some(skipped) = self.read_data().await? {
                if before == Place::Preamble {
                    self.preamble += skipped.len();
                }
                if self.preamble > PREAMBLE_BYTES_MAX {
                    return Err(Failure::bad(
                        "the body does not begin with the boundary that its Content-Type names",
                    ));
                }
            }
        }
        match self.place {
            Place::End => Ok(None),
            Place::Broken => Err(broken()),
            _ => self.read_head().await.map(Some),
        }
    }

    async fn read_chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        match self.place {
            Place::Content => self.read_data().await,
            Place::Broken => Err(broken()),
            _ => Ok(None),
        }
    }

    async fn read_head(&mut self) -> Result<Part, Failure> {
        if self.parts == self.parts_max {
            let words = format!(
                "the body has more than {} parts, which is the most that this server takes",
                self.parts_max
            );
            return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, words));
        }
        loop {
            let read = head::parse(&self.buffer)?;
            // Also of what is there as a whole, so that the same head is not sometimes taken and sometimes not.
            let len = read.as_ref().map_or(self.buffer.len(), |(len, _)| *len);
            if len > self.head_bytes_max {
                let words = format!("the headers of a part are longer than {} bytes", self.head_bytes_max);
                return Err(Failure::bad(words));
            }
            if let Some((len, part)) = read {
                self.buffer.advance(len);
                self.parts += 1;
                self.place = Place::Content;
                self.fresh = true;
                return Ok(part);
            }
            self.fill().await?;
        }
    }

    /// Data up to the next boundary; `None` when that was read.
    async fn read_data(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            match self.look() {
                Seen::Data(len) => {
                    self.fresh = false;
                    return Ok(Some(self.buffer.split_to(len).freeze()));
                }
                Seen::Boundary { len, last } => {
                    self.place = if last { Place::End } else { Place::Head };
                    self.buffer.advance(len);
                    return Ok(None);
                }
                Seen::Unclear => self.fill().await?,
            }
        }
    }

    fn look(&self) -> Seen {
        let delimiter = self.delimiter.needle();
        if self.fresh
            && let Some(seen) = self.look_for_nothing(&delimiter[2..])
        {
            return seen;
        }
        let mut from = 0;
        while let Some(at) = self.delimiter.find(&self.buffer[from..]) {
            let at = from + at;
            let behind = &self.buffer[at + delimiter.len()..];
            match after_boundary(behind) {
                Some(Ok((len, last))) if at == 0 => {
                    return Seen::Boundary {
                        len: delimiter.len() + len,
                        last,
                    };
                }
                None if at == 0 => return Seen::Unclear,
                Some(Ok(_)) | None => return Seen::Data(at),
                // The boundary and more: content that looks like it.
                Some(Err(NoBoundary)) => from = at + 1,
            }
        }
        // The end may be the beginning of a boundary.
        let tail = self
            .buffer
            .len()
            .saturating_sub(delimiter.len() - 1)
            .max(from.min(self.buffer.len()));
        let held = (tail..self.buffer.len()).find(|at| delimiter.starts_with(&self.buffer[*at..]));
        match held.unwrap_or(self.buffer.len()) {
            0 => Seen::Unclear,
            len => Seen::Data(len),
        }
    }

    /// Where a part has no content, some clients leave out the line break before the boundary. `None` if there is content.
    fn look_for_nothing(&self, boundary: &[u8]) -> Option<Seen> {
        let Some(behind) = self.buffer.strip_prefix(boundary) else {
            return boundary.starts_with(&self.buffer).then_some(Seen::Unclear);
        };
        match after_boundary(behind) {
            Some(Ok((len, last))) => Some(Seen::Boundary {
                len: boundary.len() + len,
                last,
            }),
            Some(Err(NoBoundary)) => None,
            None => Some(Seen::Unclear),
        }
    }

    async fn fill(&mut self) -> Result<(), Failure> {
        let Some(piece) = self.data.try_next().await.map_err(|error| failed(&error))? else {
            let words = "the body ends before its last boundary; it was cut off, or its Content-Type names another one";
            return Err(Failure::bad(words));
        };
        if self.buffer.is_empty()
            && let Ok(piece) = piece.clone().try_into_mut()
        {
            self.buffer = piece;
        } else {
            self.buffer.extend_from_slice(&piece);
        }
        Ok(())
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, parts, .. } = self;
        f.debug_struct("Parts")
            .field("place", place)
            .field("parts", parts)
            .finish_non_exhaustive()
    }
}

impl<S: Send + Sync> FromRequest<S> for Parts {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let limits = limits_of(request.extensions());
        let (parts, body) = request.into_parts();
        Self::new(&parts.headers, body, &limits)
    }
}

fn broken() -> Failure {
    Failure::bad("the body could not be read before, so no more of it is read")
}

/// What looks like a boundary and is none.
#[derive(Debug)]
struct NoBoundary;

/// What stands behind a boundary: how much of it belongs to its line and whether it was the last; `None` if that is not to be
/// seen yet.
fn after_boundary(behind: &[u8]) -> Option<Result<(usize, bool), NoBoundary>> {
    if behind.starts_with(b"--") {
        return Some(Ok((2, true)));
    }
    let padding = behind.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    if padding > PADDING_BYTES_MAX {
        return Some(Err(NoBoundary));
    }
    match &behind[padding..] {
        [b'\r', b'\n', ..] => Some(Ok((padding + 2, false))),
        [] | [b'\r'] => None,
        [b'-'] if padding == 0 => None,
        _ => Some(Err(NoBoundary)),
    }
}

fn boundary(headers: &HeaderMap) -> Result<Vec<u8>, Failure> {
    const NOT_MULTIPART: &str = "request Content-Type isn't multipart/form-data";
    let value = headers.get(header::CONTENT_TYPE);
    let parsed = value.and_then(|value| params::parse(value.as_bytes()));
    let (kind, params) = parsed.ok_or_else(|| Failure::bad(NOT_MULTIPART))?;
    if kind != "multipart/form-data" && kind != "multipart/mixed" {
        return Err(Failure::bad(NOT_MULTIPART));
    }
    match params::find(&params, "boundary") {
        Some(boundary) if (1..=BOUNDARY_BYTES_MAX).contains(&boundary.len()) => Ok(boundary.into_owned()),
        _ => Err(Failure::bad("no multipart boundary param in Content-Type")),
    }
}

#[cfg(test)]
mod tests;
