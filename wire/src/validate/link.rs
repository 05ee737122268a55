//! What the far side of a link needs.

use super::{ProblemKind, Problems};
use crate::config::{BridgeConfig, Guarantee, LinkEndpoint};

pub(super) fn check(link: &LinkEndpoint, config: &BridgeConfig, problems: &mut Problems) {
    problems.require(!link.name.is_empty(), "endpoint.link.name", "must not be empty");
    problems.require(
        config.inbound.is_empty(),
        "inbound",
        "copies go out only; the other side has a Bridge of its own",
    );
    problems.require(
        config.delivery.guarantee == Guarantee::AtLeastOnce,
        "delivery.guarantee",
        "a copy is always kept up surely: leave it out",
    );
    for (index, route) in config.outbound.iter().enumerate() {
        let path = format!("outbound[{index}]");
        let changes = route.filter.is_some() || route.transform.is_some() || route.key.is_some() || route.retain;
        if changes || !route.to.is_empty() || route.dead_letter_subject.is_some() {
            let message = "a copy is what the Topic holds: leave out `to`, `filter`, `transform`, `key`, `retain` and dead letters";
            problems.add(ProblemKind::Value, path, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use crate::config::BridgeConfig;

    fn problems(change: impl FnOnce(&mut Value)) -> String {
        let mut config = json!({
            "version": 1, "bridge": {"namespace": "n", "name": "b", "uid": "u"}, "mesh": {"servers": ["nats://x"]},
            "endpoint": {"link": {"name": "head-office"}},
            "outbound": [{"name": "r", "stream": "n_t", "consumer": "c", "subjects": ["a.*"], "to": ""}],
        });
        change(&mut config);
        let config: BridgeConfig = serde_json::from_value(config).expect("a configuration");
        config.validate().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn routes_of_copies_say_only_what_they_copy() {
        assert_eq!(problems(|_| ()), "");
    }

    #[rstest]
    #[case("filter", json!("true"))]
    #[case("transform", json!("1"))]
    #[case("to", json!("a.b"))]
    #[case("deadLetterSubject", json!("dead.x"))]
    fn nothing_in_a_copy_is_changed(#[case] field: &str, #[case] value: Value) {
        let found = problems(|config| config["outbound"][0][field] = value);
        assert!(found.contains("outbound[0]: a copy is what the Topic holds"), "{found}");
    }

    #[test]
    fn a_copy_is_never_lossy_and_goes_one_way() {
        assert!(
            problems(|config| config["delivery"] = json!({"guarantee": "AtMostOnce"})).contains("delivery.guarantee")
        );
        let inbound = json!([{"name": "i", "from": "a", "to": "b", "stream": "s"}]);
        assert!(problems(|config| config["inbound"] = inbound).contains("copies go out only"));
    }
}
