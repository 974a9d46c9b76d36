//! HTTP/1.1 with as little work as can be: the load shall not take the processors from what is measured.

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// More than any answer to one CID has.
const ANSWER_MAX: usize = 1 << 20;

/// A connection that stays open from one question to the next.
pub struct Connection {
    address: String,
    stream: Option<TcpStream>,
    taken: Vec<u8>,
}

impl Connection {
    /// Not open yet.
    pub fn new(address: String) -> Self {
        Self {
            address,
            stream: None,
            taken: Vec::new(),
        }
    }

    /// Asks and reads the answer, which must be 200.
    pub async fn ask(&mut self, method: &str, target: &str) -> anyhow::Result<()> {
        let answered = self.asked(method, target).await;
        if answered.is_err() {
            self.stream = None;
        }
        answered
    }

    async fn asked(&mut self, method: &str, target: &str) -> anyhow::Result<()> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(&self.address).await?;
                stream.set_nodelay(true)?;
                self.stream.insert(stream)
            }
        };
        let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        let request = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n{length}\r\n", self.address);
        stream.write_all(request.as_bytes()).await?;
        self.taken.clear();
        loop {
            ensure!(stream.read_buf(&mut self.taken).await? > 0, "the connection was closed");
            ensure!(
                self.taken.len() < ANSWER_MAX,
                "an answer of more than {ANSWER_MAX} bytes"
            );
            if let Some(status) = complete(&self.taken)? {
                let body = || String::from_utf8_lossy(&self.taken).into_owned();
                ensure!(status == 200, "{status}: {}", body());
                return Ok(());
            }
        }
    }
}

/// The status of an answer, when all of it is there.
fn complete(taken: &[u8]) -> anyhow::Result<Option<u16>> {
    let Some(end) = taken.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&taken[..end])?.to_ascii_lowercase();
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let body = taken.len() - end - 4;
    let value = |name: &str| head.split("\r\n").find_map(|line| line.strip_prefix(name));
    if let Some(length) = value("content-length:") {
        return Ok((body >= length.trim().parse::<usize>()?).then_some(status));
    }
    if value("transfer-encoding:").is_some() {
        return Ok(taken.ends_with(b"0\r\n\r\n").then_some(status));
    }
    bail!("an answer whose end can't be told: {head}")
}

#[cfg(test)]
mod tests {
    use super::complete;

    #[test]
    fn an_answer_is_complete_when_all_of_it_is_there() {
        let sized = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nhi";
        assert_eq!(complete(sized).expect("an answer"), Some(404));
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
        assert_eq!(complete(chunked).expect("an answer"), Some(200));
        for whole in [&sized[..], chunked] {
            for cut in 0..whole.len() {
                assert_eq!(complete(&whole[..cut]).expect("a beginning"), None, "{cut}");
            }
        }
        complete(b"HTTP/1.1 200 OK\r\n\r\n").expect_err("no end");
    }
}
