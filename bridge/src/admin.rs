//! The admin port: is it alive, is it ready, and its numbers for Prometheus.

use std::sync::atomic::{AtomicI64, AtomicU64};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use eventmesh_wire::report::{Report, RouteState};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::reporter::Board;

/// Seconds without a turn of the main loop after which the process counts as wedged.
const WEDGED: i64 = 60;

/// Serves until the process ends.
///
/// # Errors
/// When the socket fails.
pub async fn serve(listener: TcpListener, board: Board) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/report", get(report));
    axum::serve(listener, routes.with_state(board)).await
}

async fn live(State(board): State<Board>) -> impl IntoResponse {
    let age = board.read().map_or(0, |report| jiff::Timestamp::now().as_second() - report.at.as_second());
    if age < WEDGED { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "the main loop does not turn") }
}

async fn ready(State(board): State<Board>) -> impl IntoResponse {
    let ready = board.read().is_some_and(|report| {
        // A pod that stands by is as ready as can be: a roll-out may go on.
        let idle = |state| matches!(state, RouteState::Paused | RouteState::Standby);
        let idle = report.routes.iter().all(|route| idle(route.state));
        report.connected.mesh && (report.connected.endpoint || idle)
    });
    if ready { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "not connected to both sides") }
}

async fn report(State(board): State<Board>) -> impl IntoResponse {
    let text = board.read().and_then(|report| serde_json::to_string(&report).ok()).unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], text)
}

async fn metrics(State(board): State<Board>) -> impl IntoResponse {
    let text = board.read().map(|report| render(&report)).unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    route: String,
    direction: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    route: String,
    direction: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabels {
    route: String,
    direction: &'static str,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SideLabels {
    side: &'static str,
}

type Counters<L> = Family<L, Counter<u64, AtomicU64>>;
type Gauges<L> = Family<L, Gauge<i64, AtomicI64>>;

/// The numbers are the report's: metrics and status can not differ.
fn render(report: &Report) -> String {
    let mut registry = Registry::with_prefix("eventmesh_bridge");
    let events: Counters<OutcomeLabels> = Family::default();
    let (retries, restarts): (Counters<RouteLabels>, Counters<RouteLabels>) = Default::default();
    let (in_flight, lag): (Gauges<RouteLabels>, Gauges<RouteLabels>) = Default::default();
    let states: Gauges<StateLabels> = Family::default();
    let connected: Gauges<SideLabels> = Family::default();
    registry.register(
        "events",
        "Events by what became of them; received is the sum of all outcomes and of what is in flight",
        events.clone(),
    );
    registry.register("retries", "Tries beyond the first", retries.clone());
    registry.register("restarts", "Restarts of routes", restarts.clone());
    registry.register("in_flight", "Events received and not settled", in_flight.clone());
    registry.register("lag", "Events waiting in the stream", lag.clone());
    registry.register("route_state", "1 for the state that the route is in", states.clone());
    registry.register("connected", "1 while the side is connected", connected.clone());
    for route in &report.routes {
        let (name, direction) = (&route.name, route.direction.label());
        let labels = RouteLabels { route: name.clone(), direction };
        let counters = &route.counters;
        let outcomes = [
            ("received", counters.received),
            ("delivered", counters.delivered),
            ("filtered", counters.filtered),
            ("dead_lettered", counters.dead_lettered),
            ("dropped", counters.dropped),
        ];
        for (outcome, count) in outcomes {
            events.get_or_create(&OutcomeLabels { route: name.clone(), direction, outcome }).inc_by(count);
        }
        retries.get_or_create(&labels).inc_by(route.retries);
        restarts.get_or_create(&labels).inc_by(route.restarts);
        in_flight.get_or_create(&labels).set(as_gauge(counters.in_flight));
        if let Some(waiting) = route.lag {
            lag.get_or_create(&labels).set(as_gauge(waiting));
        }
        for state in RouteState::ALL {
            states
                .get_or_create(&StateLabels { route: name.clone(), direction, state: state.label() })
                .set(i64::from(state == route.state));
        }
    }
    connected.get_or_create(&SideLabels { side: "mesh" }).set(i64::from(report.connected.mesh));
    connected.get_or_create(&SideLabels { side: "endpoint" }).set(i64::from(report.connected.endpoint));
    let mut text = String::new();
    let _ = encode(&mut text, &registry);
    text
}

fn as_gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
