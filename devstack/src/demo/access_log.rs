//! Reads a web server's access log in combined format. Each line becomes a request that can be sent again, or is counted
//! by the reason why it cannot be sent.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Read},
    net::IpAddr,
    path::Path,
};

use anyhow::{Context, Result};
use flate2::read::MultiGzDecoder;
use http::{HeaderValue, Method, Uri};

use super::skip::Skip;

/// The statuses that end a request. A 1xx status announces another one, and HTTP has no status below 100 or above 999.
const FINAL_STATUS: std::ops::RangeInclusive<u16> = 200..=999;
/// Paths that the gateway answers itself, each with everything below it.
const GATEWAY_PATHS: [&str; 3] = ["/v1/usage", "/v1/check", "/v1/authorize"];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AccessLog {
    pub entries: Vec<Entry>,
    /// How many lines were skipped, by reason.
    pub skipped: BTreeMap<Skip, usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub address: IpAddr,
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub status: u16,
    pub user_agent: String,
}

pub(super) fn read(path: &Path) -> Result<AccessLog> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let reader: Box<dyn Read> = match path.extension() {
        Some(extension) if extension == "gz" => Box::new(MultiGzDecoder::new(file)),
        _ => Box::new(file),
    };
    read_lines(BufReader::new(reader)).with_context(|| format!("reading {}", path.display()))
}

fn read_lines(reader: impl BufRead) -> Result<AccessLog> {
    let mut log = AccessLog::default();
    for line in reader.split(b'\n') {
        match entry(&String::from_utf8_lossy(&line?)) {
            Ok(entry) => log.entries.push(entry),
            Err(reason) => *log.skipped.entry(reason).or_default() += 1,
        }
    }
    Ok(log)
}

/// `address ident user [time] "method target version" status bytes "referer" "agent"`
fn entry(line: &str) -> Result<Entry, Skip> {
    let line = line.trim_end_matches('\r');
    if line.is_empty() {
        return Err(Skip::Empty);
    }
    let (client, rest) = line.split_once(' ').ok_or(Skip::Format)?;
    let (_, rest) = rest.split_once("] \"").ok_or(Skip::Format)?;
    let (request, rest) = quoted(rest);
    let (status, rest) = word(rest);
    let (method, target) = request_line(&request)?;
    let target = origin_form(&method, target)?;
    Ok(Entry {
        address: address(client)?,
        method,
        target,
        status: final_status(status)?,
        user_agent: user_agent(rest)?,
    })
}

/// The text up to the closing quote, without its escapes, and what follows. Without a closing quote the line was cut off, and
/// the text is the rest of the line.
fn quoted(text: &str) -> (String, &str) {
    let mut unescaped = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let next = characters.peek().map(|(_, next)| *next);
        match (character, next) {
            // Servers that escape nothing write quotes inside the text: only one before a space or the end closes it.
            ('"', None | Some(' ')) => return (unescaped, &text[at + 1..]),
            ('\\', Some(escaped @ ('"' | '\\'))) => {
                characters.next();
                unescaped.push(escaped);
            }
            _ => unescaped.push(character),
        }
    }
    (unescaped, "")
}

fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start_matches(' ');
    text.split_once(' ').unwrap_or((text, ""))
}

fn request_line(request: &str) -> Result<(Method, &str), Skip> {
    let parts: Vec<&str> = request.split(' ').collect();
    let (method, target) = match parts[..] {
        // HTTP/0.9 names no version.
        [method, target] => (method, target),
        [method, target, version] if version.starts_with("HTTP/") => (method, target),
        [method, _, ..] if method.parse::<Method>().is_ok() => return Err(Skip::Target),
        _ => return Err(Skip::NoRequest),
    };
    let method = method.parse().map_err(|_| Skip::NoRequest)?;
    Ok((method, target))
}

/// Path and query of a target (RFC 9112, 3.2): a server takes `http://host/path` as its own `/path`.
fn origin_form(method: &Method, target: &str) -> Result<String, Skip> {
    if *method == Method::CONNECT {
        return Err(Skip::Tunnel);
    }
    let uri: Uri = target.parse().map_err(|_| Skip::Target)?;
    let target = uri.path_and_query().ok_or(Skip::NoPath)?.to_string();
    if !target.starts_with('/') {
        return Err(Skip::NoPath);
    }
    let is_below = |path: &str| {
        uri.path()
            .strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if GATEWAY_PATHS.into_iter().any(is_below) {
        return Err(Skip::GatewayPath);
    }
    Ok(target)
}

fn address(client: &str) -> Result<IpAddr, Skip> {
    let bare = client.strip_prefix('[').and_then(|client| client.strip_suffix(']'));
    let address: IpAddr = bare.unwrap_or(client).parse().map_err(|_| Skip::Client)?;
    // The gateway stores an IPv4 address the same way, however it is written.
    Ok(address.to_canonical())
}

fn final_status(status: &str) -> Result<u16, Skip> {
    let status = status.parse().ok().filter(|status| FINAL_STATUS.contains(status));
    status.ok_or(Skip::Status)
}

/// The second quoted text after the status. Logs in common format have none.
fn user_agent(rest: &str) -> Result<String, Skip> {
    let Some((_, rest)) = rest.split_once('"') else {
        return Ok(String::new());
    };
    let (_referer, rest) = quoted(rest);
    let agent = rest.split_once('"').map_or(String::new(), |(_, rest)| quoted(rest).0);
    // HTTP does not count the space around a header's value as part of it.
    let agent = agent.trim_matches([' ', '\t']);
    HeaderValue::from_bytes(agent.as_bytes()).map_err(|_| Skip::UserAgent)?;
    Ok(agent.to_owned())
}

#[cfg(test)]
mod tests;
