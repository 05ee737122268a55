//! An AMQP broker as endpoint of a Bridge.

use kube::{KubeSchema, core::Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Credentials, EndpointTls};
use crate::common::duration_schema;

/// An AMQP broker, of either of the two protocols of that name.
///
/// V091 (RabbitMQ and its like): an address is a queue, or `exchange/routing key`. `from: orders` reads an existing queue;
/// `from: amq.topic/line.*.temperature` reads a queue that the bridge makes for the route and binds to the exchange. `to:
/// orders` sends to a queue, `to: amq.topic/line.{1}.set` to an exchange.
/// V1 (ActiveMQ Artemis, Qpid, Azure Service Bus): an address is what the broker calls one, without wildcards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(self.tls) || self.url.startsWith('amqps://')").message("`tls` needs a url that begins with amqps://"),
    validation = Rule::new("self.version != 'V1' || self.url.matches('^amqps?://[^/]+$')").message("AMQP 1.0 has no virtual hosts: leave out what follows the port"),
)]
#[serde(rename_all = "camelCase")]
pub struct AmqpEndpoint {
    /// Address, `amqp://host:5672` or, with TLS, `amqps://host:5671`. For V091 the virtual host may follow, as in
    /// `amqp://host:5672/shop`; default: `/`. A `/` in its name is written `%2F`.
    #[schemars(length(min = 8, max = 512), regex(pattern = r"^amqps?://[^/@?#\s]+(/[^/@?#\s]+)?$"))]
    pub url: String,
    /// V091 or V1: two protocols that have little but the name in common. RabbitMQ speaks V091, and V1 from version 4.
    pub version: AmqpVersion,
    /// Interval of heartbeats; after twice this time in silence each side takes the other for dead. Default: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub heartbeat: Option<Duration>,
    /// Events of an inbound route that the broker hands out before one is acknowledged. Default: `delivery.maxInFlight`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub prefetch: Option<i32>,
    /// User name and password. Without them the client certificate of `tls` says who the bridge is (SASL EXTERNAL), and
    /// without that nobody does (ANONYMOUS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Certificates of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<EndpointTls>,
}

/// Version of the AMQP protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AmqpVersion {
    V091,
    V1,
}

impl AmqpEndpoint {
    pub(super) fn secret_names(&self) -> Vec<&str> {
        let credentials = self.credentials.iter().map(|credentials| credentials.secret.name.as_str());
        credentials.chain(self.tls.iter().map(|tls| tls.secret.name.as_str())).collect()
    }
}
