//! Where an argument leads.

use cluster_content::Content;
use cluster_dag::codec::{DAG_PB, RAW};
use cluster_dag::value;
use node_core::Cid;

use super::answer::Failure;

/// Steps of one path. Each may cost a block.
const STEPS_MAX: usize = 1024;

/// Where a path leads: to a block, or into one.
pub(super) struct Place {
    /// The block.
    pub(super) cid: Cid,
    /// What is left of the path inside it.
    pub(super) rest: Vec<String>,
}

/// Splits `/ipfs/CID/a/b`, `/ipld/…`, `ipfs://…` or `CID/a/b`.
pub(super) fn split(text: &str) -> Result<(Cid, Vec<String>), Failure> {
    if text.starts_with("/ipns/") || text.starts_with("ipns://") {
        return Err(Failure::normal(
            "the embedded node resolves no names: give the CID that the name stands for",
        ));
    }
    let bare = ["/ipfs/", "/ipld/", "ipfs://"]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
        .unwrap_or(text);
    let mut parts = bare.split('/').filter(|part| !part.is_empty());
    let root = parts.next().unwrap_or_default();
    let invalid = |error| Failure::client(format!("invalid path {:?}: {error}", cut(text)));
    let root: Cid = root.parse().map_err(invalid)?;
    let names: Vec<String> = parts.map(str::to_owned).collect();
    if names.len() > STEPS_MAX {
        return Err(Failure::client("invalid path: it has more than 1024 names"));
    }
    Ok((root, names))
}

/// An argument as it is told back.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(200).collect()
}

/// Follows a path: through directories by name, through other blocks by the keys of their maps, from block to block.
pub(super) async fn follow(content: &Content, text: &str) -> Result<Place, Failure> {
    let (mut cid, mut rest) = split(text)?;
    while !rest.is_empty() {
        match cid.codec() {
            RAW => return Ok(Place { cid, rest }),
            DAG_PB => {
                let name = rest.remove(0);
                cid = content.resolve(cid, name.as_bytes()).await?.cid;
            }
            codec => {
                let block = content.block(&cid).await?;
                let failed = |error: value::ValueError| Failure::normal(error.to_string());
                let whole = value::decode(codec, block.bytes()).map_err(failed)?;
                let (found, left) = value::step(&whole, &rest).map_err(failed)?;
                match found {
                    value::Value::Link(link) => {
                        let next = value::cid_of(link).map_err(failed)?;
                        let left = left.to_vec();
                        (cid, rest) = (next, left);
                    }
                    _ => return Ok(Place { cid, rest }),
                }
            }
        }
    }
    Ok(Place { cid, rest })
}

/// The same where it must lead to a block.
pub(super) async fn block(content: &Content, text: &str) -> Result<Cid, Failure> {
    let place = follow(content, text).await?;
    match place.rest.is_empty() {
        true => Ok(place.cid),
        false => Err(Failure::normal(format!(
            "{} leads into a block, and not to one",
            cut(text)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: &str = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";

    #[test]
    fn paths_are_split_in_all_their_forms() {
        for text in [
            format!("{CID}/a/b"),
            format!("/ipfs/{CID}/a//b/"),
            format!("/ipld/{CID}/a/b"),
            format!("ipfs://{CID}/a/b"),
        ] {
            let (root, names) = split(&text).unwrap_or_else(|_| panic!("{text}"));
            assert_eq!((root.to_string().as_str(), names.join("/").as_str()), (CID, "a/b"));
        }
        for text in ["", "/", "/ipfs/", "nothing", "/ipns/example.org", "ipns://example.org"] {
            assert!(split(text).is_err(), "{text}");
        }
        assert!(split(&format!("{CID}{}", "/a".repeat(STEPS_MAX + 1))).is_err());
    }
}
