//! How it stands with the links of a mesh. Pure, the clock passed in.

use std::collections::BTreeMap;

use eventmesh_crds::{
    conditions::{ConditionType, Reason, Verdict},
    link::LinkStatus,
};
use k8s_openapi::jiff::Timestamp;

use super::plan::{Far, Links, Planned, Refused};
use crate::broker::{
    ends::{End, EndsByAccount},
    links::{Leafs, LeafsByAccount},
};

/// What is known of the links besides their plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The account of each.
    pub accounts: BTreeMap<String, String>,
    /// Those that cannot be dialled.
    pub refused: BTreeMap<String, Refused>,
    /// What the brokers say; absent while they do not answer.
    pub leafs: Option<LeafsByAccount>,
    /// Why the last connections ended.
    pub ends: EndsByAccount,
}

/// The status of each link.
#[must_use]
pub fn links(links: &Links, seen: &Seen, before: &[LinkStatus], now: Timestamp) -> Vec<LinkStatus> {
    let status = links.iter().map(|(name, link)| {
        let mut status = match link {
            Ok(planned) => of(name, planned, seen),
            Err(refused) => bad(name, refused),
        };
        let before = before.iter().find(|before| before.name == *name);
        let last = before.filter(|before| before.state == status.state);
        status.since = last.and_then(|last| last.since.clone()).or_else(|| Some(whole(now)));
        // An operator that has just started has heard nothing yet.
        if let (None, Some(before)) = (&status.last_error, before) {
            (status.last_error, status.last_error_time) = (before.last_error.clone(), before.last_error_time.clone());
        }
        status
    });
    status.collect()
}

fn whole(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
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
    let (leafs, end) = (leafs(name, seen), end(name, seen));
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
        last_error: end.map(|end| end.reason.clone()),
        last_error_time: end.map(|end| whole(end.time)),
        message: (!notes.is_empty()).then(|| notes.join("; ")),
    }
}

fn leafs(name: &str, seen: &Seen) -> Leafs {
    let account = seen.accounts.get(name);
    account.and_then(|account| seen.leafs.as_ref()?.get(account).copied()).unwrap_or_default()
}

fn end<'s>(name: &str, seen: &'s Seen) -> Option<&'s End> {
    seen.ends.get(seen.accounts.get(name)?)
}

/// What a side that dials knows of why it is not connected, and what to do.
fn why(end: Option<&End>) -> String {
    let Some(End { reason, .. }) = end else {
        return "nothing has answered there so far: look at the address, and for a wall in between".to_owned();
    };
    let advice = match reason.as_str() {
        "TLS Handshake Failure" => {
            "compare ca.crt of the link's Secret with the authority of the other side, the host of the URL with its              certificate, and the clocks"
        }
        // So end connections that the other side has turned away.
        "Client Closed" | "Read Error" | "Authentication Failure" | "Authentication Expired" => {
            "the other side has ended the connection: mostly it does not know the credentials any more; take a new copy              with `kubectl eventmesh link generate` there"
        }
        _ => "the logs of the brokers tell more, in lines with `leafnode`",
    };
    format!("the last connection ended with `{reason}`; {advice}")
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
            let why = planned.dials.as_ref().map(|_| format!("; {}", why(end(name, seen)))).unwrap_or_default();
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
    fn the_last_error_stays_until_there_is_another() {
        let all = Links::from([("l".to_owned(), Ok(planned()))]);
        let ended = |reason: &str, second| Seen {
            ends: [("K".to_owned(), End { reason: reason.to_owned(), time: at(second) })].into(),
            ..seen(1)
        };
        let told = |status: &[LinkStatus]| (status[0].last_error.clone(), status[0].last_error_time.clone());
        let stale = links(&all, &ended("Stale Connection", 5), &[], at(10));
        assert_eq!(told(&stale), (Some("Stale Connection".to_owned()), Some(at(5).to_string())));
        assert_eq!(told(&links(&all, &seen(1), &stale, at(20))), told(&stale), "a new operator has heard nothing");
        let other = links(&all, &ended("Read Error", 25), &stale, at(30));
        assert_eq!(told(&other), (Some("Read Error".to_owned()), Some(at(25).to_string())));
    }

    #[test]
    fn a_side_that_dials_says_why_it_is_not_connected() {
        let far = Far::Remote { urls: vec!["tls://far".to_owned()], secret: "s".to_owned() };
        let all = Links::from([("l".to_owned(), Ok(Planned { dials: Some(far), ..planned() }))]);
        let message = |seen: &Seen| linked(&all, seen).map(|verdict| verdict.message).unwrap_or_default();
        assert!(message(&seen(0)).ends_with("this side dials tls://far; nothing has answered there so far: look at the address, and for a wall in between"));
        let end = |reason: &str| End { reason: reason.to_owned(), time: at(1) };
        for (reason, advice) in
            [("TLS Handshake Failure", "ca.crt"), ("Client Closed", "link generate"), ("Other", "logs")]
        {
            let said = message(&Seen { ends: [("K".to_owned(), end(reason))].into(), ..seen(0) });
            assert!(said.contains(&format!("`{reason}`; ")) && said.contains(advice), "{said}");
        }
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
