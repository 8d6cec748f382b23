//! A load generator that needs little CPU: on each of several connections it sends one prepared request again as soon as the
//! response arrives.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::try_join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The result of one measurement.
pub(crate) struct Measured {
    pub requests_per_second: f64,
    /// Sorted.
    latencies_us: Vec<u32>,
}

impl Measured {
    /// The latency in milliseconds that this share of the requests did not exceed.
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index of the list"
        )]
        let at = ((self.latencies_us.len() - 1) as f64 * share) as usize;
        f64::from(self.latencies_us[at]) / 1_000.0
    }
}

/// A complete HTTP/1.1 request in bytes.
pub(crate) fn request(method: &str, target: &str, key: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {target} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Sends load to `address` (host and port) for `time`. Any status other than 200 is an error, because a refusal costs less.
pub(crate) async fn run(address: &str, request: &[u8], connections: usize, time: Duration) -> Result<Measured> {
    let over = AtomicBool::new(false);
    let started = Instant::now();
    let end = async {
        tokio::time::sleep(time).await;
        over.store(true, Ordering::Relaxed);
        anyhow::Ok(())
    };
    let all = try_join_all((0..connections).map(|_| connection(address, request, &over)));
    let (latencies, ()) = tokio::try_join!(all, end)?;
    let mut latencies_us = latencies.concat();
    ensure!(!latencies_us.is_empty(), "{address} answered nothing in {time:?}");
    latencies_us.sort_unstable();
    let requests_per_second = latencies_us.len() as f64 / started.elapsed().as_secs_f64();
    Ok(Measured {
        requests_per_second,
        latencies_us,
    })
}

async fn connection(address: &str, request: &[u8], over: &AtomicBool) -> Result<Vec<u32>> {
    let mut stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    let mut latencies = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    while !over.load(Ordering::Relaxed) {
        let sent = Instant::now();
        stream.write_all(request).await?;
        answer(&mut stream, &mut buffer).await?;
        latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    Ok(latencies)
}

/// Reads one response: a head with a content length, then that many bytes.
async fn answer(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<()> {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        ensure!(
            read > 0,
            "the connection was closed, or an answer is longer than {} bytes",
            buffer.len()
        );
        filled += read;
        let Some(head) = buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let text = std::str::from_utf8(&buffer[..head]).context("the head is no text")?;
        if !text.starts_with("HTTP/1.1 200") {
            bail!("{}", String::from_utf8_lossy(&buffer[..filled]));
        }
        let length = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, value)| value.trim().parse::<usize>().ok())
            .context("an answer without a content length")?;
        while filled < head + 4 + length {
            let read = stream.read(&mut buffer[filled..]).await?;
            ensure!(read > 0, "the connection was closed inside an answer");
            filled += read;
        }
        return Ok(());
    }
}
