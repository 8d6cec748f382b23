//! The documentation is true: the examples in README and docs/ work on the running system, and the names in them exist.
//!
//! The info string of a fence determines how the test uses it (CONTRIBUTING.md, "Documentation"). An unknown info string fails.
//! Every message names the document and the line.

mod document;
mod expected;
mod fence;
mod names;
mod runner;
mod session;
mod system;

use std::path::{Path, PathBuf};

use document::Document;
use fence::Kind;
use system::System;

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_path_buf()
}

fn assert_none(mistakes: &[String]) {
    assert!(mistakes.is_empty(), "\n{}\n", mistakes.join("\n"));
}

#[test]
fn every_fence_has_a_known_info_string_and_blocks_that_do_not_run_are_printed() {
    let documents = document::all(&root());
    let mistakes: Vec<_> = documents
        .iter()
        .flat_map(|document| document.mistakes.clone())
        .collect();
    assert_none(&mistakes);
    for document in &documents {
        for fence in &document.fences {
            if let Kind::NotRun { reason } = &fence.kind {
                println!("not run: {}:{}: {reason}", document.path, fence.line);
            }
        }
    }
}

#[test]
fn links_anchors_and_paths_exist() {
    let (root, documents) = (root(), document::all(&root()));
    let mut mistakes = Vec::new();
    for document in &documents {
        let dir = Path::new(&document.path).parent().unwrap();
        for link in document
            .links
            .iter()
            .filter(|link| !link.text.contains("://") && !link.text.starts_with("mailto:"))
        {
            let (path, anchor) = link.text.split_once('#').unwrap_or((&link.text, ""));
            let target = match path {
                "" => root.join(&document.path),
                path => root.join(dir).join(path),
            };
            let target = target.canonicalize().ok().filter(|target| target.starts_with(&root));
            let has_anchor = || {
                let is_target = |other: &&Document| target == root.join(&other.path).canonicalize().ok();
                documents
                    .iter()
                    .find(is_target)
                    .is_some_and(|other| other.anchors.contains(anchor))
            };
            if target.is_none() || !anchor.is_empty() && !has_anchor() {
                mistakes.push(format!("{}:{}: {}", document.path, link.line, link.text));
            }
        }
        for code in &document.code {
            if names::path_in(&code.text, &root).is_some_and(|path| !root.join(path).exists()) {
                mistakes.push(format!("{}:{}: no file {}", document.path, code.line, code.text));
            }
        }
    }
    assert_none(&mistakes);
}

#[test]
fn documented_settings_and_defaults_match_the_help() {
    let (documents, settings) = (document::all(&root()), names::settings());
    let operations = documents
        .iter()
        .find(|document| document.path == "docs/operations.md")
        .unwrap();
    let described: std::collections::BTreeMap<_, _> = names::described(operations).into_iter().collect();
    let mut mistakes = Vec::new();
    for (name, default) in &settings {
        match described.get(name) {
            None => mistakes.push(format!("docs/operations.md: {name} is not described")),
            Some(said) if said != default => {
                mistakes.push(format!(
                    "docs/operations.md: {name} has the default {default:?}, not {said:?}"
                ));
            }
            Some(_) => {}
        }
    }
    let others = described.keys().filter(|name| !settings.contains_key(*name));
    mistakes.extend(others.map(|name| format!("docs/operations.md: there is no setting {name}")));
    let known = known_variables();
    for document in &documents {
        let unknown = document.code.iter().filter(|code| names::is_setting(&code.text));
        let unknown = unknown.filter(|code| !settings.contains_key(&code.text) && !known.contains(&code.text));
        mistakes
            .extend(unknown.map(|code| format!("{}:{}: there is no setting {}", document.path, code.line, code.text)));
    }
    assert_none(&mistakes);
}

/// Variables of Compose, of the demo's shell and of devstack.
fn known_variables() -> String {
    let files = [
        "docker-compose.yml",
        "devstack/src/shell.rs",
        "devstack/src/checkout.rs",
        "deploy/clickhouse/users.xml",
        "deploy/nats/users.conf",
        ".ci/run",
    ];
    files
        .map(|file| std::fs::read_to_string(root().join(file)).unwrap())
        .concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_requests_and_metrics_are_as_documented() {
    let (mut mistakes, mut pages) = (Vec::new(), String::new());
    let documents = document::all(&root());
    for document in &documents {
        let does_nothing = |kind: &Kind| matches!(kind, Kind::NotRun { .. });
        if document.fences.iter().all(|fence| does_nothing(&fence.kind)) {
            continue;
        }
        let system = System::start().await.unwrap();
        if let Err(mistake) = system.run(document).await {
            mistakes.push(format!("{mistake:#}"));
        }
        pages.push_str(&system.metrics().await.unwrap());
    }
    let (metrics, words) = (names::metrics_of(&pages), names::words_of_schema(&root()));
    let sources = names::sources(&root());
    for document in &documents {
        for found in names::metrics_in(document) {
            let name = found.text.split('{').next().unwrap_or_default();
            let exists = match name.strip_suffix('*') {
                Some(start) => metrics.iter().any(|metric| metric.starts_with(start)),
                None => metrics.contains(name) || words.contains(name) || names::is_registered(name, &sources),
            };
            if !exists {
                mistakes.push(format!("{}:{}: there is no metric {name}", document.path, found.line));
            }
        }
    }
    assert_none(&mistakes);
}
