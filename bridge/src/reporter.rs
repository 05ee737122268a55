//! Turns connections and books into the report for the operator, and into the state of each route.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use eventmesh_wire::config::BridgeConfig;
use eventmesh_wire::report::{
    BridgeRef, Connected, Direction, LastError, LeaseReport, REPORT_VERSION, Report, RouteReport, RouteState,
    whole_seconds,
};
use jiff::Timestamp;

use crate::books::{Books, Obstacle};
use crate::endpoint::LinkState;
use crate::mesh::MeshError;
use crate::mesh::lease::Standing;

/// The latest report, for whoever asks: the admin port.
#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<Option<Report>>>);

impl Board {
    pub fn post(&self, report: Report) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
    }

    #[must_use]
    pub fn read(&self) -> Option<Report> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a report is made from.
pub struct Situation<'a> {
    pub config: &'a BridgeConfig,
    pub hash: &'a str,
    pub problem: Option<&'a str>,
    pub paused: bool,
    pub mesh_connected: bool,
    /// What the mesh last said against the bridge.
    pub mesh_error: Option<MeshError>,
    /// Where one pod at a time carries events.
    pub lease: Option<Standing>,
    pub endpoint: LinkState,
    pub books: Vec<Arc<Books>>,
}

/// Remembers since when each route is in its state.
pub struct Reporter {
    pod: String,
    since: BTreeMap<(Direction, String), (RouteState, Timestamp)>,
}

impl Reporter {
    #[must_use]
    pub fn new(pod: String) -> Self {
        Self { pod, since: BTreeMap::new() }
    }

    /// The report, and whether a state changed since the last one.
    pub fn report(&mut self, situation: &Situation<'_>, now: Timestamp) -> (Report, bool) {
        let now = whole_seconds(now);
        let mut changed = false;
        let mut routes = Vec::with_capacity(situation.books.len());
        for books in &situation.books {
            let state = state(situation, books);
            let key = (books.direction, books.name.clone());
            let since = match self.since.get(&key) {
                Some((known, since)) if *known == state => *since,
                _ => {
                    tracing::info!(
                        route = books.name,
                        direction = books.direction.label(),
                        state = state.label(),
                        "route changed state"
                    );
                    changed = true;
                    self.since.insert(key, (state, now));
                    now
                }
            };
            routes.push(route_report(situation, books, state, since));
        }
        let bridge = &situation.config.bridge;
        let report = Report {
            version: REPORT_VERSION,
            bridge: BridgeRef {
                namespace: bridge.namespace.clone(),
                name: bridge.name.clone(),
                uid: bridge.uid.clone(),
            },
            pod: self.pod.clone(),
            config_hash: situation.hash.to_owned(),
            at: now,
            connected: Connected {
                mesh: situation.mesh_connected,
                endpoint: situation.endpoint.connected,
                endpoint_error: situation.endpoint.last_error.clone().filter(|_| !situation.endpoint.connected),
            },
            lease: situation.lease.clone().map(|Standing { active, holder, problem }| LeaseReport {
                active,
                holder,
                problem,
            }),
            config_problem: situation.problem.map(str::to_owned),
            routes,
        };
        (report, changed)
    }
}

fn state(situation: &Situation<'_>, books: &Books) -> RouteState {
    if situation.paused {
        return RouteState::Paused;
    }
    let mesh_refuses = situation.mesh_error.as_ref().is_some_and(|error| error.refused);
    if situation.endpoint.refused || (!situation.mesh_connected && mesh_refuses) {
        return RouteState::Failed;
    }
    if situation.mesh_connected && situation.lease.as_ref().is_some_and(|lease| !lease.active) {
        return RouteState::Standby;
    }
    if !situation.mesh_connected || !situation.endpoint.connected {
        return RouteState::Connecting;
    }
    match books.obstacle() {
        Some(Obstacle::Blocked) => RouteState::Blocked,
        Some(Obstacle::Failed) => RouteState::Failed,
        None => RouteState::Running,
    }
}

fn route_report(situation: &Situation<'_>, books: &Books, state: RouteState, since: Timestamp) -> RouteReport {
    // What keeps a side away is what keeps the route away.
    let endpoint = situation.endpoint.last_error.clone();
    let mesh = situation.mesh_error.as_ref().filter(|_| !situation.mesh_connected);
    let mesh =
        mesh.map(|error| LastError { message: format!("the mesh is not connected: {}", error.message), at: since });
    let last_error = match books.last_error() {
        _ if mesh.is_some() => mesh,
        Some(own) if endpoint.as_ref().is_none_or(|other| other.at <= own.at) => Some(own),
        own => endpoint.or(own),
    };
    RouteReport {
        name: books.name.clone(),
        direction: books.direction,
        state,
        since,
        counters: books.counters(),
        retries: books.retries(),
        restarts: books.restarts(),
        lag: books.lag(),
        last_error,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn situation(config: &BridgeConfig, books: &Arc<Books>) -> Situation<'static> {
        let config: &'static BridgeConfig = Box::leak(Box::new(config.clone()));
        Situation {
            config,
            hash: "h",
            problem: None,
            paused: false,
            mesh_connected: true,
            mesh_error: None,
            lease: None,
            endpoint: LinkState { connected: true, ..LinkState::default() },
            books: vec![Arc::clone(books)],
        }
    }

    fn config() -> BridgeConfig {
        serde_json::from_value(serde_json::json!({
            "version": 1, "bridge": {"namespace": "n", "name": "b", "uid": "u"}, "mesh": {"servers": ["nats://x"]},
            "endpoint": {"mqtt": {"url": "mqtt://x", "clientId": "c"}}
        }))
        .unwrap()
    }

    #[rstest]
    #[case(true, true, None, false, RouteState::Running)]
    #[case(true, true, Some(Obstacle::Blocked), false, RouteState::Blocked)]
    #[case(true, true, Some(Obstacle::Failed), false, RouteState::Failed)]
    #[case(false, true, Some(Obstacle::Blocked), false, RouteState::Connecting)]
    #[case(true, false, None, false, RouteState::Connecting)]
    #[case(true, true, Some(Obstacle::Blocked), true, RouteState::Paused)]
    fn states(
        #[case] mesh: bool,
        #[case] endpoint: bool,
        #[case] obstacle: Option<Obstacle>,
        #[case] paused: bool,
        #[case] expected: RouteState,
    ) {
        let books = Arc::new(Books::new("r", Direction::Inbound));
        if let Some(obstacle) = obstacle {
            books.obstructed(obstacle, "why");
        }
        let mut situation = situation(&config(), &books);
        situation.mesh_connected = mesh;
        situation.endpoint.connected = endpoint;
        situation.paused = paused;
        assert_eq!(state(&situation, &books), expected);
    }

    #[test]
    fn a_mesh_that_refuses_the_bridge_fails_the_route_and_is_told() {
        let books = Arc::new(Books::new("r", Direction::Inbound));
        let mut situation = situation(&config(), &books);
        situation.mesh_error = Some(MeshError { message: "it refuses the password".into(), refused: true });
        assert_eq!(state(&situation, &books), RouteState::Running, "an old refusal is history");
        situation.mesh_connected = false;
        let (report, _) = Reporter::new("pod".into()).report(&situation, Timestamp::from_second(1).unwrap());
        assert_eq!(report.routes[0].state, RouteState::Failed);
        assert!(report.routes[0].last_error.as_ref().unwrap().message.contains("refuses the password"));
    }

    #[test]
    fn since_moves_only_with_the_state() {
        let books = Arc::new(Books::new("r", Direction::Inbound));
        let situation = situation(&config(), &books);
        let mut reporter = Reporter::new("pod".into());
        let at = |second| Timestamp::from_second(second).unwrap();
        assert!(reporter.report(&situation, at(1)).1);
        let (report, changed) = reporter.report(&situation, at(2));
        assert!(!changed);
        assert_eq!(report.routes[0].since, at(1));
        books.obstructed(Obstacle::Blocked, "full");
        let (report, changed) = reporter.report(&situation, at(3));
        assert!(changed);
        assert_eq!(report.routes[0].since, at(3));
    }
}
