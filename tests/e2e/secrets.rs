//! No log contains a secret. A full run of the system with all its failures, at the most verbose log level, is searched for
//! every secret that was used in it.

use std::{fs, path::Path, process::Stdio};

use anyhow::{Context, Result};
use devstack::http::{Http, request};
use harness::{Stack, StackOptions, eventually};
use http::Method;
use schema::api_key::ApiKey;
use serde_json::{Value, json};

use crate::SERVICES;

/// Not the password of any server. It is sent to servers that refuse it or cannot be reached.
const PASSWORD: &str = "hunter2-of-the-test";

/// All levels of all crates, including dependencies.
const ALL: &str = "trace";

/// Starts a service with servers that are missing or refuse it. Returns its log until it ended or was stopped.
async fn failing(service: &str, env: &[(&str, String)]) -> Result<String> {
    let mut command = tokio::process::Command::new(SERVICES);
    command
        .args(["service", service])
        .env_clear()
        .env("ADMIN_ADDR", "127.0.0.1:0")
        .env("GATEWAY_LISTEN", "127.0.0.1:0")
        .env("BILLING_LISTEN", "127.0.0.1:0")
        .env("LOG_FILTER", ALL)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for (name, value) in env {
        command.env(name, value);
    }
    let mut child = command.spawn()?;
    let stderr = child.stderr.take().context("standard error is not piped")?;
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(stderr));
    let mut said = String::new();
    let reading = async {
        while let Some(line) = lines.next_line().await? {
            said.push_str(&line);
            said.push('\n');
            // The service retries forever. By now the log shows the failure.
            if said.matches("retrying in").count() >= 3 {
                break;
            }
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), reading)
        .await
        .with_context(|| format!("{service} with {env:?} does not log its failure"))??;
    child.kill().await?;
    Ok(said)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_log_of_a_run_contains_a_secret() {
    let env = || {
        vec![
            ("LOG_FILTER", ALL.to_owned()),
            ("CLICKHOUSE_PASSWORD", format!("clickhouse-{PASSWORD}")),
        ]
    };
    let options = StackOptions {
        stripe: true,
        gateway_env: env(),
        ingestor_env: env(),
        billing_env: [
            env(),
            vec![
                ("NOTICE_ALLOW_HTTP", "true".into()),
                ("NOTICE_ALLOW_PRIVATE", "true".into()),
            ],
        ]
        .concat(),
        ..StackOptions::default()
    };
    let mut stack = Stack::start(SERVICES, options).await.unwrap();
    let customer = stack.admin.customer("ada", "free").await.unwrap();
    let (_, second_key) = stack.admin.key(customer.account_id).await.unwrap();
    let unknown_key = ApiKey::generate().reveal().to_owned();
    let cut_key = customer.key[..customer.key.len() - 1].to_owned();
    let http = Http::default();
    let (gateway, billing, admin) = (
        stack.gateway(0).to_owned(),
        stack.billing_url.clone(),
        stack.billing.admin_url(),
    );
    let send = async |method: Method, url: String, bearer: &str, body: Option<Value>| {
        http.send(request(method, &url, bearer, body.as_ref()).unwrap())
            .await
            .unwrap()
    };
    let (get, post) = (Method::GET, Method::POST);

    // Valid requests.
    let usage = json!({ "usage_type": "api_call", "cost_units": 1 });
    for url in [
        format!("{gateway}/api/posts/search"),
        format!("{gateway}/v1/usage"),
        format!("{billing}/billing/subscription"),
    ] {
        assert_eq!(send(get.clone(), url, &customer.key, None).await.status, 200);
    }
    let url = format!("{gateway}/v1/usage");
    assert_eq!(
        send(post.clone(), url.clone(), &second_key, Some(usage.clone()))
            .await
            .status,
        200
    );
    let endpoint = format!("{admin}/admin/accounts/{}/notice-endpoint", customer.account_id);
    // No server listens at this address.
    let notice_url = format!("http://127.0.0.1:1/{PASSWORD}");
    let set = send(
        Method::PUT,
        endpoint.clone(),
        &stack.admin_token,
        Some(json!({ "url": notice_url })),
    )
    .await;
    let notice_secret = set.ok().unwrap()["secret"].as_str().unwrap().to_owned();
    send(post.clone(), format!("{endpoint}/test"), &stack.admin_token, None).await;
    let checkout = json!({ "tier": "pro" });
    let session = send(
        post.clone(),
        format!("{billing}/billing/create-checkout-session"),
        &customer.key,
        Some(checkout),
    )
    .await;
    assert_eq!(session.status, 201, "{session:?}");

    // Invalid requests: each is refused, and some of them are logged.
    let in_urls = |key: &str| {
        vec![
            format!("{gateway}/api/x?api_key={key}"),
            format!("{gateway}/api/x?q={key}"),
            format!("{gateway}/v1/usage?token={key}"),
            format!("{gateway}/{key}"),
            format!("{billing}/billing/subscription?api_key={key}"),
            format!("{billing}/{key}"),
            format!("{admin}/admin/accounts/{key}"),
            format!("{admin}/{key}"),
        ]
    };
    for key in [&customer.key, &unknown_key, &cut_key, &stack.admin_token] {
        for url in in_urls(key) {
            for bearer in ["", key, &format!("{key}x")] {
                send(get.clone(), url.clone(), bearer, None).await;
            }
        }
        for url in [
            format!("{gateway}/v1/usage"),
            format!("{billing}/billing/upgrade"),
            format!("{admin}/admin/accounts"),
        ] {
            for body in [
                json!({ "usage_type": key }),
                json!({ key.as_str(): 1 }),
                json!({ "tier": key, "name": key, "email": key }),
            ] {
                send(post.clone(), url.clone(), key, Some(body)).await;
            }
        }
    }
    let webhook = format!("{billing}/billing/webhooks/stripe");
    for signature in ["", "t=1,v1=00", stack.stripe.as_ref().unwrap().webhook_secret()] {
        let mut bad = request(post.clone(), &webhook, "", Some(&json!({ "id": "evt_1" }))).unwrap();
        bad.headers_mut().insert("stripe-signature", signature.parse().unwrap());
        assert_eq!(http.send(bad).await.unwrap().status, 400);
    }
    let stripe = stack.stripe.as_ref().unwrap();
    let (stripe_key, webhook_secret) = (stripe.api_key().to_owned(), stripe.webhook_secret().to_owned());
    eventually("the notice was tried", async || {
        let tried = sqlx::query_scalar::<_, i64>("select coalesce(sum(attempts), 0)::bigint from notices");
        tried.fetch_one(&stack.pool).await.ok().filter(|tried| *tried > 0)
    })
    .await;

    // A server disappears and comes back, so the services reconnect.
    stack.nats.restart().await.unwrap();
    eventually("the gateway serves again", async || {
        let answer = http.post(&url, &second_key, &usage).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    stack.stop().await.unwrap();

    let mut logs = read_logs(stack.data.path()).unwrap();
    assert!(
        logs.iter().any(|(name, _)| name.starts_with("gateway")) && logs.len() >= 3,
        "{:?}",
        names(&logs)
    );
    assert!(
        logs.iter()
            .all(|(_, text)| text.contains("TRACE") || text.contains("DEBUG")),
        "{:?}",
        names(&logs)
    );

    let nowhere = |scheme: &str| format!("{scheme}://someone:{PASSWORD}@127.0.0.1:1/db");
    for (service, env) in [
        (
            "gateway",
            vec![("DATABASE_URL", nowhere("postgres")), ("NATS_URL", nowhere("nats"))],
        ),
        (
            "gateway",
            vec![
                ("DATABASE_URL", nowhere("postgres")),
                ("NATS_URL", format!("nats://someone:{PASSWORD}@127.0.0.1:1")),
            ],
        ),
        ("gateway", vec![("UPSTREAM_URL", nowhere("http"))]),
        ("gateway", vec![("DATABASE_URL", nowhere("mysql"))]),
        (
            "ingestor",
            vec![
                ("NATS_URL", format!("nats://someone:{PASSWORD}@127.0.0.1:1")),
                ("CLICKHOUSE_URL", nowhere("http")),
                ("CLICKHOUSE_PASSWORD", PASSWORD.into()),
            ],
        ),
        (
            "billing-worker",
            vec![
                ("DATABASE_URL", nowhere("postgres")),
                ("CLICKHOUSE_PASSWORD", PASSWORD.into()),
                ("STRIPE_SECRET_KEY", format!("sk_test_{PASSWORD}")),
                ("STRIPE_WEBHOOK_SECRETS", format!("whsec_{PASSWORD}")),
            ],
        ),
        ("billing-worker", vec![("STRIPE_SECRET_KEY", PASSWORD.into())]),
        (
            "billing-worker",
            vec![("ADMIN_TOKEN", format!("{PASSWORD} {PASSWORD}"))],
        ),
    ] {
        logs.push((
            format!("{service} {:?}", env[0].0),
            failing(service, &env).await.unwrap(),
        ));
    }

    let secrets = [
        ("an API key", &customer.key),
        ("another API key", &second_key),
        ("an unknown API key", &unknown_key),
        ("a truncated API key", &cut_key),
        ("the admin token", &stack.admin_token),
        ("Stripe's key", &stripe_key),
        ("Stripe's webhook secret", &webhook_secret),
        ("a notice secret", &notice_secret),
        ("a password", &PASSWORD.to_owned()),
        ("NATS's password of the gateway", &devstack::nats::password("gateway")),
        ("NATS's password of the ingestor", &devstack::nats::password("ingestor")),
        (
            "NATS's password of the billing worker",
            &devstack::nats::password("billing-worker"),
        ),
    ];
    let mut found = Vec::new();
    for (log, text) in &logs {
        for (what, secret) in secrets {
            for line in text.lines().filter(|line| line.contains(secret.as_str())).take(3) {
                found.push(format!("{what} in {log}: {}", line.replace(secret.as_str(), "<it>")));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn names(logs: &[(String, String)]) -> Vec<&str> {
    logs.iter().map(|(name, _)| name.as_str()).collect()
}

/// The services' logs.
fn read_logs(directory: &Path) -> Result<Vec<(String, String)>> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            logs.push((name, String::from_utf8_lossy(&fs::read(&path)?).into_owned()));
        }
    }
    Ok(logs)
}
