//! Who can have an identity in a mesh.

use std::fmt;

use eventmesh_crds::{Bridge, Subscription};

use crate::cache::namespaced;

/// One that connects to the brokers under its own name. Each has an account of its own there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// All pods that run as this ServiceAccount.
    ServiceAccount { namespace: String, name: String },
    /// The pods of a Bridge.
    Bridge { namespace: String, name: String },
    /// An entry of `clients` of the EventMesh, outside Kubernetes.
    Client { name: String },
    /// The same where it speaks MQTT, by which it is in an account with the others that do.
    Mqtt { name: String },
    /// A link to another mesh: the brokers of the other side, where they dial.
    Link { name: String },
}

/// The ServiceAccount that reads a Subscription which names no subscriber.
pub const DEFAULT_SERVICE_ACCOUNT: &str = "default";

impl Party {
    #[must_use]
    pub fn of_bridge(bridge: &Bridge) -> Self {
        let (namespace, name) = namespaced(bridge);
        Self::Bridge { namespace, name }
    }

    /// Who reads a Subscription.
    #[must_use]
    pub fn of_subscription(subscription: &Subscription) -> Self {
        let (namespace, _) = namespaced(subscription);
        let subscriber = subscription.spec.subscriber.clone().unwrap_or_default();
        match (subscriber.client, subscriber.service_account) {
            (Some(name), _) => Self::Client { name },
            (None, Some(name)) => Self::ServiceAccount { namespace, name },
            (None, None) => Self::ServiceAccount { namespace, name: DEFAULT_SERVICE_ACCOUNT.to_owned() },
        }
    }

    /// The namespace it lives in; a client lives in none.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::ServiceAccount { namespace, .. } | Self::Bridge { namespace, .. } => Some(namespace),
            Self::Client { .. } | Self::Mqtt { .. } | Self::Link { .. } => None,
        }
    }
}

/// As it is written in accounts and in the operator's record; names of Kubernetes hold no `/`.
impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceAccount { namespace, name } => write!(f, "serviceaccount/{namespace}/{name}"),
            Self::Bridge { namespace, name } => write!(f, "bridge/{namespace}/{name}"),
            Self::Client { name } => write!(f, "client/{name}"),
            Self::Mqtt { name } => write!(f, "mqtt/{name}"),
            Self::Link { name } => write!(f, "link/{name}"),
        }
    }
}
