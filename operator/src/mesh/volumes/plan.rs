//! The next step on the way to larger volumes. Pure.

use eventmesh_crds::quantity::ByteQuantity;

/// What was seen.
pub struct Observed {
    pub wanted: ByteQuantity,
    /// The size in the StatefulSet; absent where there is none yet.
    pub template: Option<ByteQuantity>,
    /// Of the StatefulSet.
    pub uid: String,
    /// Whether there are as many brokers as wanted: a StatefulSet that comes anew has no memory of how many there were.
    pub is_settled: bool,
    pub claims: Vec<Claim>,
    /// Why volumes of this class cannot grow.
    pub obstacle: Option<String>,
}

/// The claim of one broker, in bytes.
pub struct Claim {
    pub name: String,
    /// Whether a broker has it: the volume of one that is gone grows when it is mounted again.
    pub used: bool,
    pub asked: i64,
    /// What its volume has.
    pub capacity: i64,
    /// What Kubernetes says of a growth that is under way.
    pub says: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing is to be done.
    Settled,
    /// Not possible; what has to be done about it.
    Refused(String),
    /// These claims have not been asked for more.
    Ask(Vec<String>),
    /// The volumes of these claims have not grown yet, and what Kubernetes says of it.
    Wait(Vec<String>),
    /// Every volume is large enough, and the number of brokers is being changed.
    Later,
    /// Every volume is large enough: the StatefulSet of this uid goes, and comes anew.
    Replace(String),
}

pub fn run(seen: &Observed) -> Step {
    let Some(template) = seen.template.as_ref().filter(|template| **template != seen.wanted) else {
        return Step::Settled;
    };
    let wanted = &seen.wanted;
    if wanted.bytes() < template.bytes() {
        return Step::Refused(format!(
            "storage.size {wanted} is less than the {template} that the volumes have, and volumes never shrink; write \
             {template}, or create a new EventMesh and move the events"
        ));
    }
    if let Some(obstacle) = &seen.obstacle {
        return Step::Refused(format!("{obstacle}; brokers run on with {template}"));
    }
    let small = |size: fn(&Claim) -> i64| seen.claims.iter().filter(move |claim| size(claim) < wanted.bytes());
    let to_ask: Vec<String> = small(|claim| claim.asked).map(|claim| claim.name.clone()).collect();
    if !to_ask.is_empty() {
        return Step::Ask(to_ask);
    }
    let growing: Vec<String> = small(|claim| claim.capacity)
        .filter(|claim| claim.used)
        .map(|claim| match &claim.says {
            Some(says) => format!("{} ({says})", claim.name),
            None => claim.name.clone(),
        })
        .collect();
    match growing {
        growing if !growing.is_empty() => Step::Wait(growing),
        _ if seen.is_settled => Step::Replace(seen.uid.clone()),
        _ => Step::Later,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(text: &str) -> ByteQuantity {
        text.parse().expect("a quantity")
    }

    /// Two claims, by what they ask for and what they have.
    fn seen(template: Option<&str>, wanted: &str, claims: [(&str, &str); 2]) -> Observed {
        let claims = claims.into_iter().enumerate().map(|(index, (asked, capacity))| Claim {
            name: format!("data-{index}"),
            used: true,
            asked: size(asked).bytes(),
            capacity: size(capacity).bytes(),
            says: None,
        });
        Observed {
            wanted: size(wanted),
            template: template.map(size),
            uid: "u".to_owned(),
            is_settled: true,
            claims: claims.collect(),
            obstacle: None,
        }
    }

    const SMALL: [(&str, &str); 2] = [("1Gi", "1Gi"), ("1Gi", "1Gi")];

    #[test]
    fn claims_are_asked_then_waited_for_and_then_the_set_comes_anew() {
        let run = |claims| super::run(&seen(Some("1Gi"), "2Gi", claims));
        let both = || vec!["data-0".to_owned(), "data-1".to_owned()];
        assert_eq!(run(SMALL), Step::Ask(both()));
        assert_eq!(run([("2Gi", "1Gi"), ("1Gi", "1Gi")]), Step::Ask(vec!["data-1".to_owned()]));
        assert_eq!(run([("2Gi", "1Gi"), ("2Gi", "1Gi")]), Step::Wait(both()));
        assert_eq!(run([("2Gi", "2Gi"), ("2Gi", "1Gi")]), Step::Wait(vec!["data-1".to_owned()]));
        // A volume may be larger than was asked for.
        assert_eq!(run([("2Gi", "2Gi"), ("2Gi", "3Gi")]), Step::Replace("u".to_owned()));
    }

    #[test]
    fn the_set_stays_while_brokers_come_or_go() {
        let seen = Observed { is_settled: false, ..seen(Some("1Gi"), "2Gi", [("2Gi", "2Gi"), ("2Gi", "2Gi")]) };
        assert_eq!(run(&seen), Step::Later);
    }

    #[test]
    fn nobody_waits_for_the_volume_of_a_broker_that_is_gone() {
        let mut one = seen(Some("1Gi"), "2Gi", [("2Gi", "2Gi"), ("1Gi", "1Gi")]);
        one.claims[1].used = false;
        assert_eq!(run(&one), Step::Ask(vec!["data-1".to_owned()]), "it may come back");
        one.claims[1].asked = size("2Gi").bytes();
        assert_eq!(run(&one), Step::Replace("u".to_owned()));
    }

    #[test]
    fn what_is_there_already_is_left_alone() {
        assert_eq!(run(&seen(None, "2Gi", SMALL)), Step::Settled);
        assert_eq!(run(&seen(Some("1024Mi"), "1Gi", SMALL)), Step::Settled);
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_to_do() {
        let Step::Refused(smaller) = run(&seen(Some("2Gi"), "1Gi", SMALL)) else { panic!("refused") };
        assert!(smaller.contains("write 2Gi"), "{smaller}");
        let fixed = Observed { obstacle: Some("class a cannot".to_owned()), ..seen(Some("1Gi"), "2Gi", SMALL) };
        assert_eq!(run(&fixed), Step::Refused("class a cannot; brokers run on with 1Gi".to_owned()));
    }

    #[test]
    fn what_kubernetes_says_is_told() {
        let mut one = seen(Some("1Gi"), "2Gi", [("2Gi", "1Gi"), ("2Gi", "2Gi")]);
        one.claims[0].says = Some("Waiting for a node".to_owned());
        assert_eq!(run(&one), Step::Wait(vec!["data-0 (Waiting for a node)".to_owned()]));
    }
}
