//! Each service has only the permissions that it needs in NATS. An analyst may only read in ClickHouse, within limits.

use std::time::Duration;

use anyhow::Result;
use async_nats::{ConnectOptions, Event};
use clickhouse::{Row, error::Error};
use devstack::nats;
use harness::{Client, Stack, StackOptions};
use schema::clickhouse::FILES;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::SERVICES;

/// A connection as one user, and the refusals that the server sent.
struct User {
    client: async_nats::Client,
    refusals: UnboundedReceiver<String>,
}

impl User {
    async fn connect(url: &str, name: &str) -> Result<Self> {
        let (sender, refusals) = unbounded_channel();
        let client = ConnectOptions::new()
            .user_and_password(name.to_owned(), nats::password(name))
            .custom_inbox_prefix(format!("_INBOX.{name}"))
            .event_callback(move |event| {
                let sender = sender.clone();
                async move {
                    if let Event::ServerError(error) = event {
                        sender.send(error.to_string().to_lowercase()).ok();
                    }
                }
            })
            .connect(url)
            .await?;
        Ok(Self { client, refusals })
    }

    /// The next refusal.
    async fn refusal(&mut self) -> String {
        let refusal = tokio::time::timeout(Duration::from_secs(20), self.refusals.recv()).await;
        refusal.expect("the server refuses it").unwrap()
    }

    async fn may_not_publish(&mut self, subject: &str) {
        self.client.publish(subject.to_owned(), "{}".into()).await.unwrap();
        let (refusal, subject) = (self.refusal().await, subject.to_lowercase());
        assert!(
            refusal.contains("publish") && refusal.contains(&subject),
            "{subject}: {refusal}"
        );
    }

    async fn may_not_subscribe(&mut self, subject: &str) {
        let _subscription = self.client.subscribe(subject.to_owned()).await.unwrap();
        let (refusal, subject) = (self.refusal().await, subject.to_lowercase());
        assert!(
            refusal.contains("subscription") && refusal.contains(&subject),
            "{subject}: {refusal}"
        );
    }
}

/// Operations that only the operator may do.
const NOBODYS: [&str; 6] = [
    "$JS.API.STREAM.DELETE.USAGE",
    "$JS.API.STREAM.MSG.DELETE.USAGE",
    "$JS.API.STREAM.DELETE.KV_ingest",
    "$JS.API.STREAM.CREATE.OTHER",
    "$JS.API.ACCOUNT.PURGE.x",
    "$SYS.REQ.SERVER.PING",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_service_may_not_use_the_permissions_of_another() {
    let stack = Stack::start(SERVICES, StackOptions::default()).await.unwrap();
    let customer = stack.admin.customer("ada", "pro").await.unwrap();
    let client = Client::new(stack.gateway(0), &customer);
    assert_eq!(client.spend("api_call", 7).await.unwrap().status, 200);
    stack.assert_stored(customer.account_id, 1, 7).await;

    let not_the_ingestors = [
        "$JS.API.STREAM.UPDATE.USAGE",
        "$JS.API.STREAM.PURGE.USAGE",
        "$KV.ingest.shard.0",
        "usage.dead.0",
    ];
    let not_to_read = [
        "$JS.API.CONSUMER.CREATE.USAGE",
        "$JS.API.CONSUMER.CREATE.USAGE.reader.usage.v1.0.x",
        "$JS.API.CONSUMER.MSG.NEXT.USAGE.reader",
        "$JS.API.DIRECT.GET.USAGE",
    ];
    for (name, subjects, inboxes) in [
        (
            "gateway",
            [
                &not_the_ingestors[..],
                &not_to_read,
                &["announce.v1.account", "announce.v1.key", "notices.v1.x"],
            ]
            .concat(),
            [
                "usage.v1.>",
                "notices.v1.>",
                "_INBOX.>",
                "_INBOX.ingestor.>",
                "$KV.ingest.>",
                ">",
            ],
        ),
        (
            "billing-worker",
            [&not_the_ingestors[..], &not_to_read, &["quota.v1.recall"]].concat(),
            [
                "usage.v1.>",
                "announce.v1.>",
                "_INBOX.>",
                "_INBOX.gateway.>",
                "$KV.ingest.>",
                ">",
            ],
        ),
        (
            "ingestor",
            vec!["usage.v1.0.x", "announce.v1.units", "notices.v1.x", "quota.v1.recall"],
            [
                "usage.v1.>",
                "announce.v1.>",
                "_INBOX.>",
                "_INBOX.gateway.>",
                "notices.v1.>",
                ">",
            ],
        ),
        (
            "notices",
            vec!["usage.v1.0.x", "announce.v1.units", "notices.v1.x", "quota.v1.recall"],
            [
                "usage.v1.>",
                "announce.v1.>",
                "_INBOX.>",
                "quota.v1.>",
                "notices.>",
                ">",
            ],
        ),
    ] {
        let mut user = User::connect(stack.nats.url(), name).await.unwrap();
        for subject in NOBODYS.iter().chain(&subjects) {
            user.may_not_publish(subject).await;
        }
        for subject in inboxes {
            user.may_not_subscribe(subject).await;
        }
    }

    // None of these operations had an effect.
    assert_eq!(client.spend("api_call", 1).await.unwrap().status, 200);
    stack.assert_stored(customer.account_id, 2, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_refused() {
    let stack = Stack::start(SERVICES, StackOptions::default()).await.unwrap();
    for (name, password) in [("gateway", "wrong"), ("gateway", ""), ("nobody", "x")] {
        let refused = ConnectOptions::new()
            .user_and_password(name.to_owned(), password.to_owned())
            .connect(stack.nats.url())
            .await;
        assert!(refused.is_err(), "{name} {password}");
    }
}

#[derive(Row, Serialize, Deserialize, Debug, PartialEq)]
struct Limits {
    readonly: u64,
    max_execution_time: String,
    max_memory_usage: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_analyst_reads_within_limits_and_writes_nothing() {
    let stack = Stack::start(SERVICES, StackOptions::default()).await.unwrap();
    let customer = stack.admin.customer("ada", "pro").await.unwrap();
    let client = Client::new(stack.gateway(0), &customer);
    assert_eq!(client.spend("api_call", 7).await.unwrap().status, 200);
    stack.assert_stored(customer.account_id, 1, 7).await;

    let analyst = stack.clickhouse.clone().with_user("analyst").with_password("analyst");
    let units: i64 = analyst
        .query("select sum(cost_units) from usage")
        .fetch_one()
        .await
        .unwrap();
    assert_eq!(units, 7);
    let limits = "select toUInt64(getSetting('readonly')) as readonly,
                         toString(getSetting('max_execution_time')) as max_execution_time,
                         toUInt64(getSetting('max_memory_usage')) as max_memory_usage";
    let limits: Limits = analyst.query(limits).fetch_one().await.unwrap();
    assert!(limits.readonly > 0);
    assert_eq!(
        (limits.max_execution_time.as_str(), limits.max_memory_usage),
        ("60", 4_000_000_000)
    );
    let raised = analyst
        .clone()
        .with_setting("max_memory_usage", "0")
        .with_setting("readonly", "0");
    let memory: u64 = raised
        .query("select toUInt64(getSetting('max_memory_usage'))")
        .fetch_one()
        .await
        .unwrap();
    assert_eq!(memory, 4_000_000_000, "a setting of the request raises no limit");

    for statement in [
        "insert into usage_closed_days (bill_day) values ('2026-01-01')",
        "alter table usage_events delete where 1",
        "delete from usage_events where 1",
        "truncate table usage_events",
        "drop table usage_events",
        "create table mine (x Int64) engine = MergeTree order by x",
        "select 1 settings max_memory_usage = 0",
        "set max_execution_time = 0",
    ] {
        match analyst.query(statement).execute().await {
            Err(Error::BadResponse(why)) => assert!(why.contains("READONLY"), "{statement}: {why}"),
            other => panic!("{statement}: {other:?}"),
        }
    }
    stack.assert_stored(customer.account_id, 1, 7).await;
}

/// The engine of the tests has no access management. So only the syntax and the names of the privileges in
/// `deploy/clickhouse/users.xml` are checked.
#[tokio::test(flavor = "multi_thread")]
async fn the_grants_of_the_clickhouse_users_are_valid() {
    let servers = devstack::Servers::shared().await.unwrap();
    let file = include_str!("../../deploy/clickhouse/users.xml");
    let grants = file
        .split("<query>")
        .skip(1)
        .map(|rest| rest.split("</query>").next().unwrap());
    let mut checked = 0;
    for grant in grants {
        let explain = format!("explain ast {grant} to someone");
        servers
            .clickhouse
            .client()
            .query(&explain)
            .execute()
            .await
            .unwrap_or_else(|why| panic!("{grant}: {why}"));
        checked += 1;
    }
    assert_eq!(checked, 10);
    // The ingestor needs a grant for each change of an existing table.
    let changes = FILES
        .iter()
        .flat_map(|file| file.template.split("alter table ").skip(1));
    let mut changed = 0;
    for change in changes {
        let table = change.split_whitespace().next().unwrap();
        let what = change.split("add ").nth(1).unwrap().split_whitespace().next().unwrap();
        let grant = format!("GRANT ALTER ADD {} ON trendit.{table}<", what.to_uppercase());
        assert!(file.contains(&grant), "{grant}");
        changed += 1;
    }
    assert_eq!(changed, 1);
}

/// The NATS server rejects a subject without a permission only when it is used. This test finds a missing one at once.
#[test]
fn the_nats_users_cover_every_subject_name() {
    use schema::names;
    let file = include_str!("../../deploy/nats/users.conf");
    for name in [
        names::USAGE_SUBJECTS.to_owned(),
        names::DEAD_SUBJECTS.to_owned(),
        names::ANNOUNCEMENTS.to_owned(),
        names::NOTICES.to_owned(),
        format!("$KV.{}.>", names::MANIFEST_BUCKET),
        format!("$KV.{}.>", names::MEMBER_BUCKET),
        format!("$JS.API.STREAM.INFO.{}", names::USAGE_STREAM),
        format!("$JS.API.STREAM.INFO.{}", names::DEAD_STREAM),
    ] {
        assert!(file.contains(&format!("\"{name}\"")), "{name}");
    }
}
