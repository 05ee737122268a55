//! Whole lives of a mesh's certificates, pass by pass, with a clock of the test's own.

use super::*;
use crate::pki::{
    Phase, outside,
    reading::{Doubt, verify},
    tests::{POLICY, at},
};

/// What Kubernetes and this process hold between two passes.
struct World {
    key: MeshKey,
    issuer: TlsIssuer,
    names: BTreeSet<String>,
    request: String,
    authorities: Found<Authorities>,
    remembered: Option<Authorities>,
    stored: Stored,
    outside: Option<Result<Outside, NoOutside>>,
}

impl World {
    fn new() -> Self {
        Self {
            key: MeshKey { namespace: "platform".to_owned(), name: "retail".to_owned() },
            issuer: TlsIssuer::Managed,
            names: ["retail-nats.platform.svc".to_owned()].into(),
            request: String::new(),
            authorities: Found::Absent,
            remembered: None,
            stored: Stored::default(),
            outside: None,
        }
    }

    fn plan(&self, second: i64, taken_up: bool) -> Plan {
        run(&Seen {
            key: &self.key,
            issuer: self.issuer,
            policy: POLICY,
            names: self.names.clone(),
            request: &self.request,
            authorities: &self.authorities,
            remembered: self.remembered.as_ref(),
            stored: &self.stored,
            outside: self.outside.clone(),
            taken_up,
            now: at(second),
        })
        .expect("a plan")
    }

    /// A pass that writes what is planned.
    fn pass(&mut self, second: i64, taken_up: bool) -> Plan {
        let plan = self.plan(second, taken_up);
        if let Some(authorities) = &plan.authorities {
            self.authorities = Found::Good(Authorities::read(&authorities.entries()).expect("readable"));
            self.remembered = Some(authorities.clone());
        }
        if let Some(files) = &plan.files {
            self.stored = Stored::read(&files.entries());
        }
        plan
    }
}

fn files(plan: &Plan) -> &Files {
    plan.files.as_ref().expect("files")
}

fn reasons(plan: &Plan) -> Vec<&str> {
    plan.notes.iter().map(|note| note.reason).collect()
}

#[test]
fn a_new_mesh_gets_all_it_needs_and_then_rests() {
    let mut world = World::new();
    let first = world.pass(0, false);
    let made = files(&first).clone();
    let serving = made.serving.as_ref().expect("a certificate");
    assert_eq!(*serving, made.route);
    assert_eq!(verify(&serving.certificate, made.authority.as_deref().expect("an authority"), at(0)), Ok(()));
    assert!(first.problem.is_none() && first.notes.is_empty());
    let second = world.pass(1, true);
    assert_eq!((files(&second), second.look_again), (&made, at(2280)));
    assert!(second.notes.is_empty());
    let renewed = world.pass(2280, true);
    assert_eq!(reasons(&renewed), ["CertificateIssued"]);
    assert_ne!(files(&renewed).route, made.route);
    assert_eq!(files(&renewed).authority, made.authority, "the authority is the same");
    assert!(renewed.look_again > at(4000));
}

#[test]
fn changed_names_are_a_new_certificate() {
    let mut world = World::new();
    let before = files(&world.pass(0, false)).revision();
    world.names.insert("mesh.example".to_owned());
    assert_ne!(files(&world.pass(10, true)).revision(), before);
}

/// A client that trusts only one end of a rollover, at each moment of it.
#[test]
fn during_a_rollover_nobody_is_cut_off_who_reads_the_bundle_once_an_overlap() {
    let mut world = World::new();
    world.pass(0, false);
    let old = world.stored.authority.clone().expect("an authority");
    world.request = "please".to_owned();
    let good = |world: &World, trust: &str, second: i64| {
        verify(&world.stored.serving.as_ref().expect("a certificate").certificate, trust, at(second))
    };

    let introducing = world.pass(100, true);
    assert_eq!(introducing.authorities.as_ref().map(Authorities::phase), Some(Phase::Introducing));
    let both = world.stored.authority.clone().expect("a bundle");
    let new = introducing.authorities.and_then(|a| a.next).expect("a next").certificate;
    assert_eq!((good(&world, &old, 100), good(&world, &both, 100)), (Ok(()), Ok(())));
    assert_eq!(good(&world, &new, 100), Err(Doubt::UnknownAuthority));

    // A broker that does not trust the next one yet holds everything up.
    assert_eq!(world.pass(800, false).authorities.as_ref().map(Authorities::phase), Some(Phase::Introducing));
    let retiring = world.pass(801, true);
    assert_eq!(retiring.authorities.as_ref().map(Authorities::phase), Some(Phase::Retiring));
    assert_eq!(good(&world, &old, 801), Err(Doubt::UnknownAuthority), "only the bundle and the new one now");
    assert_eq!((good(&world, &new, 801), good(&world, &both, 801)), (Ok(()), Ok(())));
    assert_eq!(good(&world, &world.stored.authority.clone().expect("a bundle"), 801), Ok(()));

    assert_eq!(world.pass(2000, false).authorities.as_ref().map(Authorities::phase), Some(Phase::Retiring));
    world.pass(2001, true);
    let trust = world.stored.authority.clone().expect("an authority");
    assert_eq!(trust, new, "the old one is trusted no more");
    assert_eq!(good(&world, &new, 2001), Ok(()));
    let rest = world.pass(2002, true);
    assert!(rest.notes.is_empty(), "the same request is followed once: {:?}", rest.notes);
}

#[test]
fn a_spoilt_secret_is_written_back_from_memory_and_never_replaced_by_a_new_authority() {
    let mut world = World::new();
    world.pass(0, false);
    let before = world.remembered.clone();
    for found in [Found::Absent, Found::Unreadable("key `ca.key` is missing".to_owned())] {
        world.authorities = found;
        let plan = world.pass(10, true);
        assert_eq!(plan.authorities, before);
        assert_eq!(reasons(&plan), ["AuthorityRestored"]);
        assert!(plan.notes[0].warning);
    }
}

#[test]
fn without_memory_a_spoilt_secret_stops_renewals_and_nothing_else() {
    let mut world = World::new();
    let made = files(&world.pass(0, false)).clone();
    world.authorities = Found::Unreadable("key `ca.key` is missing".to_owned());
    world.remembered = None;
    let plan = world.pass(100_000, true);
    assert_eq!(plan.files, Some(made));
    assert!(plan.authorities.is_none());
    let problem = plan.problem.expect("a problem");
    assert_eq!(problem.reason, Reason::AuthorityUnreadable);
    assert!(problem.message.contains("retail-ca") && problem.message.contains("delete it"), "{}", problem.message);
}

#[test]
fn a_lost_key_is_a_rollover_that_keeps_the_brokers_certificate_for_an_overlap() {
    let mut world = World::new();
    let made = files(&world.pass(0, false)).clone();
    (world.authorities, world.remembered) = (Found::Absent, None);
    let lost = world.pass(100, true);
    assert_eq!(reasons(&lost), ["AuthorityLost"]);
    assert_eq!(files(&lost).route, made.route);
    assert!(files(&lost).route_authority.starts_with(&made.route_authority));
    assert_ne!(files(&lost).revision(), made.revision(), "brokers have to load the new authority");
    let changed = world.pass(701, true);
    assert_ne!(files(&changed).route, made.route);
    assert_eq!(verify(&files(&changed).route.certificate, &files(&lost).route_authority, at(701)), Ok(()));
}

#[test]
fn a_lost_key_with_a_lost_certificate_waits_for_nothing() {
    let mut world = World::new();
    world.pass(0, false);
    (world.authorities, world.remembered, world.stored.route) = (Found::Absent, None, None);
    let plan = world.pass(100, false);
    assert_eq!(verify(&files(&plan).route.certificate, &files(&plan).route_authority, at(100)), Ok(()));
}

#[test]
fn without_tls_routes_still_have_it() {
    let mut world = World::new();
    world.issuer = TlsIssuer::Disabled;
    let plan = world.pass(0, false);
    assert!(files(&plan).serving.is_none() && files(&plan).authority.is_none());
    assert_eq!(verify(&files(&plan).route.certificate, &files(&plan).route_authority, at(0)), Ok(()));
}

fn company(second: i64) -> Outside {
    let authority = Authority::generate("company", POLICY.authority, at(second)).expect("an authority");
    let leaf =
        authority.issue(&["retail-nats.platform.svc".to_owned()].into(), POLICY.leaf, at(second)).expect("a leaf");
    let texts = [("tls.crt", leaf.certificate), ("tls.key", leaf.key), ("ca.crt", authority.certificate)];
    let data = texts.map(|(key, text)| (key.to_owned(), k8s_openapi::ByteString(text.into_bytes()))).into();
    outside::check(&data, "retail-nats.platform.svc", at(second)).expect("good")
}

#[test]
fn a_certificate_from_outside_is_served_and_a_bad_one_never_replaces_it() {
    let mut world = World::new();
    world.issuer = TlsIssuer::Secret;
    world.outside = Some(Err(NoOutside::Pending(Reason::SecretNotFound, "Secret mine does not exist".to_owned())));
    let waiting = world.pass(0, false);
    assert!(waiting.files.is_none());
    let problem = waiting.problem.expect("a problem");
    assert_eq!((problem.kind, problem.reason), (ConditionType::ResolvedRefs, Reason::SecretNotFound));
    assert!(problem.message.ends_with("brokers cannot be started without one"), "{}", problem.message);

    let pending = NoOutside::Pending(Reason::CertificatePending, "cert-manager is not installed".to_owned());
    world.outside = Some(Err(pending));
    assert_eq!(world.pass(0, false).look_again, at(30), "no watch tells of it");

    let first = company(0);
    world.outside = Some(Ok(first.clone()));
    let plan = world.pass(1, false);
    assert_eq!(files(&plan).serving.as_ref(), Some(&first.pair));
    assert_ne!(files(&plan).route, first.pair, "routes stay with the mesh's own authority");

    let unusable = Unusable { message: "it has expired".to_owned(), look_again: Some(at(50)) };
    world.outside = Some(Err(NoOutside::Invalid(unusable)));
    let bad = world.pass(2, true);
    assert_eq!(bad.problem.as_ref().map(|problem| problem.reason), Some(Reason::CertificateInvalid));
    assert_eq!(bad.look_again, at(50));
    assert_eq!((files(&bad), world.stored.serving.as_ref()), (files(&plan), Some(&first.pair)));

    let second = company(3);
    world.outside = Some(Ok(second.clone()));
    world.pass(3, true);
    let trust = world.stored.authority.clone().expect("a bundle");
    assert_eq!(trust, union(&second.authority, &first.authority), "until all brokers show the new one");
    world.pass(4, false);
    assert_eq!(world.stored.authority.as_ref(), Some(&trust));
    world.pass(5, true);
    assert_eq!(world.stored.authority.as_ref(), Some(&second.authority));
}

#[test]
fn the_queue_looks_again_after_the_moment_and_not_before() {
    assert_eq!(until(at(60), at(0)), Duration::from_secs(61));
    assert_eq!(until(at(0), at(60)), Duration::from_secs(1));
}
