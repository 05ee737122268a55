//! The stream in which the pods of a mesh's Bridges agree on who is active. One a mesh, made with the first Bridge that
//! needs it; nothing else of the operator takes part.

use eventmesh_wire::names::{LEASE_STREAM, LEASE_SUBJECTS};
use serde_json::json;
use tracing::info;

use crate::broker::{
    BrokerError, MeshBroker,
    api::{Config, code, object},
    overlay::{Overlay, overlay},
    view::StreamEntry,
};

/// The stream as it should be. Its records are on disk with as many copies as there can be: a record that the brokers
/// forget makes every pod wait once more.
fn wanted(brokers: i32) -> Config {
    object(json!({
        "name": LEASE_STREAM,
        "subjects": [LEASE_SUBJECTS],
        "retention": "limits",
        "storage": "file",
        "num_replicas": if brokers >= 3 { 3 } else { 1 },
        "max_msgs_per_subject": 1,
        "max_consumers": -1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "discard": "old",
        "deny_delete": false,
        "allow_direct": true,
    }))
}

/// Makes the stream what it should be.
pub async fn ensure(broker: &MeshBroker, brokers: i32) -> Result<(), BrokerError> {
    let found = broker.view().stream(LEASE_STREAM).map(StreamEntry::config).transpose()?;
    let result = match found {
        None => {
            info!(stream = LEASE_STREAM, mesh = %broker.key(), "making the stream of leases");
            broker.create_stream(LEASE_STREAM, &wanted(brokers)).await
        }
        Some(found) => {
            let Overlay { differences, merged } = overlay(&found, &wanted(brokers));
            if differences.is_empty() {
                return Ok(());
            }
            broker.update_stream(LEASE_STREAM, &merged).await
        }
    };
    if let Err(error) = &result
        && (error.is_code(code::STREAM_NAME_IN_USE) || error.is_code(code::STREAM_NOT_FOUND))
    {
        // Another pass was faster, or the view was behind: what is there decides in the next.
        return broker.reread_stream(LEASE_STREAM).await;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_replaced_and_kept_as_safely_as_the_mesh_can() {
        let three = wanted(3);
        assert_eq!((&three["num_replicas"], &three["max_msgs_per_subject"]), (&json!(3), &json!(1)));
        assert_eq!((&three["storage"], &three["allow_direct"]), (&json!("file"), &json!(true)));
        assert_eq!(wanted(1)["num_replicas"], json!(1));
        assert_eq!(overlay(&three, &wanted(3)).differences, []);
    }
}
