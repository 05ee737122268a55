//! Kubernetes quantities that count bytes, such as `10Gi` or `512k`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt, str::FromStr};

/// Suffixes and what they multiply by.
const SUFFIXES: [(&str, i64); 12] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
];

/// A number of bytes written as a Kubernetes quantity. It keeps the text the user wrote, for what is passed on to
/// Kubernetes, and the number, for what is passed on to the broker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteQuantity {
    text: String,
    bytes: i64,
}

impl ByteQuantity {
    #[must_use]
    pub fn bytes(&self) -> i64 {
        self.bytes
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for ByteQuantity {
    /// `1Gi` equals `1024Mi`.
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl FromStr for ByteQuantity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || format!("`{text}` is not a number of bytes; write for example 512Mi or 10Gi");
        let (number, factor) = SUFFIXES
            .iter()
            .find_map(|(suffix, factor)| text.strip_suffix(suffix).map(|number| (number, *factor)))
            .unwrap_or((text, 1));
        let number: i64 = number.parse().map_err(|_| refuse())?;
        let bytes = number.checked_mul(factor).filter(|bytes| *bytes >= 0).ok_or_else(refuse)?;
        Ok(Self { text: text.to_owned(), bytes })
    }
}

impl TryFrom<String> for ByteQuantity {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ByteQuantity> for String {
    fn from(quantity: ByteQuantity) -> Self {
        quantity.text
    }
}

impl fmt::Display for ByteQuantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl JsonSchema for ByteQuantity {
    fn schema_name() -> Cow<'static, str> {
        "ByteQuantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 24,
            "pattern": "^[0-9]{1,15}(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E)?$",
        })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::ByteQuantity;

    #[rstest]
    #[case("0", 0)]
    #[case("1Ki", 1024)]
    #[case("10Gi", 10 * 1024 * 1024 * 1024)]
    #[case("5k", 5000)]
    #[case("2M", 2_000_000)]
    fn parses(#[case] text: &str, #[case] bytes: i64) {
        let quantity: ByteQuantity = text.parse().expect("valid");
        assert_eq!((quantity.bytes(), quantity.as_str()), (bytes, text));
    }

    #[rstest]
    #[case("")]
    #[case("Gi")]
    #[case("1.5Gi")]
    #[case("-1")]
    #[case("100Ei")]
    #[case("ten")]
    fn refuses(#[case] text: &str) {
        assert!(text.parse::<ByteQuantity>().is_err());
    }
}
