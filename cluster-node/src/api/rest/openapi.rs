//! `/openapi.json`: the routes as a document of OpenAPI 3.1, for fuzzers and for programs that make clients.
//!
//! It is made from the table of routes, which the router is made from too, so neither has what the other lacks.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::super::routing::{self, About, reference};
use super::Answer;
use super::routes::{Answered, Body, Group, ROUTES, Route};
use super::schemas::{CID, PEER_ID, PROPERTY_NAMES, schemas};
use super::types::VERSION;

static DOCUMENT: LazyLock<Value> = LazyLock::new(made);

/// `GET /openapi.json`
pub async fn document() -> Answer {
    Ok(cluster_http::json(&*DOCUMENT))
}

fn made() -> Value {
    let about = About {
        title: "Pinfleet: the REST API of IPFS Cluster",
        version: VERSION,
        description: "Lists are answered one object a line (`x-item-schema` says of which kind) as they are found; \
            what goes wrong behind the first is told in the trailer `X-Stream-Error`.",
        bearer: "bearer",
    };
    routing::document(ROUTES, &about, schemas(), operation)
}

fn operation(route: &Route) -> Value {
    let mut parameters = path_parameters(route.path);
    parameters.extend(route.detail.query.iter().flat_map(|group| query_parameters(*group)));
    let mut operation = json!({
        "operationId": route.id,
        "summary": route.summary,
        "parameters": parameters,
        "responses": responses(route),
    });
    if let Some(body) = route.detail.body {
        operation["requestBody"] = request_body(body);
    }
    if let Some(scope) = route.scope {
        operation["description"] = json!(format!("Takes the scope `{}`.", scope.name()));
    }
    operation
}

fn request_body(body: Body) -> Value {
    match body {
        Body::Object(schema) => json!({
            "required": true,
            "content": { "application/json": { "schema": reference(schema) } },
        }),
        Body::Parts => json!({
            "required": true,
            "content": { "multipart/form-data": { "schema": {
                "type": "object",
                "properties": { "file": { "type": "string", "contentMediaType": "application/octet-stream" } },
                "required": ["file"],
            } } },
        }),
    }
}

fn responses(route: &Route) -> Value {
    let (status, content) = match route.detail.answer {
        Answered::Object(schema) => ("200", Some(json!({ "schema": reference(schema) }))),
        Answered::Array(schema) => {
            let schema = json!({ "type": "array", "items": reference(schema) });
            ("200", Some(json!({ "schema": schema })))
        }
        // Several values are no JSON document, so there is no schema of the whole.
        Answered::Lines(schema) => ("200", Some(json!({ "x-item-schema": reference(schema) }))),
        Answered::Nothing => ("204", None),
    };
    let mut well = json!({ "description": "It was done." });
    if let Some(content) = content {
        well["content"] = json!({ "application/json": content });
    }
    let lines = matches!(route.detail.answer, Answered::Lines(_));
    if lines && route.detail.query.contains(&Group::Narrowed) {
        well["headers"] = json!({ "X-Next-Cursor": {
            "description": "Where the next page begins, when `limit` was given and there may be one.",
            "schema": { "type": "string" },
        } });
    }
    let mut responses = routing::common_answers("Error");
    responses[status] = well;
    responses
}

/// The variable parts of a path.
fn path_parameters(path: &str) -> Vec<Value> {
    let names = path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    let parameter = |name: &str| {
        let (name, schema) = match name {
            "hash" => (name, json!({ "type": "string", "pattern": CID })),
            "peer" => (name, json!({ "type": "string", "pattern": PEER_ID })),
            "*path" => ("path", json!({ "type": "string", "minLength": 1 })),
            name => (name, json!({ "type": "string", "minLength": 1 })),
        };
        json!({ "name": name, "in": "path", "required": true, "schema": schema })
    };
    names.map(parameter).collect()
}

fn query_parameters(group: Group) -> Vec<Value> {
    let text = || json!({ "type": "string" });
    let flag = || json!({ "type": "boolean" });
    let time = || json!({ "type": "string", "format": "date-time" });
    let words = |words: &[&str]| json!({ "type": "string", "enum": words });
    let number = |least: i64, most: i64| json!({ "type": "integer", "minimum": least, "maximum": most });
    let of = |name: &str, schema: Value, description: &str| json!({ "name": name, "in": "query", "required": false, "schema": schema, "description": description });
    match group {
        Group::Local => vec![of("local", flag(), "Only what this peer drives.")],
        Group::Types => vec![of(
            "filter",
            text(),
            "Types of pins, with commas; there are only those of the type `pin`.",
        )],
        Group::Statuses => vec![
            of("filter", text(), "States, with commas; without any, all."),
            of(
                "cids",
                text(),
                "CIDs, with commas; other parameters do not narrow these.",
            ),
        ],
        Group::Narrowed => vec![
            of("name", text(), "Pins whose name begins so."),
            of("peer", text(), "Pins that this member shall hold."),
            of("status", text(), "States of which a member has one, with commas."),
            of("created-after", time(), "Pins that are newer."),
            of("created-before", time(), "Pins that are older."),
            of("limit", number(1, 1_000), "A page of at most so many."),
            of("cursor", text(), "What `X-Next-Cursor` of the page before said."),
            metadata("Pins that have this pair."),
        ],
        Group::Options => vec![
            of("name", text(), "A name for people."),
            of(
                "mode",
                words(&["recursive", "direct"]),
                "All below it, or the one block.",
            ),
            of(
                "replication-min",
                number(-1, 1_000),
                "Fewest members; 0 for the default, -1 for all.",
            ),
            of(
                "replication-max",
                number(-1, 1_000),
                "Members at most; 0 for the default, -1 for all.",
            ),
            of("replication", number(-1, 1_000), "Both of them."),
            of("shard-size", number(0, i64::MAX), "Echoed: nothing is sharded."),
            of("user-allocations", text(), "Members to use first, with commas."),
            of("expire-at", time(), "When it goes by itself."),
            of("expire-in", text(), "The same from now, as `1h30m`."),
            of("pin-update", text(), "The CID whose pin everything else is taken from."),
            of(
                "origins",
                text(),
                "Multiaddrs of nodes that have it, with commas, each with `/p2p/` and an ID.",
            ),
            metadata("A pair to find it by."),
        ],
        Group::Add => vec![
            of("format", words(&["unixfs", "car"]), "What is sent."),
            of("layout", words(&["balanced", "trickle"]), "How chunks are arranged."),
            of(
                "chunker",
                text(),
                "`size-N`, `rabin`, `rabin-AVG`, `rabin-MIN-AVG-MAX`, `buzhash` or `default`.",
            ),
            of("hash", text(), "What names blocks, as `sha2-256`."),
            of(
                "cid-version",
                number(0, 1),
                "Of the CIDs that are made; 1 makes raw leaves.",
            ),
            of("raw-leaves", flag(), "Whether chunks are blocks as they are."),
            of("wrap-with-directory", flag(), "Put a directory around everything."),
            of("local", flag(), "To the nodes of this peer first."),
            of("no-pin", flag(), "Only hand the blocks over."),
            of("progress", flag(), "Tell how far it is."),
            of(
                "stream-channels",
                flag(),
                "One object a line as it goes on; else one array at the end.",
            ),
            of("shard", words(&["false"]), "Not offered."),
            of("nocopy", words(&["false"]), "Not offered."),
        ],
    }
}

/// `meta-KEY`, of which there may be many.
fn metadata(description: &str) -> Value {
    json!({
        "name": "meta", "in": "query", "required": false, "description": description,
        "style": "form", "explode": true,
        "schema": {
            "type": "object",
            "propertyNames": { "pattern": PROPERTY_NAMES },
            "additionalProperties": { "type": "string" },
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_document_and_the_router_have_the_same_routes() {
        routing::checks::same_routes(ROUTES, &DOCUMENT);
    }

    #[test]
    fn what_a_path_varies_in_is_described() {
        for route in ROUTES {
            let operation = &DOCUMENT["paths"][route.path.replace("{*", "{")][route.method];
            let parameters = operation["parameters"].as_array().expect("parameters");
            let described: Vec<&str> = parameters
                .iter()
                .filter(|parameter| parameter["in"] == "path")
                .filter_map(|parameter| parameter["name"].as_str())
                .collect();
            let varying: Vec<&str> = route
                .path
                .split('/')
                .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
                .map(|name| name.trim_start_matches('*'))
                .collect();
            assert_eq!(described, varying, "{}", route.path);
            let names: Vec<&Value> = parameters.iter().map(|parameter| &parameter["name"]).collect();
            let distinct: BTreeSet<String> = names.iter().map(ToString::to_string).collect();
            assert_eq!(distinct.len(), names.len(), "{}: a parameter comes twice", route.path);
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        routing::checks::references_lead_somewhere(&DOCUMENT);
    }
}
