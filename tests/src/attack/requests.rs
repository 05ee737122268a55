//! What is asked of the brokers directly.

use serde_json::json;

use super::{Act, Probe, wire::Publish, world::World};

/// What a list of requests is aimed at: the victim's, or for a control something of its own.
#[derive(Debug, Clone)]
pub struct Target {
    pub stream: String,
    pub consumer: String,
    /// First token of its subjects.
    pub word: String,
}

impl Target {
    #[must_use]
    pub fn victim(world: &World) -> Self {
        let (stream, consumer) = (world.places.stream(), world.places.auditors());
        Self { stream, consumer, word: "payments".to_owned() }
    }
}

/// A request and whether somebody who may ask gets an answer that is no error.
fn ask(subject: String, body: &serde_json::Value, control: bool) -> Probe {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let what = subject.clone();
    Probe {
        what,
        control,
        mark: None,
        act: Act::Request(Publish { subject, body: body.into_bytes(), ..Publish::default() }),
    }
}

/// The API of streams and consumers; in this order all of them work where they may.
#[must_use]
pub fn api(target: &Target, mark: &str) -> Vec<Probe> {
    let (Target { stream, consumer, word }, null) = (target, json!(null));
    let config = json!({"name": stream, "subjects": [format!("{word}.>")], "max_msgs": 100_000});
    let (copy, spy) = (format!("copy_{mark}"), format!("spy_{mark}"));
    let reader = json!({"stream_name": stream, "config": {"ack_policy": "none", "deliver_policy": "all", "inactive_threshold": 60_000_000_000_u64}});
    let durable = json!({"stream_name": stream, "config": {"durable_name": spy, "ack_policy": "explicit"}});
    let pushed = json!({"stream_name": stream, "config": {"ack_policy": "none", "deliver_policy": "all", "deliver_subject": "_INBOX.pushed"}});
    let edit = json!({"stream_name": stream, "action": "update", "config": {"durable_name": consumer, "name": consumer, "ack_policy": "explicit", "max_deliver": 7}});
    let api = |rest: String| format!("$JS.API.{rest}");
    let mut probes = Vec::new();
    let mut add = |rest: String, body: &serde_json::Value, control| probes.push(ask(api(rest), body, control));
    add("INFO".into(), &null, true);
    add("STREAM.NAMES".into(), &null, true);
    add("STREAM.LIST".into(), &null, true);
    add(format!("STREAM.INFO.{stream}"), &json!({"subjects_filter": ">"}), true);
    add(format!("STREAM.MSG.GET.{stream}"), &json!({"seq": 2}), true);
    add(format!("STREAM.MSG.GET.{stream}"), &json!({"last_by_subj": format!("{word}.2")}), true);
    add(format!("DIRECT.GET.{stream}"), &json!({"seq": 2}), true);
    add(format!("DIRECT.GET.{stream}.{word}.2"), &null, true);
    add(format!("DIRECT.GET.{stream}"), &json!({"batch": 5, "seq": 1}), true);
    add(format!("STREAM.SNAPSHOT.{stream}"), &json!({"deliver_subject": "_INBOX.snapshot"}), true);
    add(
        format!("STREAM.RESTORE.restored_{mark}"),
        &json!({"config": {"name": format!("restored_{mark}"), "subjects": [format!("{word}-restored.>")]}, "state": {"messages": 1}}),
        false,
    );
    add(format!("STREAM.CREATE.{copy}"), &json!({"name": copy, "sources": [{"name": stream}]}), true);
    add(
        format!("STREAM.CREATE.mirror_{mark}"),
        &json!({"name": format!("mirror_{mark}"), "mirror": {"name": stream}}),
        true,
    );
    add(format!("STREAM.CREATE.{stream}"), &config, false);
    add(format!("STREAM.UPDATE.{stream}"), &config, true);
    add(format!("CONSUMER.CREATE.{stream}"), &reader, true);
    add(format!("CONSUMER.CREATE.{stream}"), &pushed, true);
    add(
        format!("CONSUMER.CREATE.{stream}.n{spy}"),
        &json!({"stream_name": stream, "config": {"name": format!("n{spy}"), "ack_policy": "none"}}),
        true,
    );
    add(
        format!("CONSUMER.CREATE.{stream}.f{spy}.{word}.2"),
        &json!({"stream_name": stream, "config": {"name": format!("f{spy}"), "filter_subject": format!("{word}.2"), "ack_policy": "none"}}),
        true,
    );
    add(format!("CONSUMER.DURABLE.CREATE.{stream}.{spy}"), &durable, true);
    add(format!("CONSUMER.CREATE.{stream}.{consumer}"), &edit, true);
    add(format!("CONSUMER.NAMES.{stream}"), &null, true);
    add(format!("CONSUMER.LIST.{stream}"), &null, true);
    add(format!("CONSUMER.INFO.{stream}.{consumer}"), &null, true);
    add(format!("CONSUMER.MSG.NEXT.{stream}.{consumer}"), &json!({"batch": 1, "no_wait": true}), true);
    add(format!("CONSUMER.PAUSE.{stream}.{consumer}"), &json!({"pause_until": "2099-01-01T00:00:00Z"}), true);
    add(format!("CONSUMER.RESET.{stream}.{consumer}"), &null, true);
    // Needs a consumer with priority groups.
    add(format!("CONSUMER.UNPIN.{stream}.{consumer}"), &json!({"group": "a"}), false);
    // Need replicas, or the system account.
    add(format!("CONSUMER.LEADER.STEPDOWN.{stream}.{consumer}"), &null, false);
    add(format!("CONSUMER.PEER.REMOVE.{stream}.{consumer}"), &json!({"peer": "m-broker-0"}), false);
    add(format!("STREAM.LEADER.STEPDOWN.{stream}"), &null, false);
    add(format!("STREAM.PEER.REMOVE.{stream}"), &json!({"peer": "m-broker-0"}), false);
    add(format!("STREAM.PEER.EVACUATE.{stream}"), &json!({"peer": "m-broker-0"}), false);
    add(format!("STREAM.CANCEL_MOVE.{stream}"), &null, false);
    add("META.LEADER.STEPDOWN".into(), &null, false);
    add("META.RESCUE".into(), &null, false);
    add("SERVER.REMOVE".into(), &json!({"peer": "m-broker-0"}), false);
    add("SERVER.EVACUATE".into(), &json!({"peer": "m-broker-0"}), false);
    add(format!("STREAM.MSG.DELETE.{stream}"), &json!({"seq": 1}), true);
    add(format!("STREAM.PURGE.{stream}"), &json!({"filter": format!("{word}.3")}), true);
    add(format!("CONSUMER.DELETE.{stream}.{consumer}"), &null, true);
    add(format!("STREAM.DELETE.{stream}"), &null, true);
    probes
}

/// The API of the system account. `account` and `server` are the mesh's own.
#[must_use]
pub fn system(account: &str, server: &str, forged: &str) -> Vec<Probe> {
    let null = json!(null);
    let mut probes = Vec::new();
    let mut add = |subject: String, body: &serde_json::Value, control| probes.push(ask(subject, body, control));
    add("$SYS.REQ.SERVER.PING".into(), &null, true);
    for what in ["VARZ", "CONNZ", "SUBSZ", "ACCOUNTZ", "JSZ", "STATSZ"] {
        add(format!("$SYS.REQ.SERVER.PING.{what}"), &null, true);
    }
    add(format!("$SYS.REQ.SERVER.{server}.VARZ"), &null, true);
    add(format!("$SYS.REQ.ACCOUNT.{account}.CONNZ"), &null, true);
    add(format!("$SYS.REQ.ACCOUNT.{account}.INFO"), &null, true);
    add(format!("$SYS.REQ.ACCOUNT.{account}.SUBSZ"), &null, true);
    add(format!("$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP"), &null, true);
    add("$SYS.REQ.CLAIMS.LIST".into(), &null, true);
    // These would change the mesh that the attempts are made on.
    let claims = |subject: String| {
        let publish = Publish { subject: subject.clone(), body: forged.as_bytes().to_vec(), ..Publish::default() };
        Probe {
            what: format!("{subject} with a self-made account"),
            control: false,
            mark: None,
            act: Act::Request(publish),
        }
    };
    add("$SYS.REQ.CLAIMS.DELETE".into(), &null, false);
    add("$SYS.REQ.CLAIMS.PACK".into(), &null, false);
    for what in ["RELOAD", "KICK", "LDM"] {
        add(format!("$SYS.REQ.SERVER.{server}.{what}"), &json!({"cid": 1}), false);
    }
    add(format!("$SYS.REQ.SERVER.{server}.PROFILEZ"), &json!({"name": "heap"}), false);
    add(format!("$JS.API.ACCOUNT.PURGE.{account}"), &null, false);
    add(format!("$JS.API.ACCOUNT.STREAM.MOVE.{account}.x"), &json!({"tags": ["a"]}), false);
    probes.push(claims(format!("$SYS.REQ.ACCOUNT.{account}.CLAIMS.UPDATE")));
    probes.push(claims("$SYS.REQ.CLAIMS.UPDATE".into()));
    probes
}

fn send(what: &str, mark: Option<&str>, publish: Publish) -> Probe {
    Probe { what: what.to_owned(), control: false, mark: mark.map(str::to_owned), act: Act::Send(publish) }
}

fn plain(subject: String, body: &str) -> Publish {
    Publish { subject, body: body.as_bytes().to_vec(), ..Publish::default() }
}

/// Publishes to subjects of others. `next` gives marks by which an ear in the mesh knows them.
#[must_use]
pub fn publishes(world: &World, next: &mut impl FnMut() -> String) -> Vec<Probe> {
    let (stream, auditors, victim) = (world.places.stream(), world.places.auditors(), &world.places.victim.name);
    let mut probes = Vec::new();
    let mut marked = |what: &str, subject: &dyn Fn(&str) -> String, body: &str| {
        let mark = next();
        let publish = plain(subject(&mark), body);
        probes.push(send(what, Some(&mark), publish));
    };
    marked("publish payments.x", &|mark| format!("payments.{mark}"), "forged");
    marked("publish into the own Topic beyond the grant", &|mark| format!("open.secret.{mark}"), "forged");
    marked("publish commands.x", &|mark| format!("commands.{mark}"), "forged");
    marked("publish to a subject of no Topic", &|mark| format!("nobody.{mark}"), "forged");
    for body in ["", "+ACK", "+TERM", "+NAK", "+WPI", "+NXT"] {
        marked(&format!("$JS.ACK of the auditor's event, `{body}`"), &|mark| world.acknowledgement(mark), body);
    }
    marked(
        "$JS.ACK with domain and account",
        &|mark| format!("$JS.ACK._.x.{stream}.{auditors}.1.1.1.{mark}.0.y"),
        "+ACK",
    );
    marked("$JS.FC of the auditor's consumer", &|mark| format!("$JS.FC.{stream}.{auditors}.{mark}"), "");
    marked("$EM.report of another Bridge", &|mark| format!("$EM.report.{victim}.b.{mark}"), "{}");
    marked("$EM.lease of another Bridge", &|mark| format!("$EM.lease.{victim}.{mark}"), "{}");
    marked("$EM.control", &|mark| format!("$EM.control.{mark}"), "{}");
    marked("_R_, where answers go", &|mark| format!("_R_.{mark}.x"), "{}");
    marked("$JSC.R, where brokers answer each other", &|mark| format!("$JSC.R.{mark}"), "{}");
    marked("$NRG, where brokers agree", &|mark| format!("$NRG.P.{mark}"), "{}");
    marked("$MQTT.msgs", &|mark| format!("$MQTT.msgs.payments.{mark}"), "forged");
    marked("$KV", &|mark| format!("$KV.payments.{mark}"), "forged");
    marked("inbox of the auditor", &|mark| format!("_INBOX.auditor.{mark}"), "forged");
    marked("$SYS: a server that ends", &|mark| format!("$SYS.SERVER.{mark}.SHUTDOWN"), "{}");
    marked("$SYS: an account that connects", &|mark| format!("$SYS.ACCOUNT.{mark}.CONNECT"), "{}");
    let mark = next();
    probes.push(send(
        "atomic batch into payments",
        Some(&mark),
        Publish {
            headers: pairs(&[("Nats-Batch-Id", "b1"), ("Nats-Batch-Sequence", "1"), ("Nats-Batch-Commit", "1")]),
            ..plain(format!("payments.{mark}"), "forged")
        },
    ));
    let mark = next();
    let reply = Some("_INBOX.fast.b1.10.fail.1.1.$FI".to_owned());
    probes.push(send(
        "fast ingest into payments",
        Some(&mark),
        Publish { reply, ..plain(format!("payments.{mark}"), "forged") },
    ));
    probes
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A publish that is granted, with headers that ask for more.
#[must_use]
pub fn headers(world: &World, granted: &str, next: &mut impl FnMut() -> String) -> Vec<Probe> {
    let (stream, mesh) = (world.places.stream(), world.operator.claims().ok());
    let account =
        mesh.and_then(|claims| Some(claims["nats"]["issuer_account"].as_str()?.to_owned())).unwrap_or_default();
    let as_operator = json!({"acc": account, "svc": account, "user": "eventmesh-operator", "id": 1}).to_string();
    let mut probes = Vec::new();
    let mut with = |what: &str, mark: Option<&str>, headers: &[(&str, &str)]| {
        probes.push(send(what, mark, Publish { headers: pairs(headers), ..plain(granted.to_owned(), "headers") }));
    };
    with("header Nats-Expected-Stream: the victim's", None, &[("Nats-Expected-Stream", &stream)]);
    with("header Nats-Request-Info: the operator", None, &[("Nats-Request-Info", &as_operator)]);
    for (what, more) in [("", ("x", "y")), (" only", ("Nats-Trace-Only", "true"))] {
        let mark = next();
        with(
            &format!("header Nats-Trace-Dest{what}: payments"),
            Some(&mark),
            &[("Nats-Trace-Dest", &format!("payments.{mark}")), more],
        );
        let mark = next();
        with(
            &format!("header Nats-Trace-Dest{what}: $EM.report"),
            Some(&mark),
            &[("Nats-Trace-Dest", &format!("$EM.report.x.y.{mark}")), more],
        );
        let purge = format!("$JS.API.STREAM.PURGE.{stream}");
        with(
            &format!("header Nats-Trace-Dest{what}: purge of the victim's stream"),
            None,
            &[("Nats-Trace-Dest", &purge), more],
        );
        with(
            &format!("header Nats-Trace-Dest{what}: $JS.ACK"),
            None,
            &[("Nats-Trace-Dest", &world.acknowledgement("1")), more],
        );
    }
    with("header Nats-Rollup: all", None, &[("Nats-Rollup", "all")]);
    with("header Nats-Rollup: sub", None, &[("Nats-Rollup", "sub")]);
    let mark = next();
    let target = format!("payments.{mark}");
    with(
        "header Nats-Schedule-Target: payments",
        Some(&mark),
        &[("Nats-Schedule", "@at 2020-01-01T00:00:00Z"), ("Nats-Schedule-Target", &target)],
    );
    with(
        "header Nats-Subject: payments",
        None,
        &[("Nats-Subject", "payments.x"), ("Nats-Stream", &stream), ("Nats-Sequence", "1")],
    );
    with("header Nats-Stream-Source: the victim's", None, &[("Nats-Stream-Source", &format!("{stream} 1 > >"))]);
    with("header Nats-Marker-Reason: Purge", None, &[("Nats-Marker-Reason", "Purge")]);
    probes
}

/// Subscriptions that would hear of others.
pub const LISTEN: [(&str, Option<&str>); 25] = [
    (">", None),
    ("*", None),
    ("*.*", None),
    ("*.>", None),
    ("payments.>", None),
    ("payments.*", None),
    ("commands.>", None),
    ("open.>", None),
    ("$SYS.>", None),
    ("$SYS.ACCOUNT.*.CONNECT", None),
    ("$JS.>", None),
    ("$JS.API.>", None),
    ("$JS.ACK.>", None),
    ("$JS.EVENT.>", None),
    ("$EM.>", None),
    ("$EM.report.*.*.*", None),
    ("$EM.lease.>", None),
    ("_INBOX.>", None),
    ("_INBOX.*.>", None),
    ("_R_.>", None),
    ("$MQTT.>", None),
    (">", Some("thieves")),
    ("payments.>", Some("thieves")),
    ("$EM.report.>", Some("thieves")),
    ("_INBOX.>", Some("thieves")),
];
