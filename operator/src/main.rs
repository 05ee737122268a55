//! The operator's process: command line and logs, then [`eventmesh_operator::run`].

use clap::Parser;
use eventmesh_operator::settings::{Action, Command, LogFormat};
use tracing_subscriber::EnvFilter;

/// The clients tell of each failed attempt to connect; the operator tells of what matters itself.
const DEFAULT_FILTER: &str = "info,async_nats=warn,kube_client=off,kube_lease_manager=warn";

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let Action::Run(settings) = Command::parse().action;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    match settings.log_format {
        LogFormat::Json => logs.json().flatten_event(true).with_span_list(false).init(),
        LogFormat::Text => logs.init(),
    }
    eventmesh_operator::run::run(settings).await
}
