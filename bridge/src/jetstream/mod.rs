//! Reading a durable pull consumer, whoever's it is: one of the mesh, or one of another NATS system.

mod answer;
mod held;
mod pull;
mod pulls;
mod rewind;

pub use answer::{answer, begun};
pub use held::{Held, Place, Told};
pub use pull::PullError;
pub use pulls::Pulls;
pub use rewind::{rewind, until_nobody_asks};

/// What the `JetStream` API says is wrong.
#[derive(Debug, Default, serde::Deserialize)]
pub struct ApiError {
    #[serde(default)]
    pub err_code: u64,
    #[serde(default)]
    pub description: String,
}
