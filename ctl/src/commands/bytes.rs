//! `cat` and the archives of `get`: bytes as they come.

use std::path::Path;

use cluster_proto::v1;

use super::interrupted;
use crate::Context;
use crate::cli::ContentCat;
use crate::client::Client;
use crate::content::fetch::{Asked, Fetching};
use crate::content::place::Sink;
use crate::exit::{Exit, Failure};
use crate::output::meter::Meter;
use crate::output::{Talk, json, words};

/// `cat`: until everything has come or its reader has gone.
pub async fn cat(context: &mut Context, arguments: ContentCat) -> Result<Exit, Failure> {
    let asked = Asked::parse(&arguments.path)?;
    let request = v1::FetchRequest {
        path: asked.path,
        format: v1::FetchFormat::File.into(),
        offset: arguments.offset,
        length: arguments.length.unwrap_or(0),
    };
    let meter = Meter::silent(context.talk);
    pump(&context.client, context.talk, request, Sink::stdout(), meter).await?;
    Ok(Exit::Ok)
}

/// Writes an archive to a file or, without one, to stdout.
pub(super) async fn archive(
    context: &mut Context,
    asked: Asked,
    format: v1::FetchFormat,
    target: Option<&Path>,
    force: bool,
) -> Result<Exit, Failure> {
    let is_car = format == v1::FetchFormat::Car;
    let (sink, meter) = match target {
        Some(target) => (Sink::file(target, force)?, Meter::new(context.talk, None)),
        None => {
            let what = if is_car { "a CAR file" } else { "an archive" };
            (Sink::stdout_for_programs(what)?, Meter::silent(context.talk))
        }
    };
    let request = v1::FetchRequest {
        path: asked.path,
        format: format.into(),
        offset: 0,
        length: 0,
    };
    let (cid, bytes) = pump(&context.client, context.talk, request, sink, meter).await?;
    let Some(target) = target else {
        return Ok(Exit::Ok);
    };
    let to = target.display().to_string();
    if !context.out.is_json() {
        context
            .talk
            .note(&format!("{cid} is written to {to}: {}", words::bytes(bytes)));
    } else if is_car {
        context.out.object(&json::Exported { cid, to, bytes })?;
    } else {
        context.out.object(&json::Got {
            cid,
            to,
            files: 1,
            directories: 0,
            symlinks: 0,
            bytes,
            left_out: 0,
        })?;
    }
    Ok(Exit::Ok)
}

/// Fetches into a sink; the CID and how many bytes it was.
async fn pump(
    client: &Client,
    talk: Talk,
    request: v1::FetchRequest,
    mut sink: Sink,
    mut meter: Meter,
) -> Result<(String, u64), Failure> {
    let fetch = async {
        let mut fetching = Fetching::open(client, talk, request).await?;
        if let Some(bytes) = fetching.head.bytes {
            meter.total(bytes);
        }
        let mut written = 0;
        while let Some(bytes) = fetching.next().await? {
            sink.write(&bytes).await?;
            written += bytes.len() as u64;
            meter.set(written);
            meter.tick();
        }
        sink.finish().await?;
        Ok((fetching.head.cid, written))
    };
    tokio::select! {
        result = fetch => result,
        () = interrupted() => Err(Failure::new(Exit::Interrupted, "interrupted")),
    }
}
