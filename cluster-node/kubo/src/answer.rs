//! Reading an answer in bounded memory: by lines or as a whole, with the trailer in which Kubo reports late errors.

use std::future::poll_fn;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use hyper::body::Body as _;

/// Longest line of a stream. Kubo's are below 200 bytes.
pub(crate) const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Longest answer that is not a stream.
pub(crate) const WHOLE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The trailer that carries an error which came after the status had been sent.
const STREAM_ERROR: &str = "x-stream-error";

/// Why the answer ended before its end.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The connection was lost.
    Lost(String),
    /// It is longer than allowed.
    TooLong(usize),
    /// The daemon reports this in the trailer.
    Said(String),
}

/// The body of an answer.
pub(crate) struct Answer {
    body: reqwest::Body,
    buffer: BytesMut,
    /// Bytes at the front of `buffer` that hold no line end.
    searched: usize,
    ended: bool,
    late_error: Option<String>,
}

impl Answer {
    pub(crate) fn new(response: reqwest::Response) -> Self {
        Self {
            body: response.into(),
            buffer: BytesMut::new(),
            searched: 0,
            ended: false,
            late_error: None,
        }
    }

    /// The next line without its end; none at the end of the answer. Cancel safe: what was read stays in the buffer.
    pub(crate) async fn line(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(self.searched + at + 1).freeze();
                self.searched = 0;
                let line = line.slice(..line.len() - 1);
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.searched > LINE_BYTES_MAX {
                return Err(Broken::TooLong(LINE_BYTES_MAX));
            }
            if self.ended {
                return self.rest();
            }
            self.fill().await?;
        }
    }

    /// All of it.
    pub(crate) async fn whole(&mut self) -> Result<Bytes, Broken> {
        while !self.ended {
            if self.buffer.len() > WHOLE_BYTES_MAX {
                return Err(Broken::TooLong(WHOLE_BYTES_MAX));
            }
            self.fill().await?;
        }
        match self.late_error.take() {
            Some(words) => Err(Broken::Said(words)),
            None => Ok(self.buffer.split().freeze()),
        }
    }

    /// The beginning of it, however it goes on: enough for an error's words.
    pub(crate) async fn beginning(&mut self, bytes_max: usize) -> Bytes {
        while !self.ended && self.buffer.len() < bytes_max {
            if self.fill().await.is_err() {
                break;
            }
        }
        self.buffer.truncate(bytes_max);
        self.buffer.split().freeze()
    }

    /// What stands behind the last line end, or the late error.
    fn rest(&mut self) -> Result<Option<Bytes>, Broken> {
        if let Some(words) = self.late_error.take() {
            return Err(Broken::Said(words));
        }
        let rest = self.buffer.split().freeze();
        self.searched = 0;
        Ok((!rest.iter().all(u8::is_ascii_whitespace)).then_some(rest))
    }

    async fn fill(&mut self) -> Result<(), Broken> {
        let frame = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await;
        match frame {
            None => self.ended = true,
            Some(Err(error)) => return Err(Broken::Lost(chain(error))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    let late = frame.trailers_ref().and_then(|trailers| trailers.get(STREAM_ERROR));
                    self.late_error = late.map(|words| String::from_utf8_lossy(words.as_bytes()).into_owned());
                }
            },
        }
        Ok(())
    }
}

/// An error of the HTTP client with everything below it: its own text alone hides the reason. Without the URL, which the
/// reader of the message knows.
pub(crate) fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        source = error.source();
    }
    text
}
