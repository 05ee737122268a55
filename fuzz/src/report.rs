//! Reports: whatever a pod sends is read or refused, and its books can be looked at.

use arbitrary::{Result, Unstructured};
use eventmesh_wire::report::{Report, whole_seconds};
use serde_json::{Value, json};

use crate::input::disturb;

const TEXTS: [&str; 10] =
    ["a", "Inbound", "Running", "1970-01-01", "T00:00:00", ".5", "Z", "+01:00", "-9999-01-01", "60"];

pub fn run(data: &[u8]) {
    check(data);
    let _ = structured(&mut Unstructured::new(data));
}

fn structured(input: &mut Unstructured<'_>) -> Result<()> {
    let mut document = example();
    disturb(input, &mut document, &TEXTS)?;
    check(document.to_string().as_bytes());
    Ok(())
}

fn check(payload: &[u8]) {
    let Ok(report) = serde_json::from_slice::<Report>(payload) else { return };
    let again = serde_json::to_vec(&report).expect("a report has a JSON form");
    assert_eq!(serde_json::from_slice::<Report>(&again).expect("readable again"), report);
    let _ = whole_seconds(report.at);
    for route in &report.routes {
        // Whether they balance is the pod's word; looking must not fail.
        let _ = route.counters.balances();
    }
}

fn example() -> Value {
    let error = json!({"message": "away", "at": "1970-01-01T00:00:01Z"});
    json!({
        "version": 1, "bridge": {"namespace": "a", "name": "b", "uid": "u"}, "pod": "p", "configHash": "h",
        "at": "2026-01-01T00:00:00Z", "configProblem": "none",
        "connected": {"mesh": true, "endpoint": false, "endpointError": error},
        "routes": [{
            "name": "r", "direction": "Inbound", "state": "Running", "since": "2026-01-01T00:00:00Z", "retries": 1,
            "restarts": 0, "lag": 3, "lastError": error,
            "counters": {"received": 9, "delivered": 5, "filtered": 1, "deadLettered": 1, "dropped": 0, "inFlight": 2},
        }],
    })
}
