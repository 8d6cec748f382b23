//! Stripe's schema for the API version of the double: the parameters of requests and the fields of objects.

use std::io::Read;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::form::Param;

/// The API version, as the header and the webhook endpoints name it.
pub const API_VERSION: &str = "2026-09-30.endive";

static PACKED: &[u8] = include_bytes!("../spec/spec_2026-09-30.endive.billing.json.gz");

/// A mistake in one parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub code: &'static str,
    /// In Stripe's form, `items[0][price]`.
    pub param: String,
    pub message: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The path does not exist, or not with this method.
    Unknown(String),
    Faults(Vec<Fault>),
}

pub(crate) struct Schema {
    routes: Vec<(Vec<Segment>, Map<String, Value>)>,
    objects: Map<String, Value>,
}

enum Segment {
    Literal(String),
    Any,
}

/// Unpacked once, on first use.
pub(crate) fn schema() -> &'static Schema {
    static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
        let mut text = String::new();
        flate2::read::GzDecoder::new(PACKED)
            .read_to_string(&mut text)
            .expect("the schema unpacks, because it was packed into this binary");
        let document = serde_json::from_str(&text).expect("the schema is JSON, because a test parses this very file");
        Schema::new(document)
    });
    &SCHEMA
}

impl Schema {
    fn new(document: Value) -> Self {
        let object = |value: Option<&Value>| value.and_then(Value::as_object).cloned().unwrap_or_default();
        let paths = object(document.get("paths"));
        let mut routes: Vec<_> = paths
            .into_iter()
            .map(|(path, operations)| (segments(&path), object(Some(&operations))))
            .collect();
        // Literal paths come before templates: `/v1/invoices/create_preview` is not an invoice.
        routes.sort_by_key(|(segments, _)| segments.iter().filter(|s| matches!(s, Segment::Any)).count());
        let objects = object(document.pointer("/components/schemas"));
        Self { routes, objects }
    }

    /// Checks the parameters of a request, query and body together.
    pub(crate) fn check(&self, method: &str, path: &str, params: &Param) -> Result<(), Refusal> {
        let method = method.to_lowercase();
        let parts: Vec<&str> = path.split('/').collect();
        let mut hits = self
            .routes
            .iter()
            .filter(|(segments, _)| fits(segments, &parts))
            .peekable();
        if hits.peek().is_none() {
            return Err(Refusal::Unknown(format!("no such path: {path}")));
        }
        let Some(operation) = hits.find_map(|(_, operations)| operations.get(&method)) else {
            return Err(Refusal::Unknown(format!("{} is not for {path}", method.to_uppercase())));
        };
        let mut faults = Vec::new();
        if let Some(schema) = operation.get("x-params") {
            faults = self.value(params, schema, "");
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(Refusal::Faults(faults))
        }
    }

    /// The template of a path: `/v1/customers/{}`. A path that the schema lacks is its own.
    pub(crate) fn endpoint(&self, path: &str) -> String {
        let parts: Vec<&str> = path.split('/').collect();
        let route = self.routes.iter().find(|(segments, _)| fits(segments, &parts));
        let name = |segment: &Segment| match segment {
            Segment::Literal(literal) => literal.clone(),
            Segment::Any => "{}".to_owned(),
        };
        route.map_or_else(
            || path.to_owned(),
            |(segments, _)| segments.iter().map(name).collect::<Vec<_>>().join("/"),
        )
    }

    fn resolve<'a>(&'a self, mut schema: &'a Value) -> &'a Value {
        while let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            let name = reference.rsplit('/').next().unwrap_or(reference);
            schema = self.objects.get(name).unwrap_or(&Value::Null);
        }
        schema
    }

    fn value(&self, param: &Param, schema: &Value, at: &str) -> Vec<Fault> {
        let schema = self.resolve(schema);
        if let Some(alternatives) = alternatives(schema) {
            return self.any_of(param, alternatives, at);
        }
        let kind = schema.get("type").and_then(Value::as_str);
        match (kind, param) {
            (Some("object"), Param::Map(_)) => self.object_param(param, schema, at),
            (Some("object"), Param::Text(text)) if text.is_empty() && at.is_empty() => Vec::new(),
            (Some("object"), Param::Text(_)) => one("parameter_invalid_empty", at, "Invalid object".to_owned()),
            (Some("array"), Param::Text(text)) if text.is_empty() => Vec::new(),
            (Some("array"), Param::Text(_)) => one("parameter_invalid", at, "Invalid array".to_owned()),
            (Some("array"), Param::Map(elements)) => {
                let mut expected = 0..elements.len();
                if !expected.all(|n| elements.contains_key(&n.to_string())) {
                    return one(
                        "parameter_invalid",
                        at,
                        "Invalid array: its indices are not 0, 1, 2…".to_owned(),
                    );
                }
                let items = schema.get("items").unwrap_or(&Value::Null);
                let element = |(n, element): (&String, &Param)| self.value(element, items, &format!("{at}[{n}]"));
                elements.iter().flat_map(element).collect()
            }
            (None, _) => Vec::new(),
            (Some(kind), Param::Map(_)) => one("parameter_invalid", at, format!("Invalid {kind}: an object was given")),
            (Some(kind), Param::Text(text)) => scalar(text, kind, schema, at),
        }
    }

    fn object_param(&self, param: &Param, schema: &Value, at: &str) -> Vec<Fault> {
        let here = |name: &str| {
            if at.is_empty() {
                name.to_owned()
            } else {
                format!("{at}[{name}]")
            }
        };
        let properties = schema.get("properties").and_then(Value::as_object);
        let additional = schema.get("additionalProperties");
        let mut faults = Vec::new();
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
            let name = name.as_str().unwrap_or_default();
            if !param.has(name) {
                let message = format!("Missing required param: {}.", here(name));
                faults.extend(one("parameter_missing", &here(name), message));
            }
        }
        for name in param.names() {
            let Some(value) = param.get(name) else { continue };
            match (properties.and_then(|p| p.get(name)), additional) {
                (Some(schema), _) | (None, Some(schema @ Value::Object(_))) => {
                    faults.extend(self.value(value, schema, &here(name)));
                }
                (None, Some(Value::Bool(true))) => {}
                (None, None) if properties.is_none_or(Map::is_empty) => {}
                (None, _) => {
                    let message = format!("Received unknown parameter: {}", here(name));
                    faults.extend(one("parameter_unknown", &here(name), message));
                }
            }
        }
        faults
    }

    /// If no alternative fits, the mistakes of the one with the right shape.
    fn any_of(&self, param: &Param, alternatives: &[Value], at: &str) -> Vec<Fault> {
        let results: Vec<_> = alternatives.iter().map(|a| (a, self.value(param, a, at))).collect();
        if results.iter().any(|(_, faults)| faults.is_empty()) {
            return Vec::new();
        }
        let nested = |schema: &Value| {
            matches!(
                self.resolve(schema).get("type").and_then(Value::as_str),
                Some("object" | "array")
            )
        };
        let same_shape = |(schema, _): &&(&Value, Vec<Fault>)| nested(schema) == matches!(param, Param::Map(_));
        let best = results.iter().filter(same_shape).min_by_key(|(_, faults)| faults.len());
        best.or(results.first())
            .map(|(_, faults)| faults.clone())
            .unwrap_or_default()
    }

    /// The mistakes in a response or in an event's object. A list is checked element by element, and an object by the type that
    /// it names. Types that the schema does not have are accepted.
    pub(crate) fn check_object(&self, object: &Value) -> Vec<String> {
        let kind = object.get("object").and_then(Value::as_str).unwrap_or_default();
        if kind == "list" {
            let mut errors: Vec<_> = ["data", "has_more", "url"]
                .iter()
                .filter(|name| object.get(**name).is_none())
                .map(|name| format!("list without {name}"))
                .collect();
            let data = object.get("data").and_then(Value::as_array);
            errors.extend(
                data.into_iter()
                    .flatten()
                    .flat_map(|element| self.check_object(element)),
            );
            return errors;
        }
        if object.get("deleted").and_then(Value::as_bool) == Some(true) {
            return Vec::new(); // a stub: id, object, deleted
        }
        match self.objects.get(kind) {
            Some(schema) => self.object(object, schema, kind),
            None => Vec::new(),
        }
    }

    fn object(&self, value: &Value, schema: &Value, at: &str) -> Vec<String> {
        let is_nullable = |schema: &Value| schema.get("nullable").and_then(Value::as_bool) == Some(true);
        let nullable = is_nullable(schema); // of the reference, before it is followed
        let schema = self.resolve(schema);
        let Some(rules) = schema.as_object().filter(|rules| !rules.is_empty()) else {
            return Vec::new();
        };
        if value.is_null() {
            return if nullable || is_nullable(schema) {
                Vec::new()
            } else {
                vec![format!("{at}: null")]
            };
        }
        if let Some(alternatives) = alternatives(schema) {
            let results: Vec<_> = alternatives.iter().map(|a| self.object(value, a, at)).collect();
            return results.into_iter().min_by_key(Vec::len).unwrap_or_default();
        }
        if let Some(element) = rules.get("x-list") {
            if value.get("object").and_then(Value::as_str) != Some("list") {
                return vec![format!("{at}: expected a list object")];
            }
            let Some(data) = value.get("data").and_then(Value::as_array) else {
                return vec![format!("{at}: list without data")];
            };
            let shape = ["has_more", "url"]
                .into_iter()
                .filter(|name| value.get(*name).is_none());
            let mut errors: Vec<_> = shape.map(|name| format!("{at}: list without {name}")).collect();
            errors.extend(
                data.iter()
                    .enumerate()
                    .flat_map(|(n, x)| self.object(x, element, &format!("{at}.data[{n}]"))),
            );
            return errors;
        }
        let wrong = |expected: &str| vec![format!("{at}: {value} is not {expected}")];
        match rules.get("type").and_then(Value::as_str) {
            Some("object") => match value {
                Value::Object(fields) => self.fields(fields, rules, at),
                _ => wrong("an object"),
            },
            Some("array") => match value {
                Value::Array(elements) => {
                    let items = rules.get("items").unwrap_or(&Value::Null);
                    let check = |(n, x)| self.object(x, items, &format!("{at}[{n}]"));
                    elements.iter().enumerate().flat_map(check).collect()
                }
                _ => wrong("an array"),
            },
            Some("string") if !value.is_string() => wrong("a string"),
            Some("integer") if !value.is_i64() => wrong("an integer"),
            // Stripe writes decimals as strings.
            Some("number") if !value.is_number() && !value.is_string() => wrong("a number"),
            Some("boolean") if !value.is_boolean() => wrong("a boolean"),
            _ => match rules.get("enum").and_then(Value::as_array) {
                Some(allowed) if !allowed.contains(value) => wrong("one of the values allowed"),
                _ => Vec::new(),
            },
        }
    }

    fn fields(&self, fields: &Map<String, Value>, rules: &Map<String, Value>, at: &str) -> Vec<String> {
        let required = rules.get("required").and_then(Value::as_array).into_iter().flatten();
        let mut errors: Vec<_> = required
            .filter_map(Value::as_str)
            .filter(|name| !fields.contains_key(*name))
            .map(|name| format!("{at}.{name}: missing"))
            .collect();
        let properties = rules.get("properties").and_then(Value::as_object);
        let open = rules
            .get("additionalProperties")
            .is_some_and(|more| more != &Value::Bool(false));
        for (name, value) in fields {
            match properties.and_then(|p| p.get(name)) {
                Some(schema) => errors.extend(self.object(value, schema, &format!("{at}.{name}"))),
                None if properties.is_some_and(|p| !p.is_empty()) && !open => {
                    errors.push(format!("{at}.{name}: not in the schema"));
                }
                None => {}
            }
        }
        errors
    }

    /// Whether the schema knows this type of event.
    pub(crate) fn knows_event(&self, kind: &str) -> bool {
        let types = self
            .objects
            .get("event")
            .and_then(|event| event.pointer("/properties/type/enum"));
        types
            .and_then(Value::as_array)
            .is_some_and(|types| types.iter().any(|known| known == kind))
    }
}

fn alternatives(schema: &Value) -> Option<&Vec<Value>> {
    schema.get("anyOf").or_else(|| schema.get("oneOf"))?.as_array()
}

fn scalar(text: &str, kind: &str, schema: &Value, at: &str) -> Vec<Fault> {
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array) {
        let same = |value: &Value| match value {
            Value::String(value) => value == text,
            Value::Bool(value) => text == if *value { "true" } else { "false" },
            other => *other == text.parse::<i64>().map_or(Value::Null, Value::from),
        };
        if !allowed.iter().any(same) {
            let names: Vec<_> = allowed.iter().filter_map(Value::as_str).take(12).collect();
            return one("", at, format!("Invalid {at}: must be one of {}", names.join(", ")));
        }
    }
    let fine = match kind {
        // Stripe does not accept integers of more than 64 bits either.
        "integer" => text.parse::<i64>().is_ok() && !text.starts_with('+'),
        "number" => text.parse::<f64>().is_ok_and(f64::is_finite),
        "boolean" => matches!(text, "true" | "false"),
        _ => true,
    };
    if fine {
        Vec::new()
    } else {
        one("", at, format!("Invalid {kind}: {text}"))
    }
}

fn one(code: &'static str, param: &str, message: String) -> Vec<Fault> {
    let param = param.to_owned();
    vec![Fault { code, param, message }]
}

fn segments(path: &str) -> Vec<Segment> {
    let segment = |part: &str| match part.starts_with('{') {
        true => Segment::Any,
        false => Segment::Literal(part.to_owned()),
    };
    path.split('/').map(segment).collect()
}

fn fits(segments: &[Segment], parts: &[&str]) -> bool {
    segments.len() == parts.len()
        && segments.iter().zip(parts).all(|(segment, part)| match segment {
            Segment::Literal(literal) => literal == part,
            Segment::Any => !part.is_empty(),
        })
}

#[cfg(test)]
mod tests;
