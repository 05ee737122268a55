//! Dead letters: an event that can not be delivered, stored with the reason, in parts when it is larger than a message.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream;
use bytes::Bytes;
use jiff::Timestamp;

use crate::backoff::Backoff;
use crate::books::{Books, Outcome};
use crate::event::Delivery;
use crate::mesh::Mesh;

/// Room for the headers that explain a dead letter.
const HEADER_ROOM: usize = 8 * 1024;

/// Where the dead letters of one route go.
pub struct DeadLetters {
    pub subject: String,
    pub books: Arc<Books>,
}

/// Stores the event as a dead letter, however long it takes, and settles it then.
pub fn spawn(dead_letters: Arc<DeadLetters>, mesh: Mesh, mut delivery: Delivery, cause: String) {
    let abandoned = mesh.clone();
    let store = async move {
        let letters = letters(&dead_letters, &delivery, &cause, mesh.client.max_payload());
        let context = jetstream::new(mesh.client.clone());
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        for (headers, payload) in letters {
            loop {
                mesh.until_open().await;
                let pass = mesh.pass();
                let sent =
                    context.publish_with_headers(dead_letters.subject.clone(), headers.clone(), payload.clone()).await;
                let stored = match sent {
                    Ok(acknowledged) => acknowledged.await.map(drop),
                    Err(error) => Err(error),
                };
                drop(pass);
                let Err(error) = stored else { break };
                let message = format!("can not store a dead letter at `{}`: {error}", dead_letters.subject);
                delivery.receipt.held_up(&message);
                tokio::time::sleep(backoff.next_wait()).await;
            }
        }
        delivery.receipt.settle(Outcome::DeadLettered);
    };
    tokio::spawn(async move {
        tokio::select! {
            () = store => {},
            // The event is given back.
            () = abandoned.abandoned() => {},
        }
    });
}

/// One message, or several parts that make up the payload in order.
fn letters(
    dead_letters: &DeadLetters,
    delivery: &Delivery,
    cause: &str,
    max_payload: usize,
) -> Vec<(HeaderMap, Bytes)> {
    let mut headers = HeaderMap::new();
    let own: usize = delivery.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    // De-duplication belongs to the stream the event was meant for; here it would swallow parts.
    let kept = delivery
        .headers
        .iter()
        .filter(|(name, _)| own < HEADER_ROOM / 2 && !name.to_ascii_lowercase().starts_with("nats-"));
    for (name, value) in kept {
        headers.append(name.as_str(), value.as_str());
    }
    let cause: String =
        cause.chars().map(|character| if character.is_control() { ' ' } else { character }).take(1024).collect();
    headers.insert("Em-Dead-Cause", cause.as_str());
    headers.insert("Em-Dead-Route", dead_letters.books.name.as_str());
    headers.insert("Em-Dead-Tries", delivery.tries.to_string().as_str());
    headers.insert("Em-Dead-Time", Timestamp::now().to_string().as_str());
    headers.insert("Em-Dead-Origin", header_text(&delivery.origin).as_str());
    let most = max_payload.saturating_sub(HEADER_ROOM).max(1024);
    let parts = delivery.payload.len().div_ceil(most).max(1);
    (0..parts)
        .map(|index| {
            let mut headers = headers.clone();
            if parts > 1 {
                headers.insert("Em-Part", format!("{}/{parts}", index + 1).as_str());
            }
            let end = delivery.payload.len().min((index + 1) * most);
            (headers, delivery.payload.slice(index * most..end))
        })
        .collect()
}

/// An address as a header can carry it.
fn header_text(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(1024).collect()
}

#[cfg(test)]
mod tests {
    use eventmesh_wire::config::Guarantee;
    use eventmesh_wire::report::Direction;

    use super::*;
    use crate::event::{Acknowledge, Receipt};

    struct Nothing;

    impl Acknowledge for Nothing {
        fn confirm(&mut self) {}
        fn give_back(&mut self) {}
    }

    #[test]
    fn a_large_event_is_kept_whole_in_parts() {
        let books = Arc::new(Books::new("r", Direction::Inbound));
        let payload: Bytes = (0..40_000_u32).map(|number| (number % 251) as u8).collect();
        let delivery = Delivery {
            origin: "a/b".into(),
            target: "a.b".into(),
            headers: vec![("Nats-Msg-Id".into(), "1".into()), ("k".into(), "v".into())],
            payload: payload.clone(),
            route: None,
            sequence: 0,
            tries: 2,
            receipt: Receipt::new(&books, Box::new(Nothing), Guarantee::AtLeastOnce),
        };
        let parts = letters(&DeadLetters { subject: "dead".into(), books }, &delivery, "too\nlarge", 24 * 1024);
        let joined: Vec<u8> = parts.iter().flat_map(|(_, part)| part.to_vec()).collect();
        assert_eq!(joined, payload);
        assert_eq!(parts.len(), 3);
        let first = &parts[0].0;
        assert_eq!(first.get("Em-Part").unwrap().as_str(), "1/3");
        assert_eq!(first.get("Em-Dead-Cause").unwrap().as_str(), "too large");
        assert_eq!(first.get("k").unwrap().as_str(), "v");
        assert!(first.get("Nats-Msg-Id").is_none());
    }
}
