//! One connection from CONNECT to its end: subscriptions, events in, acknowledgements out.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use eventmesh_wire::config::Guarantee;
use tokio::time::Instant;

use super::Shared;
use super::client::{Client, GOODBYE, LinkError, Publication, Signal};
use crate::books::Obstacle;
use crate::cloudevents;
use crate::event::{Acknowledge as _, Receipt};
use crate::ledger::{Entered, Fingerprint};
use crate::route::inbound::Incoming;

/// Runs until the connection is lost (`Err`), must be renewed or is to stop (`Ok`).
pub(super) async fn run<C: Client>(shared: &Arc<Shared>) -> Result<(), LinkError> {
    let (client, mut event_loop) = C::new(&shared.options);
    let ended = serve(shared, &client, &mut event_loop).await;
    shared.outlet.close();
    drop(event_loop);
    if ended == Ok(Ended::Goodbye) {
        let _ = tokio::time::timeout(2 * GOODBYE, client.closed()).await;
    }
    ended.map(drop)
}

/// How a connection ended that was not lost.
#[derive(PartialEq, Eq, Clone, Copy)]
enum Ended {
    Goodbye,
    ToBeRenewed,
}

async fn serve<C: Client>(shared: &Arc<Shared>, client: &C, event_loop: &mut C::EventLoop) -> Result<Ended, LinkError> {
    let mut routes = shared.routes.clone();
    let mut connected = false;
    let mut leaving: Option<Instant> = None;
    let (mut said_goodbye, mut acknowledged) = (false, 0_u64);
    let mut asked: Vec<String> = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    // A broker that keeps to the receive maximum never reaches this; for others reading stops, so that TCP holds them.
    let limit = usize::from(shared.options.max_in_flight) + 1;
    loop {
        if shared.ledger.waiting() >= limit && leaving.is_none() {
            tokio::select! {
                () = shared.ledger.below(limit) => {},
                () = shared.stop.cancelled() => {},
            }
        }
        let mut poll = pin!(C::poll(event_loop));
        let signal = loop {
            // DISCONNECT would overtake acknowledgements that the client still holds; what they confirm would come again.
            if leaving.is_some() && !said_goodbye && acknowledged >= shared.ledger.acknowledgements() {
                client.disconnect();
                said_goodbye = true;
            }
            tokio::select! {
                biased;
                signal = &mut poll => break match signal {
                    Err(_) if leaving.is_some() => return Ok(Ended::Goodbye),
                    signal => signal?,
                },
                () = shared.stop.cancelled(), if leaving.is_none() => {
                    leaving = Some(Instant::now() + 2 * GOODBYE);
                }
                () = tokio::time::sleep_until(leaving.unwrap_or_else(Instant::now)), if leaving.is_some() => return Ok(Ended::Goodbye),
                changed = routes.changed(), if connected => {
                    if changed.is_ok() {
                        asked = resubscribe(shared, client)?;
                    }
                }
                _ = tick.tick() => if shared.ledger.is_stuck() {
                    tracing::info!("renewing the MQTT connection so that events that were given back come again");
                    return Ok(Ended::ToBeRenewed);
                },
            }
        };
        match signal {
            Signal::Connected { session_present, max_packet } => {
                shared.ledger.connected(session_present, client.acknowledger());
                if !session_present {
                    shared.subscribed().clear();
                }
                routes.mark_unchanged();
                asked = resubscribe(shared, client)?;
                connected = true;
                tracing::info!(session_present, "the MQTT broker accepted the connection");
                shared.outlet.open(client.clone(), max_packet);
                shared.standing.up();
            }
            Signal::Publication(publication) => receive(shared, publication),
            Signal::Subscribed(answers) => note_answers(shared, &asked, &answers),
            Signal::Acknowledged => acknowledged += 1,
            Signal::Other => {}
        }
    }
}

/// Makes the session's subscriptions those of the routes. Returns the filters asked for.
fn resubscribe<C: Client>(shared: &Shared, client: &C) -> Result<Vec<String>, LinkError> {
    let wanted: BTreeSet<String> =
        shared.routes.borrow().iter().map(|route| route.map.from().as_str().to_owned()).collect();
    let mut subscribed = shared.subscribed();
    for old in subscribed.difference(&wanted) {
        client.unsubscribe(old)?;
    }
    let missing: Vec<String> = wanted.difference(&subscribed).cloned().collect();
    if !missing.is_empty() {
        client.subscribe(&missing, shared.guarantee == Guarantee::AtLeastOnce)?;
    }
    *subscribed = wanted;
    Ok(missing)
}

fn note_answers(shared: &Shared, asked: &[String], answers: &[Option<String>]) {
    let routes = shared.routes.borrow();
    for (filter, answer) in asked.iter().zip(answers) {
        for route in routes.iter().filter(|route| route.map.from().as_str() == filter) {
            match answer {
                Some(problem) => route.books.obstructed(Obstacle::Failed, format!("`{filter}`: {problem}")),
                None => route.books.clear(),
            }
        }
    }
}

fn receive(shared: &Shared, publication: Publication) {
    if shared.drain.is_cancelled() {
        return; // Not acknowledged, so the broker keeps it for the next connection.
    }
    let fingerprint = Fingerprint::of(&publication.topic, &publication.payload);
    let Entered::New(slot) = shared.ledger.enter(publication.packet, publication.redelivery, fingerprint) else {
        return;
    };
    let slot = Box::new(slot);
    // The topic of a broker that keeps to the protocol is UTF-8.
    let topic = String::from_utf8_lossy(&publication.topic);
    let routes = shared.routes.borrow();
    if let Some(route) = routes.iter().find(|route| route.map.from().matches(&topic)) {
        let headers = cloudevents::MQTT.to_mesh(publication.headers);
        let event = Incoming { address: &topic, headers, payload: publication.payload, identity: None };
        route.accept(event, Receipt::new(&route.books, slot, shared.guarantee), &shared.mesh);
    } else {
        // A subscription that an earlier configuration left behind in the session.
        tracing::debug!(%topic, "no route takes this topic any more");
        let mut slot = slot;
        slot.confirm();
    }
}
