//! Whether a PEM text holds what it should: readable certificates, or a readable private key. Whether a certificate is
//! valid, and fits its key, is found out where it is used.

use rustls_pki_types::pem::{Error, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// # Errors
/// A sentence that says what is wrong.
pub(crate) fn certificates(text: &str) -> Result<(), String> {
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        count += 1;
        if !is_one_sequence(&certificate) {
            return Err(format!("certificate {count} is damaged: its content is no certificate"));
        }
    }
    if count == 0 {
        return Err("holds no certificate; it must have a part that begins with -----BEGIN CERTIFICATE-----".to_owned());
    }
    Ok(())
}

/// # Errors
/// A sentence that says what is wrong.
pub(crate) fn private_key(text: &str) -> Result<(), String> {
    match PrivateKeyDer::from_pem_slice(text.as_bytes()) {
        Ok(key) if is_one_sequence(key.secret_der()) => Ok(()),
        Ok(_) => Err("is damaged: its content is no private key".to_owned()),
        Err(Error::NoItemsFound) if text.contains("BEGIN ENCRYPTED PRIVATE KEY") => {
            Err("is encrypted; give the key without a passphrase".to_owned())
        }
        Err(Error::NoItemsFound) => {
            Err("holds no private key; it must have a part that begins with -----BEGIN PRIVATE KEY-----".to_owned())
        }
        Err(error) => Err(unreadable(&error)),
    }
}

/// The parser's own words may quote the text, and the text may be a key.
fn unreadable(error: &Error) -> String {
    let why = match error {
        Error::MissingSectionEnd { .. } => "a part has no end line",
        Error::IllegalSectionStart { .. } => "the first line of a part is broken",
        Error::Base64Decode(_) => "a part is not base64",
        _ => "it is damaged",
    };
    format!("can not be read as PEM: {why}")
}

/// Certificates and keys are one ASN.1 sequence each, as long as it says.
fn is_one_sequence(der: &[u8]) -> bool {
    let (length, content) = match der {
        [0x30, short @ 0..=0x7f, content @ ..] => (usize::from(*short), content),
        [0x30, 0x81, length, content @ ..] => (usize::from(*length), content),
        [0x30, 0x82, high, low, content @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), content),
        _ => return false,
    };
    content.len() == length
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn pem(label: &str, content: &str) -> String {
        format!("-----BEGIN {label}-----\n{content}\n-----END {label}-----\n")
    }

    #[rstest]
    #[case(&pem("CERTIFICATE", "MAMCAQE="), None)]
    #[case("", Some("holds no certificate"))]
    #[case("hello", Some("holds no certificate"))]
    #[case(&pem("PRIVATE KEY", "MAMCAQE="), Some("holds no certificate"))]
    #[case(&pem("CERTIFICATE", "M*M"), Some("not base64"))]
    #[case("-----BEGIN CERTIFICATE-----\nMAMCAQE=\n", Some("no end line"))]
    #[case(&pem("CERTIFICATE", "MAQCAQE="), Some("certificate 1 is damaged"))]
    fn judges_certificates(#[case] text: &str, #[case] problem: Option<&str>) {
        check(certificates(text), problem);
    }

    #[rstest]
    #[case(&pem("PRIVATE KEY", "MAMCAQE="), None)]
    #[case(&pem("EC PRIVATE KEY", "MAMCAQE="), None)]
    #[case(&pem("RSA PRIVATE KEY", "MAMCAQE="), None)]
    #[case("hunter2", Some("holds no private key"))]
    #[case(&pem("ENCRYPTED PRIVATE KEY", "MAMCAQE="), Some("encrypted"))]
    #[case(&pem("PRIVATE KEY", "hunter2*"), Some("not base64"))]
    #[case(&pem("PRIVATE KEY", "AAAA"), Some("damaged"))]
    fn judges_keys(#[case] text: &str, #[case] problem: Option<&str>) {
        check(private_key(text), problem);
    }

    fn check(found: Result<(), String>, problem: Option<&str>) {
        match (found, problem) {
            (Ok(()), None) => {}
            (Err(found), Some(problem)) => {
                assert!(found.contains(problem), "{found}");
                assert!(!found.contains("hunter2"), "a secret is in the problem: {found}");
            }
            (found, problem) => panic!("{found:?}, expected {problem:?}"),
        }
    }
}
