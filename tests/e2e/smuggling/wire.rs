//! One connection to a gateway, in bytes.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Longer than anything here takes. A hang must fail a test, not block it.
const WITHIN: Duration = Duration::from_secs(10);

pub(super) struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    /// `url`: `http://host:port`.
    pub(super) async fn connect(url: &str) -> Result<Self> {
        let address = url.strip_prefix("http://").context("not an http URL")?;
        Ok(Self {
            stream: TcpStream::connect(address).await?,
            read: Vec::new(),
        })
    }

    /// Sends bytes. An error because the server has already closed the connection is ignored.
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.ok();
    }

    /// The status of the next response. `None`: the server closed the connection instead.
    pub(super) async fn answer(&mut self) -> Result<Option<u16>> {
        loop {
            if let Some(status) = self.whole()? {
                return Ok(Some(status));
            }
            let read = timeout(WITHIN, self.stream.read_buf(&mut self.read)).await;
            match read.context("no answer")? {
                Ok(0) | Err(_) if self.read.is_empty() => return Ok(None),
                Ok(0) | Err(_) => bail!("cut off: {:?}", String::from_utf8_lossy(&self.read)),
                Ok(_) => {}
            }
        }
    }

    /// A complete response: one with a length, or without a body.
    fn whole(&mut self) -> Result<Option<u16>> {
        let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = String::from_utf8_lossy(&self.read[..end]).to_lowercase();
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(Ok(0), str::parse)?;
        let whole = end + 4 + length;
        if self.read.len() < whole {
            return Ok(None);
        }
        self.read.drain(..whole);
        Ok(Some(status))
    }
}
