//! The far side of a link of the mesh as endpoint.

use serde::{Deserialize, Serialize};

/// The far side of a link, where Topics with `spec.mirror` keep copies. It is reached over the connection to the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LinkEndpoint {
    /// Name that this side has for the link.
    pub name: String,
}
