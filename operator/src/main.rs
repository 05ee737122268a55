//! The operator's process: command line and logs, then [`eventmesh_operator::run`].

use clap::Parser;
use eventmesh_operator::settings::{Action, Command, LogFormat};
use tracing_subscriber::EnvFilter;

/// musl's own allocator is slow and keeps memory; see docs/adr.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let Action::Run(settings) = Command::parse().action;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube_lease_manager=warn"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    match settings.log_format {
        LogFormat::Json => logs.json().flatten_event(true).init(),
        LogFormat::Text => logs.init(),
    }
    eventmesh_operator::run::run(settings).await
}
