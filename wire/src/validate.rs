//! Whether a configuration can be used: pure, and complete, so that the operator can refuse before it rolls out and the
//! bridge before it replaces what is running.

use std::collections::BTreeSet;
use std::fmt;

use crate::address::{InboundMap, OutboundMap};
use crate::config::{BridgeConfig, CONFIG_VERSION, EndpointConfig, MqttEndpoint, MqttVersion};
use crate::filter::Filter;
use crate::pem;
use crate::secret::Secret;
use crate::subject::Pattern;

/// One thing that is wrong: where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field, as in `inbound[0].to`.
    pub field: String,
    pub message: String,
    pub kind: ProblemKind,
}

/// What a problem is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// The value of one field.
    Value,
    /// An address that cannot be made from another, or two that get in each other's way.
    Mapping,
    /// A filter that does not compile, or is no condition.
    Filter,
    /// An event would go round in a circle.
    Loop,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, kind: ProblemKind, field: impl Into<String>, message: impl fmt::Display) {
        self.0.push(Problem { field: field.into(), message: message.to_string(), kind });
    }

    fn require(&mut self, holds: bool, field: impl Into<String>, message: impl fmt::Display) {
        if !holds {
            self.add(ProblemKind::Value, field, message);
        }
    }
}

impl BridgeConfig {
    /// Everything that is wrong with this configuration; empty when it can be used.
    #[must_use]
    pub fn validate(&self) -> Vec<Problem> {
        let mut problems = Problems(Vec::new());
        problems.require(self.version == CONFIG_VERSION, "version", format_args!("must be {CONFIG_VERSION}"));
        problems.require(!self.bridge.uid.is_empty(), "bridge.uid", "must not be empty");
        problems.require(!self.mesh.servers.is_empty(), "mesh.servers", "name at least one server");
        if let Some(Err(problem)) = self.mesh.ca_pem.as_deref().map(pem::certificates) {
            problems.add(ProblemKind::Value, "mesh.caPem", problem);
        }
        let range = 1..=65_535;
        problems.require(
            range.contains(&self.delivery.max_in_flight),
            "delivery.maxInFlight",
            "must be from 1 to 65535",
        );
        let retry = self.delivery.retry;
        problems.require(retry.initial_ms > 0, "delivery.retry.initialMs", "must be greater than 0");
        problems.require(retry.max_ms >= retry.initial_ms, "delivery.retry.maxMs", "must not be below initialMs");
        problems.require(self.report_interval_seconds > 0, "reportIntervalSeconds", "must be greater than 0");
        let EndpointConfig::Mqtt(mqtt) = &self.endpoint;
        check_mqtt(mqtt, &mut problems);
        self.check_routes(mqtt, &mut problems);
        problems.0
    }

    fn check_routes(&self, mqtt: &MqttEndpoint, problems: &mut Problems) {
        let mut names = BTreeSet::new();
        let mut sources = Vec::new();
        for (index, route) in self.inbound.iter().enumerate() {
            let path = format!("inbound[{index}]");
            problems.require(
                names.insert(route.name.as_str()),
                format!("{path}.name"),
                format_args!("`{}` is used twice", route.name),
            );
            check_common(&path, &route.name, route.filter.as_deref(), route.dead_letter_subject.as_deref(), problems);
            match InboundMap::new(&route.from, &route.to) {
                Ok(map) => sources.push((route.name.as_str(), map)),
                Err(error) => problems.add(ProblemKind::Mapping, format!("{path}.to"), error),
            }
            problems.require(!route.stream.is_empty(), format!("{path}.stream"), "must not be empty");
            let unusable = route.id_header.is_some() && mqtt.version == MqttVersion::V311;
            problems.require(
                !unusable,
                format!("{path}.idHeader"),
                "MQTT 3.1.1 carries no user properties; use version V5 or leave it out",
            );
        }
        for (index, (name, map)) in sources.iter().enumerate() {
            for (other_name, other) in sources.iter().take(index).filter(|(_, other)| other.from().overlaps(map.from()))
            {
                let message = format!(
                    "`{}` of route `{name}` overlaps `{}` of route `{other_name}`; an event can take one route only",
                    map.from().as_str(),
                    other.from().as_str()
                );
                problems.add(ProblemKind::Mapping, format!("inbound[{index}].from"), message);
            }
        }
        for (index, route) in self.outbound.iter().enumerate() {
            let path = format!("outbound[{index}]");
            problems.require(
                names.insert(route.name.as_str()),
                format!("{path}.name"),
                format_args!("`{}` is used twice", route.name),
            );
            check_common(&path, &route.name, route.filter.as_deref(), route.dead_letter_subject.as_deref(), problems);
            problems.require(!route.stream.is_empty(), format!("{path}.stream"), "must not be empty");
            problems.require(!route.consumer.is_empty(), format!("{path}.consumer"), "must not be empty");
            let map = match OutboundMap::new(&route.subjects, &route.to) {
                Ok(map) => map,
                Err(error) => {
                    problems.add(ProblemKind::Mapping, format!("{path}.to"), error);
                    continue;
                }
            };
            // MQTT 3.1.1 carries no mark by which the bridge could know its own events when they come back.
            let back = sources
                .iter()
                .find(|(_, source)| mqtt.version == MqttVersion::V311 && source.from().overlaps(map.filter()));
            if let Some((name, source)) = back {
                let message = format!(
                    "`{}` would come back over route `{name}` (`{}`), and MQTT 3.1.1 can carry no mark to stop the loop; use version V5 or other topics",
                    route.to,
                    source.from().as_str()
                );
                problems.add(ProblemKind::Loop, format!("{path}.to"), message);
            }
        }
    }
}

fn check_common(path: &str, name: &str, filter: Option<&str>, dead_letter: Option<&str>, problems: &mut Problems) {
    problems.require(!name.is_empty(), format!("{path}.name"), "must not be empty");
    if let Some(Err(error)) = filter.map(Filter::compile) {
        problems.add(ProblemKind::Filter, format!("{path}.filter"), error);
    }
    if let Some(Err(error)) = dead_letter.map(Pattern::parse_concrete) {
        problems.add(ProblemKind::Value, format!("{path}.deadLetterSubject"), error);
    }
}

fn check_mqtt(mqtt: &MqttEndpoint, problems: &mut Problems) {
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
    if let Some(tls) = &mqtt.tls {
        problems.require(
            mqtt.url.starts_with("mqtts://"),
            "endpoint.mqtt.tls",
            "only with a URL that begins with mqtts://",
        );
        problems.require(
            tls.client_cert_pem.is_some() == tls.client_key_pem.is_some(),
            "endpoint.mqtt.tls",
            "a client certificate needs its key, and a key its certificate",
        );
        let mut check = |field: &str, text: Option<&str>, judge: fn(&str) -> Result<(), String>| {
            if let Some(Err(problem)) = text.map(judge) {
                problems.add(ProblemKind::Value, format!("endpoint.mqtt.tls.{field}"), problem);
            }
        };
        check("caPem", tls.ca_pem.as_deref(), pem::certificates);
        check("clientCertPem", tls.client_cert_pem.as_deref(), pem::certificates);
        check("clientKeyPem", tls.client_key_pem.as_ref().map(Secret::expose), pem::private_key);
    }
}

/// Where an MQTT broker listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerAddress {
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

impl MqttEndpoint {
    /// The parts of the URL.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn broker(&self) -> Result<BrokerAddress, String> {
        let wrong = |problem: &str| format!("`{}` {problem}; write mqtt://host:1883 or mqtts://host:8883", self.url);
        let (tls, rest) = if let Some(rest) = self.url.strip_prefix("mqtts://") {
            (true, rest)
        } else if let Some(rest) = self.url.strip_prefix("mqtt://") {
            (false, rest)
        } else {
            return Err(wrong("is not an MQTT URL"));
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains('@') {
            return Err("credentials do not belong into the URL; use username and password".to_owned());
        }
        if authority.contains(['/', '?', '#']) {
            return Err(wrong("has a path"));
        }
        let default = if tls { 8883 } else { 1883 };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| wrong("has a port that is no number from 1 to 65535"))?)
            }
            _ => (authority, default),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || port == 0 {
            return Err(wrong("names no host or no port"));
        }
        Ok(BrokerAddress { host: host.to_owned(), port, tls })
    }
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
