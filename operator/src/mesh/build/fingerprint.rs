//! Which part of the brokers' configuration has changed, and whether brokers take it up while they run. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::{config_file::CLUSTER_VARIABLE, hash};

/// Keys that nats-server takes up by a reload, as its `server/reload.go` has it. Every other key needs a restart.
const RELOADED: [&str; 12] = [
    "cluster",
    "connect_error_reports",
    "debug",
    "max_connections",
    "max_control_line",
    "max_payload",
    "max_traced_msg_len",
    "ping_interval",
    "ping_max",
    "reconnect_error_reports",
    "trace",
    "write_deadline",
];
/// A key inside `jetstream`.
const GROWS: &str = "max_file_store:";
/// A list inside [`LEAFNODES`]: whom the broker dials comes and goes while it runs.
const DIALS: &str = "remotes: [";
const LEAFNODES: &str = "leafnodes";
/// What is left of that key where the broker only dials.
const ONLY_DIALS: &str = "leafnodes {\n}\n";
/// What a broker tells of itself, not what it does.
const TOLD: [&str; 2] = ["server_metadata", CLUSTER_VARIABLE];

/// A fingerprint of each key that needs a restart: `jetstream:1f3a9c07 listen:…`.
#[must_use]
pub fn restarting(files: &[&str]) -> String {
    let mut text = String::new();
    for (key, section) in sections(files) {
        let only_dials = key == LEAFNODES && section == ONLY_DIALS;
        if !only_dials && !TOLD.contains(&key.as_str()) && !RELOADED.contains(&key.as_str()) {
            let _ = write!(text, "{}{key}:{}", if text.is_empty() { "" } else { " " }, &hash(&[&section])[..8]);
        }
    }
    text
}

/// The keys in which two texts of [`restarting`] differ.
#[must_use]
pub fn differing(before: &str, after: &str) -> Vec<String> {
    let read = |text: &str| -> BTreeMap<String, String> {
        let pairs = text.split(' ').filter_map(|pair| pair.split_once(':'));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    };
    let (before, after) = (read(before), read(after));
    let all: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    all.into_iter().filter(|key| before.get(*key) != after.get(*key)).cloned().collect()
}

/// The text of each key at the top of these files. The broker ignores case.
fn sections(files: &[&str]) -> BTreeMap<String, String> {
    let mut sections: BTreeMap<String, String> = BTreeMap::new();
    for file in files {
        let mut depth = 0;
        let mut key = String::new();
        let mut dials = None;
        for line in file.lines() {
            let words = line.trim_start();
            if depth == 0 {
                if words.is_empty() || words.starts_with('#') || words.starts_with("include ") {
                    continue;
                }
                let end = words.find([':', '=', '{', ' ']).unwrap_or(words.len());
                key = words[..end].to_lowercase();
            }
            let above = depth;
            depth += nesting(line);
            if key == LEAFNODES && words.starts_with(DIALS) {
                dials = Some(above);
            }
            if let Some(above) = dials {
                dials = Some(above).filter(|above| depth > *above);
                continue;
            }
            // Brokers take more space up while they run, and it never becomes less.
            if words.starts_with(GROWS) {
                continue;
            }
            let section = sections.entry(key.clone()).or_default();
            section.push_str(words);
            section.push('\n');
        }
    }
    sections
}

/// How many blocks a line opens, less those that it closes; what is in quotes does not count.
fn nesting(line: &str) -> i32 {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for letter in line.chars() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '{' | '[' if !quoted => depth += 1,
            '}' | ']' if !quoted => depth -= 1,
            _ => {}
        }
    }
    depth
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const FILE: &str = "# A comment: {\nlisten: \"0.0.0.0:4222\"\nmax_payload: 5\njetstream {\n  store_dir: \"/data{\"\n  max: 7\n  max_file_store: 7\n}\n\
                        include \"./auth.conf\"\nMax_Subscriptions: 7\nserver_metadata { a: b }\n";

    fn changed(from: &str, to: &str) -> Vec<String> {
        differing(&restarting(&[FILE]), &restarting(&[&FILE.replace(from, to)]))
    }

    #[rstest]
    #[case("4222", "4223", &["listen"])]
    #[case("max: 7", "max: 8", &["jetstream"])]
    #[case("Max_Subscriptions: 7", "max_subscriptions: 8", &["max_subscriptions"])]
    #[case("listen:", "port:", &["listen", "port"])]
    fn what_needs_a_restart_is_named(#[case] from: &str, #[case] to: &str, #[case] keys: &[&str]) {
        assert_eq!(changed(from, to), keys);
    }

    #[rstest]
    #[case("max_payload: 5", "max_payload: 6")]
    #[case("max_payload: 5", "MAX_PAYLOAD: 6\nping_max: 3")]
    #[case("max_file_store: 7", "max_file_store: 8")]
    #[case("a: b", "a: c")]
    #[case("A comment", "Another")]
    fn what_is_reloaded_is_no_reason(#[case] from: &str, #[case] to: &str) {
        assert!(changed(from, to).is_empty());
    }

    #[test]
    fn whom_a_broker_dials_is_no_reason_and_where_it_listens_is_one() {
        let file = |listens: &str, remotes: &[&str]| {
            let dials = |remotes: &str| format!("  remotes: [\n{remotes}  ]\n");
            let remotes = remotes.iter().map(|one| format!("    {{ urls: [\"tls://{one}\"] }}\n"));
            let remotes = remotes.collect::<Vec<_>>().concat();
            let remotes = if remotes.is_empty() { remotes } else { dials(&remotes) };
            let block = format!("leafnodes {{\n{listens}{remotes}}}\n");
            let block = if listens.is_empty() && remotes.is_empty() { String::new() } else { block };
            restarting(&[&format!("a: 1\n{block}b: 2\n")])
        };
        assert_eq!(file("", &[]), file("", &["x:7422"]));
        assert_eq!(file("", &["x:7422"]), file("", &["x:7422", "y:7422"]));
        let listens = "  listen: \"0.0.0.0:7422\"\n";
        assert_eq!(file(listens, &[]), file(listens, &["x:7422"]));
        assert_eq!(differing(&file("", &["x:7422"]), &file(listens, &["x:7422"])), ["leafnodes"]);
        let other = "  listen: \"0.0.0.0:7423\"\n";
        assert_eq!(differing(&file(listens, &["x:7422"]), &file(other, &["x:7422"])), ["leafnodes"]);
    }

    #[test]
    fn several_files_are_one_configuration() {
        let apart = restarting(&["a: 1\n", "b {\n  c: 2\n}\n"]);
        assert_eq!(
            apart.split(' ').map(|pair| pair.split(':').next().unwrap_or_default()).collect::<Vec<_>>(),
            ["a", "b"]
        );
    }
}
