//! One Markdown document: its fences, headings, links and code spans, each with its line.

use std::{collections::HashSet, fs, path::Path};

use super::fence::{Fence, Kind};

pub(super) struct Document {
    /// The path from the root of the repository: `docs/api.md`.
    pub path: String,
    pub fences: Vec<Fence>,
    /// The anchors that a link can name after `#`.
    pub anchors: HashSet<String>,
    /// The targets of links.
    pub links: Vec<Snippet>,
    /// The text of code spans.
    pub code: Vec<Snippet>,
    /// The rows of tables, as cells.
    pub rows: Vec<Vec<String>>,
    /// Errors in its fences.
    pub mistakes: Vec<String>,
}

pub(super) struct Snippet {
    pub text: String,
    pub line: usize,
}

/// README.md and the other documents beside it, and everything in docs/, sorted by name.
pub(super) fn all(root: &Path) -> Vec<Document> {
    let mut paths = vec!["CHANGELOG.md", "CONTRIBUTING.md", "README.md", "SECURITY.md"]
        .into_iter()
        .map(str::to_owned)
        .collect::<Vec<_>>();
    below(&root.join("docs"), "docs", &mut paths);
    paths.sort();
    paths.iter().map(|path| Document::read(root, path)).collect()
}

fn below(dir: &Path, name: &str, paths: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            below(&entry.path(), &name, paths);
        } else if name.ends_with(".md") {
            paths.push(name);
        }
    }
}

impl Document {
    fn read(root: &Path, path: &str) -> Self {
        let text = fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        Self::parse(path, &text)
    }

    pub(super) fn parse(path: &str, text: &str) -> Self {
        let mut document = Self {
            path: path.to_owned(),
            fences: Vec::new(),
            anchors: HashSet::new(),
            links: Vec::new(),
            code: Vec::new(),
            rows: Vec::new(),
            mistakes: Vec::new(),
        };
        let mut lines = text.lines().zip(1..);
        while let Some((line, number)) = lines.next() {
            if let Some(info) = line.trim_start().strip_prefix("```") {
                let block: Vec<&str> = lines
                    .by_ref()
                    .map(|(line, _)| line)
                    .take_while(|line| line.trim() != "```")
                    .collect();
                document.fence(info, &block.join("\n"), number);
            } else {
                document.line(line, number);
            }
        }
        document
    }

    fn fence(&mut self, info: &str, text: &str, number: usize) {
        match Kind::read(info, text) {
            Ok(kind) => self.fences.push(Fence {
                kind,
                text: text.to_owned(),
                line: number + 1,
            }),
            Err(mistake) => self.mistakes.push(format!("{}:{number}: {mistake}", self.path)),
        }
    }

    fn line(&mut self, line: &str, number: usize) {
        if line.starts_with('#') {
            let slug = slug(line.trim_start_matches('#').trim());
            let same = (1..).map(|n| format!("{slug}-{n}"));
            let free = std::iter::once(slug.clone()).chain(same);
            self.anchors
                .extend(free.into_iter().find(|slug| !self.anchors.contains(slug)));
        }
        let named = line.split("<a id=\"").skip(1).filter_map(|rest| rest.split('"').next());
        self.anchors.extend(named.map(str::to_owned));
        if line.starts_with('|') {
            let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
            self.rows.push(cells.collect());
        }
        let code = line.split('`').skip(1).step_by(2);
        self.code.extend(code.map(|text| Snippet {
            text: text.to_owned(),
            line: number,
        }));
        let links = line
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split([')', ' ']).next());
        self.links.extend(links.map(|text| Snippet {
            text: text.to_owned(),
            line: number,
        }));
    }
}

/// The anchor that GitHub generates for a heading.
fn slug(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept
        .chars()
        .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

#[test]
fn headings_links_and_code_are_found() {
    let text = "# The `sum()` of it\n[a](b.md#c) and `d/e.rs`\n## X\n## X\n| `A` | 1 |\n```sh\n# no heading\n```\n";
    let document = Document::parse("x.md", text);
    assert_eq!(
        document.anchors,
        ["the-sum-of-it", "x", "x-1"].map(str::to_owned).into_iter().collect()
    );
    assert_eq!(document.links[0].text, "b.md#c");
    let code: Vec<_> = document.code.iter().map(|found| found.text.as_str()).collect();
    assert_eq!(code, ["sum()", "d/e.rs", "A"]);
    assert_eq!(document.rows, [["`A`", "1"]]);
    assert_eq!((document.fences.len(), document.fences[0].line), (1, 7));
}
