//! A billing worker with its own NATS and its own database, its admin API, and its sub-commands.

use std::{
    path::Path,
    process::{Output, Stdio},
    sync::Arc,
};

use async_nats::Subscriber;
use devstack::{
    DataDir, Nats, NatsOptions, Servers, Service, ServiceOptions,
    http::{Http, HttpResponse, request},
    ports,
};
use futures_util::StreamExt;
use harness::PATIENCE;
use http::Method;
use schema::{announcement::Announcement, names};
use serde_json::Value;
use sqlx::PgPool;
use tokio::{process::Command, time::timeout};

pub(crate) const SERVICES: &str = env!("CARGO_BIN_EXE_services");
pub(crate) const TOKEN: &str = "a-token-of-this-test";

/// Fields are dropped in order: the service before servers before data.
pub(crate) struct Worker {
    pub service: Service,
    pub pool: PgPool,
    pub public_url: String,
    pub servers: WorkerServers,
    http: Http,
}

/// The servers that a worker needs.
pub(crate) struct WorkerServers {
    pub nats: Nats,
    pub database_url: String,
    _servers: Arc<Servers>,
    pub data: DataDir,
}

impl WorkerServers {
    pub(crate) async fn new() -> Self {
        let servers = Servers::shared().await.unwrap();
        let data = DataDir::create().unwrap();
        let nats = Nats::start(&data.path().join("nats"), &NatsOptions::default())
            .await
            .unwrap();
        let name = format!("billing_{:016x}", rand::random::<u64>());
        Self {
            nats,
            database_url: servers.postgres.create_database(&name).await.unwrap(),
            _servers: servers,
            data,
        }
    }

    /// A worker's settings, and the URL of its public port.
    pub(crate) fn worker(&self, name: &str) -> (ServiceOptions, String) {
        let (admin, public) = (ports::free().unwrap(), ports::free().unwrap());
        let mut options = ServiceOptions::new("billing-worker", name, self.data.path().to_owned(), admin)
            .env("ADMIN_ADDR", format!("127.0.0.1:{admin}"))
            .env("BILLING_LISTEN", format!("127.0.0.1:{public}"))
            .env("ADMIN_TOKEN", TOKEN)
            .env("NATS_URL", self.nats.url())
            .env("DATABASE_URL", &self.database_url);
        options.exe = Some(SERVICES.into());
        (options, format!("http://127.0.0.1:{public}"))
    }

    /// Runs a sub-command.
    pub(crate) async fn command(&self, args: &[&str]) -> Output {
        let mut command = Command::new(SERVICES);
        command
            .args(["service", "billing-worker"])
            .args(args)
            .env("NATS_URL", self.nats.url())
            .env("DATABASE_URL", &self.database_url);
        output(command).await
    }

    /// Runs a sub-command that must succeed. Returns its output.
    pub(crate) async fn json(&self, args: &[&str]) -> Value {
        let output = self.command(&[args, &["--json"]].concat()).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {errors}");
        assert!(!errors.contains("tr_live_"), "{args:?}: a key in the log");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Worker {
    pub(crate) async fn start() -> Self {
        let servers = WorkerServers::new().await;
        let (options, public_url) = servers.worker("billing-worker");
        Self {
            service: Service::start(options).await.unwrap(),
            pool: PgPool::connect(&servers.database_url).await.unwrap(),
            public_url,
            servers,
            http: Http::default(),
        }
    }

    /// Calls the admin API, with a JSON body unless it is null.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Value) -> HttpResponse {
        let url = format!("{}/admin{path}", self.service.admin_url());
        let body = Some(&body).filter(|body| !body.is_null());
        self.http
            .send(request(method, &url, TOKEN, body).unwrap())
            .await
            .unwrap()
    }

    /// Does the same; the call must succeed.
    pub(crate) async fn change(&self, method: Method, path: &str, body: Value) -> Value {
        self.call(method, path, body).await.ok().unwrap()
    }

    /// An account's id.
    pub(crate) async fn account(&self, email: &str, plan: &str) -> String {
        let new = serde_json::json!({ "name": "Ann", "email": email, "plan": plan });
        let account = self.change(Method::POST, "/accounts", new).await;
        account["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn announcements(&self) -> Announcements {
        let client = async_nats::connect(self.servers.nats.url()).await.unwrap();
        let subscriber = client.subscribe(names::ANNOUNCEMENTS).await.unwrap();
        // Only after this response is it certain that the server knows the subscription.
        client.flush().await.unwrap();
        let probe = client.request("nobody.listens", "".into()).await;
        assert!(probe.is_err());
        Announcements(subscriber)
    }
}

pub(crate) struct Announcements(Subscriber);

impl Announcements {
    pub(crate) async fn next(&mut self) -> Announcement {
        let message = timeout(PATIENCE, self.0.next()).await.unwrap().unwrap();
        let announcement: Announcement = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(message.subject.as_str(), announcement.subject());
        announcement
    }
}

/// Runs a program until it exits. A hang fails the test, with what the program logged until then.
pub(crate) async fn output(mut command: Command) -> Output {
    let directory = DataDir::create().unwrap();
    let log = directory.path().join("log");
    command
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&log).unwrap());
    let child = command.kill_on_drop(true).spawn().unwrap();
    let ended = timeout(PATIENCE, child.wait_with_output()).await;
    let stderr = std::fs::read(log).unwrap();
    let Ok(output) = ended else {
        panic!("it does not end:\n{}", String::from_utf8_lossy(&stderr));
    };
    Output {
        stderr,
        ..output.unwrap()
    }
}

pub(crate) fn write(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}
