//! The operator's metrics. `docs/reference/metrics.md` describes each.

use std::{fmt::Write as _, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PassLabels {
    controller: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ControllerLabels {
    controller: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

/// Handles of all metrics, and the registry that renders them.
pub struct Metrics {
    registry: Registry,
    passes: Family<PassLabels, Counter>,
    duration: Family<ControllerLabels, Histogram>,
    repairs: Family<KindLabels, Counter>,
    dead_letters: Family<ResultLabels, Counter>,
    injections: Family<ResultLabels, Counter>,
    injection_duration: Histogram,
    connections: Gauge,
    leader: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("eventmesh_operator");
        let passes = Family::default();
        let duration =
            Family::new_with_constructor((|| Histogram::new(exponential_buckets(0.001, 4.0, 8))) as fn() -> _);
        let repairs = Family::default();
        let dead_letters = Family::default();
        let injections = Family::default();
        let injection_duration = Histogram::new(exponential_buckets(0.0001, 4.0, 8));
        let connections = Gauge::default();
        let leader = Gauge::default();
        registry.register("reconciles", "Passes of a controller over an object, by how they ended", passes.clone());
        registry.register_with_unit("reconcile_duration", "Time of a pass", Unit::Seconds, duration.clone());
        registry.register("drift_repairs", "Streams and consumers put back after a change by others", repairs.clone());
        registry.register(
            "dead_letters",
            "Tries to move an event that a Subscription has given up, by how they ended",
            dead_letters.clone(),
        );
        registry.register("injections", "Answers of the webhook for pods, by what they say", injections.clone());
        registry.register_with_unit(
            "injection_duration",
            "Time of the webhook for an answer",
            Unit::Seconds,
            injection_duration.clone(),
        );
        registry.register(
            "broker_meshes",
            "Meshes whose brokers the operator holds a connection to",
            connections.clone(),
        );
        registry.register("leader", "1 while this replica runs the controllers", leader.clone());
        Self { registry, passes, duration, repairs, dead_letters, injections, injection_duration, connections, leader }
    }
}

impl Metrics {
    pub fn reconciled(&self, controller: &'static str, result: &'static str, time: Duration) {
        self.passes.get_or_create(&PassLabels { controller, result }).inc();
        self.duration.get_or_create(&ControllerLabels { controller }).observe(time.as_secs_f64());
    }

    pub fn repaired(&self, kind: &'static str) {
        self.repairs.get_or_create(&KindLabels { kind }).inc();
    }

    /// `moved`, `gone` or `failed`.
    pub fn dead_letter(&self, result: &'static str) {
        self.dead_letters.get_or_create(&ResultLabels { result }).inc();
    }

    /// `injected`, `refused`, `unchanged` or `failed`.
    pub fn injection(&self, result: &'static str, time: Duration) {
        self.injections.get_or_create(&ResultLabels { result }).inc();
        self.injection_duration.observe(time.as_secs_f64());
    }

    pub fn meshes(&self, count: usize) {
        self.connections.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub fn leading(&self, leading: bool) {
        self.leader.set(i64::from(leading));
    }

    /// All metrics in the `OpenMetrics` text form.
    pub fn render(&self) -> String {
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            let _ = writeln!(text, "# could not be rendered: {error}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_what_was_counted() {
        let metrics = Metrics::default();
        metrics.reconciled("topic", "settled", Duration::from_millis(3));
        metrics.repaired("Topic");
        let text = metrics.render();
        assert!(
            text.contains("eventmesh_operator_reconciles_total{controller=\"topic\",result=\"settled\"} 1"),
            "{text}"
        );
        assert!(text.contains("eventmesh_operator_drift_repairs_total{kind=\"Topic\"} 1"), "{text}");
    }
}
