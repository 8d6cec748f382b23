//! The baseline of the gateway: a bare axum handler that reads the same body and responds with the same fields, but records
//! nothing. Like the gateway, it runs in its own process.

use std::{
    ffi::OsString,
    io::Read,
    net::SocketAddr,
    process::{Child, Command, ExitCode, Stdio},
};

use anyhow::{Context, Result};
use axum::{Json, Router, routing::post};
use devstack::ports;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

/// The bare server. Dropping it ends it.
pub(crate) struct Bare {
    child: Child,
    pub address: String,
}

impl Bare {
    pub(crate) async fn start() -> Result<Self> {
        let address = format!("127.0.0.1:{}", ports::free()?);
        let exe = std::env::current_exe().context("finding our own executable")?;
        // It ends when its standard input is closed, so it cannot outlive us.
        let child = Command::new(exe)
            .args(["bare", &address])
            .stdin(Stdio::piped())
            .spawn()
            .context("starting it")?;
        let bare = Self { child, address };
        for _ in 0..500 {
            if TcpStream::connect(&bare.address).await.is_ok() {
                return Ok(bare);
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        anyhow::bail!("the bare server did not listen on {} within 5 s", bare.address)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("bench: ending the bare server: {error}");
        }
    }
}

/// Runs the bare server if we were started as `<exe> bare <address>`.
pub(crate) fn run_if_asked() -> Option<ExitCode> {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [command, address] = args.as_slice() else {
        return None;
    };
    if command != "bare" {
        return None;
    }
    let address: SocketAddr = address.to_str()?.parse().ok()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().ok()?;
    let served = runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        let app = Router::new().route("/v1/usage", post(answer));
        let parent_gone = tokio::task::spawn_blocking(|| {
            let mut nothing = [0];
            std::io::stdin().read(&mut nothing).map(drop)
        });
        tokio::select! {
            served = axum::serve(listener, app) => served,
            _ = parent_gone => Ok(()),
        }
    });
    runtime.shutdown_background();
    Some(if served.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn answer(Json(body): Json<Value>) -> Json<Value> {
    Json(json!({
        "event_id": "019a0000-0000-7000-8000-000000000000", "usage_type": body["usage_type"], "cost_units": body["cost_units"],
        "current_usage": 1, "limit": 100_000, "remaining": 99_999,
        "period_start": "2026-11-01T00:00:00Z", "period_end": "2026-12-01T00:00:00Z",
    }))
}
