//! `status` and `settings`

use cluster_proto::v1;

use super::{node, peer};
use crate::Context;
use crate::cli::{SettingsCommand, SettingsSet, StatusArgs};
use crate::client::{Kind, service};
use crate::exit::{Exit, Failure};
use crate::output::table::{Cell, Rows};
use crate::output::{Out, json, words};

/// Failure domains that the cluster looks at.
const SPREAD_MAX: usize = 4;

/// `status`
pub async fn status(context: &mut Context, arguments: StatusArgs) -> Result<Exit, Failure> {
    let status = context
        .client
        .call(Kind::Read, v1::ClusterStatusRequest {}, |channel, request| async move {
            service!(cluster_client::ClusterClient, channel).status(request).await
        })
        .await?;
    let is_well = status.health() == v1::Health::Ok;
    let out = &mut context.out;
    if out.is_json() {
        out.object(&json::ClusterStatus::from(status))?;
    } else {
        screen(out, status)?;
    }
    Ok(if arguments.check && !is_well {
        Exit::Unwell
    } else {
        Exit::Ok
    })
}

fn screen(out: &mut Out, status: v1::ClusterStatus) -> Result<(), Failure> {
    let (word, tone) = words::health(status.health());
    let meaning = match status.health() {
        v1::Health::Ok => "everything works",
        v1::Health::Degraded => "everything asked for is still done, but something needs attention",
        v1::Health::Failed => "some of it can't be done now",
        v1::Health::Unspecified => "the peer does not say",
    };
    let line = format!("{}: {meaning}", out.paint(tone, &word.to_uppercase()));
    out.line(&line)?;
    let name_of = |id: &str| {
        let peer = status
            .peers
            .iter()
            .find(|peer| peer.peer_id == id)
            .filter(|peer| !peer.name.is_empty());
        words::printable(peer.map_or(id, |peer| &peer.name)).into_owned()
    };
    let leader = if status.leader.is_empty() {
        "none".into()
    } else {
        name_of(&status.leader)
    };
    out.line(&format!(
        "leader {leader}, term {}, revision {}, answered by {}, cluster {}",
        status.term,
        words::grouped(status.revision),
        name_of(&status.answered_by),
        words::printable(&status.cluster_id)
    ))?;
    out.line(&format!(
        "{} pins of {} CIDs, {} unplaced",
        words::grouped(status.pins),
        words::grouped(status.cids),
        words::grouped(status.unplaced)
    ))?;
    if !status.problems.is_empty() {
        out.line("")?;
        let mut rows = Rows::new(&["PROBLEM", "ABOUT", "WHAT IS WRONG, AND WHAT TO DO"])
            .flexible(&["WHAT IS WRONG, AND WHAT TO DO", "ABOUT"]);
        for problem in status.problems {
            let (word, tone) = words::health(problem.severity());
            let about = if problem.subject.is_empty() {
                "cluster".to_owned()
            } else {
                problem.subject
            };
            rows.push(out, vec![Cell::toned(word, tone), about.into(), problem.message.into()])?;
        }
        rows.print(out)?;
    }
    out.line("")?;
    if status.peers.is_empty() {
        out.line("no peers")?;
    }
    peer::print(out, status.peers)?;
    out.line("")?;
    if status.nodes.is_empty() {
        out.line("no storage nodes: nothing can be pinned before `cluster-ctl node add NAME ADDRESS`")?;
    }
    node::print(out, status.nodes)
}

/// `settings`
pub async fn settings(context: &mut Context, command: Option<SettingsCommand>) -> Result<Exit, Failure> {
    let (kind, wanted) = match command {
        None | Some(SettingsCommand::Show) => (Kind::Read, None),
        Some(SettingsCommand::Set(set)) => (Kind::Write, Some(wanted(set)?)),
    };
    let settings = context
        .client
        .call(
            kind,
            v1::UpdateSettingsRequest { settings: wanted },
            |channel, request| async move {
                service!(cluster_client::ClusterClient, channel)
                    .update_settings(request)
                    .await
            },
        )
        .await?;
    let out = &mut context.out;
    if out.is_json() {
        out.object(&json::Settings {
            replication_min: settings.replication_min,
            replication_max: settings.replication_max,
            spread_by: settings.spread_by,
        })?;
        return Ok(Exit::Ok);
    }
    let factor = |factor: Option<i32>| match factor {
        None => "not set".to_owned(),
        Some(-1) => "all nodes".into(),
        Some(number) => number.to_string(),
    };
    let mut rows = Rows::new(&["SETTING", "VALUE"]);
    rows.push(
        out,
        vec!["replication min".into(), factor(settings.replication_min).into()],
    )?;
    rows.push(
        out,
        vec!["replication max".into(), factor(settings.replication_max).into()],
    )?;
    let spread = if settings.spread_by.is_empty() {
        "nothing".into()
    } else {
        settings.spread_by.join(", ")
    };
    rows.push(out, vec!["spread by".into(), spread.into()])?;
    rows.print(out)?;
    Ok(Exit::Ok)
}

fn wanted(set: SettingsSet) -> Result<v1::Settings, Failure> {
    let (min, max) = match (set.everywhere, set.replicas) {
        (true, _) => (Some(-1), Some(-1)),
        (false, Some(both)) => (Some(both), Some(both)),
        (false, None) => (set.min, set.max),
    };
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        return Err(Failure::usage(format!("--min {min} exceeds --max {max}")));
    }
    if set.spread.len() > SPREAD_MAX {
        return Err(Failure::usage(format!(
            "--spread names {} tags, at most {SPREAD_MAX} are taken",
            set.spread.len()
        )));
    }
    if set.spread.iter().any(String::is_empty) {
        return Err(Failure::usage("--spread has an empty tag in it"));
    }
    Ok(v1::Settings {
        replication_min: min,
        replication_max: max,
        // One empty name clears the list: an empty list leaves it as it is.
        spread_by: if set.no_spread { vec![String::new()] } else { set.spread },
    })
}
