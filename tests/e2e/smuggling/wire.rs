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

pub(crate) struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
    /// The last response said that it is the last one of the connection.
    pub(crate) closes: bool,
}

impl Wire {
    /// `url`: `http://host:port`.
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        let address = url.strip_prefix("http://").context("not an http URL")?;
        Ok(Self {
            stream: TcpStream::connect(address).await?,
            read: Vec::new(),
            closes: false,
        })
    }

    /// Sends bytes. An error because the server has already closed the connection is ignored.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.ok();
    }

    /// Sends nothing more. The server can still respond.
    pub(crate) async fn close_sending(&mut self) -> Result<()> {
        Ok(self.stream.shutdown().await?)
    }

    /// The status of the next response. `None`: the server closed the connection instead.
    pub(crate) async fn answer(&mut self) -> Result<Option<u16>> {
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
        self.closes = head.lines().any(|line| line == "connection: close");
        self.read.drain(..whole);
        Ok(Some(status))
    }
}
