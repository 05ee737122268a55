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
    let map = InboundMap::new(&MQTT, from, to).expect("a valid mapping");
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
    let map = OutboundMap::new(&MQTT, &[from.to_owned()], to).expect("a valid mapping");
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
    let error = InboundMap::new(&MQTT, from, to).expect_err("refused").to_string();
    assert!(error.contains(problem), "{error}");
}

#[rstest]
#[case(&["c.*"], "a/+/{1}", "contains a wildcard")]
#[case(&["c.*"], "$SYS/{1}", "begin with `$`")]
#[case(&["c.*", "d"], "a/{1}", "`d` has 0 wildcard")]
#[case(&["c.>"], "a/{1}/b", "must be the last part")]
#[case(&[], "a", "empty")]
fn refuses_outbound(#[case] from: &[&str], #[case] to: &str, #[case] problem: &str) {
    let from: Vec<String> = from.iter().map(|&text| text.to_owned()).collect();
    let error = OutboundMap::new(&MQTT, &from, to).expect_err("refused").to_string();
    assert!(error.contains(problem), "{error}");
}

#[test]
fn patterns_tell_what_a_mapping_can_produce() {
    assert_eq!(InboundMap::new(&MQTT, "a/+/#", "b.x{1}.{2}").unwrap().pattern().as_str(), "b.*.>");
    assert_eq!(OutboundMap::new(&MQTT, &["c.*.>".to_owned()], "x/{1}y/{2}").unwrap().filter().as_str(), "x/+/#");
    // What is the rest for one pattern is a single token for another; the filter has to cover both.
    let both = OutboundMap::new(&MQTT, &["a.>".to_owned(), "b.*.>".to_owned()], "x/{1}").unwrap();
    assert_eq!(both.map("a.p.q").unwrap().unwrap(), "x/p/q");
    assert!(both.filter().matches("x/p/q"), "{}", both.filter().as_str());
}

#[test]
fn an_empty_level_makes_no_topic_of_the_brokers_own() {
    let map = OutboundMap::new(&MQTT, &["c.*".to_owned()], "{1}$SYS/x").unwrap();
    assert_eq!(map.map("c.a").unwrap().unwrap(), "a$SYS/x");
    assert_eq!(map.map("c.%").unwrap().unwrap_err().problem, "topics that begin with `$` are the MQTT broker's own");
}

fn topic() -> impl Strategy<Value = String> {
    let level = "[ab %.*>é\u{7f}]{0,4}";
    prop::collection::vec(level, 1..4)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("not empty", |topic| !topic.is_empty())
}

fn filter() -> impl Strategy<Value = AddressPattern> {
    (prop::collection::vec(prop_oneof!["a", "b", Just("+".to_owned())], 1..4), any::<bool>()).prop_map(
        |(mut levels, tail)| {
            if tail {
                levels.push("#".to_owned());
            }
            AddressPattern::parse(&MQTT, &levels.join("/")).unwrap()
        },
    )
}

proptest! {
    #[test]
    fn a_topic_survives_the_way_in_and_out(topic in topic()) {
        let inward = InboundMap::new(&MQTT, "#", "in.{1}").unwrap();
        let outward = OutboundMap::new(&MQTT, &["in.>".to_owned()], "{1}").unwrap();
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

#[rstest]
#[case("orders", "in.orders", "orders", Some("in.orders"))]
#[case("orders", "in.orders", "x/orders", None)]
#[case("amq.topic/line.*.t", "in.{1}", "amq.topic/line.7.t", Some("in.7"))]
#[case("amq.topic/line.*.t", "in.{1}", "other/line.7.t", None)]
#[case("amq.topic/line.*.t", "in.{1}", "amq.topic.line.7.t", None)]
#[case("x/#", "in.{1}", "x/a.b/c", Some("in.a.b/c"))]
#[case("x/a.#", "in.{1}", "x/a", Some("in.%-"))]
fn inbound_of_an_exchange(#[case] from: &str, #[case] to: &str, #[case] address: &str, #[case] subject: Option<&str>) {
    let map = InboundMap::new(&AMQP_091, from, to).expect("a valid mapping");
    assert_eq!(map.map(address).map(|mapped| mapped.expect("a subject")).as_deref(), subject);
}

#[rstest]
#[case("c.*", "x/line.{1}.set", "c.7", "x/line.7.set")]
#[case("c.>", "amq.topic/{1}", "c.a.b", "amq.topic/a.b")]
#[case("c.*", "orders.{1}", "c.eu", "orders.eu")]
#[case("c.*", "x/{1}", "c.a%2Eb", "x/a%2Eb")]
fn outbound_to_an_exchange(#[case] from: &str, #[case] to: &str, #[case] subject: &str, #[case] address: &str) {
    let map = OutboundMap::new(&AMQP_091, &[from.to_owned()], to).expect("a valid mapping");
    assert_eq!(map.map(subject).unwrap().unwrap(), address);
    assert!(map.filter().matches(address), "{}", map.filter().as_str());
}

#[rstest]
#[case("/orders/*", "o.{1}", "/orders/7", Some("o.7"))]
#[case("/orders/*", "o.{1}", "/orders/7/8", None)]
#[case("/orders/*", "o.{1}", "/orders/", Some("o.%"))]
#[case("/orders/**", "o.{1}", "/orders/7/8", Some("o.7.8"))]
#[case("/orders/**", "o.{1}", "/orders", None)]
#[case("/**", "o.{1}", "/", Some("o.%"))]
#[case("/*/x", "o.{1}", "/a%2Fb/x", Some("o.a%252Fb"))]
fn http_inbound(#[case] from: &str, #[case] to: &str, #[case] path: &str, #[case] subject: Option<&str>) {
    let map = InboundMap::new(&HTTP, from, to).expect("a valid mapping");
    assert_eq!(map.map(path).map(|mapped| mapped.expect("a subject")).as_deref(), subject);
}

#[rstest]
#[case("o.*", "/take/{1}", "o.a%20b", Ok("/take/a b"))]
#[case("o.>", "/take/{1}", "o.a.b", Ok("/take/a/b"))]
#[case("o.*", "/take/{1}", "o.a%2Fb", Ok("/take/a%2Fb"))]
#[case("o.*", "/take/{1}", "o.%2E%2E", Err("`.` or `..`"))]
#[case("o.*", "/take/{1}/x", "o.%252e%252E", Err("`.` or `..`"))]
#[case("o.*", "/take/{1}", "o.a%0Ab", Err("control characters"))]
fn http_outbound(#[case] from: &str, #[case] to: &str, #[case] subject: &str, #[case] path: Result<&str, &str>) {
    let mapped =
        OutboundMap::new(&HTTP, &[from.to_owned()], to).expect("a valid mapping").map(subject).expect("a match");
    match path {
        Ok(path) => assert_eq!(mapped.as_deref(), Ok(path)),
        Err(problem) => assert!(mapped.unwrap_err().problem.contains(problem)),
    }
}

#[rstest]
#[case("take/{1}", "begins with a slash")]
#[case("/a/../{1}", "`.` or `..`")]
#[case("/a/*", "wildcard")]
fn http_refuses_outbound(#[case] to: &str, #[case] problem: &str) {
    let error = OutboundMap::new(&HTTP, &["c.*".to_owned()], to).expect_err("refused").to_string();
    assert!(error.contains(problem), "{error}");
}

#[rstest]
#[case("orders.*.created", "in.{1}", "orders.7.created", "in.7")]
#[case("orders.>", "in.{1}", "orders.a.b", "in.a.b")]
#[case("orders.*", "in.{1}", "orders.50%", "in.50%25")]
fn nats_subjects_come_in(#[case] from: &str, #[case] to: &str, #[case] address: &str, #[case] subject: &str) {
    let map = InboundMap::new(&NATS, from, to).unwrap();
    assert_eq!(map.map(address).unwrap().unwrap(), subject);
}

#[test]
fn nats_subjects_go_out_and_stay_out_of_what_is_the_server_s() {
    let to = |to: &str| OutboundMap::new(&NATS, &["prices.*".to_owned()], to);
    assert_eq!(to("p.{1}.x").unwrap().map("prices.a%2Eb").unwrap().unwrap(), "p.a%2Eb.x");
    assert_eq!(to("p.{1}").unwrap().map("prices.7").unwrap().unwrap(), "p.7");
    for wrong in ["$JS.API.{1}", "$SYS.{1}", "p..{1}", "p.*", ""] {
        assert!(to(wrong).is_err(), "{wrong}");
    }
    assert!(InboundMap::new(&NATS, "a.>", "b.{1}").unwrap().map("a").is_none(), "`>` is at least one token");
}
