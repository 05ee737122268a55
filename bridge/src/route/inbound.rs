//! Events from outside into the mesh.

use std::sync::Arc;

use eventmesh_wire::address::{InboundMap, Unmappable};
use eventmesh_wire::config::{BridgeConfig, Guarantee, InboundRoute};
use eventmesh_wire::filter::Filter;
use eventmesh_wire::names::{HEADER_BRIDGE, PROPERTY_BRIDGE};

use super::{Verdict, judge, may_cross};
use crate::books::{Books, Outcome};
use crate::dead_letter::{self, DeadLetters};
use crate::endpoint::mqtt::client::Publication;
use crate::event::{Delivery, Headers, Receipt, Sink as _, header};
use crate::mesh::Mesh;
use crate::mesh::publish::{Publisher, Settings};

/// A running inbound route.
pub struct Inbound {
    pub config: InboundRoute,
    pub map: InboundMap,
    pub books: Arc<Books>,
    filter: Option<Filter>,
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
            at_most_once: bridge.delivery.guarantee == Guarantee::AtMostOnce,
            dead_letters: dead_letters.clone(),
        };
        Ok(Self {
            map: InboundMap::new(&config.from, &config.to)?,
            filter: config.filter.as_deref().map(Filter::compile).transpose()?,
            uid: bridge.bridge.uid.clone(),
            publisher: Publisher::start(mesh, Arc::clone(&books), settings),
            config: config.clone(),
            books,
            dead_letters,
        })
    }

    /// Takes an event: filters it, or sends it on its way.
    pub fn accept(
        &self,
        topic: &str,
        mapped: Result<String, Unmappable>,
        publication: &Publication,
        receipt: Receipt,
        mesh: &Mesh,
    ) {
        if header(&publication.headers, PROPERTY_BRIDGE) == Some(self.uid.as_str()) {
            return receipt.settle(Outcome::Filtered);
        }
        let (target, mut problem) = match mapped {
            Ok(subject) => (subject, None),
            Err(error) => (String::new(), Some(error.to_string())),
        };
        match judge(self.filter.as_ref(), topic, &publication.headers, &publication.payload, &self.books) {
            Verdict::Pass => {}
            Verdict::Unclear(error) if self.dead_letters.is_some() => problem = Some(error),
            Verdict::Filtered | Verdict::Unclear(_) => return receipt.settle(Outcome::Filtered),
        }
        let headers = self.headers(&publication.headers);
        let payload = publication.payload.clone();
        let mut delivery =
            Delivery { origin: topic.to_owned(), target, headers, payload, retain: false, tries: 0, receipt };
        match (problem, &self.dead_letters) {
            (None, _) => self.publisher.send(delivery),
            (Some(problem), Some(dead_letters)) => {
                dead_letter::spawn(Arc::clone(dead_letters), mesh.clone(), delivery, problem);
            }
            (Some(problem), None) if delivery.receipt.at_most_once() => {
                self.books.note(problem);
                delivery.receipt.settle(Outcome::Dropped);
            }
            (Some(problem), None) => {
                // Nothing will ever make this address fit, and losing the event is not ours to decide.
                delivery.receipt.held_up(&format!("{problem}; give the route a dead letter Topic"));
                self.publisher.hold(delivery);
            }
        }
    }

    fn headers(&self, incoming: &Headers) -> Headers {
        let mut headers: Headers = Vec::with_capacity(incoming.len() + 2);
        headers.push((HEADER_BRIDGE.to_owned(), self.uid.clone()));
        if let Some(id) = self.identity(incoming) {
            headers.push(("Nats-Msg-Id".to_owned(), id));
        }
        headers.extend(incoming.iter().filter(|(name, value)| may_cross(name, value)).cloned());
        headers
    }

    /// What identifies the event: the header that the user names, else its CloudEvents source and id.
    fn identity(&self, headers: &Headers) -> Option<String> {
        let usable = |id: &String| !id.is_empty() && !id.contains(['\r', '\n', '\0']);
        let named = self.config.id_header.as_deref().and_then(|name| header(headers, name)).map(str::to_owned);
        let event = || {
            header(headers, "specversion")?;
            Some(format!("{}#{}", header(headers, "source")?, header(headers, "id")?))
        };
        named.filter(usable).or_else(event).filter(usable)
    }
}
