//! A web server's access log in combined format, read leniently: a line that is cut off is still a request.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    net::IpAddr,
    path::Path,
};

use anyhow::{Context, Result};
use flate2::read::MultiGzDecoder;
use http::{Method, StatusCode, Uri};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub address: IpAddr,
    pub method: Method,
    /// Path and query, as they stand in the log.
    pub target: Uri,
    pub status: StatusCode,
    pub user_agent: String,
}

/// The log's entries, and how many lines hold no request that HTTP could carry.
pub fn read(path: &Path) -> Result<(Vec<Entry>, usize)> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let reader: Box<dyn Read> = match path.extension() {
        Some(extension) if extension == "gz" => Box::new(MultiGzDecoder::new(file)),
        _ => Box::new(file),
    };
    let (mut entries, mut unreadable) = (Vec::new(), 0);
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.with_context(|| format!("reading {}", path.display()))?;
        match parse(&String::from_utf8_lossy(&line)) {
            Some(entry) => entries.push(entry),
            None if line.is_empty() => {}
            None => unreadable += 1,
        }
    }
    Ok((entries, unreadable))
}

/// `address - user [time] "method target version" status bytes "referer" "agent"`
fn parse(line: &str) -> Option<Entry> {
    let (address, rest) = line.split_once(' ')?;
    let (_, rest) = rest.split_once("] \"")?;
    let (request, rest) = rest.split_once("\" ")?;
    let mut request = request.split(' ');
    let (method, target) = (request.next()?, request.next()?);
    let status = rest.split(' ').next()?;
    // The agent is the last quoted text; a cut line may lack its end.
    let user_agent = rest
        .split_once("\" \"")
        .map_or("", |(_, agent)| agent.strip_suffix('"').unwrap_or(agent));
    Some(Entry {
        address: address.parse().ok()?,
        method: method.parse().ok()?,
        target: target
            .parse()
            .ok()
            .filter(|target: &Uri| target.path().starts_with('/'))?,
        status: status.parse().ok()?,
        user_agent: user_agent.trim_end().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_and_a_cut_one_too() {
        let whole = r#"83.149.9.216 - - [17/May/2015:10:05:03 +0000] "GET /a/b.png?q=1 HTTP/1.1" 404 203023 "http://x.org/" "Mozilla/5.0 (X11)""#;
        let entry = parse(whole).unwrap();
        assert_eq!(entry.address, "83.149.9.216".parse::<IpAddr>().unwrap());
        assert_eq!(
            (entry.method.as_str(), entry.target.path(), entry.status.as_u16()),
            ("GET", "/a/b.png", 404)
        );
        assert_eq!(entry.user_agent, "Mozilla/5.0 (X11)");
        assert_eq!(parse(&whole[..whole.len() - 6]).unwrap().user_agent, "Mozilla/5.0");
        assert_eq!(parse("-"), None);
        assert_eq!(parse(r#"::1 - - [t] "GET" 400 0 "-" "-""#), None);
    }
}
