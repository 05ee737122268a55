//! URLs of endpoints.

/// Where a broker listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerAddress {
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

/// A scheme that an endpoint's URL may have.
pub(crate) struct Scheme {
    pub name: &'static str,
    /// Where the URL names none.
    pub port: u16,
    pub tls: bool,
}

/// The address of a URL, and what follows it without the first slash.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub(crate) fn parse_url<'u>(url: &'u str, schemes: &[Scheme]) -> Result<(BrokerAddress, &'u str), String> {
    let examples: Vec<String> =
        schemes.iter().map(|scheme| format!("{}://host:{}", scheme.name, scheme.port)).collect();
    let wrong = |problem: &str| format!("`{url}` {problem}; write {}", examples.join(" or "));
    let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("is not a URL"))?;
    let scheme = schemes.iter().find(|known| known.name == scheme).ok_or_else(|| wrong("has another scheme"))?;
    if rest.contains('@') {
        return Err("credentials do not belong into the URL; use username and password".to_owned());
    }
    if rest.contains(['?', '#']) {
        return Err(wrong("has a query or a fragment"));
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            (host, port.parse().map_err(|_| wrong("has a port that is no number from 1 to 65535"))?)
        }
        _ => (authority, scheme.port),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || port == 0 {
        return Err(wrong("names no host or no port"));
    }
    Ok((BrokerAddress { host: host.to_owned(), port, tls: scheme.tls }, path))
}
