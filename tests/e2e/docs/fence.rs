//! A fenced block of a document, and how its info string says to use it.

/// How a block is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `sh`: run by bash, in one session per document.
    Shell(Shell),
    /// `http` that begins with a method: sent as it is.
    Request,
    /// `http` that begins with `HTTP/1.1`: the response to the previous block.
    Response,
    /// `json`: the response body or the output of the previous block.
    Json,
    /// `text`: the output of the previous block.
    Text,
    /// `sql`: a query that ClickHouse runs.
    Sql,
    /// `toml plans`: a plan catalogue that must be valid.
    Plans,
    /// `… no-run reason="…"`: not run, only for readers.
    NotRun { reason: String },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shell {
    /// `exit=2`: the status that the block must end with.
    pub exit: i32,
    /// `repeat`: run again until the output matches the next block.
    pub repeat: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fence {
    pub kind: Kind,
    pub text: String,
    /// The line number of its first line of text, counted from 1.
    pub line: usize,
}

impl Kind {
    /// Parses an info string. The error describes the mistake.
    pub(super) fn read(info: &str, text: &str) -> Result<Self, String> {
        let mut words = words(info)?.into_iter();
        let language = words.next().unwrap_or_default();
        let mut marks: Vec<_> = words.map(mark).collect();
        if let Some(at) = marks.iter().position(|(name, _)| name == "no-run") {
            marks.remove(at);
            return match marks.as_slice() {
                [(name, Some(reason))] if name == "reason" && !reason.is_empty() => {
                    Ok(Self::NotRun { reason: reason.clone() })
                }
                _ => Err("`no-run` needs reason=\"…\", and nothing else".to_owned()),
            };
        }
        let kind = match language.as_str() {
            "sh" => {
                let mut shell = Shell::default();
                for (name, value) in marks.drain(..) {
                    match (name.as_str(), value) {
                        ("repeat", None) => shell.repeat = true,
                        ("exit", Some(code)) => shell.exit = code.parse().map_err(|_| format!("exit={code}"))?,
                        _ => return Err(format!("`sh` has no attribute `{name}`")),
                    }
                }
                Self::Shell(shell)
            }
            "http" if text.starts_with("HTTP/") => Self::Response,
            "http" => Self::Request,
            "json" => Self::Json,
            "text" => Self::Text,
            "sql" => Self::Sql,
            "toml" if marks.first().is_some_and(|(name, _)| name == "plans") => {
                marks.remove(0);
                Self::Plans
            }
            "" => return Err("a fence needs an info string".to_owned()),
            other => return Err(format!("unknown info string `{other}`")),
        };
        match marks.first() {
            None => Ok(kind),
            Some((name, _)) => Err(format!("`{language}` has no attribute `{name}`")),
        }
    }
}

/// Splits a word into `name` or `name=value`.
fn mark(word: String) -> (String, Option<String>) {
    match word.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (word, None),
    }
}

/// Splits at spaces, except within double quotes.
fn words(info: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for letter in info.trim().chars() {
        match letter {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty())),
            other => word.push(other),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    if quoted {
        Err("a quote is not closed".to_owned())
    } else {
        Ok(words)
    }
}

#[test]
fn info_strings_are_read_or_refused() {
    let read = |info: &str| Kind::read(info, "GET /");
    assert_eq!(read("sh"), Ok(Kind::Shell(Shell::default())));
    assert_eq!(
        read("sh exit=2 repeat"),
        Ok(Kind::Shell(Shell { exit: 2, repeat: true }))
    );
    assert_eq!(read("http"), Ok(Kind::Request));
    assert_eq!(Kind::read("http", "HTTP/1.1 200 OK"), Ok(Kind::Response));
    let reason = "needs a \u{20ac} account".to_owned();
    assert_eq!(
        read("sh no-run reason=\"needs a \u{20ac} account\""),
        Ok(Kind::NotRun { reason })
    );
    for wrong in [
        "",
        "bash",
        "sh fast",
        "sh no-run",
        "sh no-run reason=\"\"",
        "json repeat",
        "sh no-run reason=\"x",
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}
