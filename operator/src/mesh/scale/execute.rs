//! Does the step that a pass has planned: the only writes to the brokers on the way to another number of them.

use tracing::info;

use super::{
    observe::{self, Observed},
    plan::{self, Step},
    spread::Move,
};
use crate::{
    broker::MeshBroker,
    engine::{Context, Error},
    mesh::validate::ValidMesh,
};

/// Returns what has become of the step.
pub async fn run(context: &Context, mesh: &ValidMesh, seen: &Observed, step: Step) -> Result<Step, Error> {
    let Some(broker) = context.brokers.get(&mesh.key) else { return Ok(step) };
    match &step {
        Step::Move(moves) => {
            let refused = evacuate(&broker, moves).await?;
            let is_down = seen.current.is_some_and(|current| current > seen.wanted);
            Ok(match refused {
                None => step,
                Some(refused) if is_down => Step::Blocked(refused),
                // What has no better place stays where it is.
                Some(_) => Step::Settled,
            })
        }
        Step::HandOver(leader) => {
            info!(mesh = %mesh.key, broker = %leader, "handing the lead of the metadata over before the broker goes");
            broker.step_down().await.map_err(Error::broker("hand the lead of the metadata over"))?;
            Ok(step)
        }
        Step::Remove(last) => remove(context, mesh, seen, &broker, last).await,
        _ => Ok(step),
    }
}

/// Returns what the brokers say when they refuse all of it.
async fn evacuate(broker: &MeshBroker, moves: &[Move]) -> Result<Option<Vec<String>>, Error> {
    let mut refused = Vec::new();
    for Move { stream, from } in moves {
        match broker.evacuate(stream, from).await {
            Ok(()) => info!(mesh = %broker.key(), stream, broker = %from, "moving a copy to another broker"),
            Err(error) if error.is_refusal() => refused.push(format!("stream {stream} cannot leave {from}: {error}")),
            Err(error) => return Err(Error::broker("move a copy to another broker")(error)),
        }
    }
    Ok((refused.len() == moves.len()).then_some(refused))
}

/// Nobody is given a new stream meanwhile, since it could be on the broker that goes.
async fn remove(
    context: &Context,
    mesh: &ValidMesh,
    seen: &Observed,
    broker: &MeshBroker,
    last: &str,
) -> Result<Step, Error> {
    let _nobody = broker.placing.write().await;
    let now = Observed { mesh: seen.mesh.clone(), sight: observe::look(context, mesh, seen.current).await, ..*seen };
    let step = plan::run(&now);
    if step == Step::Remove(last.to_owned()) {
        info!(mesh = %mesh.key, broker = %last, "taking a broker that holds nothing out of the metadata");
        broker.remove_peer(last).await.map_err(Error::broker("take a broker out of the metadata"))?;
        return Ok(step);
    }
    Ok(Step::Wait("the brokers have changed a moment ago".to_owned()))
}
