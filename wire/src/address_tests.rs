//! Tables and properties of the address mapping.

use proptest::prelude::*;
use rstest::rstest;

use super::*;

#[rstest]
#[case("line/+/temperature", "factory.line.{1}.temperature", "line/7/temperature", Some("factory.line.7.temperature"))]
#[case("line/+/temperature", "factory.line.{1}.temperature", "line/7/humidity", None)]
#[case("line/+/temperature", "f.{1}", "line//temperature", Some("f.%"))]
#[case("line/#", "f.{1}", "line/a/b", Some("f.a.b"))]
#[case("line/#", "f.{1}", "line", Some("f.%-"))]
#[case("line/#", "f.{1}", "line/", Some("f.%"))]
#[case("+/+", "f.{2}.x-{1}", "a b/c.d", Some("f.c%2Ed.x-a%20b"))]
#[case("#", "all.{1}", "$SYS/x", None)]
#[case("$share/g/a/+", "a.{1}", "a/1", Some("a.1"))]
#[case("a/+", "a.{1}", "a/100%", Some("a.100%25"))]
fn inbound(#[case] from: &str, #[case] to: &str, #[case] topic: &str, #[case] subject: Option<&str>) {
    let map = InboundMap::new(from, to).expect("a valid mapping");
    assert_eq!(map.map(topic).map(|mapped| mapped.expect("a subject")).as_deref(), subject);
}

#[rstest]
#[case("commands.line.*", "line/{1}/set", "commands.line.7", Some("line/7/set"))]
#[case("commands.>", "c/{1}", "commands.a.b", Some("c/a/b"))]
#[case("commands.>", "c/{1}", "commands", None)]
#[case("c.*", "x/{1}", "c.a%20b", Some("x/a b"))]
#[case("c.*", "x/{1}", "c.a/b", Some("x/a%2Fb"))]
#[case("c.*", "x/{1}", "c.a%2Fb", Some("x/a%2Fb"))]
#[case("c.*", "x/{1}", "c.%", Some("x/"))]
#[case("c.>", "x/{1}", "c.%-", Some("x"))]
#[case("c.*", "{1}/x", "c.$SYS", Some("%24SYS/x"))]
fn outbound(#[case] from: &str, #[case] to: &str, #[case] subject: &str, #[case] topic: Option<&str>) {
    let map = OutboundMap::new(&[from.to_owned()], to).expect("a valid mapping");
    assert_eq!(map.map(subject).map(|mapped| mapped.expect("a topic")).as_deref(), topic);
}

#[rstest]
#[case("", "a", "empty")]
#[case("a/#/b", "a", "must be the last level")]
#[case("a/b#", "a", "must be the last level")]
#[case("a/b+", "a", "whole level")]
#[case("$share/g", "a", "shared subscription")]
#[case("a/+", "b.{2}", "names `{2}`, but `a/+` has 1 wildcard")]
#[case("a/+", "b.{0}", "names `{0}`")]
#[case("a/+", "b.{1", "unbalanced")]
#[case("a/+", "b.1}", "unbalanced")]
#[case("a/+", "b.{x}", "unbalanced")]
#[case("a/#", "b.{1}.c", "must be the last part")]
#[case("a/#", "b.x{1}", "must be the last part")]
#[case("a/+", "{1}.b", "begins with a wildcard")]
#[case("a/+", "$JS.{1}", "reserved")]
#[case("a/+", "b..{1}", "empty token")]
#[case("a/+", "b.x*{1}", "wildcard")]
fn refuses_inbound(#[case] from: &str, #[case] to: &str, #[case] problem: &str) {
    let error = InboundMap::new(from, to).expect_err("refused").to_string();
    assert!(error.contains(problem), "{error}");
}

#[rstest]
#[case(&["c.*"], "a/+/{1}", "can not contain `+`")]
#[case(&["c.*"], "$SYS/{1}", "begin with `$`")]
#[case(&["c.*", "d"], "a/{1}", "`d` has 0 wildcard")]
#[case(&["c.>"], "a/{1}/b", "must be the last part")]
#[case(&[], "a", "empty")]
fn refuses_outbound(#[case] from: &[&str], #[case] to: &str, #[case] problem: &str) {
    let from: Vec<String> = from.iter().map(|&text| text.to_owned()).collect();
    let error = OutboundMap::new(&from, to).expect_err("refused").to_string();
    assert!(error.contains(problem), "{error}");
}

#[test]
fn patterns_tell_what_a_mapping_can_produce() {
    assert_eq!(InboundMap::new("a/+/#", "b.x{1}.{2}").unwrap().pattern().as_str(), "b.*.>");
    assert_eq!(OutboundMap::new(&["c.*.>".to_owned()], "x/{1}y/{2}").unwrap().filter().as_str(), "x/+/#");
}

fn topic() -> impl Strategy<Value = String> {
    let level = "[ab %.*>é\u{7f}]{0,4}";
    prop::collection::vec(level, 1..4)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("not empty", |topic| !topic.is_empty())
}

fn filter() -> impl Strategy<Value = MqttFilter> {
    (prop::collection::vec(prop_oneof!["a", "b", Just("+".to_owned())], 1..4), any::<bool>()).prop_map(
        |(mut levels, tail)| {
            if tail {
                levels.push("#".to_owned());
            }
            MqttFilter::parse(&levels.join("/")).unwrap()
        },
    )
}

proptest! {
    #[test]
    fn a_topic_survives_the_way_in_and_out(topic in topic()) {
        let inward = InboundMap::new("#", "in.{1}").unwrap();
        let outward = OutboundMap::new(&["in.>".to_owned()], "{1}").unwrap();
        let subject = inward.map(&topic).unwrap().unwrap();
        prop_assert!(Pattern::parse_concrete(&subject).is_ok(), "{subject} is not a subject");
        prop_assert!(inward.pattern().contains(&Pattern::parse(&subject).unwrap()));
        prop_assert_eq!(outward.map(&subject).unwrap().unwrap(), topic);
    }

    #[test]
    fn a_topic_in_both_is_a_witness_of_overlap(a in filter(), b in filter(), topic in "[ab]?(/[ab]?){0,3}") {
        if a.matches(&topic) && b.matches(&topic) {
            prop_assert!(a.overlaps(&b));
        }
        prop_assert_eq!(a.overlaps(&b), b.overlaps(&a));
    }
}
