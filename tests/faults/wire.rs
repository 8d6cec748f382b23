//! One client's connections, one to each gateway, with nothing between it and the bytes: no pool, no retry, so that what is known of
//! an attempt is all there is to know.

use std::time::Duration;

use anyhow::Result;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Bytes,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use tokio_util::task::TaskTracker;

use super::history::Doubt;

pub struct Wire {
    address: String,
    sender: Option<SendRequest<Full<Bytes>>>,
    connections: TaskTracker,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why there is no answer.
pub enum Failure {
    /// Nothing was sent.
    NotSent,
    Doubt(Doubt),
}

const CONNECT_WITHIN: Duration = Duration::from_secs(2);

impl Wire {
    /// `address`: host and port.
    pub fn new(address: &str, connections: &TaskTracker) -> Self {
        Self {
            address: address.to_owned(),
            sender: None,
            connections: connections.clone(),
        }
    }

    /// Sends, and waits for the answer at most so long. Dropped meanwhile, the connection is closed: the client hung up.
    pub async fn send(&mut self, request: Request<Full<Bytes>>, patience: Duration) -> Result<Answer, Failure> {
        let mut sender = match self.sender.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => timeout(CONNECT_WITHIN, self.connect())
                .await
                .ok()
                .and_then(Result::ok)
                .ok_or(Failure::NotSent)?,
        };
        if sender.ready().await.is_err() {
            return Err(Failure::NotSent);
        }
        let exchange = async {
            let sent = sender.try_send_request(request).await;
            let (head, body) = sent
                // Given back: not a byte of it went out.
                .map_err(|mut error| match error.take_message() {
                    Some(_) => Failure::NotSent,
                    None => Failure::Doubt(Doubt::ConnectionLost),
                })?
                .into_parts();
            let body = body
                .collect()
                .await
                .map_err(|_| Failure::Doubt(Doubt::ConnectionLost))?;
            Ok(Answer {
                status: head.status,
                headers: head.headers,
                body: body.to_bytes(),
            })
        };
        let answer = timeout(patience, exchange)
            .await
            .unwrap_or(Err(Failure::Doubt(Doubt::NoAnswer)))?;
        self.sender = Some(sender);
        Ok(answer)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the sender.
        self.connections.spawn(connection);
        Ok(sender)
    }
}
