//! Reads a route table. Every error names its line.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use axum::http::{HeaderName, Method};
use schema::{Catalogue, UsageType};
use serde::Deserialize;
use toml::Spanned;

use super::{Charge, Patterns, Route, RouteTable};
use crate::pricing::{
    cost::{Cost, UNITS_MAX},
    withheld::is_withheld,
};

/// A mistake, with its line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct RouteError {
    pub line: usize,
    pub problem: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    route: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    method: Spanned<String>,
    path: Spanned<String>,
    usage_type: Spanned<String>,
    cost: Option<Spanned<toml::Value>>,
    #[serde(default)]
    charge: Charge,
}

/// One route of the file, with the position of its path.
struct Read {
    /// `None`: any method.
    method: Option<Method>,
    /// With the parameters named by their position, so that `{id}` and `{name}` are the same.
    pattern: String,
    at: Range<usize>,
}

pub(super) fn parse(text: &str, catalogue: &Catalogue) -> Result<RouteTable, RouteError> {
    let fail = |at: Range<usize>, problem: String| RouteError {
        line: line_of(text, at.start),
        problem,
    };
    let file: File =
        toml::from_str(text).map_err(|error| fail(error.span().unwrap_or(0..0), error.message().to_owned()))?;
    let (mut routes, mut read) = (Vec::new(), Vec::new());
    for entry in file.route {
        let wrong = |at: &Range<usize>, problem| fail(at.clone(), problem);
        let method = method(entry.method.get_ref()).map_err(|problem| wrong(&entry.method.span(), problem))?;
        let pattern = pattern(entry.path.get_ref()).map_err(|problem| wrong(&entry.path.span(), problem))?;
        let usage_type = usage_type(entry.usage_type.get_ref(), catalogue)
            .map_err(|problem| wrong(&entry.usage_type.span(), problem))?;
        let cost = match &entry.cost {
            None => Cost::Fixed(1),
            Some(value) => cost(value.get_ref()).map_err(|problem| wrong(&value.span(), problem))?,
        };
        routes.push(Route {
            usage_type,
            cost,
            charge: entry.charge,
        });
        read.push(Read {
            method,
            pattern,
            at: entry.path.span(),
        });
    }
    let conflict = |index: usize, with: &str| fail(read[index].at.clone(), format!("the path conflicts with {with}"));

    let mut named: HashSet<(&Option<Method>, &str)> = HashSet::new();
    for (index, route) in read.iter().enumerate() {
        if !named.insert((&route.method, &route.pattern)) {
            return Err(conflict(index, "that of another route of the same method"));
        }
    }
    let methods: HashSet<&Method> = read.iter().filter_map(|route| route.method.as_ref()).collect();
    let build = |method: Option<&Method>| -> Result<Patterns, RouteError> {
        let mut patterns = Patterns::default();
        for (index, route) in read.iter().enumerate() {
            let applies = match (&route.method, method) {
                // A route for this method takes precedence over a route for any method.
                (None, Some(method)) => !named.contains(&(&Some(method.clone()), &route.pattern)),
                (own, method) => own.as_ref() == method,
            };
            if applies {
                patterns
                    .insert(&route.pattern, index)
                    .map_err(|error| fail(route.at.clone(), format!("path: {error}")))?;
            }
        }
        Ok(patterns)
    };
    let any = build(None)?;
    let by_method = methods
        .into_iter()
        .map(|method| Ok((method.clone(), build(Some(method))?)))
        .collect::<Result<HashMap<_, _>, RouteError>>()?;
    Ok(RouteTable { routes, by_method, any })
}

fn method(text: &str) -> Result<Option<Method>, String> {
    let expected = || format!("method `{text}` must be in capitals, such as GET, or * for any");
    match text {
        "*" => Ok(None),
        _ if text.bytes().any(|byte| byte.is_ascii_lowercase()) => Err(expected()),
        _ => Method::from_bytes(text.as_bytes()).map(Some).map_err(|_| expected()),
    }
}

fn pattern(path: &str) -> Result<String, String> {
    if !path.starts_with('/') {
        return Err(format!("path `{path}`: it must start with /"));
    }
    if path == "/v1" || path.starts_with("/v1/") {
        return Err(format!("path `{path}`: /v1 is reserved for the gateway"));
    }
    let normal = super::path::normal_form(path).map_err(|error| format!("path `{path}`: {error}"))?;
    let mut parameters = 0..;
    let segment = |segment: &str| match segment.strip_suffix('}').and_then(|rest| rest.split_once('{')) {
        // matchit refuses any other use of braces.
        Some((before, name)) if !name.is_empty() && name != "*" && !name.contains(['{', '}']) => {
            let catch_all = if name.starts_with('*') { "*" } else { "" };
            format!("{before}{{{catch_all}p{}}}", parameters.next().unwrap_or(0u32))
        }
        _ => segment.to_owned(),
    };
    let pattern = normal.split('/').map(segment).collect::<Vec<_>>().join("/");
    // Insert it into an empty table first, to tell a mistake in the pattern itself from a conflict.
    match Patterns::default().insert(&pattern, 0) {
        Ok(()) => Ok(pattern),
        Err(error) => Err(format!("path `{path}`: {error}")),
    }
}

fn usage_type(name: &str, catalogue: &Catalogue) -> Result<UsageType, String> {
    catalogue.usage_type(name).ok_or_else(|| {
        let known: Vec<_> = catalogue.usage_types().iter().map(|known| known.name()).collect();
        format!("unknown usage type `{name}`; known: {}", known.join(", "))
    })
}

fn cost(value: &toml::Value) -> Result<Cost, String> {
    let expected = "cost must be a number from 1 to 1_000_000, { header = \"…\" } or { json_array = \"…\" }";
    match value {
        toml::Value::Integer(units) if (1..=UNITS_MAX).contains(units) => Ok(Cost::Fixed(*units)),
        toml::Value::Table(table) if table.len() == 1 => match table.iter().next() {
            Some((key, toml::Value::String(name))) if key == "header" => {
                let header = HeaderName::try_from(name).map_err(|_| format!("cost: `{name}` is not a header name"))?;
                if is_withheld(&header) {
                    return Err(format!("cost: the header {name} is not passed on to the upstream"));
                }
                Ok(Cost::Header(header))
            }
            Some((key, toml::Value::String(name))) if key == "json_array" && !name.is_empty() => {
                Ok(Cost::JsonArray(name.as_str().into()))
            }
            _ => Err(expected.to_owned()),
        },
        _ => Err(expected.to_owned()),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[[route]]
method = "GET"
path = "/api/posts/{id}"
usage_type = "api_call"
cost = 2
charge = "below_500"

[[route]]
method = "*"
path = "/api/{*rest}"
usage_type = "export"
"#;

    #[test]
    fn mistakes_are_named_with_their_line() {
        assert!(parse(GOOD, &Catalogue::built_in()).is_ok());
        for (from, to, line, problem) in [
            (
                "\"api_call\"",
                "\"api_calls\"",
                5,
                "unknown usage type `api_calls`; known: api_call, export",
            ),
            ("\"GET\"", "\"get\"", 3, "capitals"),
            ("\"GET\"", "\"G T\"", 3, "capitals"),
            ("/api/posts/{id}", "api/posts", 4, "start with /"),
            ("/api/posts/{id}", "/v1/usage", 4, "reserved for the gateway"),
            ("/api/posts/{id}", "/api/{id}-{x}", 4, "parameter"),
            ("/api/posts/{id}", "/api/{}", 4, "name"),
            ("/api/posts/{id}", "/api/{*all}/x", 4, "Catch-all"),
            ("/api/posts/{id}", "/api/../x", 4, "segments"),
            ("cost = 2", "cost = 0", 6, "from 1 to"),
            ("cost = 2", "cost = 1_000_001", 6, "from 1 to"),
            ("cost = 2", "cost = \"2\"", 6, "from 1 to"),
            ("cost = 2", "cost = { header = \"a b\" }", 6, "not a header name"),
            ("cost = 2", "cost = { header = \"Connection\" }", 6, "not passed on"),
            ("cost = 2", "cost = { header = \"X-Trendit-Cost\" }", 6, "not passed on"),
            (
                "cost = 2",
                "cost = { json_array = \"a\", header = \"b\" }",
                6,
                "from 1 to",
            ),
            ("cost = 2", "costs = 2", 6, "unknown field `costs`"),
            ("\"below_500\"", "\"never\"", 7, "unknown variant `never`"),
            ("charge = ", "charge ", 7, ""),
        ] {
            let error = match parse(&GOOD.replacen(from, to, 1), &Catalogue::built_in()) {
                Err(error) => error,
                Ok(_) => panic!("{to} was accepted"),
            };
            assert_eq!(error.line, line, "{to}: {error}");
            assert!(error.problem.contains(problem), "{to}: {error}");
        }
    }

    #[test]
    fn two_routes_for_the_same_requests_conflict() {
        let again = |route: &str| match parse(&format!("{GOOD}{route}"), &Catalogue::built_in()) {
            Ok(_) => None,
            Err(error) => Some((error.line, error.problem)),
        };
        let route = |method: &str, path: &str| {
            again(&format!(
                "[[route]]\nmethod = \"{method}\"\npath = \"{path}\"\nusage_type = \"export\"\n"
            ))
        };
        assert_eq!(route("GET", "/api/{*rest}"), None);
        assert_eq!(route("*", "/api/posts/{slug}"), None);
        for (method, path) in [
            ("GET", "/api/posts/{slug}"),
            ("*", "/api/{*others}"),
            ("GET", "//api/posts/{id}/"),
        ] {
            let (line, problem) = route(method, path).unwrap();
            assert_eq!(line, 15, "{problem}");
            assert!(problem.contains("conflicts"), "{problem}");
        }
    }
}
