//! The program: `run` is what a bridge pod does, `validate` is for people and pipelines.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use eventmesh_bridge::{app, config_file};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Carries events between an event mesh and an outside system.
#[derive(Parser)]
#[command(name = "eventmesh-bridge", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the routes of a configuration file, and follow its changes.
    Run {
        #[arg(long)]
        config: PathBuf,
        /// Where to serve /livez, /readyz and /metrics; `none` serves nothing.
        #[arg(long, default_value = "0.0.0.0:8080")]
        admin_addr: String,
        /// Names this process in its reports.
        #[arg(long, env = "POD_NAME", default_value = "local")]
        pod: String,
    },
    /// Tell whether a configuration file can be used.
    Validate { file: PathBuf },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Validate { file } => {
            let loaded = config_file::load(&file).map_err(|problem| anyhow::anyhow!(problem))?;
            println!(
                "{}: can be used ({} inbound, {} outbound)",
                file.display(),
                loaded.config.inbound.len(),
                loaded.config.outbound.len()
            );
            Ok(())
        }
        Command::Run { config, admin_addr, pod } => {
            let filter =
                EnvFilter::try_from_env("LOG").unwrap_or_else(|_| EnvFilter::new("warn,eventmesh_bridge=info"));
            tracing_subscriber::fmt().json().with_env_filter(filter).init();
            // One thread: the work of a bridge is moving bytes between two sockets, and one core moves far more than the
            // brokers on either side; docs/adr/0012 has the figures.
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
                let stop = CancellationToken::new();
                tokio::spawn(end_with_signal(stop.clone()));
                app::run(&config, Some(admin_addr.as_str()).filter(|address| *address != "none"), pod, stop).await
            })
        }
    }
}

async fn end_with_signal(stop: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {},
        _ = interrupt.recv() => {},
    }
    stop.cancel();
}
