//! The configuration file of a bridge pod: what the operator renders into a Secret and the data plane reads.
//!
//! It is complete and concrete: names are resolved, credentials are inline, defaults are filled in by the operator. It owns
//! the shape only; what a shape must hold to be usable is in [`crate::validate`]. One file a kind of endpoint.

mod amqp;
pub mod http;
mod kafka;
mod lease;
mod link;
mod mqtt;
mod nats;
pub mod sidecar;

pub use amqp::{AmqpEndpoint, AmqpVersion};
pub use http::HttpEndpoint;
pub use kafka::{KafkaEndpoint, KafkaSasl, SaslMechanism, StartFrom};
pub use lease::LeaseConfig;
pub use link::LinkEndpoint;
pub use mqtt::{MqttEndpoint, MqttVersion};
pub use nats::{NatsCredentials, NatsEndpoint, NatsJetStream};
use serde::{Deserialize, Serialize};

use crate::address::{self, Syntax};
use crate::secret::Secret;

/// The only version of the file there is.
pub const CONFIG_VERSION: u32 = 1;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BridgeConfig {
    /// Always [`CONFIG_VERSION`].
    pub version: u32,
    pub bridge: BridgeIdentity,
    pub mesh: MeshConfig,
    pub endpoint: EndpointConfig,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inbound: Vec<InboundRoute>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outbound: Vec<OutboundRoute>,
    #[serde(default)]
    pub delivery: DeliveryConfig,
    #[serde(default)]
    pub state: DesiredState,
    /// Absent: this process need not ask anybody before it carries events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseConfig>,
    /// Seconds between two reports when nothing changes.
    #[serde(default = "default_report_interval")]
    pub report_interval_seconds: u32,
}

fn default_report_interval() -> u32 {
    5
}

/// Which Bridge object this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BridgeIdentity {
    pub namespace: String,
    pub name: String,
    /// The object's uid: the mark by which a bridge knows its own events.
    pub uid: String,
}

/// How to reach the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshConfig {
    /// `nats://host:port` or `tls://host:port`, at least one.
    pub servers: Vec<String>,
    /// As whom; absent only where the mesh asks nobody, as in tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<MeshCredentials>,
    /// The certificate authorities to trust, in PEM; absent: those of the public web.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
}

/// A user of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshCredentials {
    /// The token that the brokers verify.
    pub jwt: Secret,
    /// The seed of the user's key, by which it answers the brokers' challenge.
    pub seed: Secret,
}

/// The outside system; exactly one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EndpointConfig {
    Http(HttpEndpoint),
    Kafka(KafkaEndpoint),
    Mqtt(MqttEndpoint),
    Amqp(AmqpEndpoint),
    Nats(NatsEndpoint),
    Link(LinkEndpoint),
}

impl EndpointConfig {
    /// The kind in one word, as the API names it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Kafka(_) => "kafka",
            Self::Mqtt(_) => "mqtt",
            Self::Amqp(_) => "amqp",
            Self::Nats(_) => "nats",
            Self::Link(_) => "link",
        }
    }

    /// How addresses of this endpoint are written.
    #[must_use]
    pub const fn syntax(&self) -> &'static Syntax {
        match self {
            Self::Http(_) => &address::HTTP,
            Self::Kafka(_) => &address::KAFKA,
            Self::Mqtt(_) => &address::MQTT,
            Self::Amqp(amqp) => match amqp.version {
                AmqpVersion::V091 => &address::AMQP_091,
                AmqpVersion::V1 => &address::AMQP_1,
            },
            Self::Nats(_) | Self::Link(_) => &address::NATS,
        }
    }
}

/// TLS towards the endpoint, all in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate authorities to trust; absent: those of the public web.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert_pem: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key_pem: Option<Secret>,
    /// The name to find in the broker's certificate when it is not the host of the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// Events from outside into the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InboundRoute {
    pub name: String,
    /// An address in the endpoint's own syntax; for MQTT a topic filter.
    pub from: String,
    /// A mesh subject; `{n}` stands for the n-th wildcard of `from`.
    pub to: String,
    /// CEL over the `CloudEvents` view of the event; only events for which it is true pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// CEL over the same view; what it yields is the event's new data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transform: Option<String>,
    /// The header (MQTT 5: user property) that identifies an event. It becomes the de-duplication id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_header: Option<String>,
    /// The stream that stores `to`. A publish that another stream would take is refused by the broker.
    pub stream: String,
    #[serde(default)]
    pub ingest: Ingest,
    /// Where events go that can not be delivered. Absent: such an event holds the route up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter_subject: Option<String>,
}

/// How events are written to a stream. What the stream does not allow is done one by one instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ingest {
    /// One publish an event, many at once.
    #[default]
    Single,
    /// Atomic batches (stream setting `allow_atomic`): one disk sync a batch.
    Atomic,
    /// Fast ingest (stream setting `allow_batched`): one acknowledgement for many events. Only for a bridge in the account
    /// of the streams: across accounts brokers keep about 1 KiB an event for two minutes.
    Fast,
}

/// Events from the mesh to outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutboundRoute {
    pub name: String,
    pub stream: String,
    /// The durable pull consumer that the operator keeps for this route.
    pub consumer: String,
    /// The subject patterns the consumer filters by, at least one; `{n}` of `to` counts the wildcards of the first one
    /// that an event's subject matches.
    pub subjects: Vec<String>,
    /// An address in the endpoint's own syntax; for MQTT a topic. Empty for a link, where events keep their subjects.
    pub to: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transform: Option<String>,
    /// The key of events in Kafka: text, `{n}` for what the n-th wildcard of `subjects` stands for, `{name}` for a header.
    /// Without it, or where a header that it names is missing: the key that the event had, or else its subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Ask the MQTT broker to keep each event as the last value of its topic.
    #[serde(default)]
    pub retain: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter_subject: Option<String>,
}

/// What is promised for each event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeliveryConfig {
    #[serde(default)]
    pub guarantee: Guarantee,
    /// How many events of one direction may be on their way at once: the MQTT receive maximum, the pull window.
    #[serde(default = "default_max_in_flight")]
    pub max_in_flight: u32,
    #[serde(default)]
    pub retry: RetryConfig,
    #[serde(default)]
    pub ordering: Ordering,
    #[serde(default)]
    pub evaluation_errors: EvaluationErrors,
}

fn default_max_in_flight() -> u32 {
    1000
}

impl Default for DeliveryConfig {
    fn default() -> Self {
        Self {
            guarantee: Guarantee::default(),
            max_in_flight: default_max_in_flight(),
            retry: RetryConfig::default(),
            ordering: Ordering::default(),
            evaluation_errors: EvaluationErrors::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Guarantee {
    #[default]
    AtLeastOnce,
    AtMostOnce,
}

/// In which order events arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ordering {
    /// In the order of the source while nothing fails; an event that is tried again may come after later ones.
    #[default]
    None,
    /// Events of one source address (topic, partition, queue, subject) arrive in its order, through retries and restarts.
    PerSource,
}

/// What becomes of an event for which a filter or a transform gives no answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EvaluationErrors {
    /// To the dead letters, where the route has them; else as [`Self::Filter`].
    #[default]
    DeadLetter,
    /// It does not pass.
    Filter,
}

/// How a delivery that failed is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryConfig {
    #[serde(default = "default_retry_initial")]
    pub initial_ms: u64,
    #[serde(default = "default_retry_max")]
    pub max_ms: u64,
    /// Tries before an event goes to the dead letters; 0: for ever.
    #[serde(default)]
    pub attempts: u32,
}

fn default_retry_initial() -> u64 {
    100
}

fn default_retry_max() -> u64 {
    30_000
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { initial_ms: default_retry_initial(), max_ms: default_retry_max(), attempts: 0 }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DesiredState {
    #[default]
    Running,
    Paused,
}
