//! `/openapi.json`: the routes as a document of OpenAPI 3.1, for fuzzers and for programs that make clients. It says of the
//! operations of the Pinning Services API 1.0.0 what the specification says.
//!
//! It is made from the table of routes, which the router is made from too, so neither has what the other lacks.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::super::routing::{self, About, reference};
use super::Answer;
use super::body::NAME_CHARS_MAX;
use super::query::{CIDS_MAX, LIMIT_DEFAULT};
use super::routes::{ROUTES, Route};
use super::schemas::{request_id, schemas};
use crate::service::{Match, PINNING_PAGE_MAX};

static DOCUMENT: LazyLock<Value> = LazyLock::new(made);

/// `GET /openapi.json`
pub async fn document() -> Answer {
    Ok(cluster_http::json(&*DOCUMENT))
}

fn made() -> Value {
    let about = About {
        title: "Pinfleet: the IPFS Pinning Services API",
        version: "1.0.0",
        description: "Results come from the newest to the oldest. `count` above their number says that there are more, \
            which are had with `before` = `created` of the last; it is exact up to a thousand, and a lower bound beyond.",
        bearer: "accessToken",
    };
    routing::document(ROUTES, &about, schemas(), operation)
}

fn operation(route: &Route) -> Value {
    let mut parameters = Vec::new();
    if route.path.ends_with("/{requestid}") {
        parameters.push(json!({ "name": "requestid", "in": "path", "required": true, "schema": request_id() }));
    }
    if route.detail.filtered {
        parameters.extend(filters());
    }
    if route.detail.takes_pin {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "Names the request: sent again within 24 hours, it is carried out once.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$" },
        }));
    }
    let mut operation = json!({
        "operationId": route.id,
        "summary": route.summary,
        "parameters": parameters,
        "responses": responses(route),
    });
    if route.detail.takes_pin {
        operation["requestBody"] = json!({
            "required": true,
            "content": { "application/json": { "schema": reference("Pin") } },
        });
    }
    if let Some(scope) = route.scope {
        operation["description"] = json!(format!("Takes the scope `{}`.", scope.name()));
    }
    operation
}

fn responses(route: &Route) -> Value {
    let (status, schema) = route.detail.answer;
    let mut well = json!({ "description": "It was done." });
    if let Some(schema) = schema {
        well["content"] = json!({ "application/json": { "schema": reference(schema) } });
    }
    let failure = |description: &str| routing::answer(description, "Failure");
    let mut responses = routing::common_answers("Failure");
    if route.scope.is_some() {
        responses["400"] = failure("The request makes no sense.");
        responses["401"] = failure("The credentials are missing or wrong.");
        responses["404"] = failure("There is no such pin.");
        responses["409"] = failure("The state of the cluster forbids it.");
        responses["4XX"] = failure("It was not done, and asking the same again will not help.");
        responses["5XX"] = failure("It was not done, and the request was not to blame.");
    }
    responses[status] = well;
    responses
}

fn filters() -> Vec<Value> {
    let of = |name: &str, description: &str, schema: Value| json!({ "name": name, "in": "query", "required": false, "description": description, "schema": schema });
    let list = |name: &str, description: &str, schema: Value| {
        let mut parameter = of(name, description, schema);
        parameter["style"] = json!("form");
        parameter["explode"] = json!(false);
        parameter
    };
    let time = || json!({ "type": "string", "format": "date-time" });
    vec![
        list(
            "cid",
            "Pins of one of these CIDs.",
            json!({ "type": "array", "items": { "type": "string" }, "uniqueItems": true, "minItems": 1, "maxItems": CIDS_MAX }),
        ),
        of(
            "name",
            "Pins called so.",
            json!({ "type": "string", "maxLength": NAME_CHARS_MAX }),
        ),
        of(
            "match",
            "How `name` is compared: whole or in part, with or without regard to case.",
            json!({ "type": "string", "enum": Match::ALL.map(Match::as_str), "default": Match::default().as_str() }),
        ),
        list(
            "status",
            "Pins in one of these states.",
            json!({ "type": "array", "items": reference("Status"), "uniqueItems": true, "minItems": 1 }),
        ),
        of("before", "Pins that are older.", time()),
        of("after", "Pins that are newer.", time()),
        of(
            "limit",
            "Results at most.",
            json!({ "type": "integer", "format": "int32", "minimum": 1, "maximum": PINNING_PAGE_MAX, "default": LIMIT_DEFAULT }),
        ),
        json!({
            "name": "meta", "in": "query", "required": false,
            "description": "Pins that have all of these pairs.",
            "content": { "application/json": { "schema": reference("PinMeta") } },
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_and_the_router_have_the_same_routes() {
        routing::checks::same_routes(ROUTES, &DOCUMENT);
    }

    /// The operations of the specification, with their parameters and what they answer.
    #[test]
    fn the_operations_are_those_of_the_specification() {
        let names = |operation: &Value, place: &str| -> Vec<String> {
            let parameters = operation["parameters"].as_array().expect("parameters");
            let of = parameters.iter().filter(|parameter| parameter["in"] == place);
            of.filter_map(|parameter| Some(parameter["name"].as_str()?.to_owned()))
                .collect()
        };
        let filters = ["cid", "name", "match", "status", "before", "after", "limit", "meta"];
        for (path, method, query, status, body) in [
            ("/pins", "get", &filters[..], "200", Some("PinResults")),
            ("/pins", "post", &[], "202", Some("PinStatus")),
            ("/pins/{requestid}", "get", &[], "200", Some("PinStatus")),
            ("/pins/{requestid}", "post", &[], "202", Some("PinStatus")),
            ("/pins/{requestid}", "delete", &[], "202", None),
        ] {
            let operation = &DOCUMENT["paths"][path][method];
            assert_eq!(names(operation, "query"), query, "{method} {path}");
            assert_eq!(names(operation, "path").is_empty(), path == "/pins");
            let answer = &operation["responses"][status];
            let schema = body.map_or(Value::Null, |name| json!(format!("#/components/schemas/{name}")));
            assert_eq!(
                answer["content"]["application/json"]["schema"]["$ref"], schema,
                "{method} {path}"
            );
            for failing in ["400", "401", "404", "409", "4XX", "5XX"] {
                let schema = &operation["responses"][failing]["content"]["application/json"]["schema"]["$ref"];
                assert_eq!(*schema, "#/components/schemas/Failure", "{method} {path} {failing}");
            }
            assert_eq!(operation.get("requestBody").is_some(), method == "post");
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        routing::checks::references_lead_somewhere(&DOCUMENT);
    }
}
