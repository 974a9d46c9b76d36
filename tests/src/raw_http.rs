//! HTTP/1.1 as bytes: what no client library hides, trailers and framing included.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long an answer may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Of its status line.
    pub status: u16,
    /// In their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Without its framing.
    pub body: Vec<u8>,
    /// Behind a chunked body; names in lower case.
    pub trailers: Vec<(String, String)>,
}

impl Answer {
    /// The value of a header, of the first when there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The value of a trailer.
    pub fn trailer(&self, name: &str) -> Option<&str> {
        find(&self.trailers, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as one value with a newline behind it, answered with this status.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn json(&self, status: u16) -> anyhow::Result<Value> {
        ensure!(
            self.status == status,
            "{} instead of {status}: {}",
            self.status,
            self.text()
        );
        ensure!(
            self.header("content-type") == Some("application/json"),
            "{:?}",
            self.headers
        );
        let text = self.text();
        let line = text.strip_suffix('\n').context("a newline ends it")?;
        ensure!(!line.contains('\n'), "several lines: {text}");
        Ok(serde_json::from_str(line)?)
    }

    /// The body as one object a line, all of them and without an error behind them.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn lines(&self) -> anyhow::Result<Vec<Value>> {
        ensure!(self.status == 200, "{}: {}", self.status, self.text());
        ensure!(
            self.header("content-type") == Some("application/json"),
            "{:?}",
            self.headers
        );
        let error = self.trailer("x-stream-error").unwrap_or_default();
        ensure!(error.is_empty(), "it ended early: {error}");
        let text = self.text();
        ensure!(text.is_empty() || text.ends_with('\n'), "a newline ends each line");
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// The message of an error in the form of the REST API, answered with this status.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn error(&self, status: u16) -> anyhow::Result<String> {
        let error = self.json(status)?;
        ensure!(error["code"] == status, "{error}");
        ensure!(error.as_object().is_some_and(|fields| fields.len() == 2), "{error}");
        Ok(error["message"].as_str().context("it has no message")?.to_owned())
    }
}

fn find<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs
        .iter()
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.as_str())
}

/// Sends a request without a body and reads the answer to the end of the connection. No redirect is followed.
///
/// # Errors
/// When no answer comes, or none that is HTTP.
pub async fn request(address: &str, method: &str, target: &str) -> anyhow::Result<Answer> {
    request_with(address, method, target, &[], b"").await
}

/// The same with headers and a body. Its length is told when there is one.
///
/// # Errors
/// When no answer comes, or none that is HTTP.
pub async fn request_with(
    address: &str,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> anyhow::Result<Answer> {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let exchanged = async {
        let stream = TcpStream::connect(address).await?;
        let (mut read, mut write) = stream.into_split();
        let request = [head.as_bytes(), body].concat();
        // Side by side: an answer may come before the request has been sent.
        let sending = async move {
            // A server that has answered may take no more.
            let _ = write.write_all(&request).await;
            anyhow::Ok(write)
        };
        let mut bytes = Vec::new();
        let reading = async { anyhow::Ok(read.read_to_end(&mut bytes).await?) };
        let (_write, _) = tokio::try_join!(sending, reading)?;
        anyhow::Ok(bytes)
    };
    let bytes = tokio::time::timeout(LIMIT, exchanged)
        .await
        .with_context(|| format!("{method} {target}: no answer within {LIMIT:?}"))??;
    parse(&bytes, method == "HEAD").with_context(|| format!("{method} {target}: {:?}", String::from_utf8_lossy(&bytes)))
}

/// Sends bytes as they are, and reads until the server closes the connection: for requests that are none.
///
/// # Errors
/// When it can't be reached, or does not close in time.
pub async fn exchange(address: &str, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let exchanged = async {
        let (mut read, mut write) = TcpStream::connect(address).await?.into_split();
        let sending = async move {
            // A server that has answered may take no more.
            let _ = write.write_all(bytes).await;
            anyhow::Ok(write)
        };
        let mut answer = Vec::new();
        let reading = async {
            match read.read_to_end(&mut answer).await {
                // It did not wait for what was still sent.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
                ended => ended.map(drop),
            }?;
            anyhow::Ok(())
        };
        let (_write, ()) = tokio::try_join!(sending, reading)?;
        anyhow::Ok(answer)
    };
    tokio::time::timeout(LIMIT, exchanged)
        .await
        .with_context(|| format!("the connection was not closed within {LIMIT:?}"))?
}

/// The statuses of all answers among these bytes, in their order.
pub fn statuses(bytes: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(bytes);
    let answers = text.split("HTTP/1.1 ").skip(1);
    answers.filter_map(|answer| answer.get(..3)?.parse().ok()).collect()
}

/// The answer to a HEAD has the length of a body and no body.
fn parse(bytes: &[u8], is_bare: bool) -> anyhow::Result<Answer> {
    let (head, rest) = split(bytes, b"\r\n\r\n").context("no end of the head")?;
    let head = std::str::from_utf8(head)?;
    let (status_line, fields) = head.split_once("\r\n").unwrap_or((head, ""));
    let status = status_line.split(' ').nth(1).context("no status")?.parse()?;
    let headers = fields_of(fields)?;
    let chunked = find(&headers, "transfer-encoding") == Some("chunked");
    let (body, trailers) = match chunked {
        true => unchunk(rest)?,
        false => {
            if let Some(length) = find(&headers, "content-length").filter(|_| !is_bare) {
                ensure!(
                    length.parse::<usize>()? == rest.len(),
                    "{} bytes instead of {length}",
                    rest.len()
                );
            }
            (rest.to_vec(), Vec::new())
        }
    };
    Ok(Answer {
        status,
        headers,
        body,
        trailers,
    })
}

fn fields_of(text: &str) -> anyhow::Result<Vec<(String, String)>> {
    let field = |line: &str| {
        let (name, value) = line.split_once(':').with_context(|| format!("no field: {line:?}"))?;
        Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    text.split("\r\n").filter(|line| !line.is_empty()).map(field).collect()
}

type Unchunked = (Vec<u8>, Vec<(String, String)>);

fn unchunk(mut rest: &[u8]) -> anyhow::Result<Unchunked> {
    let mut body = Vec::new();
    loop {
        let (size, behind) = split(rest, b"\r\n").context("a chunk without a size")?;
        let size = usize::from_str_radix(std::str::from_utf8(size)?.trim(), 16)?;
        if size == 0 {
            let (trailers, _) = match behind.strip_prefix(b"\r\n") {
                Some(behind) => (&b""[..], behind),
                None => split(behind, b"\r\n\r\n").context("the trailers do not end")?,
            };
            return Ok((body, fields_of(std::str::from_utf8(trailers)?)?));
        }
        if behind.len() < size + 2 {
            bail!("a chunk is cut off");
        }
        body.extend_from_slice(&behind[..size]);
        rest = behind[size..].strip_prefix(b"\r\n").context("a chunk does not end")?;
    }
}

fn split<'a>(bytes: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let place = bytes.windows(at.len()).position(|window| window == at)?;
    Some((&bytes[..place], &bytes[place + at.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let plain = parse(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nA: b\r\n\r\nhi", false).expect("an answer");
        assert_eq!(
            (plain.status, plain.header("a"), plain.text().as_str()),
            (404, Some("b"), "hi")
        );
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\nX-Stream-Error: no\r\n\r\n";
        let chunked = parse(chunked, false).expect("an answer");
        assert_eq!(
            (chunked.text().as_str(), chunked.trailer("x-stream-error")),
            ("abcd", Some("no"))
        );
        let bare = parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false).expect("an answer");
        assert!(bare.body.is_empty() && bare.trailers.is_empty());
        for cut in [
            &b"HTTP/1.1 200 OK\r\n"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
        ] {
            parse(cut, false).expect_err("cut off");
        }
        parse(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", true).expect("the answer to a HEAD");
    }
}
