//! When a certificate of the mesh's own authority has to be replaced.

use std::collections::BTreeSet;

use k8s_openapi::jiff::Timestamp;

use super::{Authority, Pair, Policy, plus, reading, renewal};

/// Why there has to be a new one, or until when the one that is there is good.
///
/// # Errors
/// Why not.
pub fn is_good(
    leaf: &Pair,
    signer: &Authority,
    names: &BTreeSet<String>,
    policy: &Policy,
    now: Timestamp,
) -> Result<Timestamp, &'static str> {
    let Ok(facts) = reading::facts(&leaf.certificate) else { return Err("it cannot be read") };
    if reading::belong_together(&leaf.certificate, &leaf.key).is_err() {
        return Err("its private key belongs to another");
    }
    match reading::verify(&leaf.certificate, &signer.certificate, now) {
        Ok(()) => {}
        Err(reading::Doubt::Expired) => return Err("it has expired"),
        Err(_) => return Err("the current authority has not signed it"),
    }
    if facts.names != *names {
        return Err("its names have changed");
    }
    let due = renewal(&facts);
    if due <= now {
        return Err("two thirds of its life are over");
    }
    if facts.not_after > plus(now, policy.leaf) {
        return Err("it lasts longer than certificateLifetime");
    }
    Ok(due)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::tests::{POLICY, at},
        *,
    };

    #[test]
    fn a_leaf_is_replaced_for_a_reason() {
        let names: BTreeSet<String> = ["a".to_owned()].into();
        let authority = Authority::generate("m", POLICY.authority, at(0)).expect("an authority");
        let other = Authority::generate("m", POLICY.authority, at(0)).expect("an authority");
        let leaf = authority.issue(&names, POLICY.leaf, at(0)).expect("a leaf");
        let judge = |leaf: &Pair, signer, names: &BTreeSet<String>, now| is_good(leaf, signer, names, &POLICY, at(now));
        // 3,960 s from 360 s before.
        assert_eq!(judge(&leaf, &authority, &names, 0), Ok(at(2280)));
        assert_eq!(judge(&leaf, &authority, &names, 2279), Ok(at(2280)));
        assert_eq!(judge(&leaf, &authority, &names, 2280), Err("two thirds of its life are over"));
        assert_eq!(judge(&leaf, &authority, &names, 3601), Err("it has expired"));
        assert_eq!(judge(&leaf, &other, &names, 0), Err("the current authority has not signed it"));
        let more = ["a".to_owned(), "b".to_owned()].into();
        assert_eq!(judge(&leaf, &authority, &more, 0), Err("its names have changed"));
        let mixed = Pair { key: other.key.clone().expect("a key"), ..leaf.clone() };
        assert_eq!(judge(&mixed, &authority, &names, 0), Err("its private key belongs to another"));
        let broken = Pair { certificate: "x".to_owned(), ..leaf.clone() };
        assert_eq!(judge(&broken, &authority, &names, 0), Err("it cannot be read"));
        let shorter = Policy { leaf: Duration::from_mins(30), ..POLICY };
        assert_eq!(
            is_good(&leaf, &authority, &names, &shorter, at(0)),
            Err("it lasts longer than certificateLifetime")
        );
    }
}
