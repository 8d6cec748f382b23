//! `notices …`: manage notice endpoints and notices. The service sends the notices.

use anyhow::Result;
use clap::Subcommand;
use schema::clock;

use super::{
    page::PageArguments,
    print::{instant, list, out, row, table},
};
use crate::{
    accounts::{
        identity,
        keys::{OVERLAP_HOURS, OverlapHours},
    },
    administration::{Administration, page::Listed},
    notices::{
        endpoint::{self, Endpoint, IssuedEndpoint, NewEndpoint, SecretRotation},
        message::NoticeId,
        operator::{self, Notice},
        settings::Policy,
    },
};

#[derive(Subcommand)]
pub enum NoticesCommand {
    /// Set the URL that receives an account's notices; the first call prints the secret, only once
    Set {
        /// Account id or e-mail address
        account: String,
        url: String,
    },
    /// Show an account's notice endpoint
    Show {
        /// Account id or e-mail address
        account: String,
    },
    /// Delete an account's URL and secrets
    Remove {
        /// Account id or e-mail address
        account: String,
    },
    /// Create a secret that replaces the old one; it is printed only once
    Rotate {
        /// Account id or e-mail address
        account: String,
        /// Hours during which the old secret signs notices as well
        #[arg(long, value_name = "HOURS", default_value_t = OVERLAP_HOURS)]
        overlap_hours: OverlapHours,
    },
    /// Send a test notice
    Test {
        /// Account id or e-mail address
        account: String,
    },
    /// List an account's notices, oldest first
    List {
        /// Account id or e-mail address
        account: String,
        #[command(flatten)]
        page: PageArguments,
    },
    /// Send a notice again under the same id
    Replay {
        /// Id of the notice
        notice: NoticeId,
    },
}

pub(super) async fn run(command: &NoticesCommand, admin: &Administration, policy: Policy, json: bool) -> Result<()> {
    let now = clock::now_s();
    match command {
        NoticesCommand::Set { account, url } => {
            let account = identity::find(admin, account).await?;
            let new = NewEndpoint { url: url.clone() };
            print_issued(json, &endpoint::set(admin, policy, account, new).await?)
        }
        NoticesCommand::Show { account } => {
            let account = identity::find(admin, account).await?;
            print_endpoint(json, &endpoint::show(admin, account).await?)
        }
        NoticesCommand::Remove { account } => {
            let account = identity::find(admin, account).await?;
            let removed = endpoint::remove(admin, account).await?;
            out(json, &removed, || {
                format!(
                    "removed the notice endpoint {} of account {}: its pending notices are not sent",
                    removed.url, removed.account_id
                )
            })
        }
        NoticesCommand::Rotate { account, overlap_hours } => {
            let account = identity::find(admin, account).await?;
            let rotation = SecretRotation {
                overlap_hours: Some(*overlap_hours),
            };
            print_issued(json, &endpoint::rotate(admin, account, rotation, now).await?)
        }
        NoticesCommand::Test { account } => {
            let account = identity::find(admin, account).await?;
            print_notice(json, &operator::test(admin, account, now).await?)
        }
        NoticesCommand::List { account, page } => {
            let account = identity::find(admin, account).await?;
            print_notices(json, &operator::list(admin, account, page.page()).await?)
        }
        NoticesCommand::Replay { notice } => print_notice(json, &operator::replay(admin, *notice).await?),
    }
}

fn print_endpoint(json: bool, endpoint: &Endpoint) -> Result<()> {
    out(json, endpoint, || table(&endpoint_rows(endpoint)))
}

fn print_issued(json: bool, issued: &IssuedEndpoint) -> Result<()> {
    out(json, issued, || {
        let about = table(&endpoint_rows(&issued.endpoint));
        match &issued.secret {
            Some(secret) => format!("secret  {secret}\n{about}\nThe secret is shown only once: store it now."),
            None => about,
        }
    })
}

fn endpoint_rows(endpoint: &Endpoint) -> Vec<Vec<String>> {
    let mut rows = vec![
        row(["account", &endpoint.account_id.to_string()]),
        row(["url", &endpoint.url]),
        row(["state", &endpoint.state]),
    ];
    rows.extend(endpoint.disabled_reason.iter().map(|reason| row(["reason", reason])));
    rows.extend(
        endpoint
            .failing_since
            .map(|since| row(["failing since", &instant(since)])),
    );
    rows.extend(endpoint.secrets.iter().map(|secret| {
        let until = secret
            .expires_at
            .map_or("current".to_owned(), |at| format!("until {}", instant(at)));
        row(["signed with", &format!("{} ({until})", secret.id)])
    }));
    rows
}

const HEADING: [&str; 7] = [
    "notice",
    "type",
    "usage type",
    "percent",
    "state",
    "attempts",
    "last error",
];

fn print_notice(json: bool, notice: &Notice) -> Result<()> {
    out(json, notice, || table(&[row(HEADING), notice_row(notice)]))
}

fn print_notices(json: bool, listed: &Listed<Notice>) -> Result<()> {
    out(json, listed, || list(HEADING, listed, notice_row))
}

fn notice_row(notice: &Notice) -> Vec<String> {
    let percent = notice.threshold_percent.map(|percent| percent.to_string());
    row([
        &notice.id.to_string(),
        &notice.kind,
        notice.usage_type.as_deref().unwrap_or_default(),
        percent.as_deref().unwrap_or_default(),
        &notice.state,
        &notice.attempts.to_string(),
        notice.last_error.as_deref().unwrap_or_default(),
    ])
}
