//! A line of the table: medians of several runs.

use std::time::Duration;

use eventmesh_wire::report::Direction;

use super::Run;

/// One direction of one far side.
#[derive(Debug)]
pub struct Row {
    pub name: String,
    pub direction: Direction,
    pub run: Run,
    pub ceilings: Ceilings,
}

/// Events a second that the client libraries come to alone.
#[derive(Debug, Clone, Copy)]
pub struct Ceilings {
    /// That of the far side.
    pub library: f64,
    /// That of the mesh, in the mesh's account and without TLS.
    pub inside: f64,
    /// That of the mesh, where the bridge is.
    pub mesh: f64,
}

impl Ceilings {
    /// The median of each by itself.
    #[must_use]
    pub fn median(all: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(all.iter().map(figure).collect());
        Self { library: of(|one| one.library), inside: of(|one| one.inside), mesh: of(|one| one.mesh) }
    }
}

/// What stands above the rows.
#[must_use]
pub fn header() -> String {
    format!(
        "{:<18}{:<10}{:>9}{:>9}{:>9}{:>9}{:>9}{:>11}{:>10}{:>6}{:>10}{:>6}",
        "far side",
        "direction",
        "msg/s",
        "p50 ms",
        "p99 ms",
        "RSS MiB",
        "cpu s/M",
        "library/s",
        "mesh/s",
        "%",
        "inside/s",
        "%"
    )
}

impl Row {
    /// Of the lower of two ceilings: the library's, and the mesh's where the bridge is.
    #[must_use]
    pub fn percent(&self) -> f64 {
        self.percent_of(self.ceilings.mesh)
    }

    /// As [`Row::percent`], with the mesh's ceiling where neither TLS nor an account of its own costs anything.
    #[must_use]
    pub fn percent_inside(&self) -> f64 {
        self.percent_of(self.ceilings.inside)
    }

    fn percent_of(&self, mesh: f64) -> f64 {
        100.0 * self.run.rate / self.ceilings.library.min(mesh)
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, direction, run, ceilings: Ceilings { library, inside, mesh } } = self;
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        let (p50, p99) = (milliseconds(run.p50), milliseconds(run.p99));
        write!(f, "{name:<18}{:<10}{:>9.0}{p50:>9.1}{p99:>9.1}", direction.label(), run.rate)?;
        write!(f, "{:>9.1}{:>9.1}{library:>11.0}", run.memory, run.cpu)?;
        write!(f, "{mesh:>10.0}{:>6.0}{inside:>10.0}{:>6.0}", self.percent(), self.percent_inside())
    }
}

impl Run {
    /// The median of each figure by itself; of memory the highest.
    #[must_use]
    pub fn median(runs: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(runs.iter().map(figure).collect());
        let time = |figure: fn(&Self) -> Duration| {
            let mut times: Vec<Duration> = runs.iter().map(figure).collect();
            times.sort_unstable();
            times.get(times.len() / 2).copied().unwrap_or_default()
        };
        let highest = |figure: fn(&Self) -> f64| runs.iter().map(figure).fold(0.0, f64::max);
        Self {
            rate: of(|run| run.rate),
            p50: time(|run| run.p50),
            p99: time(|run| run.p99),
            memory: highest(|run| run.memory),
            cpu: of(|run| run.cpu),
            broker_memory: highest(|run| run.broker_memory),
            broker_cpu: of(|run| run.broker_cpu),
        }
    }
}

/// The middle one, or the higher of the two in the middle.
pub(super) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rate: f64, memory: f64, p99: u64) -> Run {
        Run { rate, memory, p99: Duration::from_millis(p99), ..Run::default() }
    }

    #[test]
    fn each_figure_has_its_own_median_and_memory_its_highest() {
        let median = Run::median(&[run(3.0, 7.0, 30), run(1.0, 9.0, 20), run(2.0, 8.0, 10)]);
        assert_eq!((median.rate, median.memory, median.p99), (2.0, 9.0, Duration::from_millis(20)));
    }

    #[test]
    fn a_row_is_judged_by_the_lower_ceiling() {
        let row = |library, mesh, inside| Row {
            name: "x".to_owned(),
            direction: Direction::Inbound,
            run: run(50.0, 0.0, 0),
            ceilings: Ceilings { library, inside, mesh },
        };
        let is = |found: f64, wanted: f64| (found - wanted).abs() < 1e-9;
        let slow_library = row(100.0, 200.0, 400.0);
        assert!(is(slow_library.percent(), 50.0) && is(slow_library.percent_inside(), 50.0), "{slow_library}");
        let slow_mesh = row(200.0, 80.0, 125.0);
        assert!(is(slow_mesh.percent(), 62.5) && is(slow_mesh.percent_inside(), 40.0), "{slow_mesh}");
    }
}
