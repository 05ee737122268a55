//! Sizes and durations as the API takes them.

use arbitrary::{Result, Unstructured};
use eventmesh_crds::{common::std_duration, quantity::ByteQuantity};
use kube::core::Duration;
use serde_json::json;

use crate::input::text;

const SUFFIXES: [&str; 18] =
    ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "k", "M", "G", "T", "P", "E", "0", "1", "9", "-", ".", "9223372036854775807"];

pub fn run(data: &[u8]) {
    if let Ok(any) = std::str::from_utf8(data) {
        quantity(any);
    }
    let mut input = Unstructured::new(data);
    if let Ok(near) = text(&mut input, &SUFFIXES, 6) {
        quantity(&near);
    }
    let _ = duration(&mut input);
}

fn quantity(any: &str) {
    let Ok(quantity) = any.parse::<ByteQuantity>() else { return };
    assert!(quantity.bytes() >= 0);
    assert_eq!(quantity.as_str(), any, "the user's own text is kept");
    let again: ByteQuantity = serde_json::from_value(json!(quantity)).expect("readable again");
    assert_eq!(again, quantity);
}

/// What the schema of the CRD lets through: kube's own parser panics at lengths beyond what a number can hold, and the
/// schema is what keeps these away.
fn duration(input: &mut Unstructured<'_>) -> Result<()> {
    let mut any = String::new();
    for _ in 0..input.int_in_range(1..=8)? {
        any.push_str(&digits(input)?);
        if input.arbitrary()? {
            any.push('.');
            any.push_str(&digits(input)?);
        }
        any.push_str(input.choose(&["ms", "s", "m", "h"])?);
    }
    if any.len() <= 32 {
        let duration: Duration = serde_json::from_value(json!(any)).expect("the schema lets it through");
        let length = std_duration(&duration);
        assert!(u64::try_from(length.as_millis()).is_ok(), "{any} is {length:?}");
    }
    Ok(())
}

fn digits(input: &mut Unstructured<'_>) -> Result<String> {
    (0..input.int_in_range(1..=9)?).map(|_| Ok(char::from(b'0' + input.int_in_range(0..=9)?))).collect()
}
