//! The section "Errors" of the API's documentation, generated from the catalogue.

use std::fmt::Write;

use crate::{Area, Kind};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api.md");
const BEGIN: &str =
    "<!-- errors: generated from the catalogue in crates/problem; UPDATE_DOCS=1 cargo test -p problem -->\n";
const END: &str = "<!-- end of errors -->\n";

fn section() -> String {
    let mut text = String::new();
    for (area, heading) in [
        (Area::Every, "Of every API"),
        (Area::Gateway, "Of the gateway"),
        (Area::Billing, "Of the billing API"),
        (Area::Admin, "Of the admin API"),
    ] {
        write!(text, "\n### {heading}\n\n| `error` | status | title |\n|---|---|---|\n").unwrap();
        let kinds = || Kind::ALL.iter().filter(|kind| kind.area() == area);
        for kind in kinds() {
            let (error, status, title) = (kind.error(), kind.status().as_u16(), kind.title());
            writeln!(text, "| [`{error}`](#{error}) | {status} | {title} |").unwrap();
        }
        for kind in kinds() {
            let (error, status, title) = (kind.error(), kind.status().as_u16(), kind.title());
            write!(
                text,
                "\n#### `{error}`\n\n**{status}: {title}.** {} {}\n",
                kind.meaning(),
                kind.remedy()
            )
            .unwrap();
        }
    }
    text.push('\n');
    text
}

#[test]
fn every_problem_type_has_its_section() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the marker of the section's begin");
    let (found, after) = rest.split_once(END).expect("the marker of the section's end");
    let section = section();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, format!("{before}{BEGIN}{section}{END}{after}")).unwrap();
        return;
    }
    assert!(
        found == section,
        "docs/api.md differs from the catalogue: run UPDATE_DOCS=1 cargo test -p problem"
    );
    for kind in Kind::ALL {
        let heading = format!("\n#### `{}`\n", kind.error());
        assert_eq!(page.matches(&heading).count(), 1, "{kind:?}");
    }
}
