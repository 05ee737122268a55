//! The program: `run` is what a bridge pod does, `sidecar` what runs beside an application, `validate` is for people and pipelines.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use eventmesh_bridge::sidecar::binding;
use eventmesh_bridge::{app, config_file, sidecar};
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
        /// Names this process in its reports and in the lease of its bridge: no two that run at a time may have one name.
        #[arg(long, env = "POD_NAME", default_value = "local")]
        pod: String,
    },
    /// Give an application a broker and an HTTP API on the loopback that are those of its mesh, signed in as who it is there.
    Sidecar {
        /// A folder with `uri`, `jwt`, `nkey` and perhaps `ca.crt` and `sidecar.json`, as a Secret for a ServiceAccount has them.
        /// It may be empty at first; changes are followed.
        #[arg(long)]
        binding: PathBuf,
        /// Where NATS clients connect. On 127.0.0.1 also ::1 is served.
        #[arg(long, default_value = "127.0.0.1:4222")]
        nats_addr: String,
        /// Where to publish and request over HTTP. On 127.0.0.1 also ::1 is served.
        #[arg(long, default_value = "127.0.0.1:4380")]
        http_addr: String,
        /// Where to serve /livez, /readyz and /metrics; `none` serves nothing.
        #[arg(long, default_value = "0.0.0.0:4381")]
        admin_addr: String,
        /// How the application says that it can take events: `http://127.0.0.1:PORT/PATH`, or `tcp://127.0.0.1:PORT`.
        #[arg(long)]
        app_ready: Option<String>,
    },
    /// Tell whether a configuration file, or the folder of a sidecar's binding, can be used.
    Validate { file: PathBuf },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Validate { file: folder } if folder.is_dir() => {
            binding::load(&folder)?;
            println!("{}: can be used", folder.display());
            Ok(())
        }
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
            run(async |stop| app::run(&config, admin_addr.as_deref(), pod, stop).await)
        }
        Command::Sidecar { binding, nats_addr, http_addr, admin_addr, app_ready } => {
            let options = sidecar::app::Options {
                binding,
                nats_address: nats_addr,
                http_address: http_addr,
                admin_address: admin_addr,
                app_ready,
            };
            run(async |stop| sidecar::app::run(options, stop).await)
        }
    }
}

fn run(work: impl AsyncFnOnce(CancellationToken) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_env("LOG").unwrap_or_else(|_| EnvFilter::new("warn,eventmesh_bridge=info"));
    tracing_subscriber::fmt().json().with_env_filter(filter).init();
    // One thread: the work of a bridge and of a sidecar is moving bytes between two sockets, and one core moves far more than
    // the brokers on either side; docs/adr/0012 has the figures. A sidecar must not take more of an application's cores.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let stop = CancellationToken::new();
        tokio::spawn(end_with_signal(stop.clone()));
        work(stop).await
    })
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
