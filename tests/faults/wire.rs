//! One client's connections, one to each gateway, with direct access to the bytes. There is no pool and no retry, so the client
//! knows exactly what happened to an attempt.

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

pub struct WireResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why there is no response.
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

    /// Sends the request and waits up to this time for the response. Dropping the future closes the connection, as if the
    /// client hung up.
    pub async fn send(&mut self, request: Request<Full<Bytes>>, patience: Duration) -> Result<WireResponse, Failure> {
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
                // The request is returned unsent: no byte of it was written.
                .map_err(|mut error| match error.take_message() {
                    Some(_) => Failure::NotSent,
                    None => Failure::Doubt(Doubt::ConnectionLost),
                })?
                .into_parts();
            let body = body
                .collect()
                .await
                .map_err(|_| Failure::Doubt(Doubt::ConnectionLost))?;
            Ok(WireResponse {
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
        // The task ends with its sender.
        self.connections.spawn(connection);
        Ok(sender)
    }
}
