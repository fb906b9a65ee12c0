//! The document at `/openapi.json`, made of the table of routes and of the shapes themselves: what goes over the wire is
//! written down where it is declared, and nowhere else.

use std::{collections::BTreeMap, sync::LazyLock};

use axum::{
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::guard::{MAX_NAME, REQUEST_ID};
use super::once::KEY;
use super::peer::Role;
use super::problem::reason;
use super::table::{Route, Shape, routes};
use super::wire::{Code, Problem};

/// What every route may answer instead.
const ANY: &[Code] = &[Code::NotPermitted, Code::TooManyConnections];

/// What a route that reads something of its request may answer.
const READS: &[Code] = &[Code::BadRequest];

/// What a route with a body may answer.
const BODY: &[Code] = &[Code::TooLarge, Code::TooSlow, Code::UnsupportedMediaType];

const ABOUT: &str = "\
HTTP/1.1 and JSON over a unix socket; there is no TCP listener. Who asks is known by the kernel's word (SO_PEERCRED): \
root and the supervisor's own user are admins, whoever else the socket's group lets in is an operator. `x-role` of an operation \
says whom it is for; an admin may do what an operator may.

Errors are problem details (RFC 9457) with a stable `code`; new codes, and new members of what is answered, are added without \
notice. What is no HTTP at all is answered with 400 or 431 and no body, and its connection ends.

`HEAD` is answered wherever `GET` is. An answer bears the `X-Request-Id` of its request, and so does what is put on record of it.";

/// The document, as it is served and checked in.
///
/// # Panics
/// Never: what it is made of is fixed when pinfold is built.
#[must_use]
pub fn json() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", describe(&routes())));
    &TEXT
}

/// `GET /openapi.json`.
pub(super) async fn document() -> Response {
    ([(CONTENT_TYPE, "application/json")], json()).into_response()
}

fn describe(routes: &[Route]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    // What is told always has all its members, what is asked may leave out what has a default.
    let mut told = settings.clone().for_serialize().into_generator();
    let mut asked = settings.for_deserialize().into_generator();
    let problem = told.subschema_for::<Problem>();
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let operation = operation(route, &mut told, &mut asked);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation;
    }
    let mut schemas = told.take_definitions(true);
    schemas.extend(asked.take_definitions(true));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "pinfold",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "http://pinfold", "description": "the unix socket, by any name of a host" }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": {
                "RequestId": {
                    "name": REQUEST_ID.as_str(),
                    "in": "header",
                    "description": "A name for this request: 1 to 128 printable characters without space. What is none is left aside.",
                    "schema": { "type": "string" },
                },
                "IdempotencyKey": {
                    "name": KEY.as_str(),
                    "in": "header",
                    "description": "Done once for each key of a user, and answered as often as it is asked within ten \
                        minutes, also while it is under way; the same key with another path or body is refused. \
                        In quotes (RFC 8941) or bare.",
                    "schema": { "type": "string", "pattern": format!("^[!#-\\[\\]-~]{{1,{MAX_NAME}}}$") },
                },
            },
            "responses": {
                "Problem": {
                    "description": "An error.",
                    "content": { "application/problem+json": { "schema": problem } },
                },
            },
        },
    })
}

fn operation(route: &Route, told: &mut SchemaGenerator, asked: &mut SchemaGenerator) -> Value {
    let role = match route.role {
        Role::Admin => "admin",
        Role::Operator => "operator",
    };
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.says,
        "x-role": role,
        "parameters": parameters(route, asked),
        "responses": responses(route, told),
    });
    if let Some(body) = route.body {
        operation["requestBody"] = json!({
            "description": "None at all is an empty object.",
            "required": !route.needs.is_empty(),
            "content": { "application/json": { "schema": shaped(route, body, asked) } },
        });
    }
    operation
}

/// The shape of a body, or as much of it as the route takes.
fn shaped(route: &Route, body: Shape, asked: &mut SchemaGenerator) -> Value {
    let whole = body(asked).to_value();
    if route.lacks.is_empty() && route.needs.is_empty() {
        return whole;
    }
    let at = whole["$ref"].as_str().and_then(|to| to.rsplit('/').next()).unwrap_or_default();
    let mut part = asked.definitions().get(at).cloned().unwrap_or(whole);
    if let Some(properties) = part["properties"].as_object_mut() {
        properties.retain(|name, _| !route.lacks.contains(&name.as_str()));
        // What is needed is no null.
        properties.iter_mut().filter(|(name, _)| route.needs.contains(&name.as_str())).for_each(|(_, s)| present(s));
    }
    if !route.needs.is_empty() {
        part["required"] = json!(route.needs);
    }
    part
}

/// `post_workers_start` of `POST /v1/workers/{pattern}/start`.
fn operation_id(route: &Route) -> String {
    let words = route.path.split('/').filter(|word| !word.is_empty() && *word != "v1");
    let words = words.map(|word| if word.starts_with('{') { "by" } else { word });
    let words = words.map(|word| word.trim_end_matches(".json"));
    std::iter::once(route.method.as_str().to_ascii_lowercase().as_str()).chain(words).collect::<Vec<_>>().join("_")
}

fn parameters(route: &Route, asked: &mut SchemaGenerator) -> Value {
    let mut parameters = Vec::new();
    for name in route.path.split('/').filter_map(|word| word.strip_prefix('{')?.strip_suffix('}')) {
        let says = match name {
            "pattern" => {
                "A name, or part of one with `*` and `?`; several with commas. What has instances means all of them."
            }
            _ => "The worker.",
        };
        // An empty one is no segment of a path, and NUL in none.
        let schema = json!({ "type": "string", "minLength": 1 });
        let parameter = json!({ "name": name, "in": "path", "required": true, "description": says, "schema": schema });
        parameters.push(parameter);
    }
    if let Some(query) = route.query {
        let shape = query(asked).to_value();
        let required: Vec<&str> =
            shape["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, schema) in shape["properties"].as_object().into_iter().flatten() {
            let mut schema = schema.clone();
            let says = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            present(&mut schema);
            let required = required.contains(&name.as_str());
            parameters.push(
                json!({ "name": name, "in": "query", "required": required, "description": says, "schema": schema }),
            );
        }
    }
    for (name, says) in &route.headers {
        parameters.push(json!({ "name": name, "in": "header", "description": says, "schema": { "type": "string" } }));
    }
    parameters.push(json!({ "$ref": "#/components/parameters/RequestId" }));
    if route.is_mutation() {
        parameters.push(json!({ "$ref": "#/components/parameters/IdempotencyKey" }));
    }
    parameters.into()
}

/// What is there in a query is no null.
fn present(schema: &mut Value) {
    if let Some(kinds) = schema.get_mut("type").filter(|kinds| kinds.is_array()) {
        let left = kinds.as_array().and_then(|kinds| kinds.iter().find(|kind| **kind != "null")).cloned();
        *kinds = left.unwrap_or_default();
    }
    let choices = schema.get("anyOf").and_then(Value::as_array).cloned();
    if let Some([one]) =
        choices.map(|all| all.into_iter().filter(|one| one["type"] != "null").collect::<Vec<_>>()).as_deref()
    {
        *schema = one.clone();
    }
    if let Some(schema) = schema.as_object_mut() {
        schema.retain(|key, value| key != "default" || !value.is_null());
    }
}

fn responses(route: &Route, told: &mut SchemaGenerator) -> Value {
    let mut content = Map::new();
    for (media_type, shape) in &route.answers {
        let schema = shape.map(|shape| shape(told).to_value());
        content
            .insert((*media_type).to_owned(), schema.map_or_else(|| json!({}), |schema| json!({ "schema": schema })));
    }
    let mut responses = Map::new();
    if route.creates {
        let says = "Where what was made is told of.";
        let location = json!({ "Location": { "description": says, "schema": { "type": "string" } } });
        let made = json!({ "description": "It is made.", "headers": location, "content": content });
        responses.insert("201".to_owned(), made);
    } else {
        responses.insert("200".to_owned(), json!({ "description": "It is answered.", "content": content }));
    }
    let mut by_status: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for code in codes(route) {
        let words = by_status.entry(code.status()).or_default();
        let word =
            serde_json::to_value(code).map(|word| word.as_str().map_or_else(String::new, |word| format!("`{word}`")));
        let word = word.unwrap_or_default();
        if !words.contains(&word) {
            words.push(word);
        }
    }
    for (status, words) in by_status {
        let says = format!("{}: {}", reason(status), words.join(", "));
        // Beside a reference nothing is read but a description.
        let problem = json!({ "$ref": "#/components/responses/Problem", "description": says });
        responses.insert(status.to_string(), problem);
    }
    responses.into()
}

/// What a route may answer instead of what it is for.
pub(super) fn codes(route: &Route) -> Vec<Code> {
    let mut codes = [ANY, &route.codes].concat();
    if route.query.is_some() || route.body.is_some() || route.path.contains('{') {
        codes.extend_from_slice(READS);
    }
    if route.body.is_some() {
        codes.extend_from_slice(BODY);
    }
    if route.is_mutation() {
        codes.push(Code::IdempotencyMismatch);
    }
    codes
}

#[cfg(test)]
#[path = "openapi_tests.rs"]
mod tests;
