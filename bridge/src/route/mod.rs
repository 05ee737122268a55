//! Routes: what is done to each event between its source and its sink, the same for every kind of endpoint.

pub mod dispatch;
pub mod inbound;
pub mod outbound;

use bytes::Bytes;
use eventmesh_wire::config::EvaluationErrors;
use eventmesh_wire::event::EventView;
use eventmesh_wire::expression::{Filter, Transform};

use crate::books::Books;
use crate::cloudevents::CONTENT_TYPE;
use crate::event::{Headers, header};

/// What the expressions of a route say about an event.
pub(crate) enum Verdict {
    Pass,
    Filtered,
    /// They gave no answer; this is why, and the event is to be a dead letter where there are dead letters.
    Unclear(String),
}

/// The expressions of a route, compiled once.
pub(crate) struct Expressions {
    filter: Option<Filter>,
    transform: Option<Transform>,
    errors: EvaluationErrors,
}

impl Expressions {
    pub(crate) fn compile(
        filter: Option<&str>,
        transform: Option<&str>,
        errors: EvaluationErrors,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            filter: filter.map(Filter::compile).transpose()?,
            transform: transform.map(Transform::compile).transpose()?,
            errors,
        })
    }

    /// Whether the event passes; the transform's work is done on it when it does.
    pub(crate) fn apply(&self, address: &str, headers: &mut Headers, data: &mut Bytes, books: &Books) -> Verdict {
        if let Some(filter) = &self.filter {
            match filter.passes(&view(address, headers, data)) {
                Ok(true) => {}
                Ok(false) => return Verdict::Filtered,
                Err(error) => return self.unclear(&error.to_string(), books),
            }
        }
        if let Some(transform) = &self.transform {
            let transformed = match transform.apply(&view(address, headers, data)) {
                Ok(transformed) => transformed,
                Err(error) => return self.unclear(&error.to_string(), books),
            };
            if let Some(content_type) = transformed.content_type {
                headers.retain(|(name, _)| !name.eq_ignore_ascii_case(CONTENT_TYPE));
                headers.push((CONTENT_TYPE.to_owned(), content_type.to_owned()));
            }
            *data = transformed.data.into();
        }
        Verdict::Pass
    }

    fn unclear(&self, problem: &str, books: &Books) -> Verdict {
        books.note(problem);
        match self.errors {
            EvaluationErrors::DeadLetter => Verdict::Unclear(problem.to_owned()),
            EvaluationErrors::Filter => Verdict::Filtered,
        }
    }
}

/// The event as expressions see it.
fn view<'e>(address: &'e str, headers: &'e Headers, data: &'e [u8]) -> EventView<'e> {
    let attribute = |name: &str| header(headers, name).unwrap_or_default();
    EventView {
        id: attribute("ce-id"),
        source: attribute("ce-source"),
        kind: attribute("ce-type"),
        time: attribute("ce-time"),
        subject: address,
        headers,
        data,
    }
}

/// Whether a header may cross: it is expressible on both sides, and reserved to neither the broker nor the mesh.
pub(crate) fn may_cross(name: &str, value: &str) -> bool {
    let expressible = !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
        && !value.contains(['\r', '\n', '\0']);
    let begins = |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    expressible && !begins("nats-") && !begins("em-")
}
