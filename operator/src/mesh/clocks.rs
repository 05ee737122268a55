//! What is told of brokers whose clocks are wrong.

use std::{collections::BTreeMap, fmt, sync::PoisonError};

use eventmesh_crds::{
    EventMesh,
    conditions::{Reason, Verdict},
};

use crate::{broker::MeshKey, engine::Context};

/// Seconds that the clocks of brokers are ahead, by their names. Those that are right are not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clocks(BTreeMap<String, i64>);

impl Clocks {
    pub fn observe(context: &Context, key: &MeshKey) -> Self {
        let Some(broker) = context.brokers.get(key) else { return Self::default() };
        let health = broker.health.lock().unwrap_or_else(PoisonError::into_inner);
        Self(health.brokers.iter().filter_map(|(name, said)| Some((name.clone(), said.clock_ahead?))).collect())
    }

    pub fn are_right(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Clocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clock = |(name, ahead): (&String, &i64)| {
            let way = if *ahead > 0 { "ahead" } else { "behind" };
            format!("{name} is {} s {way}", ahead.unsigned_abs())
        };
        let all: Vec<String> = self.0.iter().map(clock).collect();
        write!(f, "clocks differ from the operator's: {}; set the time of their nodes right", all.join(", "))
    }
}

/// An Event, once.
pub async fn tell(context: &Context, mesh: &EventMesh, verdicts: &[Verdict]) {
    let reason = Reason::ClocksDiffer;
    let mut before = mesh.status.iter().flat_map(|status| &status.conditions);
    if let Some(told) = verdicts.iter().find(|now| now.reason == reason)
        && !before.any(|one| one.reason == reason.as_str())
    {
        context.warn(mesh, reason.as_str(), told.message.clone()).await;
    }
}

#[cfg(test)]
impl Clocks {
    pub fn of<const N: usize>(clocks: [(&str, i64); N]) -> Self {
        Self(clocks.map(|(name, ahead)| (name.to_owned(), ahead)).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_clock_is_told_with_the_way_it_is_wrong() {
        let clocks = Clocks::of([("m-broker-1", 3_600), ("m-broker-2", -60)]);
        let wanted = "clocks differ from the operator's: m-broker-1 is 3600 s ahead, m-broker-2 is 60 s behind; set the time of their nodes right";
        assert_eq!(clocks.to_string(), wanted);
    }
}
