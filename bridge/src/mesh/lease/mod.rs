//! One active pod: a lease in the mesh, taken, renewed and given back by the pods themselves. No operator, no Kubernetes.
//!
//! docs/adr/0043 tells what is fenced by it, and what is not.

mod guard;
mod requests;
mod term;

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::requests::{Requests, Written};
use self::term::{Record, Term};
use super::Mesh;

pub use self::guard::Guard;
#[cfg(test)]
pub(super) use self::guard::now;

/// How long a lease may not be renewed, although nobody else took it, before the routes are ended. The brokers choose a
/// leader in four to seven seconds; until then nothing is carried, and nothing is given back.
const PATIENCE: Duration = Duration::from_secs(10);
/// Renewals in the time after which another may take the lease.
const RENEWALS: u32 = 4;

/// Whether this pod is the active one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    pub active: bool,
    /// The pod that is, as far as is known.
    pub holder: Option<String>,
    /// Why the mesh's lease can not be used.
    pub problem: Option<String>,
}

/// A pod's part in a bridge of which one pod is active.
pub struct Lease {
    standing: watch::Receiver<Standing>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Lease {
    /// Begins to wait for the lease, and keeps it once it has it. While it has not, `mesh` lets nothing be carried.
    #[must_use]
    pub fn start(mesh: &Mesh, namespace: &str, bridge: &str, pod: &str, ttl: Duration) -> Self {
        let token = format!("{:016x}", rand::random::<u64>());
        let record =
            Record { holder: pod.to_owned(), token: token.clone(), ttl_ms: requests::millis(ttl), free: false };
        mesh.set_lease_end(Duration::ZERO);
        let (tell, standing) = watch::channel(Standing { active: false, ..Standing::default() });
        let stop = CancellationToken::new();
        let keeper = Keeper {
            requests: Requests::new(mesh.clone(), namespace, bridge, ttl / RENEWALS),
            mesh: mesh.clone(),
            term: Term::new(pod.to_owned(), token, ttl),
            record,
            pause: ttl / RENEWALS,
            problem: None,
            tell,
        };
        let task = tokio::spawn(keeper.run(stop.clone()));
        Self { standing, stop, task }
    }

    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// Waits until the standing is another than at the last [`Lease::follow`].
    pub async fn changed(&self) {
        if self.standing.clone().changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether this pod is the active one now.
    pub fn follow(&mut self) -> bool {
        self.standing.borrow_and_update().active
    }

    /// Gives it back, so that another pod need not wait. Nothing must be carried any more.
    pub async fn give_back(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

/// Takes and renews.
struct Keeper {
    mesh: Mesh,
    requests: Requests,
    term: Term,
    record: Record,
    pause: Duration,
    problem: Option<String>,
    tell: watch::Sender<Standing>,
}

impl Keeper {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            let wait = self.step().await;
            tokio::select! {
                () = tokio::time::sleep(wait) => {},
                () = stop.cancelled() => break,
            }
        }
        if let Some(expected) = self.term.replaceable(guard::now()).filter(|_| self.term.is_holding()) {
            self.mesh.set_lease_end(Duration::ZERO);
            let free = Record { free: true, ..self.record };
            // Should it not get through, others wait their time.
            let _ = self.requests.write(expected, &free).await;
        }
    }

    /// One look or one renewal; gives how long to wait for the next.
    async fn step(&mut self) -> Duration {
        if self.mesh.is_connected() {
            let outcome = if self.term.is_holding() { Ok(()) } else { self.look().await };
            let outcome = match (outcome, self.term.replaceable(guard::now())) {
                (Ok(()), Some(expected)) => self.write(expected).await,
                (outcome, _) => outcome,
            };
            self.problem = outcome.err();
        }
        self.mesh.set_lease_end(self.term.until());
        self.tell();
        let until_due = self.term.due().map(|due| due.saturating_sub(guard::now()));
        until_due.filter(|due| !due.is_zero()).map_or(self.pause, |due| due.min(self.pause))
    }

    async fn look(&mut self) -> Result<(), String> {
        let seen = self.requests.read().await?;
        self.term.saw(seen, guard::now());
        Ok(())
    }

    async fn write(&mut self, expected: u64) -> Result<(), String> {
        let sent = guard::now();
        match self.requests.write(expected, &self.record).await? {
            Written::Stored(sequence) => {
                self.term.stored(sequence, sent);
                Ok(())
            }
            Written::Refused => self.look().await,
        }
    }

    fn tell(&self) {
        let holds = self.term.is_holding();
        let own = holds.then(|| self.record.holder.clone());
        let standing = Standing {
            active: holds && guard::now() < self.term.until() + PATIENCE,
            holder: own.or_else(|| self.term.holder().map(str::to_owned)),
            problem: self.problem.clone(),
        };
        self.tell.send_if_modified(|told| {
            if *told == standing {
                return false;
            }
            if told.active != standing.active {
                tracing::info!(active = standing.active, holder = standing.holder, "the lease changed hands");
            }
            *told = standing;
            true
        });
    }
}
