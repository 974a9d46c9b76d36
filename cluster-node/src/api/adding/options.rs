//! What the queries of all APIs that add content have in common.

use cluster_dag::HashFunction;
use cluster_dag::unixfs::Chunker;
use cluster_http::{Failure, Query, invalid};

/// The hash function, by its name in any case; none if it is left to the default.
pub fn hash(query: &Query) -> Result<Option<HashFunction>, Failure> {
    let Some(name) = query.get("hash") else { return Ok(None) };
    let parsed = name.to_ascii_lowercase().parse();
    parsed
        .map(Some)
        .map_err(|error: cluster_dag::UnknownHashFunction| invalid("hash", &error.to_string()))
}

/// Where files are cut; none if it is left to the default.
pub fn chunker(query: &Query) -> Result<Option<Chunker>, Failure> {
    let Some(text) = query.get("chunker").filter(|text| *text != "default") else {
        return Ok(None);
    };
    let parsed = text.parse::<Chunker>();
    parsed.map(Some).map_err(|error| invalid("chunker", &error.to_string()))
}

/// Files are not referred to where they lie.
pub fn refuse_nocopy(query: &Query) -> Result<(), Failure> {
    if query.bool("nocopy")? == Some(true) {
        return Err(invalid(
            "nocopy",
            "content goes to storage nodes on other machines, which can't refer to files of this one; leave it out",
        ));
    }
    Ok(())
}
