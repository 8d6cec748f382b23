//! Runs a document block by block and compares each output with the text of the document.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use devstack::http::{Http, HttpResponse};
use http::{Method, Request};
use schema::Catalogue;

use super::{
    document::Document,
    expected::{self, Output},
    fence::{Fence, Kind},
    session::Session,
};

/// How long a block with `repeat` may take to print the text of the next block.
const REPEAT_WITHIN: Duration = Duration::from_secs(90);

pub(super) struct Runner<'a> {
    pub session: Session,
    pub variables: &'a [(&'static str, String)],
    pub clickhouse: clickhouse::Client,
}

impl Runner<'_> {
    /// Returns the first error, with its line in the document.
    pub(super) async fn run(&mut self, document: &Document) -> Result<()> {
        let mut last = None;
        for (n, fence) in document.fences.iter().enumerate() {
            let next = document.fences.get(n + 1);
            let done = self.fence(fence, next, last.take()).await;
            last = done.with_context(|| format!("{}:{}", document.path, fence.line))?;
        }
        Ok(())
    }

    /// Returns the output that the following blocks are compared with.
    async fn fence(&mut self, fence: &Fence, next: Option<&Fence>, last: Option<Output>) -> Result<Option<Output>> {
        match &fence.kind {
            Kind::NotRun { .. } => Ok(None),
            Kind::Shell(shell) if shell.repeat => {
                let next = next.context("`repeat` needs a following block that shows the output")?;
                let end = Instant::now() + REPEAT_WITHIN;
                loop {
                    let output = Output::from(self.session.run(fence, shell).await?);
                    match compare(next, &output) {
                        Err(difference) if Instant::now() > end => bail!(difference),
                        Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
                        Ok(()) => return Ok(Some(output)),
                    }
                }
            }
            Kind::Shell(shell) => Ok(Some(self.session.run(fence, shell).await?.into())),
            Kind::Request => self.send(&fence.text).await.map(Some),
            Kind::Sql => {
                self.clickhouse.query(&self.filled_in(&fence.text)).execute().await?;
                Ok(None)
            }
            Kind::Plans => match Catalogue::parse(&fence.text) {
                Ok(_) => Ok(None),
                Err(error) => bail!("line {}: {}", error.line, error.problem),
            },
            Kind::Response | Kind::Json | Kind::Text => {
                let last = last.context("there is no previous block with an output")?;
                compare(fence, &last).map_err(|difference| anyhow!(difference))?;
                Ok(Some(last))
            }
        }
    }

    /// Sends a request, with its variables replaced. The path determines the service.
    async fn send(&self, text: &str) -> Result<Output> {
        let text = self.filled_in(text);
        let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
        let mut lines = head.lines();
        let (method, path) = lines
            .next()
            .and_then(|line| line.split_once(' '))
            .context("a request begins with a method and a path")?;
        let service = match path.split('/').nth(1) {
            Some("billing") => "BILLING_URL",
            Some("admin") => "ADMIN_URL",
            _ => "GATEWAY_URL",
        };
        let url = format!("{}{path}", self.variable(service)?);
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes())?)
            .uri(url);
        for line in lines {
            let (name, value) = line.split_once(": ").with_context(|| format!("not a header: {line}"))?;
            request = request.header(name, value);
        }
        let answer = Http::default()
            .send(request.body(body.to_owned().into_bytes().into())?)
            .await?;
        Ok(as_text(&answer).into())
    }

    fn variable(&self, name: &str) -> Result<&str> {
        let found = self.variables.iter().find(|(other, _)| *other == name);
        found
            .map(|(_, value)| value.as_str())
            .with_context(|| format!("no variable {name}"))
    }

    /// Replaces each `$NAME` by its value, the longest name first.
    fn filled_in(&self, text: &str) -> String {
        let mut variables: Vec<_> = self.variables.iter().collect();
        variables.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        variables.into_iter().fold(text.to_owned(), |text, (name, value)| {
            text.replace(&format!("${name}"), value)
        })
    }
}

fn compare(fence: &Fence, output: &Output) -> Result<(), String> {
    match fence.kind {
        Kind::Response => expected::response(&fence.text, output),
        Kind::Json => expected::json(&fence.text, output),
        Kind::Text => expected::text(&fence.text, output),
        _ => Err("the following block shows no output".to_owned()),
    }
}

fn as_text(answer: &HttpResponse) -> String {
    let headers = answer
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap_or("")));
    let headers: String = headers.collect();
    format!(
        "HTTP/1.1 {}\n{headers}\n{}",
        answer.status,
        String::from_utf8_lossy(&answer.body)
    )
}
