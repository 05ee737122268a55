//! One pod at a time: which bridges need it, and how they agree on who it is.

use serde::{Deserialize, Serialize};

use super::{BridgeConfig, EndpointConfig, Ordering};

/// The pods of the bridge agree, by a lease in the mesh, on the one that carries events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeaseConfig {
    /// How long a lease must not have been renewed before another pod takes it.
    #[serde(default = "default_ttl")]
    pub ttl_ms: u64,
}

fn default_ttl() -> u64 {
    2_000
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self { ttl_ms: default_ttl() }
    }
}

impl BridgeConfig {
    /// Whether only one pod at a time may carry events, however many there are. The others would be in its way, or bring
    /// events out of their order.
    #[must_use]
    pub fn exclusive(&self) -> bool {
        let ordered = self.delivery.ordering == Ordering::PerSource;
        let inbound = !self.inbound.is_empty()
            && match &self.endpoint {
                // The session that the broker keeps belongs to one client id.
                EndpointConfig::Mqtt(_) => true,
                // Its pods share the queue, which keeps no order among them.
                EndpointConfig::Amqp(_) => ordered,
                // Any pod takes a request, and the clients know what they send after what.
                EndpointConfig::Http(_) => false,
                // A partition is one pod's at a time, and order is kept within partitions.
                EndpointConfig::Kafka(_) => false,
                // Its pods share a consumer, or a queue group, which keeps no order among them.
                EndpointConfig::Nats(_) => ordered,
                // It has none.
                EndpointConfig::Link(_) => false,
            };
        // All pods read from the one consumer of a route, and a copy is in the order of its Topic.
        let ordered = ordered || matches!(self.endpoint, EndpointConfig::Link(_));
        inbound || (!self.outbound.is_empty() && ordered)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case("mqtt", "in", "None", true)]
    #[case("mqtt", "out", "None", false)]
    #[case("mqtt", "out", "PerSource", true)]
    #[case("amqp", "in", "None", false)]
    #[case("amqp", "in", "PerSource", true)]
    #[case("http", "in", "PerSource", false)]
    #[case("http", "out", "PerSource", true)]
    #[case("kafka", "in", "PerSource", false)]
    #[case("kafka", "out", "PerSource", true)]
    #[case("nats", "in", "None", false)]
    #[case("nats", "in", "PerSource", true)]
    #[case("nats", "out", "PerSource", true)]
    #[case("link", "out", "None", true)]
    fn one_pod_at_a_time(#[case] kind: &str, #[case] way: &str, #[case] ordering: &str, #[case] expected: bool) {
        let endpoint = match kind {
            "mqtt" => json!({"mqtt": {"url": "mqtt://x", "clientId": "c"}}),
            "amqp" => json!({"amqp": {"url": "amqp://x", "version": "V091"}}),
            "kafka" => json!({"kafka": {"bootstrapServers": ["x:9092"], "group": "g"}}),
            "http" => json!({"http": {"target": {"url": "http://x"}}}),
            "link" => json!({"link": {"name": "l"}}),
            _ => json!({"nats": {"urls": ["nats://x"]}}),
        };
        let mut config = json!({
            "version": 1, "bridge": {"namespace": "n", "name": "b", "uid": "u"}, "mesh": {"servers": ["nats://x"]},
            "endpoint": endpoint, "delivery": {"ordering": ordering},
        });
        match way {
            "in" => config["inbound"] = json!([{"name": "r", "from": "a", "to": "a.b", "stream": "S"}]),
            _ => {
                config["outbound"] =
                    json!([{"name": "r", "stream": "S", "consumer": "c", "subjects": ["a"], "to": "a"}]);
            }
        }
        let config: BridgeConfig = serde_json::from_value(config).unwrap();
        assert_eq!(config.exclusive(), expected);
    }
}
