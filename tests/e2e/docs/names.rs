//! Names that documents may use: settings, metrics, tables, paths.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use super::document::{Document, Snippet};

/// Every setting of the three services, with its default.
pub(super) fn settings() -> BTreeMap<String, Option<String>> {
    ["gateway", "ingestor", "billing-worker"]
        .into_iter()
        .flat_map(settings_of)
        .collect()
}

/// Parses `--help`: `[env: NAME=…] [default: …]`, on one line or on several.
fn settings_of(service: &str) -> Vec<(String, Option<String>)> {
    let output = Command::new(crate::SERVICES)
        .args(["service", service, "--help"])
        .env_clear()
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let after_names = words.split("[env: ").skip(1);
    after_names
        .map(|rest| {
            let name = rest.split(['=', ']']).next().unwrap_or_default();
            let default = rest.split("[default: ").nth(1).and_then(|rest| rest.split(']').next());
            (name.to_owned(), default.map(str::to_owned))
        })
        .collect()
}

/// Settings that a document's tables describe, with their defaults: `` | `NAME` | `default` | … ``.
pub(super) fn described(document: &Document) -> Vec<(String, Option<String>)> {
    let rows = document.rows.iter().filter(|row| row.len() > 2);
    let code = |cell: &str| Some(cell.strip_prefix('`')?.strip_suffix('`')?.to_owned());
    rows.filter_map(|row| Some((code(&row[0]).filter(|name| is_upper_case(name))?, code(&row[1]))))
        .collect()
}

/// Whether a word can only be the name of a setting: `LANE_QUEUE`, not `ANY` or `POST`.
pub(super) fn is_setting(name: &str) -> bool {
    name.contains('_') && is_upper_case(name)
}

fn is_upper_case(name: &str) -> bool {
    let letters = |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_';
    name.len() > 3 && name.starts_with(|first: char| first.is_ascii_uppercase()) && name.chars().all(letters)
}

/// Names in a document that look like metrics: `gateway_…`, possibly with labels or a trailing `*`.
pub(super) fn metrics_in(document: &Document) -> impl Iterator<Item = &Snippet> {
    let prefixes = ["gateway_", "ingestor_", "billing_", "http_", "idempotency_", "process_"];
    document.code.iter().filter(move |found| {
        let name = found.text.split('{').next().unwrap_or_default();
        let letters = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "_*".contains(letter);
        prefixes.iter().any(|prefix| name.starts_with(prefix)) && name.chars().all(letters)
    })
}

/// The metric names on a metrics page.
pub(super) fn metrics_of(page: &str) -> BTreeSet<String> {
    let described = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let samples = page
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next());
    described.chain(samples).map(str::to_owned).collect()
}

/// Whether the source of a service contains the metric, for metrics that no scrape shows yet: a metric with labels appears with
/// its first value. This also finds error codes, which look like metrics.
pub(super) fn is_registered(metric: &str, sources: &str) -> bool {
    let metric = metric.trim_end_matches("_total").trim_end_matches("_seconds");
    let parts = metric.match_indices('_').map(|(at, _)| &metric[at + 1..]);
    let mut names = std::iter::once(metric).chain(parts);
    names.any(|name| sources.contains(&format!("\"{name}\"")))
}

/// The source code of the services.
pub(super) fn sources(root: &Path) -> String {
    let mut text = String::new();
    for dir in ["gateway/src", "ingestor/src", "billing-worker/src", "crates"] {
        add_sources(&root.join(dir), &mut text);
    }
    text
}

fn add_sources(dir: &Path, text: &mut String) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            add_sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

/// The names of tables and columns: all words in the SQL files.
pub(super) fn words_of_schema(root: &Path) -> BTreeSet<String> {
    let files = ["schema/postgres", "schema/clickhouse"]
        .into_iter()
        .flat_map(|dir| fs::read_dir(root.join(dir)).unwrap());
    let texts = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    texts
        .flat_map(|text| {
            text.split(|letter| !is_part(letter))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// The path that a code span names in the repository, if it looks like a path: `gateway/src/app.rs`, `docs/`.
pub(super) fn path_in(code: &str, root: &Path) -> Option<String> {
    let first = code.split('/').next()?;
    let letters = |letter: char| letter.is_alphanumeric() || "-_./".contains(letter);
    let is_path = code.contains('/') && code.chars().all(letters) && !first.is_empty() && root.join(first).is_dir();
    is_path.then(|| code.trim_end_matches('/').to_owned())
}
