//! Clients that ask one thing after the other, and what they saw.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::StreamExt as _;

/// What a number of clients saw in some time.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Answers a second.
    pub rate: f64,
    /// Median time of an answer.
    pub p50: Duration,
    /// Time that 99 of 100 answers stayed below.
    pub p99: Duration,
    /// Errors, and the first of them.
    pub errors: u64,
    /// The first error.
    pub first_error: Option<String>,
}

impl Seen {
    /// `p50 1.2 ms, p99 3.4 ms`, and errors if there were any.
    pub fn words(&self) -> String {
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let mut words = format!("p50 {:.1} ms, p99 {:.1} ms", millis(self.p50), millis(self.p99));
        if self.errors > 0 {
            let first = self.first_error.as_deref().unwrap_or_default();
            words.push_str(&format!(", {} errors (first: {first})", self.errors));
        }
        words
    }
}

/// Runs closed loops: each client asks, waits for the answer, and asks again, for `warm_up` uncounted and then for
/// `time` counted. `client(n)` makes the n-th client; what it returns is called for each question.
pub async fn closed_loops<M, C, F>(clients: usize, warm_up: Duration, time: Duration, client: M) -> anyhow::Result<Seen>
where
    M: Fn(usize) -> anyhow::Result<C>,
    C: FnMut() -> F + Send + 'static,
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let counted_from = Instant::now() + warm_up;
    let until = counted_from + time;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..clients {
        let mut ask = client(number)?;
        tasks.spawn(async move {
            let (mut took, mut errors, mut first_error) = (Vec::new(), 0u64, None);
            loop {
                let begun = Instant::now();
                if begun >= until {
                    return (took, errors, first_error);
                }
                let answer = ask().await;
                let done = Instant::now();
                match answer {
                    Ok(()) if begun >= counted_from && done <= until => {
                        took.push(u32::try_from((done - begun).as_micros()).unwrap_or(u32::MAX));
                    }
                    Ok(()) => {}
                    Err(error) => {
                        errors += 1;
                        first_error.get_or_insert_with(|| format!("{error:#}"));
                        // A server that refuses at once must not be asked in a tight loop.
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        });
    }
    let (mut took, mut errors, mut first_error) = (Vec::new(), 0, None);
    while let Some(ended) = tasks.join_next().await {
        let (mine, failed, first) = ended.context("a client panicked")?;
        took.extend(mine);
        errors += failed;
        first_error = first_error.or(first);
    }
    ensure!(
        !took.is_empty(),
        "no question was answered; the first error: {first_error:?}"
    );
    took.sort_unstable();
    let at = |share: f64| Duration::from_micros(u64::from(took[((took.len() - 1) as f64 * share) as usize]));
    Ok(Seen {
        rate: took.len() as f64 / time.as_secs_f64(),
        p50: at(0.5),
        p99: at(0.99),
        errors,
        first_error,
    })
}

/// What one long answer looked like.
#[derive(Debug, Clone, Copy, Default)]
pub struct Listed {
    /// Items.
    pub items: u64,
    /// Until the first of them was there.
    pub first: Duration,
    /// Until the last.
    pub all: Duration,
}

impl Listed {
    /// Items a second.
    pub fn rate(&self) -> f64 {
        self.items as f64 / self.all.as_secs_f64().max(1e-9)
    }
}

/// Reads a list over HTTP; every item of it is a line.
pub async fn lines(http: &reqwest::Client, url: &str) -> anyhow::Result<Listed> {
    let begun = Instant::now();
    let mut body = http.get(url).send().await?.error_for_status()?.bytes_stream();
    let (mut items, mut first) = (0u64, None);
    while let Some(piece) = body.next().await {
        let piece = piece?;
        first.get_or_insert_with(|| begun.elapsed());
        items += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
    }
    Ok(Listed {
        items,
        first: first.context("the list was empty")?,
        all: begun.elapsed(),
    })
}
