//! Tables of routes: the router and the document of OpenAPI 3.1 are made from the same one, so neither has what the other
//! lacks.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::routing::MethodRouter;
use cluster_http::Scope;
use serde_json::{Map, Value, json};

use super::guard::guard;

/// One operation of an API whose handlers share an `S`, and of which `D` says what only that API has.
pub struct Route<S, D> {
    /// In lower case, as the document has it.
    pub method: &'static str,
    /// As the router has it: `{name}` is a segment, `{*name}` all that follows.
    pub path: &'static str,
    /// The right that it takes; none for what anybody may ask.
    pub scope: Option<Scope>,
    /// What answers.
    pub handler: fn() -> MethodRouter<Arc<S>>,
    /// Its name for programs that are made from the document.
    pub id: &'static str,
    /// What it does, in a sentence.
    pub summary: &'static str,
    /// What a client has to know besides.
    pub detail: D,
}

impl<S, D> Route<S, D> {
    /// The path as the document has it, which knows only segments.
    pub fn documented(&self) -> String {
        self.path.replace("{*", "{")
    }
}

/// The router of all routes.
pub fn router<S, D>(routes: &'static [Route<S, D>]) -> Router<Arc<S>>
where
    S: Send + Sync + 'static,
    D: Sync,
{
    let mut router = Router::new();
    for route in routes {
        let (scope, path) = (route.scope, route.path);
        let methods = move || -> Vec<&'static str> {
            let of_path = routes.iter().filter(|route| route.path == path);
            of_path.map(|route| route.method).collect()
        };
        let guarded = (route.handler)().route_layer(from_fn(move |request: Request, next: Next| async move {
            guard(scope, methods, request, next).await
        }));
        router = router.route(path, guarded);
    }
    router
}

/// What a document says of the API as a whole.
pub struct About {
    /// Its name.
    pub title: &'static str,
    /// The version of what is specified elsewhere.
    pub version: &'static str,
    /// What holds for all of it.
    pub description: &'static str,
    /// What the scheme of bearer tokens is called.
    pub bearer: &'static str,
}

/// The document of all routes. `operation` tells of one of them, and refers to `schemas`.
pub fn document<S, D>(
    routes: &[Route<S, D>],
    about: &About,
    schemas: Value,
    operation: impl Fn(&Route<S, D>) -> Value,
) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let operations = paths.entry(route.documented()).or_insert_with(|| json!({}));
        if let Value::Object(operations) = operations {
            operations.insert(route.method.to_owned(), operation(route));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": about.title, "version": about.version, "description": about.description },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                about.bearer: { "type": "http", "scheme": "bearer" },
                "basic": { "type": "http", "scheme": "basic" },
            },
        },
        // Without credentials where the operator asks for none.
        "security": [{}, { about.bearer: [] }, { "basic": [] }],
    })
}

/// Where a schema is found.
pub fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

/// The schema of an object with these properties.
pub fn object(required: &[(&str, Value)], optional: &[(&str, Value)]) -> Value {
    let properties: Map<String, Value> = required
        .iter()
        .chain(optional)
        .map(|(name, schema)| ((*name).to_owned(), schema.clone()))
        .collect();
    let required: Vec<&str> = required.iter().map(|(name, _)| *name).collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

/// An answer whose body is of this schema.
pub fn answer(description: &str, schema: &str) -> Value {
    json!({
        "description": description,
        "content": { "application/json": { "schema": reference(schema) } },
    })
}

/// What any route may answer: that the path has to be written otherwise, and failures.
pub fn common_answers(failure: &str) -> Value {
    json!({
        "301": { "description": "The path was not clean; `Location` is." },
        "307": { "description": "The path ended in a slash; `Location` does not." },
        "default": answer("It was not done, and this is why.", failure),
    })
}

/// What holds for every table of routes.
#[cfg(test)]
pub mod checks {
    use std::collections::BTreeSet;

    use super::*;

    /// The document has the routes that the router has, each once.
    pub fn same_routes<S, D>(routes: &'static [Route<S, D>], document: &Value)
    where
        S: Send + Sync + 'static,
        D: Sync,
    {
        let paths = document["paths"].as_object().expect("paths");
        let documented: BTreeSet<(String, String)> = paths
            .iter()
            .flat_map(|(path, operations)| {
                let methods = operations.as_object().expect("operations").keys();
                methods.map(|method| (path.clone(), method.clone())).collect::<Vec<_>>()
            })
            .collect();
        let routed = routes.iter().map(|route| (route.documented(), route.method.to_owned()));
        assert_eq!(documented, routed.collect());
        assert_eq!(documented.len(), routes.len(), "no route comes twice");
        let ids = paths.values().flat_map(|operations| {
            let operations = operations.as_object().expect("operations").values();
            operations.map(|operation| operation["operationId"].as_str().expect("a name"))
        });
        assert_eq!(ids.collect::<BTreeSet<_>>().len(), routes.len(), "no name comes twice");
        // It panics where two are in each other's way.
        let _ = router(routes);
    }

    /// What changes something takes a right for it.
    pub fn changes_take_a_right<S, D>(routes: &[Route<S, D>]) {
        for route in routes.iter().filter(|route| route.method != "get") {
            let scope = route.scope.expect("a change is for nobody without a right");
            // A token is for who can read: it stands for the same rights.
            assert!(scope >= Scope::Pin || route.path == "/token", "{}", route.path);
        }
    }

    /// Every `$ref` leads somewhere.
    pub fn references_lead_somewhere(document: &Value) {
        fn look(document: &Value, value: &Value) {
            match value {
                Value::Object(map) => {
                    if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
                        let pointer = reference.strip_prefix('#').expect("inside");
                        assert!(document.pointer(pointer).is_some(), "{reference}");
                    }
                    map.values().for_each(|value| look(document, value));
                }
                Value::Array(list) => list.iter().for_each(|value| look(document, value)),
                _ => {}
            }
        }
        look(document, document);
    }
}
