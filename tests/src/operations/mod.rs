//! What operations do to a mesh under a steady load: a row an operation, judged from what was acknowledged and what is stored.

pub mod load;
mod rows;
mod trial;

pub use rows::OPERATIONS;
pub use trial::{Operation, Row, Trial, head, judge};
