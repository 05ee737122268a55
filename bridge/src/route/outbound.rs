//! Events from the mesh to outside.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::Message;
use eventmesh_wire::address::OutboundMap;
use eventmesh_wire::config::{BridgeConfig, Guarantee, Ordering, OutboundRoute};
use eventmesh_wire::names::{HEADER_BRIDGE, PROPERTY_BRIDGE};

use super::{Expressions, Verdict, may_cross};
use crate::books::{Books, Outcome};
use crate::dead_letter::{self, DeadLetters};
use crate::event::{Delivery, Headers, Receipt, Sink, header, headers_of};
use crate::mesh::Mesh;

/// What a running outbound route does to each event.
pub struct Outbound {
    pub config: Arc<OutboundRoute>,
    pub books: Arc<Books>,
    pub guarantee: Guarantee,
    pub ordering: Ordering,
    map: OutboundMap,
    expressions: Expressions,
    uid: String,
}

impl Outbound {
    /// # Errors
    /// What `validate` would have found.
    pub fn new(config: &OutboundRoute, bridge: &BridgeConfig, books: Arc<Books>) -> anyhow::Result<Self> {
        Ok(Self {
            map: OutboundMap::new(bridge.endpoint.syntax(), &config.subjects, &config.to)?,
            expressions: Expressions::compile(
                config.filter.as_deref(),
                config.transform.as_deref(),
                bridge.delivery.evaluation_errors,
            )?,
            uid: bridge.bridge.uid.clone(),
            config: Arc::new(config.clone()),
            books,
            guarantee: bridge.delivery.guarantee,
            ordering: bridge.delivery.ordering,
        })
    }

    /// Filters an event, or sends it on its way.
    pub fn accept(
        &self,
        message: &Message,
        sequence: u64,
        receipt: Receipt,
        sink: &dyn Sink,
        targets: &OutboundTargets,
        mesh: &Mesh,
    ) {
        let subject = message.subject.as_str();
        let (mut incoming, mut payload) = (headers_of(message), message.payload.clone());
        if header(&incoming, HEADER_BRIDGE) == Some(self.uid.as_str()) {
            return receipt.settle(Outcome::Filtered);
        }
        let mut problem = match self.expressions.apply(subject, &mut incoming, &mut payload, &self.books) {
            Verdict::Pass => None,
            Verdict::Unclear(error) if self.config.dead_letter_subject.is_some() => Some(error),
            Verdict::Filtered | Verdict::Unclear(_) => return receipt.settle(Outcome::Filtered),
        };
        let target = match self.map.map(subject) {
            Some(Ok(topic)) => topic,
            Some(Err(error)) => {
                problem = Some(error.to_string());
                String::new()
            }
            // The consumer's filter and the route's subjects are the same, unless someone edited the consumer.
            None => return receipt.settle(Outcome::Filtered),
        };
        let mut headers: Headers = incoming.into_iter().filter(|(name, value)| may_cross(name, value)).collect();
        headers.push((PROPERTY_BRIDGE.to_owned(), self.uid.clone()));
        let delivery = Delivery {
            origin: subject.to_owned(),
            target,
            headers,
            payload,
            route: Some(Arc::clone(&self.config)),
            sequence,
            tries: 0,
            receipt,
        };
        match problem {
            None => sink.send(delivery),
            Some(problem) => {
                // Nothing will ever make this address fit, and losing the event is not ours to decide.
                if let Some(delivery) = targets.undeliverable(mesh, delivery, &problem) {
                    targets.hold(delivery);
                }
            }
        }
    }
}

/// What becomes of events that the endpoint does not take, by route.
#[derive(Default)]
pub struct OutboundTargets {
    dead_letters: Mutex<BTreeMap<String, Arc<DeadLetters>>>,
    /// Events that nothing can deliver, by route: kept until the route changes, so that their source is not told otherwise.
    held: Mutex<BTreeMap<String, Vec<Delivery>>>,
}

impl OutboundTargets {
    pub fn set(&self, route: &OutboundRoute, books: &Arc<Books>) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&route.name);
        let mut all = self.dead_letters.lock().unwrap_or_else(PoisonError::into_inner);
        match route.dead_letter_subject.clone() {
            Some(subject) => {
                all.insert(route.name.clone(), Arc::new(DeadLetters { subject, books: Arc::clone(books) }))
            }
            None => all.remove(&route.name),
        };
    }

    /// To the dead letters. Without them it is dropped where that was asked for, and else given back to the caller: the
    /// route is blocked until it is settled.
    pub fn undeliverable(&self, mesh: &Mesh, mut delivery: Delivery, problem: &str) -> Option<Delivery> {
        let books = Arc::clone(delivery.receipt.books());
        let dead_letters = self.dead_letters.lock().unwrap_or_else(PoisonError::into_inner).get(&books.name).cloned();
        if let Some(dead_letters) = dead_letters {
            books.note(problem);
            dead_letter::spawn(dead_letters, mesh.clone(), delivery, problem.to_owned());
        } else if delivery.receipt.at_most_once() {
            books.note(problem);
            delivery.receipt.settle(Outcome::Dropped);
        } else {
            delivery
                .receipt
                .held_up(&format!("{problem}; give the route a dead letter Topic, or raise the broker's limit"));
            return Some(delivery);
        }
        None
    }

    fn hold(&self, delivery: Delivery) {
        let route = delivery.receipt.books().name.clone();
        self.held.lock().unwrap_or_else(PoisonError::into_inner).entry(route).or_default().push(delivery);
    }
}
