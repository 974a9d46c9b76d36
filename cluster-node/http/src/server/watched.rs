//! The stream of a connection, as hyper sees it: with trailers asked for, and with an end to all waiting.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::io::poll_read_buf;

use super::framing::{Framing, Refused};
use super::life::Life;
use crate::Limits;

/// What is read at once while a head is looked for.
const READ_BYTES: usize = 4 * 1024;
/// How long what a client still sends is thrown away after the answer, so that it gets to read the answer: a connection that is
/// closed with bytes unread is reset, and the client's system then forgets what it received. Clients that read their answer
/// close at once.
const LINGER: Duration = Duration::from_secs(5);

/// Why a connection ends without hyper having seen the head of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The head is too large, or the request line is.
    Large(Refused),
    /// The head did not come to its end in time.
    Slow,
}

/// What is waited for while nothing comes. Each has its time, which runs from when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// The first byte of the first request.
    First,
    /// The rest of a head.
    Head,
    /// The next request.
    Next,
}

/// The stream of one connection.
pub struct Watched<T> {
    inner: T,
    framing: Framing,
    /// Came in, and is not understood yet: at most a head and what is read at once.
    raw: BytesMut,
    /// Goes to hyper next.
    out: BytesMut,
    ended: bool,
    life: Arc<Life>,
    head_timeout: Duration,
    idle_timeout: Duration,
    /// What is waited for, and before which request.
    waiting: Option<(Wait, u64)>,
    wait_timer: Pin<Box<Sleep>>,
    refusal: Option<Refusal>,
    sending: Stall,
    /// Whether all that was to be sent is.
    flushed: bool,
    /// Who waits for that with a refusal.
    flush_waited: Option<Waker>,
    closing: Closing,
}

enum Closing {
    /// Not yet.
    No,
    /// Our side is closed, and theirs is waited for.
    Lingering(Pin<Box<Sleep>>),
}

impl<T> Watched<T> {
    pub fn new(inner: T, limits: &Limits, life: Arc<Life>) -> Self {
        let now = || Box::pin(sleep_until(Instant::now()));
        Self {
            inner,
            framing: Framing::new(limits.head_bytes_max, limits.target_bytes_max),
            raw: BytesMut::new(),
            out: BytesMut::new(),
            ended: false,
            life,
            head_timeout: limits.head_timeout,
            idle_timeout: limits.idle_timeout,
            waiting: None,
            wait_timer: now(),
            refusal: None,
            sending: Stall::new(limits.stall_timeout),
            flushed: true,
            flush_waited: None,
            closing: Closing::No,
        }
    }

    /// Why reading failed, if it was not the connection's fault; to be answered, and only then closed.
    pub fn take_refusal(&mut self) -> Option<Refusal> {
        self.refusal.take()
    }

    pub fn get_ref(&self) -> &T {
        &self.inner
    }

    fn feed(&mut self) {
        if self.framing.feed(&mut self.raw, &mut self.out) > 0 {
            self.waiting = None;
            self.life.wake();
        }
    }

    /// Between two requests, and nothing of the next is there.
    fn at_rest(&self) -> bool {
        self.framing.at_head() && self.raw.is_empty() && self.out.is_empty()
    }

    /// Nothing came. Pending until something does or it took too long; what follows then is an end or an error.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.life.is_answering(cx) {
            // A client that reads its answer need not say anything, and what it waits for in a body is for the body to judge.
            self.waiting = None;
            self.life.wake();
            return Poll::Pending;
        }
        let begun = self.life.begun();
        let wait = match (self.raw.is_empty(), begun) {
            (false, _) => Wait::Head,
            (true, 0) => Wait::First,
            (true, _) => Wait::Next,
        };
        if self.waiting != Some((wait, begun)) {
            self.waiting = Some((wait, begun));
            let limit = match wait {
                Wait::First | Wait::Head => self.head_timeout,
                Wait::Next => self.idle_timeout,
            };
            self.wait_timer.as_mut().reset(Instant::now() + limit);
            match wait {
                Wait::First | Wait::Next => self.life.rest(),
                Wait::Head => self.life.wake(),
            }
        }
        ready!(self.wait_timer.as_mut().poll(cx));
        if wait == Wait::Head {
            return self.refuse(Refusal::Slow);
        }
        self.ended = true;
        Poll::Ready(Ok(()))
    }

    fn refuse(&mut self, why: Refusal) -> Poll<io::Result<()>> {
        // Behind half an answer there is no place for another.
        self.refusal = self.flushed.then_some(why);
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the request was refused",
        )))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.out.is_empty() {
                let len = this.out.len().min(buffer.remaining());
                buffer.put_slice(&this.out[..len]);
                this.out.advance(len);
                return Poll::Ready(Ok(()));
            }
            if let Some(why) = this.framing.refused() {
                // The answer before goes first.
                if this.life.is_answering(cx) {
                    return Poll::Pending;
                }
                if !this.flushed {
                    this.flush_waited = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                return this.refuse(Refusal::Large(why));
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            if this.raw.is_empty() && !this.framing.at_head() {
                // A body goes past without being copied.
                let before = buffer.filled().len();
                if Pin::new(&mut this.inner).poll_read(cx, buffer)?.is_pending() {
                    return this.wait(cx);
                }
                let came = &buffer.filled()[before..];
                this.ended = came.is_empty();
                let len = this.framing.skip(came);
                if len < came.len() {
                    this.raw.extend_from_slice(&came[len..]);
                    buffer.set_filled(before + len);
                    this.feed();
                }
                return Poll::Ready(Ok(()));
            }
            this.raw.reserve(READ_BYTES);
            match poll_read_buf(Pin::new(&mut this.inner), cx, &mut this.raw)? {
                Poll::Pending => {
                    ready!(this.wait(cx))?;
                }
                Poll::Ready(0) => {
                    this.ended = true;
                    this.framing.end();
                    this.feed();
                }
                Poll::Ready(_) => this.feed(),
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Watched<T> {
    /// Ends a wait for a client that takes nothing. Its connection is reset: closed, it would stay with the system, which
    /// would hold megabytes for it and go on asking whether there is room, long after it stopped counting here.
    fn judge_sending<R>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        let poll = self.sending.judge(cx, poll);
        if self.sending.given_up {
            self.life.break_off();
        }
        poll
    }

    /// Throws away what still comes, for a bounded time.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Closing::Lingering(timer) = &mut self.closing else {
            return Poll::Ready(Ok(()));
        };
        // Politeness ends where there is no room for it.
        if self.life.must_leave() || timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut scratch = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buffer)) {
                Ok(()) if buffer.filled().is_empty() => return Poll::Ready(Ok(())),
                Ok(()) => {}
                // Theirs is closed as well, if not politely.
                Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.flushed = false;
        let poll = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.judge_sending(cx, poll)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.flushed = false;
        let poll = Pin::new(&mut this.inner).poll_write_vectored(cx, parts);
        this.judge_sending(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.inner).poll_flush(cx);
        let poll = this.judge_sending(cx, poll);
        if matches!(poll, Poll::Ready(Ok(()))) {
            this.flushed = true;
            if let Some(waker) = this.flush_waited.take() {
                waker.wake();
            }
        }
        poll
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.refusal.is_some() {
            // hyper takes the refusal for an end, but there is still something to say.
            return Poll::Ready(Ok(()));
        }
        if matches!(this.closing, Closing::No) {
            let poll = Pin::new(&mut this.inner).poll_shutdown(cx);
            ready!(this.judge_sending(cx, poll))?;
            if this.ended || this.at_rest() {
                return Poll::Ready(Ok(()));
            }
            this.life.rest();
            this.closing = Closing::Lingering(Box::pin(sleep_until(Instant::now() + LINGER)));
        }
        this.linger(cx)
    }
}

/// Ends a wait for a client that takes nothing.
struct Stall {
    limit: Duration,
    /// Runs while something waits to be sent.
    timer: Pin<Box<Sleep>>,
    waiting: bool,
    /// It was over.
    given_up: bool,
}

impl Stall {
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            timer: Box::pin(sleep_until(Instant::now())),
            waiting: false,
            given_up: false,
        }
    }

    fn judge<R>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if poll.is_ready() {
            self.waiting = false;
            return poll;
        }
        if !self.waiting {
            self.waiting = true;
            self.timer.as_mut().reset(Instant::now() + self.limit);
        }
        match self.timer.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                self.given_up = true;
                let words = format!("the client took nothing for {:?}", self.limit);
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, words)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::sleep;

    use super::*;

    fn watched(room: usize, limits: &Limits) -> (Watched<DuplexStream>, DuplexStream, Arc<Life>) {
        let (ours, theirs) = duplex(room);
        let life = Life::new(&Arc::default());
        (Watched::new(ours, limits, life.clone()), theirs, life)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let limits = Limits::default();
        let limit = limits.stall_timeout;
        let (mut ours, mut theirs, _) = watched(16, &limits);
        let sent = tokio::spawn(async move { (ours.write_all(&[7; 64]).await, ours) });
        let began = Instant::now();
        let mut part = [0; 16];
        for _ in 0..3 {
            // It is the time between two pieces that counts, and all together they take longer.
            sleep(limit * 2 / 5).await;
            theirs.read_exact(&mut part).await.expect("sent");
        }
        let (result, mut ours) = sent.await.expect("no panic");
        result.expect("something was taken all the time");
        assert!(began.elapsed() > limit);
        let began = Instant::now();
        let error = ours.write_all(&[7; 64]).await.expect_err("nothing is taken");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= limit);
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_a_head_runs_from_its_first_byte_and_not_while_an_answer_is_under_way() {
        let limits = Limits::default();
        let (mut ours, mut theirs, life) = watched(1024, &limits);
        let began = Instant::now();
        let answering = life.begin();
        theirs.write_all(b"GET /a HT").await.expect("taken");
        let mut head = Vec::new();
        {
            let mut reading = Box::pin(ours.read_buf(&mut head));
            let early = tokio::time::timeout(limits.head_timeout * 10, &mut reading).await;
            assert!(early.is_err(), "nothing is wrong while an answer is under way");
        }
        drop(answering);
        let error = ours.read_buf(&mut head).await.expect_err("the rest never comes");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(ours.take_refusal(), Some(Refusal::Slow));
        assert_eq!(began.elapsed().as_secs(), limits.head_timeout.as_secs() * 11);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_before_a_request_is_an_end() {
        let limits = Limits::default();
        let (mut ours, _theirs, life) = watched(1024, &limits);
        let mut nothing = Vec::new();
        let began = Instant::now();
        assert_eq!(ours.read_buf(&mut nothing).await.expect("no error"), 0);
        assert_eq!(began.elapsed().as_secs(), limits.head_timeout.as_secs());

        let (mut ours, _theirs, other) = watched(1024, &limits);
        drop((life, other.begin()));
        let began = Instant::now();
        assert_eq!(ours.read_buf(&mut nothing).await.expect("no error"), 0);
        assert_eq!(began.elapsed().as_secs(), limits.idle_timeout.as_secs());
    }

    /// Gives pieces one by one, and often nothing before one.
    struct Pieces(VecDeque<Option<Vec<u8>>>);

    impl AsyncRead for Pieces {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            match self.0.pop_front() {
                None => Poll::Ready(Ok(())),
                Some(None) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                Some(Some(mut piece)) => {
                    let rest = piece.split_off(piece.len().min(buffer.remaining()));
                    buffer.put_slice(&piece);
                    if !rest.is_empty() {
                        self.0.push_front(Some(rest));
                    }
                    Poll::Ready(Ok(()))
                }
            }
        }
    }

    proptest! {
        #[test]
        fn however_bytes_come_and_are_asked_for_the_same_is_read(
            kinds in prop::collection::vec((0..3_u8, 0_usize..9000), 0..6),
            garbage in prop::option::of("[a-z:\r\n ]{0,40}"),
            ends in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
            pauses in prop::collection::vec(any::<bool>(), 32),
            room in 1_usize..5000,
        ) {
            let mut bytes = Vec::new();
            for (kind, len) in kinds {
                let body = "GET / HTTP/1.1\r\n\r\n".repeat(len / 18 + 1);
                let body = &body[..len];
                let text = match kind {
                    0 => format!("GET /{len} HTTP/1.1\r\n\r\n"),
                    1 => format!("PUT / HTTP/1.1\r\nContent-Length: {len}\r\n\r\n{body}"),
                    _ => format!("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n{:x}\r\n{body}\r\n0\r\n\r\n", len.max(1)),
                };
                bytes.extend_from_slice(text.as_bytes());
            }
            bytes.extend_from_slice(garbage.unwrap_or_default().as_bytes());

            let limits = Limits::default();
            let mut framing = Framing::new(limits.head_bytes_max, limits.target_bytes_max);
            let (mut raw, mut expected) = (BytesMut::from(&bytes[..]), BytesMut::new());
            framing.feed(&mut raw, &mut expected);
            framing.end();
            framing.feed(&mut raw, &mut expected);

            let mut ends: Vec<usize> = ends.iter().map(|end| end.index(bytes.len() + 1)).collect();
            ends.extend([0, bytes.len()]);
            ends.sort_unstable();
            let mut pieces = VecDeque::new();
            for (pair, pause) in ends.windows(2).zip(pauses) {
                if pause {
                    pieces.push_back(None);
                }
                if pair[0] < pair[1] {
                    pieces.push_back(Some(bytes[pair[0]..pair[1]].to_vec()));
                }
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            let read = runtime.block_on(async {
                let stream = tokio::io::join(Pieces(pieces), tokio::io::sink());
                let mut stream = Watched::new(stream, &limits, Life::new(&Arc::default()));
                let mut all = Vec::new();
                let mut part = vec![0; room];
                loop {
                    let len = stream.read(&mut part).await.expect("no error");
                    if len == 0 {
                        return all;
                    }
                    all.extend_from_slice(&part[..len]);
                }
            });
            prop_assert_eq!(read, expected.to_vec());
        }
    }
}
