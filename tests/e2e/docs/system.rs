//! The running system that the documents describe: the demo, with its customers and variables.

use anyhow::Result;
use devstack::{
    http::Http,
    shell::{self, Shell},
};
use harness::{Client, Stack, StackOptions};

use super::{document::Document, runner::Runner, session::Session};
use crate::SERVICES;

pub(super) struct System {
    pub stack: Stack,
    variables: Vec<(&'static str, String)>,
    shell: Shell,
}

impl System {
    /// As in the demo: the Free account ada@example.com has no API calls left.
    pub(super) async fn start() -> Result<Self> {
        let options = StackOptions {
            stripe: true,
            ..StackOptions::default()
        };
        let stack = Stack::start(SERVICES, options).await?;
        let (free, large) = tokio::try_join!(
            stack.admin.customer("ada", "free"),
            stack.admin.customer("eve", "enterprise")
        )?;
        let spent = Client::new(stack.gateway(0), &free).spend("api_call", 100).await?;
        spent.ok()?;
        let variables = shell::variables(&stack, &large, &free);
        let shell = Shell::write(&stack.data.path().join("shell"), SERVICES.as_ref(), &variables)?;
        Ok(Self {
            stack,
            variables,
            shell,
        })
    }

    pub(super) async fn run(&self, document: &Document) -> Result<()> {
        let session = Session::start(self.stack.data.path(), &document.path, &self.shell.env()).await?;
        let mut runner = Runner {
            session,
            variables: &self.variables,
            clickhouse: self.stack.clickhouse.clone(),
        };
        runner.run(document).await
    }

    /// The metrics of one service of each kind.
    pub(super) async fn metrics(&self) -> Result<String> {
        let mut pages = String::new();
        for name in ["GATEWAY_ADMIN_URL", "INGESTOR_ADMIN_URL", "ADMIN_URL"] {
            let url = self.variables.iter().find(|(other, _)| *other == name);
            let url = format!("{}/metrics", url.map_or("", |(_, value)| value));
            let page = Http::default().get(&url, "").await?;
            pages.push_str(std::str::from_utf8(&page.body)?);
        }
        Ok(pages)
    }
}
