//! How events are written on the wire: alone, or as members of an atomic or a fast batch (ADR-50 of the NATS project).

use async_nats::{Client, HeaderMap, PublishError};
use eventmesh_wire::config::Ingest;

use crate::event::Delivery;

/// Events in one batch; the server allows 1,000. At 500 the sync to disk is well shared, and the answer comes soon.
pub(super) const BATCH: usize = 500;

/// Room that the protocol needs beside payload and headers.
const PROTOCOL_ROOM: usize = 512;

/// Where a member of a batch stands.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub batch: &'a str,
    /// From 1.
    pub number: usize,
    pub of: usize,
}

/// The headers of an event as the client wants them.
pub(super) fn headers(delivery: &Delivery) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in &delivery.headers {
        // Names and values that the protocol can not carry were left out when the event came in.
        map.append(name.as_str(), value.as_str());
    }
    map
}

pub(super) async fn alone(client: &Client, delivery: &Delivery, reply: String) -> Result<(), PublishError> {
    let (subject, payload) = (delivery.target.clone(), delivery.payload.clone());
    if delivery.headers.is_empty() {
        client.publish_with_reply(subject, reply, payload).await
    } else {
        client.publish_with_reply_and_headers(subject, reply, headers(delivery), payload).await
    }
}

pub(super) async fn member(
    client: &Client,
    delivery: &Delivery,
    ingest: Ingest,
    inbox: &str,
    place: Place<'_>,
) -> Result<(), PublishError> {
    let (subject, payload) = (delivery.target.clone(), delivery.payload.clone());
    let mut headers = headers(delivery);
    let last = place.number == place.of;
    if ingest == Ingest::Fast {
        let operation = match place.number {
            1 => 0,
            _ if last => 2,
            _ => 1,
        };
        let reply = format!("{inbox}.{}.1000.fail.{}.{operation}.$FI", place.batch, place.number);
        if headers.is_empty() {
            return client.publish_with_reply(subject, reply, payload).await;
        }
        return client.publish_with_reply_and_headers(subject, reply, headers, payload).await;
    }
    headers.insert("Nats-Batch-Id", place.batch);
    headers.insert("Nats-Batch-Sequence", place.number.to_string().as_str());
    if last {
        headers.insert("Nats-Batch-Commit", "1");
        return client
            .publish_with_reply_and_headers(subject, format!("{inbox}.{}", place.batch), headers, payload)
            .await;
    }
    client.publish_with_headers(subject, headers, payload).await
}

/// What an event needs of the most that the mesh takes.
pub(super) fn size(delivery: &Delivery) -> usize {
    let headers: usize = delivery.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    delivery.payload.len() + headers + PROTOCOL_ROOM
}

pub(super) fn too_large(most: usize) -> String {
    format!(
        "the event is larger than the mesh takes (maxPayload is {most} bytes, {PROTOCOL_ROOM} of them for the protocol); raise the mesh's maxPayload, or give the route a dead letter Topic"
    )
}
