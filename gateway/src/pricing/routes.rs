//! The route table: the usage type and cost of a call to the upstream API, by method and path. It is read once, at start.

use std::{collections::HashMap, fs, path::Path as FilePath};

use anyhow::{Context, Result};
use axum::http::Method;
use schema::{Catalogue, UsageType};

use crate::pricing::cost::Cost;

mod file;
mod path;

pub use file::RouteError;
pub use path::PathError;

/// The table inside the binary.
const BUILT_IN: &str = include_str!("routes/built_in.toml");

/// The usage type and cost of one kind of call, and when it is charged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub usage_type: UsageType,
    pub cost: Cost,
    pub charge: Charge,
}

/// Which responses of the upstream are charged, by their status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub enum Charge {
    /// Successful ones.
    #[default]
    #[serde(rename = "below_400")]
    Below400,
    /// Successful ones, and those for a client's mistake.
    #[serde(rename = "below_500")]
    Below500,
    /// All of them. A call without a response is never charged.
    #[serde(rename = "always")]
    Always,
}

pub struct RouteTable {
    routes: Vec<Route>,
    /// For the methods that routes name.
    by_method: HashMap<Method, Patterns>,
    /// For all other methods: the routes for any method.
    any: Patterns,
}

/// The patterns for one method, with indices into the routes. Catch-all patterns come last, so that `/api/{id}` and
/// `/api/{*rest}` can be in one table.
#[derive(Clone, Default)]
struct Patterns {
    exact: matchit::Router<usize>,
    catch_all: matchit::Router<usize>,
}

impl Charge {
    pub fn covers(self, status: u16) -> bool {
        match self {
            Self::Below400 => status < 400,
            Self::Below500 => status < 500,
            Self::Always => true,
        }
    }
}

impl RouteTable {
    /// The table in `file`, or the built-in one.
    pub fn load(file: Option<&FilePath>, catalogue: &Catalogue) -> Result<Self> {
        match file {
            Some(file) => {
                let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
                Self::parse(&text, catalogue).with_context(|| file.display().to_string())
            }
            None => Self::parse(BUILT_IN, catalogue).context(
                "the built-in route table does not match this plan catalogue: name another table with --routes",
            ),
        }
    }

    pub fn parse(text: &str, catalogue: &Catalogue) -> Result<Self, RouteError> {
        file::parse(text, catalogue)
    }

    /// The route of a request. A path that the upstream could read differently is an error.
    pub fn find(&self, method: &Method, path: &str) -> Result<Option<&Route>, PathError> {
        let path = path::normal_form(path)?;
        if method.as_str().bytes().any(|byte| byte.is_ascii_lowercase()) {
            return Err(PathError::Method);
        }
        let patterns = match self.by_method.get(method) {
            Some(patterns) => patterns,
            // HEAD is a GET whose body is not sent.
            None if method == Method::HEAD => self.by_method.get(&Method::GET).unwrap_or(&self.any),
            None => &self.any,
        };
        Ok(patterns.find(&path).map(|index| &self.routes[index]))
    }
}

impl Patterns {
    fn find(&self, path: &str) -> Option<usize> {
        let found = self.exact.at(path).or_else(|_| self.catch_all.at(path));
        found.ok().map(|found| *found.value)
    }

    fn insert(&mut self, pattern: &str, route: usize) -> Result<(), matchit::InsertError> {
        if pattern.contains("{*") {
            self.catch_all.insert(pattern, route)
        } else {
            self.exact.insert(pattern, route)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pricing::cost::Cost;

    fn table(text: &str) -> RouteTable {
        RouteTable::parse(text, &Catalogue::built_in()).unwrap()
    }

    fn name(table: &RouteTable, method: Method, path: &str) -> Option<&'static str> {
        table.find(&method, path).unwrap().map(|route| route.usage_type.name())
    }

    #[test]
    fn the_built_in_table_knows_the_api() {
        let table = RouteTable::load(None, &Catalogue::built_in()).unwrap();
        for (method, path, usage_type) in [
            (Method::GET, "/api/posts/search", Some("api_call")),
            (Method::POST, "/api/posts/search", Some("api_call")),
            (Method::GET, "/api/export/posts/csv", Some("export")),
            (Method::HEAD, "/api/export/posts/csv", Some("export")),
            (Method::POST, "/api/export/posts/csv", Some("export")),
            (Method::PUT, "/api/export/posts/csv", Some("api_call")),
            (Method::POST, "/api/sentiment/analyze-batch", Some("sentiment_analysis")),
            (Method::GET, "/api/sentiment/analyze-batch", Some("api_call")),
            (Method::DELETE, "/api/anything/else", Some("api_call")),
            (Method::GET, "/api", None),
            (Method::GET, "/api/", None),
            (Method::GET, "/favicon.ico", None),
            (Method::GET, "", None),
            (Method::OPTIONS, "*", None),
        ] {
            assert_eq!(name(&table, method.clone(), path), usage_type, "{method} {path}");
        }
        let batch = table
            .find(&Method::POST, "/api/sentiment/analyze-batch")
            .unwrap()
            .unwrap();
        assert_eq!(
            (&batch.cost, batch.charge),
            (&Cost::JsonArray("texts".into()), Charge::Below400)
        );
    }

    #[test]
    fn another_spelling_of_a_path_costs_the_same() {
        let table = RouteTable::load(None, &Catalogue::built_in()).unwrap();
        for path in [
            "/api/export/posts/csv/",
            "/api//export/posts/csv",
            "//api/export/posts///csv//",
            "/api/export/posts/%63sv",
            "/%61pi/%65xport/posts/csv",
        ] {
            assert_eq!(name(&table, Method::GET, path), Some("export"), "{path}");
        }
        for path in [
            "/api/x/../export/posts/csv",
            "/api/./export",
            "/api/%2e%2E/v1",
            "/api/..",
        ] {
            assert_eq!(table.find(&Method::GET, path), Err(PathError::Dots), "{path}");
        }
    }

    #[test]
    fn the_more_exact_pattern_wins_and_a_named_method_wins_over_any() {
        let table = table(
            r#"
            [[route]]
            method = "*"
            path = "/api/{*rest}"
            usage_type = "api_call"
            [[route]]
            method = "GET"
            path = "/api/{id}"
            usage_type = "export"
            cost = 7
            [[route]]
            method = "*"
            path = "/api/{name}"
            usage_type = "sentiment_analysis"
            cost = { header = "X-Cost-Units" }
            charge = "always"
            "#,
        );
        assert_eq!(name(&table, Method::GET, "/api/1"), Some("export"));
        assert_eq!(name(&table, Method::POST, "/api/1"), Some("sentiment_analysis"));
        assert_eq!(name(&table, Method::GET, "/api/1/2"), Some("api_call"));
        assert_eq!(
            table.find(&Method::GET, "/api/1").unwrap().unwrap().cost,
            Cost::Fixed(7)
        );
        let any = table
            .find(&Method::from_bytes(b"BREW").unwrap(), "/api/1")
            .unwrap()
            .unwrap();
        assert_eq!(any.charge, Charge::Always);
    }

    #[test]
    fn a_route_says_which_statuses_are_charged() {
        let charged = |charge: Charge| [200, 302, 404, 429, 500].map(|status| charge.covers(status));
        assert_eq!(charged(Charge::Below400), [true, true, false, false, false]);
        assert_eq!(charged(Charge::Below500), [true, true, true, true, false]);
        assert_eq!(charged(Charge::Always), [true; 5]);
    }
}
