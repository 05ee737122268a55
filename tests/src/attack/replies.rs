//! Reply subjects: brokers do not check where an answer goes, so what is granted is asked with a reply that is not.

use super::{
    Act, Probe,
    wire::Publish,
    world::{Attacker, World},
};

/// Where answers are sent that should not go there.
fn targets(world: &World, next: &mut impl FnMut() -> String) -> Vec<(String, Option<String>, String)> {
    let (stream, auditors) = (world.places.stream(), world.places.auditors());
    let mut marked: Vec<(String, Option<String>, String)> = Vec::new();
    let mut add = |what: &str, subject: &dyn Fn(&str) -> String| {
        let mark = next();
        let subject = subject(&mark);
        marked.push((what.to_owned(), Some(mark), subject));
    };
    add("payments", &|mark| format!("payments.{mark}"));
    add("the own Topic beyond the grant", &|mark| format!("open.secret.{mark}"));
    add("$EM.report of another", &|mark| format!("$EM.report.x.y.{mark}"));
    add("$EM.lease of another", &|mark| format!("$EM.lease.x.{mark}"));
    add("$JS.ACK of the auditor's event", &|mark| world.acknowledgement(mark));
    add("$JS.ACK, delivered to payments", &|mark| format!("$JS.ACK.x.y.1.1.1.1.0@payments.{mark}"));
    add("$JS.ACK, delivered to the own Topic", &|mark| format!("$JS.ACK.x.y.1.1.1.1.0@open.secret.{mark}"));
    add("_R_", &|mark| format!("_R_.{mark}.x"));
    add("_GR_", &|mark| format!("_GR_.abcdef.ghijkl.payments.{mark}"));
    add("an inbox of the auditor", &|mark| format!("_INBOX.auditor.{mark}"));
    add("$SYS", &|mark| format!("$SYS.REQ.SERVER.{mark}.LDM"));
    add("$MQTT.msgs", &|mark| format!("$MQTT.msgs.payments.{mark}"));
    for (what, api) in [
        ("delete the victim's stream", format!("$JS.API.STREAM.DELETE.{stream}")),
        ("purge the victim's stream", format!("$JS.API.STREAM.PURGE.{stream}")),
        ("delete the auditor's consumer", format!("$JS.API.CONSUMER.DELETE.{stream}.{auditors}")),
        ("pull for the auditor", format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{auditors}")),
    ] {
        marked.push((what.to_owned(), None, api));
    }
    marked
}

/// Every granted request of an attacker with every reply that is not its own.
#[must_use]
pub fn tricks(world: &World, attacker: &Attacker, next: &mut impl FnMut() -> String) -> Vec<Probe> {
    let own = world.places.own_stream();
    let mut vehicles: Vec<(&str, String, Vec<u8>)> = Vec::new();
    if let Some(subject) = &attacker.publishes {
        vehicles.push(("publish", subject.clone(), b"+ACK".to_vec()));
    }
    if let Some(consumer) = &attacker.reads {
        let ack = format!("$JS.ACK.{own}.{consumer}.1.1.1.1.0");
        vehicles.push((
            "pull",
            format!("$JS.API.CONSUMER.MSG.NEXT.{own}.{consumer}"),
            br#"{"batch":1,"no_wait":true}"#.to_vec(),
        ));
        vehicles.push(("pull, empty", format!("$JS.API.CONSUMER.MSG.NEXT.{own}.{consumer}"), b"rubbish".to_vec()));
        vehicles.push(("consumer info", format!("$JS.API.CONSUMER.INFO.{own}.{consumer}"), Vec::new()));
        vehicles.push(("acknowledge", ack.clone(), b"+ACK".to_vec()));
        vehicles.push(("acknowledge and next", ack.clone(), b"+NXT 1".to_vec()));
        vehicles.push(("work in progress", ack, b"+WPI".to_vec()));
    }
    if attacker.inspects {
        vehicles.push(("stream info", format!("$JS.API.STREAM.INFO.{own}"), Vec::new()));
    }
    if let Some(subject) = &attacker.reports {
        vehicles.push(("report", subject.clone(), b"{}".to_vec()));
    }
    let mut probes = Vec::new();
    for (what, subject, body) in vehicles {
        for (where_to, mark, reply) in targets(world, next) {
            let publish =
                Publish { subject: subject.clone(), reply: Some(reply), body: body.clone(), ..Publish::default() };
            probes.push(Probe {
                what: format!("{what} with reply: {where_to}"),
                control: false,
                mark,
                act: Act::Send(publish),
            });
        }
    }
    // Subjects that look like one's own and name another's consumer further on.
    if let Some(consumer) = &attacker.reads {
        let nested =
            format!("$JS.ACK.{own}.{consumer}.{}.{}.1.1.1.1.0", world.places.stream(), world.places.auditors());
        let publish = Publish { subject: nested, body: b"+TERM".to_vec(), ..Publish::default() };
        probes.push(Probe {
            what: "$JS.ACK of the auditor's behind one's own".into(),
            control: false,
            mark: None,
            act: Act::Send(publish),
        });
    }
    probes
}
