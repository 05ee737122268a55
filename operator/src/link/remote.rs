//! The part of the brokers' configuration by which they dial the other side of a link. Pure.

use std::fmt::Write as _;

/// A link that the brokers of this side dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    pub link: String,
    pub urls: Vec<String>,
    /// The link's account on this side.
    pub account: String,
    /// Fingerprint of the authorities that the other side is verified with: brokers read them only with their configuration.
    pub authority: String,
}

/// File with the credentials of a link.
#[must_use]
pub fn credentials_file(link: &str) -> String {
    format!("{link}.creds")
}

/// File with the authorities that the far side's certificates are verified with.
#[must_use]
pub fn authority_file(link: &str) -> String {
    format!("{link}.ca.crt")
}

/// `remotes` of the block `leafnodes`. `directory`: where the files are.
#[must_use]
pub fn config(remotes: &[Remote], directory: &str) -> String {
    if remotes.is_empty() {
        return String::new();
    }
    let mut text = "  remotes: [\n".to_owned();
    for Remote { link, urls, account, authority } in remotes {
        let quoted = urls.iter().map(|url| format!("\"{url}\"")).collect::<Vec<_>>().join(", ");
        let tls = if urls.iter().any(|url| url.starts_with("tls://")) {
            format!(", tls {{ ca_file: \"{directory}/{}\", timeout: 5 }}", authority_file(link))
        } else {
            String::new()
        };
        if !authority.is_empty() {
            let _ = writeln!(text, "    # authority {authority}");
        }
        let _ = writeln!(
            text,
            "    {{ urls: [{quoted}], account: \"{account}\", credentials: \"{directory}/{}\"{tls} }}",
            credentials_file(link)
        );
    }
    text.push_str("  ]\n");
    text
}
