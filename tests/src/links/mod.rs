//! Links between meshes of two clusters, judged by what each mesh has stored.

mod cases;
mod count;
mod world;

pub use cases::{Plan, all};
pub use count::Row;
pub use world::World;
