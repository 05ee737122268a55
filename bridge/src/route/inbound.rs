//! Events from outside into the mesh.

use std::sync::Arc;

use bytes::Bytes;
use eventmesh_wire::address::InboundMap;
use eventmesh_wire::config::{BridgeConfig, Guarantee, InboundRoute, Ordering};
use eventmesh_wire::names::{HEADER_BRIDGE, PROPERTY_BRIDGE};

use super::{Expressions, Verdict, may_cross};
use crate::books::{Books, Outcome};
use crate::cloudevents;
use crate::dead_letter::{self, DeadLetters};
use crate::event::{Delivery, Headers, Receipt, Sink as _, header};
use crate::mesh::Mesh;
use crate::mesh::publish::{Publisher, Settings};

/// An event as an endpoint took it, in the mesh's words (see [`crate::cloudevents`]).
pub struct Incoming<'a> {
    /// Where it came from, in the endpoint's own syntax.
    pub address: &'a str,
    pub headers: Headers,
    pub payload: Bytes,
    /// What identifies it at its source, where the source gives each event an identity.
    pub identity: Option<String>,
}

/// A running inbound route.
pub struct Inbound {
    pub config: InboundRoute,
    pub map: InboundMap,
    pub books: Arc<Books>,
    expressions: Expressions,
    uid: String,
    dead_letters: Option<Arc<DeadLetters>>,
    publisher: Publisher,
}

impl Inbound {
    /// # Errors
    /// What `validate` would have found.
    pub fn start(config: &InboundRoute, bridge: &BridgeConfig, books: Arc<Books>, mesh: Mesh) -> anyhow::Result<Self> {
        let dead_letters = config
            .dead_letter_subject
            .clone()
            .map(|subject| Arc::new(DeadLetters { subject, books: Arc::clone(&books) }));
        let settings = Settings {
            stream: config.stream.clone(),
            ingest: config.ingest,
            window: bridge.delivery.max_in_flight as usize,
            retry: bridge.delivery.retry,
            ordered: bridge.delivery.ordering == Ordering::PerSource,
            at_most_once: bridge.delivery.guarantee == Guarantee::AtMostOnce,
            dead_letters: dead_letters.clone(),
        };
        Ok(Self {
            map: InboundMap::new(bridge.endpoint.syntax(), &config.from, &config.to)?,
            expressions: Expressions::compile(
                config.filter.as_deref(),
                config.transform.as_deref(),
                bridge.delivery.evaluation_errors,
            )?,
            uid: bridge.bridge.uid.clone(),
            publisher: Publisher::start(mesh, Arc::clone(&books), settings),
            config: config.clone(),
            books,
            dead_letters,
        })
    }

    /// Takes an event: filters and changes it as the route says, and sends it on its way.
    pub fn accept(&self, event: Incoming<'_>, receipt: Receipt, mesh: &Mesh) {
        let Incoming { address, mut headers, mut payload, identity } = event;
        if header(&headers, PROPERTY_BRIDGE) == Some(self.uid.as_str()) {
            return receipt.settle(Outcome::Filtered);
        }
        let (target, mut problem) = match self.map.map(address) {
            Some(Ok(subject)) => (subject, None),
            Some(Err(error)) => (String::new(), Some(error.to_string())),
            // An endpoint asks the route first; its own rules of what matches may be wider.
            None => return receipt.settle(Outcome::Filtered),
        };
        if let Err(unreadable) = cloudevents::unwrap_structured(&mut headers, &mut payload) {
            problem = Some(unreadable);
        } else {
            match self.expressions.apply(address, &mut headers, &mut payload, &self.books) {
                Verdict::Pass => {}
                Verdict::Unclear(error) if self.dead_letters.is_some() => problem = Some(error),
                Verdict::Filtered | Verdict::Unclear(_) => return receipt.settle(Outcome::Filtered),
            }
        }
        let headers = self.headers(&headers, identity);
        let origin = address.to_owned();
        let mut delivery = Delivery { origin, target, headers, payload, route: None, sequence: 0, tries: 0, receipt };
        match (problem, &self.dead_letters) {
            (None, _) => self.publisher.send(delivery),
            (Some(problem), Some(dead_letters)) => {
                self.books.note(&problem);
                dead_letter::spawn(Arc::clone(dead_letters), mesh.clone(), delivery, problem);
            }
            (Some(problem), None) if delivery.receipt.at_most_once() => {
                self.books.note(problem);
                delivery.receipt.settle(Outcome::Dropped);
            }
            (Some(problem), None) => {
                // Nothing will ever make this event fit, and losing it is not ours to decide.
                delivery.receipt.held_up(&format!("{problem}; give the route a dead letter Topic"));
                self.publisher.hold(delivery);
            }
        }
    }

    fn headers(&self, incoming: &Headers, identity: Option<String>) -> Headers {
        let mut headers: Headers = Vec::with_capacity(incoming.len() + 2);
        headers.push((HEADER_BRIDGE.to_owned(), self.uid.clone()));
        if let Some(id) = self.identity(incoming).or(identity) {
            headers.push(("Nats-Msg-Id".to_owned(), id));
        }
        headers.extend(incoming.iter().filter(|(name, value)| may_cross(name, value)).cloned());
        headers
    }

    /// What identifies the event: the header that the user names, else its CloudEvents source and id.
    fn identity(&self, headers: &Headers) -> Option<String> {
        let usable = |id: &String| !id.is_empty() && !id.contains(['\r', '\n', '\0']);
        let named = self.config.id_header.as_deref().and_then(|name| header(headers, name)).map(str::to_owned);
        named.filter(usable).or_else(|| cloudevents::identity(headers)).filter(usable)
    }
}
