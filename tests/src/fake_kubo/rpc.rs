//! The calls of Kubo's RPC, and those that steer a fake.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use hyper::body::Frame;
use node_core::Cid;

use super::state::{Held, InFlight, State, canonical};
use super::{Call, Connection, Fault, PinKind, Rule};

/// Longest body of a steering request.
const STEERING_BYTES_MAX: usize = 1024 * 1024;

/// Blocks and bytes that a pin is said to have when no fault says otherwise.
const PIN_BYTES: u64 = 256 * 1024;

/// Time for what was sent to leave before a connection is cut.
const FLUSH: Duration = Duration::from_millis(20);

/// A refusal in Kubo's words.
struct Refusal(String);

type Outcome = Result<Response, Refusal>;

pub(super) async fn answer(
    Shared(state): Shared<Arc<State>>,
    Extension(connection): Extension<Connection>,
    request: Request,
) -> Response {
    let path = request.uri().path();
    if let Some(what) = path.strip_prefix("/fake/") {
        let what = what.to_owned();
        return steer(&state, &what, request).await;
    }
    let Some(name) = path.strip_prefix("/api/v0/") else {
        return (StatusCode::NOT_FOUND, "404 page not found\n").into_response();
    };
    if request.method() != Method::POST {
        return (StatusCode::METHOD_NOT_ALLOWED, "405 - Method Not Allowed\n").into_response();
    }
    let call = match name {
        "id" => Call::Id,
        "version" => Call::Version,
        "repo/stat" => Call::RepoStat,
        "pin/add" => Call::PinAdd,
        "pin/update" => Call::PinUpdate,
        "pin/rm" => Call::PinRm,
        "pin/ls" => Call::PinLs,
        "swarm/connect" => Call::SwarmConnect,
        _ => Call::Other,
    };
    let in_flight = InFlight::new(&state, call);
    let settings = state.settings();
    if settings.delay_millis > 0 {
        tokio::time::sleep(Duration::from_millis(settings.delay_millis)).await;
    }
    if let Some(expected) = &settings.authorization {
        let given = request.headers().get(header::AUTHORIZATION);
        if given.is_none_or(|given| given.as_bytes() != expected.as_bytes()) {
            return unauthorized();
        }
    }
    let query = Query(request.uri().query().unwrap_or_default());
    let subject = query.args().last().map(|arg| canonical(&arg));
    let Some(fault) = state.fault(call, subject.as_deref()) else {
        return plain(&state, call, name, &query);
    };
    let cid = subject.unwrap_or_default();
    let usual = |query: &Query<'_>| plain(&state, call, name, query);
    match fault {
        Fault::Hang => std::future::pending().await,
        Fault::Delay { millis } => {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            usual(&query)
        }
        Fault::Drip {
            blocks,
            blocks_per_tick,
            bytes_per_block,
            tick_millis,
        } => {
            let ticks = Ticks {
                blocks,
                blocks_per_tick: blocks_per_tick.max(1),
                bytes_per_block,
                tick_millis,
            };
            if call == Call::PinAdd {
                // Pinned only when it is through.
                let pinning = Pinning {
                    cids: vec![cid],
                    kind: query.kind(),
                    name: query.name(),
                };
                return lines(in_flight, drip(ticks, state.clone(), pinning));
            }
            tokio::time::sleep(ticks.whole()).await;
            usual(&query)
        }
        Fault::Stall {
            after_blocks,
            tick_millis,
        } => lines(in_flight, stall(after_blocks, tick_millis)),
        Fault::Mute { after_blocks } => lines(
            in_flight,
            async_stream::stream! {
                yield progress(after_blocks, after_blocks * PIN_BYTES);
                std::future::pending::<()>().await;
            },
        ),
        Fault::Error { status, message } => error(status, &message),
        Fault::Body { status, body } => (code(status), body).into_response(),
        Fault::LateError { message } => late_error(&message),
        Fault::ErrorLine { message } => {
            let line = error_json(&message);
            json(format!("{}{line}\n", progress(1, PIN_BYTES)))
        }
        Fault::Malformed => json("{\"Progress\":1,\"Bytes\":2\n<html>this is not Kubo</html>\n".to_owned()),
        Fault::Truncated => json(progress(1, PIN_BYTES)),
        Fault::Reset { after_blocks: 0 } => {
            connection.0.cancel();
            std::future::pending().await
        }
        Fault::Reset { after_blocks } => lines(
            in_flight,
            async_stream::stream! {
                yield progress(after_blocks, after_blocks * PIN_BYTES);
                tokio::time::sleep(FLUSH).await;
                connection.0.cancel();
                std::future::pending::<()>().await;
            },
        ),
        Fault::DiskFull => error(500, "pin: write /blocks/.temp/temp-2519313969: no space left on device"),
        Fault::Unauthorized => unauthorized(),
        Fault::NotFound => error(
            500,
            &format!("pin: block was not found locally (offline): ipld: could not find {cid}"),
        ),
    }
}

/// The answer of a daemon that is well.
fn plain(state: &Arc<State>, call: Call, name: &str, query: &Query<'_>) -> Response {
    let outcome = match call {
        Call::Id => Ok(json(format!(
            "{{\"ID\":\"{0}\",\"PublicKey\":\"\",\"Addresses\":[\"/ip4/127.0.0.1/tcp/4001/p2p/{0}\"],\
             \"AgentVersion\":\"kubo/0.43.0/fake\",\"Protocols\":[]}}\n",
            state.peer_id()
        ))),
        Call::Version => Ok(json(
            "{\"Version\":\"0.43.0\",\"Commit\":\"\",\"Repo\":\"18\",\"System\":\"fake\",\"Golang\":\"\"}\n".to_owned(),
        )),
        Call::RepoStat => {
            let (used, max) = (state.used_bytes(), state.settings().max_bytes);
            Ok(json(format!(
                "{{\"RepoSize\":{used},\"StorageMax\":{max},\"NumObjects\":0,\"RepoPath\":\"\",\"Version\":\"\"}}\n"
            )))
        }
        Call::PinAdd => pin_add(state, query),
        Call::PinUpdate => pin_update(state, query),
        Call::PinRm => pin_rm(state, query),
        Call::PinLs => pin_ls(state, query),
        Call::SwarmConnect => Ok(swarm_connect(state, query)),
        Call::Other => Ok(other(state, name, query)),
    };
    outcome.unwrap_or_else(|Refusal(words)| error(500, &words))
}

fn pin_add(state: &State, query: &Query<'_>) -> Outcome {
    let pins = Pinning {
        cids: query.cids()?,
        kind: query.kind(),
        name: query.name(),
    }
    .finish(state)?;
    Ok(json(if query.is("progress") {
        format!("{}{pins}", progress(1, PIN_BYTES))
    } else {
        pins
    }))
}

/// A pin that is made when it is finished.
struct Pinning {
    cids: Vec<String>,
    kind: PinKind,
    name: String,
}

impl Pinning {
    fn finish(&self, state: &State) -> Result<String, Refusal> {
        for cid in &self.cids {
            if !state.add(cid, self.kind, &self.name) {
                return Err(Refusal(format!("pin: {cid} already pinned recursively")));
            }
        }
        Ok(pins(&self.cids))
    }
}

fn pin_update(state: &State, query: &Query<'_>) -> Outcome {
    let cids = query.cids()?;
    let [from, to] = cids.as_slice() else {
        return Err(Refusal("argument \"to-path\" is required".into()));
    };
    let source = state.held(from).filter(|held| held.kind == PinKind::Recursive);
    let Some(source) = source else {
        return Err(Refusal("'from' cid was not recursively pinned already".into()));
    };
    if from != to {
        if state.pin(to) == Some(PinKind::Recursive) {
            return Err(Refusal("'to' cid was already recursively pinned".into()));
        }
        // Kubo hands the name on.
        state.add(to, PinKind::Recursive, &source.name);
        if query.get("unpin").is_none_or(|unpin| unpin != "false") {
            state.remove(from);
        }
    }
    Ok(json(pins(&cids)))
}

fn pin_rm(state: &State, query: &Query<'_>) -> Outcome {
    let cids = query.cids()?;
    for cid in &cids {
        if !state.remove(cid) {
            return Err(Refusal("not pinned or pinned indirectly".into()));
        }
    }
    Ok(json(pins(&cids)))
}

fn pin_ls(state: &State, query: &Query<'_>) -> Outcome {
    let kind = match query.get("type").as_deref() {
        None | Some("all") => None,
        Some("recursive") => Some(PinKind::Recursive),
        Some("direct") => Some(PinKind::Direct),
        Some("indirect") => return Err(Refusal("the fake pins nothing indirectly".into())),
        Some(other) => {
            let words = format!("invalid type '{other}', must be one of {{direct, indirect, recursive, all}}");
            return Err(Refusal(words));
        }
    };
    let cids = query.cids_or_none()?;
    let found = if cids.is_empty() {
        state.list(kind)
    } else {
        let mut found = Vec::with_capacity(cids.len());
        for cid in cids {
            match state
                .held(&cid)
                .filter(|held| kind.is_none_or(|kind| kind == held.kind))
            {
                Some(held) => found.push((cid.into_boxed_str(), held)),
                None => return Err(Refusal(format!("path '{cid}' is not pinned"))),
            }
        }
        found
    };
    let mut text = String::with_capacity(100 * found.len() + 20);
    let shows_names = query.is("names");
    // A name is any text, so it is written as JSON writes one.
    let name_of = |held: &Held| match &*held.name {
        name if shows_names && !name.is_empty() => serde_json::json!(name).to_string(),
        _ => "\"\"".to_owned(),
    };
    if query.is("stream") {
        for (cid, held) in &found {
            let kind = held.kind.as_str();
            // Here Kubo leaves out a name that is empty.
            let name = match name_of(held) {
                name if name.len() > 2 => format!("\"Name\":{name},"),
                _ => String::new(),
            };
            let _ = writeln!(text, "{{\"Cid\":\"{cid}\",{name}\"Type\":\"{kind}\"}}");
        }
    } else {
        text.push_str("{\"Keys\":{");
        for (at, (cid, held)) in found.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let (kind, name) = (held.kind.as_str(), name_of(held));
            let _ = write!(text, "{comma}\"{cid}\":{{\"Type\":\"{kind}\",\"Name\":{name}}}");
        }
        text.push_str("}}\n");
    }
    Ok(json(text))
}

fn swarm_connect(state: &State, query: &Query<'_>) -> Response {
    let mut strings = Vec::new();
    for origin in query.args() {
        state.connected(&origin);
        let id = origin.rsplit('/').next().unwrap_or_default();
        strings.push(format!("connect {id} success"));
    }
    json(format!("{}\n", serde_json::json!({ "Strings": strings })))
}

/// Calls that a cluster makes beside the pins: answered as far as nobody depends on more.
fn other(state: &State, name: &str, query: &Query<'_>) -> Response {
    let arg = query.args().next().unwrap_or_default();
    match name {
        "swarm/peers" => json("{\"Peers\":null}\n".to_owned()),
        "repo/gc" => json(String::new()),
        "config/show" => json("{}\n".to_owned()),
        "resolve" => json(format!("{{\"Path\":\"/ipfs/{}\"}}\n", canonical(&arg))),
        "block/stat" => json(format!("{{\"Key\":\"{}\",\"Size\":{PIN_BYTES}}}\n", canonical(&arg))),
        "block/get" => state.pin(&canonical(&arg)).map_or_else(
            || error(500, "block was not found locally (offline): ipld: could not find it"),
            |_| Body::empty().into_response(),
        ),
        _ => (StatusCode::NOT_FOUND, "404 page not found\n").into_response(),
    }
}

struct Ticks {
    blocks: u64,
    blocks_per_tick: u64,
    bytes_per_block: u64,
    tick_millis: u64,
}

impl Ticks {
    fn whole(&self) -> Duration {
        Duration::from_millis(self.blocks.div_ceil(self.blocks_per_tick) * self.tick_millis)
    }
}

fn drip(ticks: Ticks, state: Arc<State>, pinning: Pinning) -> impl Stream<Item = String> {
    async_stream::stream! {
        let mut blocks = 0;
        while blocks < ticks.blocks {
            tokio::time::sleep(Duration::from_millis(ticks.tick_millis)).await;
            blocks = (blocks + ticks.blocks_per_tick).min(ticks.blocks);
            yield progress(blocks, blocks * ticks.bytes_per_block);
        }
        yield match pinning.finish(&state) {
            Ok(pins) => pins,
            Err(Refusal(words)) => format!("{}\n", error_json(&words)),
        };
    }
}

fn stall(after_blocks: u64, tick_millis: u64) -> impl Stream<Item = String> {
    async_stream::stream! {
        let mut blocks = 0;
        loop {
            blocks = (blocks + 1).min(after_blocks);
            yield progress(blocks, blocks * PIN_BYTES);
            tokio::time::sleep(Duration::from_millis(tick_millis.max(1))).await;
        }
    }
}

/// A line of progress as Kubo writes it: what is zero is left out.
fn progress(blocks: u64, bytes: u64) -> String {
    match (blocks, bytes) {
        (0, 0) => "{}\n".to_owned(),
        (blocks, 0) => format!("{{\"Progress\":{blocks}}}\n"),
        (blocks, bytes) => format!("{{\"Progress\":{blocks},\"Bytes\":{bytes}}}\n"),
    }
}

fn pins(cids: &[String]) -> String {
    let mut text = String::with_capacity(80 * cids.len() + 12);
    text.push_str("{\"Pins\":[");
    for (at, cid) in cids.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        let _ = write!(text, "{comma}\"{cid}\"");
    }
    text.push_str("]}\n");
    text
}

fn json(text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer that comes line by line; the call is in flight until it ends.
fn lines(in_flight: InFlight, lines: impl Stream<Item = String> + Send + 'static) -> Response {
    let body = Body::from_stream(async_stream::stream! {
        let _in_flight = in_flight;
        for await line in lines {
            yield Ok::<_, Infallible>(line);
        }
    });
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
        .headers_mut()
        .insert("x-chunked-output", HeaderValue::from_static("1"));
    response
}

fn code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn error_json(message: &str) -> String {
    serde_json::json!({ "Message": message, "Code": 0, "Type": "error" }).to_string()
}

fn error(status: u16, message: &str) -> Response {
    let mut response = json(format!("{}\n", error_json(message)));
    *response.status_mut() = code(status);
    response
}

fn unauthorized() -> Response {
    let words = "Kubo RPC Access Denied: Please provide a valid authorization token as defined in the \
                 API.Authorizations configuration.\n";
    (StatusCode::FORBIDDEN, words).into_response()
}

fn late_error(message: &str) -> Response {
    let mut trailers = HeaderMap::new();
    // What can't stand in a header is the test's mistake, and shows there.
    let value = HeaderValue::from_str(message).unwrap_or_else(|_| HeaderValue::from_static("not a header value"));
    trailers.insert("x-stream-error", value);
    let frames = vec![
        Frame::trailers(trailers),
        Frame::data(Bytes::from(progress(1, PIN_BYTES))),
    ];
    let mut response = Response::new(Body::new(Frames(frames)));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
        .headers_mut()
        .insert(header::TRAILER, HeaderValue::from_static("X-Stream-Error"));
    response
}

/// Frames in a fixed order, the first at the end.
struct Frames(Vec<Frame<Bytes>>);

impl HttpBody for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop().map(Ok))
    }
}

/// The query of a call. Only what holds a percent sign or a plus is decoded: CIDs never do.
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn values<'b>(&'b self, name: &'b str) -> impl Iterator<Item = Cow<'a, str>> + 'b {
        let pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .filter(move |(key, _)| *key == name)
            .map(|(_, value)| decoded(value))
    }

    fn args(&self) -> impl Iterator<Item = Cow<'a, str>> + '_ {
        self.values("arg")
    }

    fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        self.values(name).last()
    }

    fn is(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value == "true")
    }

    fn kind(&self) -> PinKind {
        if self.get("recursive").is_some_and(|r| r == "false") {
            PinKind::Direct
        } else {
            PinKind::Recursive
        }
    }

    fn name(&self) -> String {
        self.get("name").map(Cow::into_owned).unwrap_or_default()
    }

    fn cids_or_none(&self) -> Result<Vec<String>, Refusal> {
        self.args()
            .map(|arg| {
                let bare = arg.strip_prefix("/ipfs/").unwrap_or(&arg);
                let parsed = bare.parse::<Cid>();
                parsed
                    .map(|cid| cid.to_string())
                    .map_err(|e| Refusal(format!("invalid path {arg:?}: {e}")))
            })
            .collect()
    }

    fn cids(&self) -> Result<Vec<String>, Refusal> {
        let cids = self.cids_or_none()?;
        if cids.is_empty() {
            Err(Refusal("argument \"ipfs-path\" is required".into()))
        } else {
            Ok(cids)
        }
    }
}

fn decoded(value: &str) -> Cow<'_, str> {
    if !value.contains(['%', '+']) {
        return Cow::Borrowed(value);
    }
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, byte) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

async fn steer(state: &Arc<State>, what: &str, request: Request) -> Response {
    let method = request.method().clone();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let query = Query(&query);
    let Ok(body) = axum::body::to_bytes(request.into_body(), STEERING_BYTES_MAX).await else {
        return (StatusCode::BAD_REQUEST, "the body can't be read\n").into_response();
    };
    let refuse = |words: String| (StatusCode::BAD_REQUEST, format!("{words}\n")).into_response();
    match (method.as_str(), what) {
        ("GET", "state") => json(format!("{}\n", serde_json::json!(state.snapshot()))),
        ("GET", "pins") => {
            let mut text = String::new();
            for (cid, held) in state.list(None) {
                let _ = writeln!(text, "{cid} {}", held.kind.as_str());
            }
            text.into_response()
        }
        ("POST", "pins") => match query.cids() {
            Ok(cids) => {
                let kind = if query.get("type").as_deref() == Some("direct") {
                    PinKind::Direct
                } else {
                    PinKind::Recursive
                };
                for cid in cids {
                    state.insert(cid, kind, &query.name());
                }
                StatusCode::NO_CONTENT.into_response()
            }
            Err(Refusal(words)) => refuse(words),
        },
        ("DELETE", "pins") => match query.cids_or_none() {
            Ok(cids) if cids.is_empty() => {
                state.wipe();
                StatusCode::NO_CONTENT.into_response()
            }
            Ok(cids) => {
                for cid in cids {
                    state.remove(&cid);
                }
                StatusCode::NO_CONTENT.into_response()
            }
            Err(Refusal(words)) => refuse(words),
        },
        ("POST", "faults") => match serde_json::from_slice::<Rule>(&body) {
            Ok(rule) => {
                state.add_rule(rule);
                StatusCode::NO_CONTENT.into_response()
            }
            Err(error) => refuse(error.to_string()),
        },
        ("DELETE", "faults") => {
            state.clear_rules();
            StatusCode::NO_CONTENT.into_response()
        }
        ("POST", "settings") => {
            let mut settings = serde_json::json!(state.settings().as_ref());
            let changes = match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&body) {
                Ok(changes) => changes,
                Err(error) => return refuse(error.to_string()),
            };
            for (key, value) in changes {
                settings[key] = value;
            }
            match serde_json::from_value(settings) {
                Ok(changed) => {
                    state.set(|settings| *settings = changed);
                    StatusCode::NO_CONTENT.into_response()
                }
                Err(error) => refuse(error.to_string()),
            }
        }
        ("DELETE", "counters") => {
            state.reset_counters();
            StatusCode::NO_CONTENT.into_response()
        }
        _ => (StatusCode::NOT_FOUND, "no such thing can be asked of the fake\n").into_response(),
    }
}
