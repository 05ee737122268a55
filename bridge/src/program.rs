//! What both programs are around their work: one thread, a log, and an end by a signal.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Runs `work`, which ends when its token is cancelled: at a SIGTERM or SIGINT.
///
/// One thread: the work of a bridge and of a sidecar is moving bytes between two sockets, and one core moves far more than the
/// brokers on either side; docs/adr/0012 has the figures. A sidecar must not take more of an application's cores.
///
/// # Errors
/// Those of `work`, and what the system refuses at the start.
pub fn run(work: impl AsyncFnOnce(CancellationToken) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_env("LOG").unwrap_or_else(|_| EnvFilter::new("warn,eventmesh_bridge=info"));
    tracing_subscriber::fmt().json().with_env_filter(filter).init();
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
