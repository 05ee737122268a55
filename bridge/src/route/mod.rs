//! Routes: what is done to each event between its source and its sink, the same for every kind of endpoint.

pub mod inbound;
pub mod outbound;

use eventmesh_wire::event::EventView;
use eventmesh_wire::filter::Filter;

use crate::books::Books;
use crate::event::{Headers, header};

/// What a filter says about an event.
pub(crate) enum Verdict {
    Pass,
    Filtered,
    /// It gave no answer; this is why.
    Unclear(String),
}

pub(crate) fn judge(filter: Option<&Filter>, subject: &str, headers: &Headers, data: &[u8], books: &Books) -> Verdict {
    let Some(filter) = filter else { return Verdict::Pass };
    let attribute =
        |name: &str, prefixed: &str| header(headers, name).or_else(|| header(headers, prefixed)).unwrap_or_default();
    let event = EventView {
        id: attribute("id", "ce-id"),
        source: attribute("source", "ce-source"),
        kind: attribute("type", "ce-type"),
        time: attribute("time", "ce-time"),
        subject,
        headers,
        data,
    };
    match filter.passes(&event) {
        Ok(true) => Verdict::Pass,
        Ok(false) => Verdict::Filtered,
        Err(error) => {
            books.note(error.to_string());
            Verdict::Unclear(error.to_string())
        }
    }
}

/// Whether a header may cross: it is expressible on both sides, and reserved to neither the broker nor the mesh.
pub(crate) fn may_cross(name: &str, value: &str) -> bool {
    let expressible = !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
        && !value.contains(['\r', '\n', '\0']);
    let lower = name.to_ascii_lowercase();
    expressible && !lower.starts_with("nats-") && !lower.starts_with("em-")
}
