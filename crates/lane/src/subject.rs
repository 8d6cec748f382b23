//! A lane's subject in the stream: makes one publish attempt, or reads the last record.
//!
//! Publishing sends a plain request and reads the answer here. It does not use `jetstream::Context::publish`, which waits
//! without a limit for its own permit (`max_ack_inflight`) and uses its own timeout.

use std::time::Duration;

use async_nats::{
    Client, HeaderMap, HeaderValue, RequestErrorKind,
    client::Request,
    header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
    jetstream::{
        self, ErrorCode,
        publish::PublishAck,
        response::Response,
        stream::{LastRawMessageErrorKind, Stream},
    },
};
use bytes::Bytes;
use schema::{RunId, names};
use tracing::debug;

use protocol::lane::{AttemptOutcome, LastRecord, Seen};

pub struct LaneSubject {
    client: Client,
    stream: Stream<()>,
    subject: async_nats::Subject,
    run: RunId,
}

impl LaneSubject {
    pub fn new(client: &Client, stream: &Stream<()>, shard: u16, run: RunId) -> Self {
        Self {
            client: client.clone(),
            stream: stream.clone(),
            subject: names::lane(shard, run).into(),
            run,
        }
    }

    /// The subject's name.
    pub fn name(&self) -> &str {
        self.subject.as_str()
    }

    pub fn run(&self) -> RunId {
        self.run
    }

    /// Makes one attempt. `timeout` limits all of it, including the wait for room in the client.
    pub async fn publish(&self, expected: u64, record: Bytes, timeout: Duration) -> AttemptOutcome {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, HeaderValue::from(expected));
        let request = Request::new().headers(headers).payload(record).timeout(None);
        let answer = tokio::time::timeout(timeout, self.client.send_request(self.subject.clone(), request)).await;
        match answer {
            Ok(Ok(message)) => read_answer(&message.payload),
            Ok(Err(error)) => {
                debug!(subject = %self.subject, "publishing: {error}");
                match error.kind() {
                    // The client checks the size before it sends anything.
                    RequestErrorKind::MaxPayloadExceeded => AttemptOutcome::Refused,
                    _ => AttemptOutcome::Unclear,
                }
            }
            Err(_) => AttemptOutcome::Unclear,
        }
    }

    /// Reads the last record from the stream's leader. A lagging replica may answer a direct get.
    pub async fn last_record(&self, timeout: Duration) -> anyhow::Result<LastRecord> {
        let get = self.stream.get_last_raw_message_by_subject(&self.subject);
        match tokio::time::timeout(timeout, get).await? {
            Ok(message) => Ok(LastRecord::At {
                sequence: message.sequence,
                record: Seen::decode(&message.payload, self.run),
            }),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(LastRecord::None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Maps the stream's answer to what it proves. An answer is unclear unless it is a known refusal *before* storing.
fn read_answer(payload: &[u8]) -> AttemptOutcome {
    match serde_json::from_slice::<Response<PublishAck>>(payload) {
        Ok(Response::Ok(ack)) if ack.stream == names::USAGE_STREAM && ack.sequence > 0 => {
            AttemptOutcome::Stored { sequence: ack.sequence }
        }
        Ok(Response::Err { error }) => match error.error_code() {
            ErrorCode::STREAM_WRONG_LAST_SEQUENCE | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT => {
                AttemptOutcome::WrongLast
            }
            // A write that failed half way has the same code. Only the text differs.
            ErrorCode::STREAM_STORE_FAILED if is_full(&error) => AttemptOutcome::Refused,
            ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM
            | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM
            | ErrorCode::STREAM_SEALED
            | ErrorCode::INSUFFICIENT_RESOURCES
            | ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED => AttemptOutcome::Refused,
            _ => {
                debug!("publishing: {error}");
                AttemptOutcome::Unclear
            }
        },
        _ => AttemptOutcome::Unclear,
    }
}

/// The stream has `discard: new` and is full.
fn is_full(error: &jetstream::Error) -> bool {
    ["maximum bytes exceeded", "maximum messages exceeded"]
        .iter()
        .any(|full| error.to_string().contains(full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_before_storing_is_a_refusal() {
        let error = |code: u64, text: &str| {
            format!(r#"{{"error":{{"code":503,"err_code":{code},"description":"{text}"}},"stream":"USAGE","seq":0}}"#)
        };
        for (answer, expected) in [
            (
                r#"{"stream":"USAGE","seq":7}"#.to_owned(),
                AttemptOutcome::Stored { sequence: 7 },
            ),
            (r#"{"stream":"OTHER","seq":7}"#.to_owned(), AttemptOutcome::Unclear),
            ("not json".to_owned(), AttemptOutcome::Unclear),
            (String::new(), AttemptOutcome::Unclear),
            (error(10071, "wrong last sequence: 5"), AttemptOutcome::WrongLast),
            (error(10164, "wrong last sequence"), AttemptOutcome::WrongLast),
            (error(10077, "maximum bytes exceeded"), AttemptOutcome::Refused),
            (
                error(10077, "write usage/1.blk: input/output error"),
                AttemptOutcome::Unclear,
            ),
            (
                error(10054, "message size exceeds maximum allowed"),
                AttemptOutcome::Refused,
            ),
            (
                error(10008, "JetStream system temporarily unavailable"),
                AttemptOutcome::Unclear,
            ),
        ] {
            assert_eq!(read_answer(answer.as_bytes()), expected, "{answer}");
        }
    }
}
