//! What an MQTT endpoint must hold to be usable.

use super::{BrokerAddress, ProblemKind, Problems, Scheme, check_tls, parse_url};
use crate::config::MqttEndpoint;

pub(super) fn check(mqtt: &MqttEndpoint, problems: &mut Problems) {
    if let Err(problem) = mqtt.broker() {
        problems.add(ProblemKind::Value, "endpoint.mqtt.url", problem);
    }
    problems.require(
        !mqtt.client_id.is_empty(),
        "endpoint.mqtt.clientId",
        "must not be empty: it names the session that the broker keeps",
    );
    problems.require(
        mqtt.session_expiry_seconds > 0,
        "endpoint.mqtt.sessionExpirySeconds",
        "must be greater than 0, else the broker forgets what was not acknowledged",
    );
    problems.require(
        mqtt.password.is_none() || mqtt.username.is_some(),
        "endpoint.mqtt.username",
        "must be set when there is a password",
    );
    check_tls("endpoint.mqtt", mqtt.tls.as_ref(), mqtt.url.starts_with("mqtts://"), "mqtts://", problems);
}

const SCHEMES: [Scheme; 2] =
    [Scheme { name: "mqtt", port: 1883, tls: false }, Scheme { name: "mqtts", port: 8883, tls: true }];

impl MqttEndpoint {
    /// The parts of the URL.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn broker(&self) -> Result<BrokerAddress, String> {
        let (address, path) = parse_url(&self.url, &SCHEMES)?;
        if path.is_empty() { Ok(address) } else { Err(format!("`{}` has a path; write mqtt://host:1883", self.url)) }
    }
}
