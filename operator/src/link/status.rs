//! How it stands with the links of a mesh. Pure, the clock passed in.

use std::collections::BTreeMap;

use eventmesh_crds::{
    conditions::{ConditionType, Reason, Verdict},
    link::LinkStatus,
};
use k8s_openapi::jiff::Timestamp;

use super::plan::{Far, Links, Planned, Refused};
use crate::broker::links::{Leafs, LeafsByAccount};

/// What is known of the links besides their plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The account of each.
    pub accounts: BTreeMap<String, String>,
    /// Those that cannot be dialled.
    pub refused: BTreeMap<String, Refused>,
    /// What the brokers say; absent while they do not answer.
    pub leafs: Option<LeafsByAccount>,
}

/// The status of each link.
#[must_use]
pub fn links(links: &Links, seen: &Seen, before: &[LinkStatus], now: Timestamp) -> Vec<LinkStatus> {
    let status = links.iter().map(|(name, link)| {
        let mut status = match link {
            Ok(planned) => of(name, planned, seen),
            Err(refused) => bad(name, refused),
        };
        let last = before.iter().find(|last| last.name == *name && last.state == status.state);
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        status.since = last.and_then(|last| last.since.clone()).or_else(|| Some(now.to_string()));
        status
    });
    status.collect()
}

fn bad(name: &str, Refused { reason, message }: &Refused) -> LinkStatus {
    LinkStatus {
        name: name.to_owned(),
        state: reason.as_str().to_owned(),
        message: Some(message.clone()),
        ..LinkStatus::default()
    }
}

fn of(name: &str, planned: &Planned, seen: &Seen) -> LinkStatus {
    let leafs = leafs(name, seen);
    let notes = planned.problem.iter().map(|problem| problem.message.clone()).chain(stays(planned));
    let notes: Vec<String> = match seen.refused.get(name) {
        // What the brokers have may work all the same.
        Some(refused) => vec![refused.message.clone()],
        None => notes.collect(),
    };
    let state = if leafs.connections > 0 { "Connected" } else { "Connecting" };
    LinkStatus {
        name: name.to_owned(),
        state: seen.refused.get(name).map_or(state, |refused| refused.reason.as_str()).to_owned(),
        since: None,
        dials: Some(planned.dials.is_some()),
        connections: Some(leafs.connections),
        round_trip_milliseconds: (leafs.connections > 0).then_some(leafs.round_trip),
        bytes_in: Some(leafs.bytes_in),
        bytes_out: Some(leafs.bytes_out),
        message: (!notes.is_empty()).then(|| notes.join("; ")),
    }
}

fn leafs(name: &str, seen: &Seen) -> Leafs {
    let account = seen.accounts.get(name);
    account.and_then(|account| seen.leafs.as_ref()?.get(account).copied()).unwrap_or_default()
}

/// Tells which exported subjects the mesh's own events do not leave by.
fn stays(planned: &Planned) -> Option<String> {
    let subjects: Vec<String> = planned.passed_on.iter().map(|one| format!("`{one}`")).collect();
    (!subjects.is_empty()).then(|| {
        format!(
            "{} come in over another link and are passed on; this mesh's own events of them stay",
            subjects.join(", ")
        )
    })
}

/// The condition; absent without links.
#[must_use]
pub fn linked(links: &Links, seen: &Seen) -> Option<Verdict> {
    let kind = ConditionType::Linked;
    let refusals = links.iter().filter_map(|(name, link)| link.as_ref().err().or_else(|| seen.refused.get(name)));
    let problems = links.values().flatten().filter_map(|planned| planned.problem.as_ref());
    if let Some(Refused { reason, message }) = refusals.chain(problems).next() {
        return Some(Verdict::bad(kind, *reason, message));
    }
    let (mut up, mut down) = (0, None);
    for (name, planned) in links.iter().filter_map(|(name, link)| Some((name, link.as_ref().ok()?))) {
        if leafs(name, seen).connections > 0 {
            up += 1;
        } else {
            down = down.or(Some((name, planned)));
        }
    }
    Some(match down {
        None if links.is_empty() => return None,
        None => Verdict::good(kind, Reason::Linked, format!("{up} of {up} links are up")),
        Some((name, planned)) => {
            let who = match &planned.dials {
                None => "the other side dials".to_owned(),
                Some(Far::Mesh { key, .. }) => format!("this side dials EventMesh {key}"),
                Some(Far::Remote { urls, .. }) => format!("this side dials {}", urls.join(", ")),
            };
            let why = "why not, only the logs of the brokers tell, in lines with `leafnode`";
            let why = if planned.dials.is_some() { format!("; {why}") } else { String::new() };
            Verdict::bad(kind, Reason::LinkConnecting, format!("link {name}: no broker is connected; {who}{why}"))
        }
    })
}

#[cfg(test)]
mod tests {
    use eventmesh_wire::subject::Pattern;

    use super::*;
    use crate::link::account::Carried;

    fn planned() -> Planned {
        Planned { dials: None, carried: Carried::default(), passed_on: Vec::new(), problem: None }
    }

    fn seen(connections: i64) -> Seen {
        let leafs = Leafs { connections, round_trip: 3, bytes_in: 1, bytes_out: 2 };
        Seen {
            accounts: [("l".to_owned(), "K".to_owned())].into(),
            leafs: Some([("K".to_owned(), leafs)].into()),
            ..Seen::default()
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn a_state_tells_since_when_it_is() {
        let all = Links::from([("l".to_owned(), Ok(planned()))]);
        let first = links(&all, &seen(1), &[], at(10));
        assert_eq!((first[0].state.as_str(), first[0].bytes_out), ("Connected", Some(2)));
        let second = links(&all, &seen(2), &first, at(20));
        assert_eq!((&second[0].since, second[0].connections), (&first[0].since, Some(2)));
        let third = links(&all, &seen(0), &second, at(30));
        assert_eq!((third[0].state.as_str(), &third[0].since), ("Connecting", &Some(at(30).to_string())));
        assert_eq!(third[0].round_trip_milliseconds, None);
    }

    #[test]
    fn the_condition_tells_the_worst() {
        let reason = |all: &Links, seen: &Seen| linked(all, seen).map(|verdict| (verdict.status, verdict.reason));
        assert_eq!(reason(&Links::new(), &Seen::default()), None);
        let mut all = Links::from([("l".to_owned(), Ok(planned()))]);
        assert_eq!(reason(&all, &seen(1)), Some((Some(true), Reason::Linked)));
        assert_eq!(reason(&all, &seen(0)), Some((Some(false), Reason::LinkConnecting)));
        assert_eq!(reason(&all, &Seen::default()), Some((Some(false), Reason::LinkConnecting)));
        let refused = |reason| Refused { reason, message: String::new() };
        all.insert("m".to_owned(), Err(refused(Reason::LinkLoop)));
        assert_eq!(reason(&all, &seen(1)), Some((Some(false), Reason::LinkLoop)));
        let pending = Seen { refused: [("l".to_owned(), refused(Reason::LinkPending))].into(), ..seen(1) };
        assert_eq!(reason(&all, &pending), Some((Some(false), Reason::LinkPending)));
    }

    #[test]
    fn a_link_that_works_with_what_it_has_tells_both() {
        let all = Links::from([("l".to_owned(), Ok(planned()))]);
        let refused = Refused { reason: Reason::LinkSecretInvalid, message: "expired".to_owned() };
        let seen = Seen { refused: [("l".to_owned(), refused)].into(), ..seen(1) };
        let told = &links(&all, &seen, &[], at(1))[0];
        assert_eq!((told.state.as_str(), told.connections), ("LinkSecretInvalid", Some(1)));
        assert_eq!(told.message.as_deref(), Some("expired"));
    }

    #[test]
    fn what_stays_is_told() {
        let passed_on = vec![Pattern::parse("x.>").expect("a pattern")];
        let all = Links::from([("l".to_owned(), Ok(Planned { passed_on, ..planned() }))]);
        let message = links(&all, &seen(1), &[], at(1))[0].message.clone();
        assert!(message.is_some_and(|message| message.contains("`x.>`")));
    }
}
