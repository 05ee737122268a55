//! Whether a configuration can be used: pure, and complete, so that the operator can refuse before it rolls out and the
//! bridge before it replaces what is running. One file a kind of endpoint.

mod amqp;
mod http;
mod kafka;
mod link;
mod mqtt;
mod nats;
mod url;

use std::collections::BTreeSet;
use std::fmt;

use crate::address::{InboundMap, OutboundMap};
use crate::config::{BridgeConfig, CONFIG_VERSION, EndpointConfig, MeshCredentials, MqttVersion, TlsConfig};
use crate::expression::{Filter, Transform};
use crate::pem;
use crate::secret::Secret;
use crate::subject::Pattern;

pub(crate) use kafka::{ALPHABET, may_name_topic};
pub use url::BrokerAddress;
pub(crate) use url::{Scheme, parse_url};

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
        for (field, problem) in self.mesh.credentials.iter().flat_map(MeshCredentials::problems) {
            problems.add(ProblemKind::Value, format!("mesh.credentials.{field}"), problem);
        }
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
        problems.require(
            self.lease.is_none_or(|lease| (1_000..=60_000).contains(&lease.ttl_ms)),
            "lease.ttlMs",
            "must be from 1000 to 60000",
        );
        problems.require(self.report_interval_seconds > 0, "reportIntervalSeconds", "must be greater than 0");
        match &self.endpoint {
            EndpointConfig::Http(http) => http::check(http, self, &mut problems),
            EndpointConfig::Kafka(kafka) => kafka::check(kafka, self, &mut problems),
            EndpointConfig::Mqtt(mqtt) => mqtt::check(mqtt, &mut problems),
            EndpointConfig::Amqp(amqp) => amqp::check(amqp, self, &mut problems),
            EndpointConfig::Nats(nats) => nats::check(nats, self, &mut problems),
            EndpointConfig::Link(link) => link::check(link, self, &mut problems),
        }
        self.check_routes(&mut problems);
        problems.0
    }

    /// Whether events carry headers, the loop mark among them.
    fn carries_headers(&self) -> bool {
        match &self.endpoint {
            EndpointConfig::Http(_) => true,
            EndpointConfig::Kafka(_) => true,
            EndpointConfig::Mqtt(mqtt) => mqtt.version != MqttVersion::V311,
            EndpointConfig::Amqp(_) => true,
            EndpointConfig::Nats(_) => true,
            EndpointConfig::Link(_) => true,
        }
    }

    fn check_routes(&self, problems: &mut Problems) {
        let mut names = BTreeSet::new();
        let sources = self.check_inbound(&mut names, problems);
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
        self.check_outbound(&mut names, &sources, problems);
    }

    fn check_inbound<'c>(
        &'c self,
        names: &mut BTreeSet<&'c str>,
        problems: &mut Problems,
    ) -> Vec<(&'c str, InboundMap)> {
        let mut sources = Vec::new();
        for (index, route) in self.inbound.iter().enumerate() {
            let path = format!("inbound[{index}]");
            let unique = names.insert(&route.name);
            problems.require(unique, format!("{path}.name"), format_args!("`{}` is used twice", route.name));
            let expressions = [route.filter.as_deref(), route.transform.as_deref()];
            check_common(&path, &route.name, expressions, route.dead_letter_subject.as_deref(), problems);
            match InboundMap::new(self.endpoint.syntax(), &route.from, &route.to) {
                Ok(map) => sources.push((route.name.as_str(), map)),
                Err(error) => problems.add(ProblemKind::Mapping, format!("{path}.to"), error),
            }
            problems.require(!route.stream.is_empty(), format!("{path}.stream"), "must not be empty");
            problems.require(
                route.id_header.is_none() || self.carries_headers(),
                format!("{path}.idHeader"),
                "MQTT 3.1.1 carries no user properties; use version V5 or leave it out",
            );
        }
        sources
    }

    fn check_outbound<'c>(
        &'c self,
        names: &mut BTreeSet<&'c str>,
        sources: &[(&'c str, InboundMap)],
        problems: &mut Problems,
    ) {
        for (index, route) in self.outbound.iter().enumerate() {
            let path = format!("outbound[{index}]");
            let unique = names.insert(&route.name);
            problems.require(unique, format!("{path}.name"), format_args!("`{}` is used twice", route.name));
            let expressions = [route.filter.as_deref(), route.transform.as_deref()];
            check_common(&path, &route.name, expressions, route.dead_letter_subject.as_deref(), problems);
            problems.require(!route.stream.is_empty(), format!("{path}.stream"), "must not be empty");
            problems.require(!route.consumer.is_empty(), format!("{path}.consumer"), "must not be empty");
            if matches!(self.endpoint, EndpointConfig::Link(_)) {
                continue;
            }
            let map = match OutboundMap::new(self.endpoint.syntax(), &route.subjects, &route.to) {
                Ok(map) => map,
                Err(error) => {
                    problems.add(ProblemKind::Mapping, format!("{path}.to"), error);
                    continue;
                }
            };
            // Without headers there is no mark by which the bridge could know its own events when they come back.
            let comes_back = |(_, source): &&(&str, InboundMap)| source.from().overlaps(map.filter());
            if let Some((name, source)) = sources.iter().find(comes_back).filter(|_| !self.carries_headers()) {
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

fn check_common(
    path: &str,
    name: &str,
    [filter, transform]: [Option<&str>; 2],
    dead_letter: Option<&str>,
    problems: &mut Problems,
) {
    problems.require(!name.is_empty(), format!("{path}.name"), "must not be empty");
    if let Some(Err(error)) = filter.map(Filter::compile) {
        problems.add(ProblemKind::Filter, format!("{path}.filter"), error);
    }
    if let Some(Err(error)) = transform.map(Transform::compile) {
        problems.add(ProblemKind::Filter, format!("{path}.transform"), error);
    }
    if let Some(Err(error)) = dead_letter.map(Pattern::parse_concrete) {
        problems.add(ProblemKind::Value, format!("{path}.deadLetterSubject"), error);
    }
}

/// What is wrong with the certificates of an endpoint; `path` is the endpoint's, as in `endpoint.mqtt`.
fn check_tls(path: &str, tls: Option<&TlsConfig>, url_has_tls: bool, scheme: &str, problems: &mut Problems) {
    let Some(tls) = tls else { return };
    problems.require(url_has_tls, format!("{path}.tls"), format_args!("only with a URL that begins with {scheme}"));
    problems.require(
        tls.client_cert_pem.is_some() == tls.client_key_pem.is_some(),
        format!("{path}.tls"),
        "a client certificate needs its key, and a key its certificate",
    );
    let mut check = |field: &str, text: Option<&str>, judge: fn(&str) -> Result<(), String>| {
        if let Some(Err(problem)) = text.map(judge) {
            problems.add(ProblemKind::Value, format!("{path}.tls.{field}"), problem);
        }
    };
    check("caPem", tls.ca_pem.as_deref(), pem::certificates);
    check("clientCertPem", tls.client_cert_pem.as_deref(), pem::certificates);
    check("clientKeyPem", tls.client_key_pem.as_ref().map(Secret::expose), pem::private_key);
}

#[cfg(test)]
mod tests;
