//! Every condition type and reason that a status can show, and the rules for changing conditions.
//!
//! `docs/reference/conditions.md` is generated from [`Reason::ALL`]; a reason without a description does not compile.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// Condition types, in the order in which a status lists them. All have positive polarity: `True` is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionType {
    /// Summary: everything the object asks for is in place and works.
    Ready,
    /// The spec makes sense by itself and beside the other objects of the mesh.
    Accepted,
    /// Everything the spec refers to exists and may be used.
    ResolvedRefs,
    /// What the spec asks for has been set up in Kubernetes and in the broker.
    Programmed,
    /// The brokers of the mesh work (EventMesh).
    Available,
    /// Every link to another mesh is up (EventMesh with links).
    Linked,
    /// Every route is connected on both sides (Bridge).
    Connected,
    /// The copy follows the Topic that it is a copy of (Topic with `mirror`).
    Mirrored,
}

impl ConditionType {
    pub const ALL: [Self; 8] = [
        Self::Ready,
        Self::Accepted,
        Self::ResolvedRefs,
        Self::Programmed,
        Self::Available,
        Self::Linked,
        Self::Connected,
        Self::Mirrored,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::Programmed => "Programmed",
            Self::Available => "Available",
            Self::Linked => "Linked",
            Self::Connected => "Connected",
            Self::Mirrored => "Mirrored",
        }
    }
}

macro_rules! reasons {
    ($($name:ident: $description:literal,)*) => {
        /// Why a condition has the status it has.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Reason { $(#[doc = $description] $name,)* }

        impl Reason {
            /// Every reason with its documentation.
            pub const ALL: &'static [(Self, &'static str, &'static str)] =
                &[$((Self::$name, stringify!($name), $description),)*];

            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

reasons! {
    // Good states.
    Ready: "Everything the object asks for is in place and works.",
    Accepted: "The spec is valid.",
    AcceptedWithWarning: "The spec is valid, but gives up a protection; the message says which. Nothing needs to be done if that is intended.",
    ResolvedRefs: "Everything the spec refers to exists and may be used.",
    Programmed: "What the spec asks for has been set up.",
    Available: "All brokers are ready.",
    Connected: "Every route is connected on both sides.",
    Linked: "Every link is up.",
    Mirrored: "The copy follows the Topic that it is a copy of; status.mirror.lag tells how far it is behind.",
    Observed: "The Topic has `managed: false`: its stream exists and is reported, and the operator does not change it.",
    // Waiting.
    Pending: "The operator has not come to this yet, or waits for an earlier condition.",
    BrokersStarting: "Brokers are being created or have not become ready; the message says how many. Look at the broker pods if it lasts.",
    Degraded: "Some brokers are not ready, but a majority works and events flow. Look at the pods that the message names.",
    RollingOut: "A change is being rolled out to the brokers one by one; the message says what is under way, or what the next restart waits for.",
    Scaling: "The mesh gets more brokers, or fewer; the message says what is under way, or what the next step waits for. Events flow meanwhile. Brokers that are to go are emptied first.",
    ScaleBlocked: "Brokers cannot be taken away: the message lists what the others could not hold, and what to do. Nothing is moved until then, and every broker serves on.",
    ReplacingBroker: "A broker has lost its volume and is taken back as a new one; the message says what is under way, or what the next step waits for. Events flow meanwhile.",
    VolumesLost: "Several brokers have lost their volumes at the same time, and nothing is done without a person; the message names them and says what to do.",
    StorageStopped: "A broker has stopped storing what the others store, since it could not write: mostly its volume is full. The message names it and says what it has stopped storing; the others serve on, and nothing is rolled out. The operator restarts it when that hurts nobody, since only that makes it write again, and its kubelet restarts it until it has room: make brokers.storage.size larger, or free what else fills the volume.",
    ClocksDiffer: "The clock of a broker is more than five seconds off the operator's; the message says which way and how far. Events flow, but each broker lets events of its copies expire by its own clock: while one leads that is ahead, consumers miss those that seem too old to it. Set the time of its node right, or that of the operator's if every broker is off alike.",
    RollStopped: "A broker does not come up after its restart, or with a version that the operator does not know, so the roll has stopped there and the other brokers serve on; the message names the broker and what is wrong with it. Correct the change or take it back: the roll goes on with that broker.",
    BrokerUnavailable: "The operator has no connection to the brokers of the mesh. Look at the EventMesh; the operator goes on by itself once they answer.",
    Connecting: "Pods have started and are not yet connected on both sides; the message names the route and the last error.",
    NoReport: "No bridge pod has reported in the last 30 seconds. Look at the pods and their logs.",
    LinkPending: "The account or the credentials of a link are being made. The operator goes on by itself.",
    LinkConnecting: "The brokers are not connected over a link; the message names it and says who dials. It also says why the last connection ended, as far as brokers tell, and what to do about it; without a reason nothing has answered at the address, or a wall is in between.",
    MirrorWaiting: "The other side has sent nothing for the copy yet: the link is not up, or there is no Bridge with `endpoint.link` and a route from the Topic there. The message says what its owner has to add.",
    MirrorSilent: "The other side has not been heard of for 30 seconds: the link is down, or the Bridge there is paused or gone. The copy keeps what it has, and catches up by itself.",
    // Stopped by the user.
    Paused: "The object or its mesh is paused by its spec. With status True everything is as the spec asks.",
    // Refusals: Accepted.
    InvalidSpec: "A field has a value that cannot work; the message names the field and what to write instead.",
    InvalidReplicas: "The Topic wants more copies than the mesh has brokers. Lower storage.replicas or add brokers.",
    InvalidSubject: "A subject breaks the subject rules or is reserved; the message says which rule.",
    SubjectOverlap: "Another, older Topic of the mesh already stores an overlapping subject; the message names it. Change the subjects of one of them.",
    ReplyTaken: "Two grants let different parties answer the same requests; the message says who has the right. The first of the list keeps it. Remove one grant, or limit them to other subjects.",
    GrantsOverlap: "Two subjects that one party is granted to publish to overlap in part, so that brokers could not keep it to them; the message names both. The first of the list holds. Grant one subject that contains both, or subjects that do not overlap.",
    FilterOutsideTopic: "A filter asks for subjects that the Topic does not store. Change the filter or the Topic's subjects.",
    InvalidMapping: "The `to` of a route cannot be made from its `from`; the message names the route and the wildcard.",
    InvalidFilter: "A CEL filter does not compile or does not yield true or false; the message shows where.",
    LoopRefused: "An outbound and an inbound route would send an event round in a circle, and the protocol version cannot mark it. Change an address, or use MQTT V5.",
    DeadLetterLoop: "Dead letters would come back to the Topic that they come from: the Topic is its own dead-letter Topic, or older Subscriptions lead from there back to it; the message shows the way. Name another Topic in deadLetter.",
    ReservedConfigKey: "extraConfig sets a key that the operator owns; the message names it. Remove the key.",
    UnsupportedVersion: "The tag of brokers.image names a version of nats-server that this release of the operator does not know, so that nobody can say whether brokers of both versions get along and whether there is a way back. Use one of the versions that the message names; the brokers run on with what they have.",
    // Refusals: ResolvedRefs.
    MeshNotFound: "The EventMesh that the spec names does not exist. It may be created later; the operator waits.",
    MeshDeleted: "The EventMesh that the spec names is being deleted.",
    MeshNotAccepted: "The EventMesh that the spec names has not been accepted; look at its conditions.",
    RefNotPermitted: "The owner of what the spec names has not consented: the mesh's allowedNamespaces does not let this namespace in, or the Topic has no grant for this subscriber or Bridge; the message says which.",
    SubscriberNotFound: "The ServiceAccount or client that the Subscription names does not exist. It may be created later; the operator waits.",
    TopicNotFound: "The Topic that the spec names does not exist. It may be created later; the operator waits.",
    TopicStoresNothing: "The Topic that the spec names has storage.type None, so there is nothing to read again, or to keep. Name a Topic that stores, or listen with a NATS client.",
    TopicNotReady: "The Topic that the spec names is not set up yet; look at its conditions.",
    TopicIsCopy: "The Topic that the spec names is a copy of a Topic of another mesh, and nobody writes to a copy. Name another Topic, or one where the events come from.",
    LinkNotFound: "The mesh has no link of the name that the spec gives. Add it to spec.links of the EventMesh, or correct the name.",
    TopicOfOtherMesh: "The Topic that the spec names belongs to another mesh.",
    NoTopicForRoute: "No Topic stores the subjects that an inbound route delivers to, so an event could be lost. Create a Topic; the operator waits.",
    KeysUnreadable: "A Secret with the mesh's keys or identities cannot be read; the message says what is wrong. Put it back from a backup. What runs goes on.",
    KeysMissing: "The Secret with the keys that the mesh's events belong to is gone. Put it back from a backup. What runs goes on.",
    CredentialsPending: "The credentials of the Bridge have not been issued yet.",
    SecretNotFound: "A Secret that the spec names does not exist. It may be created later; the operator waits.",
    SecretKeyMissing: "A Secret that the spec names lacks a key; the message says which.",
    CertificatePending: "The certificate that the spec asks for is not there yet; the message says who has to make it. The operator waits, and brokers keep the one they have.",
    CertificateInvalid: "The certificate that the spec names cannot be used; the message says what is wrong and what to do. Brokers keep the one they have.",
    // Refusals: Linked. The other links of the mesh, and everything else, go on.
    LinkToItself: "A link leads to its own mesh. Name another mesh.",
    LinkNotConsented: "The other mesh has no link to this one, or more than one; the message says what its owner has to add.",
    LinkTaken: "Another link of this mesh leads to the same mesh already. Put the subjects of both into one.",
    LinkSameName: "The two meshes have the same name, by which their brokers would take each other for one cluster. Link meshes of different names.",
    LinkNobodyListens: "Neither mesh has spec.listeners.leaf, so neither can be dialled. Add `leaf: {}` at one side.",
    LinkLoop: "A link exports and imports the same subjects, so that events would go back to where they come from. Remove the subject from one of the lists.",
    LinkImportTaken: "An earlier link of the mesh imports overlapping subjects: an event could come twice, or go round in a ring. Import each subject over one link.",
    LinkExportMixed: "A link exports subjects of which another link imports a part: what is passed on and what is the mesh's own cannot be told apart. Export the two parts as two subjects.",
    LinkWouldRepeat: "This side dials with several brokers, of which each gets a copy of what comes in: events of a live Topic, or ones that are passed on, would come more than once. Let the other side dial: remove listeners.leaf there and add it here.",
    LinkSecretInvalid: "The Secret of a link holds no credentials of a link, or they have expired; the message says what is wrong. Brokers that were given better ones before keep them. Take a new copy of the Secret of the other side.",
    // Failures: Programmed, Available, Connected.
    StreamConflict: "The broker holds a stream of this name that belongs to another object or was made by hand. Delete it, or set `managed: false` to report it.",
    StreamNotFound: "The Topic has `managed: false` and the broker holds no such stream.",
    BrokerRefused: "The broker refused what the spec asks for; the message is the broker's own.",
    DeadLettersWait: "Events that were given up cannot be stored in the dead-letter Topic; the message says why. Nothing is lost: they wait, and are tried again.",
    AuthorityUnreadable: "The Secret with the mesh's own certificate authority cannot be read, and the operator has no copy in memory. Brokers run on, and nothing is renewed. Restore the Secret, or delete it to have a new authority introduced beside the old.",
    VolumesFixed: "The volumes cannot have the size that the spec asks for; the message says why and what to do. Brokers run on with the size that they have.",
    VolumesGrowing: "The volumes of the brokers are being made larger; the message names those that are not there yet and what Kubernetes says of them. Events flow meanwhile.",
    ApplyFailed: "The Kubernetes API refused a child object; the message is the API server's own.",
    EndpointUnreachable: "A bridge pod cannot reach or log in at the endpoint; the message is the last error.",
    MirrorTaken: "An older Topic of the mesh is a copy of the same Topic over the same link; the message names it. Delete one of them.",
    MirrorBlocked: "Events cannot be stored in the copy; the message is the last error at the side that sends. Nothing is lost: they wait there, and are tried again.",
    RouteBlocked: "An event of a route cannot be delivered and holds up those behind it; the message is the last error.",
    PodsNotReady: "The pods of the Bridge are not ready. Look at the pods and their events.",
    NotReady: "Another condition is not True; the message says which.",
}

/// One condition as a pass of a controller decided it, before it is compared with what the status shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub kind: ConditionType,
    /// `None` is `Unknown`.
    pub status: Option<bool>,
    pub reason: Reason,
    pub message: String,
}

impl Verdict {
    #[must_use]
    pub fn good(kind: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self { kind, status: Some(true), reason, message: message.into() }
    }

    #[must_use]
    pub fn bad(kind: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self { kind, status: Some(false), reason, message: message.into() }
    }

    #[must_use]
    pub fn pending(kind: ConditionType) -> Self {
        Self { kind, status: None, reason: Reason::Pending, message: String::new() }
    }
}

/// Puts `Ready` before the given verdicts: `True` when all are, else with the reason of the first that is not. A pause
/// that the user asked for is ready, and says that it is one.
#[must_use]
pub fn with_ready(verdicts: Vec<Verdict>) -> Vec<Verdict> {
    let worst =
        verdicts.iter().find(|v| v.status == Some(false)).or_else(|| verdicts.iter().find(|v| v.status.is_none()));
    let ready = match worst {
        None => match verdicts.iter().find(|v| v.reason == Reason::Paused) {
            Some(paused) => Verdict { kind: ConditionType::Ready, ..paused.clone() },
            None => Verdict::good(ConditionType::Ready, Reason::Ready, ""),
        },
        Some(cause) => Verdict {
            kind: ConditionType::Ready,
            status: cause.status,
            reason: cause.reason,
            message: if cause.message.is_empty() {
                format!("waiting for {}", cause.kind.as_str())
            } else {
                cause.message.clone()
            },
        },
    };
    std::iter::once(ready).chain(verdicts).collect()
}

/// The conditions to write: each verdict, with the transition time of the old condition where its status is the same.
#[must_use]
pub fn merge(old: &[Condition], verdicts: &[Verdict], generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    verdicts
        .iter()
        .map(|verdict| {
            let status = match verdict.status {
                Some(true) => "True",
                Some(false) => "False",
                None => "Unknown",
            };
            let since = old
                .iter()
                .find(|c| c.type_ == verdict.kind.as_str() && c.status == status)
                .map_or_else(|| whole_seconds(now), |c| c.last_transition_time.clone());
            Condition {
                type_: verdict.kind.as_str().to_owned(),
                status: status.to_owned(),
                reason: verdict.reason.as_str().to_owned(),
                message: verdict.message.clone(),
                observed_generation: generation,
                last_transition_time: since,
            }
        })
        .collect()
}

/// Kubernetes keeps condition times in whole seconds; writing finer ones would make every comparison differ.
fn whole_seconds(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a valid time")
    }

    #[test]
    fn ready_takes_the_first_failure_before_the_first_unknown() {
        let verdicts = with_ready(vec![
            Verdict::pending(ConditionType::Programmed),
            Verdict::bad(ConditionType::Accepted, Reason::InvalidSpec, "no"),
        ]);
        assert_eq!(verdicts[0], Verdict::bad(ConditionType::Ready, Reason::InvalidSpec, "no"));
    }

    #[test]
    fn ready_is_true_only_when_all_are() {
        let all = vec![Verdict::good(ConditionType::Accepted, Reason::Accepted, "")];
        assert_eq!(with_ready(all)[0].status, Some(true));
        assert_eq!(with_ready(vec![Verdict::pending(ConditionType::Accepted)])[0].status, None);
    }

    #[test]
    fn a_pause_is_ready_and_says_so() {
        let ready = &with_ready(vec![Verdict::good(ConditionType::Connected, Reason::Paused, "paused")])[0];
        assert_eq!((ready.kind, ready.status, ready.reason), (ConditionType::Ready, Some(true), Reason::Paused));
    }

    #[test]
    fn transition_time_changes_only_with_the_status() {
        let good = [Verdict::good(ConditionType::Ready, Reason::Ready, "")];
        let first = merge(&[], &good, Some(1), at(10));
        let second = merge(&first, &good, Some(2), at(20));
        assert_eq!(second[0].last_transition_time, first[0].last_transition_time);
        assert_eq!(second[0].observed_generation, Some(2));
        let third = merge(&second, &[Verdict::bad(ConditionType::Ready, Reason::Pending, "")], Some(2), at(30));
        assert_eq!(third[0].last_transition_time.0, at(30));
    }

    #[test]
    fn reasons_are_upper_camel_case_and_described() {
        for (_, name, description) in Reason::ALL {
            assert!(name.chars().next().is_some_and(char::is_uppercase) && name.chars().all(char::is_alphanumeric));
            assert!(description.ends_with('.'), "{name} needs a full sentence");
        }
    }
}
