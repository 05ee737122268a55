//! The Topic controller: one Topic, one stream in the brokers.
//!
//! A Topic has no children in Kubernetes, so "build and apply" is "plan and execute" here: the plan is a pure
//! comparison of what is wanted with what the broker has, the execution a call or none.

mod execute;
mod mirror;
mod plan;
pub mod resolve;
mod status;
mod validate;

use std::sync::Arc;

use eventmesh_crds::{Topic, conditions::Reason};

use crate::{
    engine::{Context, Controller, Error, Outcome, Stopped},
    refs::is_too_early,
};

pub struct TopicController {
    context: Arc<Context>,
}

impl TopicController {
    #[must_use]
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

impl Controller for TopicController {
    type Object = Topic;
    const NAME: &'static str = "topic";

    async fn reconcile(&self, topic: Arc<Topic>) -> Result<Outcome, Error> {
        let context = &*self.context;
        if topic.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let resolved = resolve::run(context, &topic);
        let observed = topic.status.as_ref().and_then(|status| status.observed_generation);
        if is_too_early(&resolved.mesh, topic.metadata.generation, observed) {
            return Ok(Outcome::Progressing);
        }
        let (verdicts, outcome) = match validate::run(&topic, &resolved) {
            Ok(valid) if topic.spec.is_live() => {
                let done = Stopped::programmed(Reason::Programmed, "nothing is stored: events reach who is there")
                    .with_warnings(&valid.warnings);
                (done.verdicts, done.outcome)
            }
            Err(stopped) => (stopped.verdicts, stopped.outcome),
            Ok(valid) => {
                let plan = plan::make(&valid)?;
                let done = execute::run(context, &topic, &valid, plan).await?;
                (done.verdicts, done.outcome)
            }
        };
        status::write(context, &topic, verdicts).await?;
        Ok(outcome)
    }
}
