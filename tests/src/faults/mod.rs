//! What brokers do that are paused, have a full volume or a spoilt store, while events are published: a row a fault, judged
//! from what was acknowledged and what is stored, by every copy.

mod copies;
mod rows;
mod trial;

pub use rows::FAULTS;
pub use trial::{Fault, Row, Trial, head, judge};
