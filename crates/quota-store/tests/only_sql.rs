//! This crate has the only SQL on its tables. Code that needs another statement adds a function here, so that one place owns
//! the order of locks.

use std::path::{Path, PathBuf};

const TABLES: [&str; 3] = ["quota_pool", "quota_leases", "gateway_runs"];
const VERBS: [&str; 6] = ["from", "join", "update", "into", "delete from", "using"];

/// Tests of the whole system may read the tables to check them, and change rows to set up a situation.
const EXCEPTIONS: [&str; 2] = ["crates/quota-store", "tests"];

#[test]
fn no_other_crate_has_sql_on_these_tables() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap();
    let mut files = Vec::new();
    collect(&root, &root, &mut files);
    assert!(
        files.len() > 100,
        "found only {} files in {}",
        files.len(),
        root.display()
    );
    let offenders: Vec<_> = files
        .iter()
        .flat_map(|file| {
            let text = std::fs::read_to_string(file).unwrap();
            statements_in(&text)
                .into_iter()
                .map(move |found| format!("{}: {found}", file.display()))
        })
        .collect();
    assert!(
        offenders.is_empty(),
        "move this SQL into quota-store:\n{}",
        offenders.join("\n")
    );
}

#[test]
fn statements_are_found_across_lines_and_comments_are_not() {
    let sql = "\"select id\n     from\n     gateway_runs\"";
    assert_eq!(statements_in(sql), ["from gateway_runs"]);
    assert_eq!(statements_in("\"update  QUOTA_POOL p\""), ["update quota_pool"]);
    assert!(statements_in("// gives units back: update quota_pool\n/// see `quota_leases`").is_empty());
    assert!(statements_in("let gateway_runs = Vec::new();").is_empty());
}

/// Pieces of SQL that name one of the tables.
fn statements_in(text: &str) -> Vec<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let words: Vec<String> = code.flat_map(str::split_whitespace).map(str::to_lowercase).collect();
    let text = words.join(" ");
    let mut found = Vec::new();
    for table in TABLES {
        for verb in VERBS {
            let statement = format!("{verb} {table}");
            if text.contains(&statement) {
                found.push(statement);
            }
        }
    }
    found
}

/// Rust files of the workspace, without the exceptions.
fn collect(root: &Path, directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("the directory can be listed") {
        let path = entry.expect("the entry can be read").path();
        let relative = path.strip_prefix(root).expect("the walk began at the root");
        let hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if hidden
            || relative == Path::new("target")
            || EXCEPTIONS.iter().any(|exception| relative == Path::new(exception))
        {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
