//! What a Secret of a link is, and what is wrong with it. Pure. The private key is never among what is told.

use std::fmt;

use eventmesh_crds::{EventMesh, link::Link};
use eventmesh_wire::link_secret::{self, LinkSecret};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use super::{authority, place as place_of, secret::LinkData};
use crate::{error::Error, text};

/// Where a Secret is from.
pub enum About {
    File(String),
    /// The Secret of a link that is dialled over: what the other side has a copy of.
    Issued {
        place: String,
        link: Link,
        tls: bool,
    },
    /// The copy of a side that dials.
    Copy {
        place: String,
        link: String,
        tls: bool,
    },
}

/// Facts, and what is wrong.
pub struct Report {
    facts: Vec<(&'static str, String)>,
    problems: Vec<String>,
    notes: Vec<String>,
}

/// The Secret of a link, and what it is.
pub fn place(mesh: &EventMesh, link: &Link) -> Result<(String, About), Error> {
    let namespace = mesh.namespace().unwrap_or_default();
    if let Some(to) = &link.to.mesh {
        let to = format!("{}/{}", to.namespace.as_ref().unwrap_or(&namespace), to.name);
        return Err(Error::LeadsHere { mesh: place_of(mesh), link: link.name.clone(), to });
    }
    let remote = link.to.remote.clone().unwrap_or_default();
    if let Some(secret) = remote.secret {
        let tls = remote.urls.iter().flatten().any(|url| url.starts_with("tls://"));
        let place = format!("{namespace}/{}", secret.name);
        return Ok((secret.name, About::Copy { place, link: link.name.clone(), tls }));
    }
    let name = link_secret::name(&mesh.name_any(), &link.name);
    let place = format!("{namespace}/{name}");
    Ok((name, About::Issued { place, link: link.clone(), tls: mesh.spec.has_tls() }))
}

/// Tells all that can be told.
pub fn run(data: &LinkData, about: &About, now: i64) -> Report {
    let mut report = Report { facts: Vec::new(), problems: Vec::new(), notes: Vec::new() };
    report.fact(
        "secret",
        match about {
            About::File(file) => format!("in {file}"),
            About::Issued { place, .. } => place.clone(),
            About::Copy { place, link, .. } => format!("{place}, by which this side dials over link {link}"),
        },
    );
    match data.credentials() {
        Err(problem) => report.problems.push(problem),
        Ok(credentials) => {
            report.user(&credentials, data.issued_by.as_deref(), about);
            report.life(&credentials, about, now);
            report.authorities(&credentials, now);
            let tls = match about {
                About::Issued { tls, .. } | About::Copy { tls, .. } => *tls,
                About::File(_) => credentials.authority().is_some(),
            };
            report.problems.splice(0..0, credentials.problems(tls, now));
        }
    }
    report
}

impl Report {
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    fn fact(&mut self, name: &'static str, value: String) {
        self.facts.push((name, value));
    }

    fn user(&mut self, credentials: &LinkSecret<'_>, issued_by: Option<&str>, about: &About) {
        let mesh = issued_by.unwrap_or("unknown: it does not say");
        let Some(link) = credentials.link() else {
            return self.fact("of", format!("{}, which is not a link", credentials.claims.name));
        };
        self.fact("link", format!("{link}, of EventMesh {mesh}"));
        let may = match about {
            About::Issued { link, .. } => {
                let list = |subjects: &[String]| match subjects {
                    [] => "nothing".to_owned(),
                    subjects => subjects.join(", "),
                };
                format!("send {}; ask for {}", list(&link.import), list(&link.export))
            }
            _ => format!("what the lists of link {link} say at the side that has issued it"),
        };
        self.fact("may", format!("dial as a leaf node, and {may}"));
        let claims = &credentials.claims;
        self.fact("account", claims.nats.issuer_account.clone());
        self.fact("signed by", claims.iss.clone());
        self.fact("user", claims.sub.clone());
    }

    fn life(&mut self, credentials: &LinkSecret<'_>, about: &About, now: i64) {
        let claims = &credentials.claims;
        self.fact("issued", time(claims.iat));
        let Some(expires) = claims.exp else { return self.fact("expires", "never".to_owned()) };
        let left = expires - now;
        let when =
            if left > 0 { format!("in {}", text::duration(left)) } else { format!("{} ago", text::duration(-left)) };
        self.fact("expires", format!("{} ({when})", time(expires)));
        if left > 0 && left < (expires - claims.iat) / 3 {
            self.notes.push(match about {
                About::Issued { .. } => "the operator should have renewed it; does it run?".to_owned(),
                _ => "the other side has a newer one: take a copy of that (`link generate` there)".to_owned(),
            });
        }
    }

    fn authorities(&mut self, credentials: &LinkSecret<'_>, now: i64) {
        let Some(pem) = credentials.authority() else {
            return self.notes.push("it has no `ca.crt`: good only where the other side has no TLS".to_owned());
        };
        match authority::read(pem) {
            Err(problem) => self.problems.push(problem),
            Ok(all) => {
                for one in &all {
                    self.fact("authority", format!("{}, until {}", one.name, time(one.until)));
                }
                if !all.is_empty() && all.iter().all(|one| one.until <= now) {
                    self.problems.push("the authorities in `ca.crt` have expired".to_owned());
                }
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::facts(&self.facts))?;
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for problem in &self.problems {
            writeln!(f, "PROBLEM: {problem}")?;
        }
        if self.is_good() { writeln!(f, "nothing is wrong with it") } else { Ok(()) }
    }
}

fn time(seconds: i64) -> String {
    Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{
        find,
        samples::{DIALLED, EXPIRES, NOW, data, mesh},
    };

    fn about(link: &str) -> About {
        let mesh = mesh(DIALLED);
        place(&mesh, find(&mesh, link).expect("a link")).expect("a Secret").1
    }

    #[test]
    fn a_good_one_is_told_in_full() {
        let report = run(&data("link/plant"), &about("plant"), NOW);
        assert!(report.is_good());
        insta::assert_snapshot!(report.to_string());
    }

    #[test]
    fn the_private_key_is_never_told() {
        let data = data("link/plant");
        let seed = String::from_utf8(data.values["nkey"].clone()).expect("text");
        for about in [about("plant"), about("far"), About::File("-".to_owned())] {
            let text = run(&data, &about, NOW).to_string();
            assert!(text.contains("link/plant") || text.contains("plant, of EventMesh"), "{text}");
            assert!(!text.contains(&seed) && !text.contains("SEED"), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        let report = run(&data("link/plant"), &About::File("plant.yaml".to_owned()), EXPIRES + 3_600);
        assert!(!report.is_good());
        insta::assert_snapshot!(report.to_string());
        let text = |data: &LinkData, about: &About, now| run(data, about, now).to_string();
        let foreign = text(&data("client/c"), &about("far"), NOW);
        assert!(foreign.contains("PROBLEM: its credentials are those of client/c, not of a link"), "{foreign}");
        let mut without = data("link/plant");
        without.values.remove("ca.crt");
        assert!(text(&without, &about("far"), NOW).contains("PROBLEM: key `ca.crt` is missing"));
        assert!(text(&without, &About::File("-".to_owned()), NOW).contains("note: it has no `ca.crt`"));
        without.values.remove("jwt");
        assert!(text(&without, &about("far"), NOW).contains("PROBLEM: key `jwt` is missing"));
    }

    #[test]
    fn one_that_should_be_renewed_says_so() {
        let late = EXPIRES - 1_000;
        assert!(run(&data("link/plant"), &about("plant"), late).to_string().contains("does it run?"));
        assert!(run(&data("link/plant"), &about("far"), late).to_string().contains("take a copy of that"));
    }
}
