//! Links between meshes of two clusters, or of two namespaces, judged by what each mesh has stored.

mod cases;
mod count;
mod world;

pub use cases::{Outage, Plan, all};
pub use count::{Row, judge};
pub use world::{SITES, World};
