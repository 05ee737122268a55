//! Paths of requests as addresses, and addresses as paths.
//!
//! An address is a path without percent-encoding, so that routes and subjects are readable. A slash inside a segment stays
//! `%2F` in both directions; otherwise it would make two segments of one.

use std::fmt::Write as _;

/// The address of a path; `None` when it is none that an event can come by.
#[must_use]
pub fn address(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let decoded = (byte == b'%').then(|| hex_pair(after));
        match decoded {
            None => {
                bytes.push(byte);
                rest = after;
            }
            Some(None) => return None,
            Some(Some(b'/')) => {
                bytes.extend_from_slice(b"%2F");
                rest = &after[2..];
            }
            Some(Some(decoded)) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
        }
    }
    let address = String::from_utf8(bytes).ok()?;
    let usable = address.starts_with('/') && !address.contains(char::is_control);
    usable.then_some(address)
}

/// The path of an address. What is percent-encoded already stays as it is.
#[must_use]
pub fn path(address: &str) -> String {
    let mut path = String::with_capacity(address.len());
    let bytes = address.as_bytes();
    for (index, &byte) in bytes.iter().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte);
        let encoded = byte == b'%' && hex_pair(&bytes[index + 1..]).is_some();
        if plain || encoded {
            path.push(char::from(byte));
        } else {
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path
}

pub(super) fn hex_pair(bytes: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let [high, low, ..] = bytes else { return None };
    Some(digit(*high)? << 4 | digit(*low)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("/orders/7", Some("/orders/7"))]
    #[case("/", Some("/"))]
    #[case("/a%20b/%C3%A4", Some("/a b/ä"))]
    #[case("/a%2fb", Some("/a%2Fb"))]
    #[case("/100%25", Some("/100%"))]
    #[case("/%", None)]
    #[case("/%zz", None)]
    #[case("/%FF", None)]
    #[case("/%00", None)]
    #[case("/%0A", None)]
    #[case("*", None)]
    fn addresses(#[case] path: &str, #[case] expected: Option<&str>) {
        assert_eq!(address(path).as_deref(), expected);
    }

    #[rstest]
    #[case("/a b/ä", "/a%20b/%C3%A4")]
    #[case("/a%2Fb?x#y", "/a%2Fb%3Fx%23y")]
    #[case("/100%", "/100%25")]
    fn paths(#[case] address: &str, #[case] expected: &str) {
        assert_eq!(path(address), expected);
    }

    proptest! {
        #[test]
        fn an_address_without_percents_survives_the_way_there_and_back(tail in "[^%\\p{Cc}]{0,40}") {
            let there = format!("/{tail}");
            let way = path(&there);
            prop_assert!(way.is_ascii());
            prop_assert_eq!(address(&way), Some(there));
        }

        #[test]
        fn any_path_is_an_address_or_none(text in ".*") {
            if let Some(found) = address(&text) {
                prop_assert!(found.starts_with('/'));
            }
        }
    }
}
