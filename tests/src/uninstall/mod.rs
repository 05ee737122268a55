//! What becomes of events, and of everything else, when the operator and its objects are taken off a cluster in each order.

mod orders;
mod trial;

pub use orders::ORDERS;
pub use trial::{Order, Row, Trial, head, judge};
