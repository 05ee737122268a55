//! Copies: a Topic of the mesh, event by event and in its order, into a Topic of the mesh at the far side of a link.
//!
//! Nobody else writes to a copy, so each event is sent with the number that the copy must have reached before it: it is stored
//! in its place, or not at all. Whatever goes wrong ends a session, and the next one asks the copy for its last event, which
//! tells where in the Topic it stands. So nothing is lost and nothing comes twice, however long the link was down, and
//! whoever was killed.

mod far;
mod lag;
mod session;

use std::sync::Arc;
use std::time::Duration;

use eventmesh_wire::config::OutboundRoute;

use self::session::Session;
use crate::backoff::Backoff;
use crate::books::Books;
use crate::jetstream::PullError;
use crate::mesh::Mesh;
use crate::mesh::consume::Stop;

/// What subjects of the mesh's `JetStream` API begin with.
const API: &str = "$JS.API";

/// Everything a copy works with.
#[derive(Clone)]
pub struct Copy {
    pub config: Arc<OutboundRoute>,
    pub books: Arc<Books>,
    pub mesh: Mesh,
    /// Events that may be on their way.
    pub window: usize,
}

/// Keeps a copy up until it is told to stop.
pub async fn run(copy: Copy, stop: Stop) {
    tokio::select! {
        () = sessions(&copy, &stop) => {},
        () = lag::tell(&copy) => {},
    }
}

async fn sessions(copy: &Copy, stop: &Stop) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));
    while !stop.is_wanted() {
        tokio::select! {
            () = copy.mesh.until_open() => {},
            () = stop.wanted() => return,
        }
        let session = async {
            let session = Session::begin(copy).await?;
            copy.books.clear();
            session.run(stop, &mut backoff).await
        };
        let Err(PullError { obstacle, message }) = session.await else { continue };
        copy.books.obstructed(obstacle, message);
        copy.books.retried(1);
        tokio::select! {
            () = tokio::time::sleep(backoff.next_wait()) => {},
            () = stop.wanted() => return,
        }
    }
}
