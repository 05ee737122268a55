//! The program that runs beside an application. It is one of its own because it is in every pod that is injected: what it does
//! not need of a bridge is neither in its image nor in its memory.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use eventmesh_bridge::program;
use eventmesh_bridge::sidecar::{app, binding};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Gives an application a broker and an HTTP API on the loopback that are those of its mesh, signed in as who it is there.
#[derive(Parser)]
#[command(name = "eventmesh-sidecar", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the application.
    Run(Run),
    /// Tell whether the folder of a binding can be used.
    Validate { binding: PathBuf },
}

#[derive(Args)]
struct Run {
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
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Validate { binding: folder } => {
            binding::load(&folder)?;
            println!("{}: can be used", folder.display());
            Ok(())
        }
        Command::Run(Run { binding, nats_addr, http_addr, admin_addr, app_ready }) => {
            let options = app::Options {
                binding,
                nats_address: nats_addr,
                http_address: http_addr,
                admin_address: admin_addr,
                app_ready,
            };
            program::run(async |stop| app::run(options, stop).await)
        }
    }
}
