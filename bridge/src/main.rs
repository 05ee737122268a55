//! The program of bridge pods: `run` is what they do, `validate` is for people and pipelines.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use eventmesh_bridge::{app, config_file, program};

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
        /// Names this process in its reports and in the lease of its bridge: no two that run at a time may have one name.
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
            let admin_addr = Some(admin_addr).filter(|address| address != "none");
            program::run(async |stop| app::run(&config, admin_addr.as_deref(), pod, stop).await)
        }
    }
}
