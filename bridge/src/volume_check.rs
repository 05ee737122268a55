//! Whether a broker may start on the volume that it has: asked before each start, in the broker's own pod, of nobody but the
//! volume and one file. So brokers restart without an operator.
//!
//! A broker whose volume is empty has forgotten what it has confirmed. As long as the others count on it, its vote could make
//! them forget it as well.

use std::{
    fs,
    io::{self, ErrorKind},
    path::Path,
};

use eventmesh_wire::volume;

/// What nats-server keeps of a metadata group that it belongs to, below its store: the members, and its last vote.
const OF_A_MEMBER: [&str; 2] = ["peers.idx", "tav.idx"];

/// Returns why the broker must not start, if it must not.
///
/// # Errors
/// When the volume or the file cannot be read: nothing is known then.
pub fn run(data: &Path, members: &Path, broker: &str) -> io::Result<Option<String>> {
    if holds_a_broker(data)? {
        return Ok(None);
    }
    let listed = match fs::read_to_string(members) {
        Ok(file) => volume::read(&file).contains(broker),
        // A new mesh.
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    Ok(listed.then(|| {
        format!(
            "this volume holds nothing of {broker}, which the other brokers count on; the operator takes it out of the \
             metadata first"
        )
    }))
}

/// Whether a broker that was a member of a cluster has stored its state here.
fn holds_a_broker(data: &Path) -> io::Result<bool> {
    let accounts = match fs::read_dir(data.join("jetstream")) {
        Ok(accounts) => accounts,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    for account in accounts {
        let group = account?.path().join("_js_/_meta_");
        let is_there = |file: &&str| fs::metadata(group.join(file)).is_ok_and(|found| found.len() > 0);
        if OF_A_MEMBER.iter().all(is_there) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const LISTED: &str = "m-broker-1\nm-broker-2\n";

    /// A volume with these files, and a file of members if there is one.
    fn volume(name: &str, files: &[(&str, &str)], members: Option<&str>) -> (PathBuf, PathBuf) {
        let folder = eventmesh_tests::paths::scratch(name).expect("a folder");
        let (data, list) = (folder.join("data"), folder.join("brokers"));
        fs::create_dir(&data).expect("a volume");
        for (file, text) in files {
            let file = data.join(file);
            fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
            fs::write(file, text).expect("a file");
        }
        if let Some(members) = members {
            fs::write(&list, members).expect("a list");
        }
        (data, list)
    }

    fn refusal(name: &str, files: &[(&str, &str)], members: Option<&str>) -> Option<String> {
        let (data, list) = volume(name, files, members);
        run(&data, &list, "m-broker-2").expect("an answer")
    }

    const META: &str = "jetstream/SYS/_js_/_meta_";

    #[test]
    fn an_empty_volume_of_a_member_is_refused() {
        let why = refusal("empty", &[], Some(LISTED)).expect("refused");
        assert!(why.contains("holds nothing of m-broker-2"), "{why}");
        // What is there is none of a member.
        let files = [("lost+found/x", "x"), ("accounts/A.jwt", "x"), ("jetstream/A/streams/s/meta.inf", "x")];
        assert!(refusal("others", &files, Some(LISTED)).is_some());
        let torn = [(&*format!("{META}/peers.idx"), "x"), (&*format!("{META}/tav.idx"), "")];
        assert!(refusal("torn", &torn, Some(LISTED)).is_some(), "it has forgotten how it voted");
    }

    #[test]
    fn a_broker_starts_on_its_own_volume_whoever_is_listed() {
        let files = [(&*format!("{META}/peers.idx"), "x"), (&*format!("{META}/tav.idx"), "x")];
        assert_eq!(refusal("own", &files, Some(LISTED)), None);
    }

    #[test]
    fn a_new_broker_starts() {
        assert_eq!(refusal("new-mesh", &[], None), None);
        assert_eq!(refusal("growth", &[], Some("m-broker-0\nm-broker-1\nm-broker-20\n")), None);
    }

    #[test]
    fn what_cannot_be_read_is_no_leave() {
        let (data, list) = volume("unreadable", &[("jetstream", "a file")], None);
        assert!(run(&data, &list, "m-broker-2").is_err());
        fs::remove_file(data.join("jetstream")).expect("it goes");
        fs::create_dir(&list).expect("a folder");
        assert!(run(&data, &list, "m-broker-2").is_err());
    }
}
