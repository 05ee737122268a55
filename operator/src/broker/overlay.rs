//! Comparing a wanted configuration with the one the broker has.
//!
//! The operator owns the keys it names; every other key keeps the broker's value, so that settings of a newer broker
//! or of another tool survive. Pure.

use std::fmt;

use serde_json::Value;

use super::api::Config;

/// One key that differs.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    pub key: String,
    pub found: Value,
    pub wanted: Value,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.key, self.found, self.wanted)
    }
}

/// What differs, and the configuration to send: the broker's with the wanted keys laid over it.
#[derive(Debug, Clone, PartialEq)]
pub struct Overlay {
    pub differences: Vec<Difference>,
    pub merged: Config,
}

/// Lays `wanted` over `found`. `metadata` is merged key by key, every other value is replaced.
#[must_use]
pub fn overlay(found: &Config, wanted: &Config) -> Overlay {
    let mut merged = found.clone();
    let mut differences = Vec::new();
    for (key, value) in wanted {
        let before = found.get(key).unwrap_or(&Value::Null);
        let after = match (key.as_str(), before, value) {
            ("metadata", Value::Object(old), Value::Object(new)) => {
                let mut all = old.clone();
                all.extend(new.clone());
                Value::Object(all)
            }
            _ => value.clone(),
        };
        if !equivalent(before, &after) {
            differences.push(Difference { key: key.clone(), found: before.clone(), wanted: after.clone() });
        }
        if after.is_null() {
            merged.remove(key);
        } else {
            merged.insert(key.clone(), after);
        }
    }
    Overlay { differences, merged }
}

/// The differences as one line, for an Event.
#[must_use]
pub fn describe(differences: &[Difference]) -> String {
    differences.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The broker leaves out what is zero, false or empty.
fn equivalent(left: &Value, right: &Value) -> bool {
    left == right || is_empty(left) && is_empty(right)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::broker::api::object;

    #[test]
    fn equal_and_omitted_values_do_not_differ() {
        let found = object(json!({"name": "a", "max_age": 0, "metadata": {"_nats.level": "1", "k": "v"}}));
        let wanted = object(json!({"name": "a", "max_age": 0, "sealed": false, "metadata": {"k": "v"}}));
        assert_eq!(overlay(&found, &wanted).differences, vec![]);
    }

    #[test]
    fn keys_that_are_not_ours_survive_an_update() {
        let found = object(json!({"max_age": 5, "new_setting": {"a": 1}, "metadata": {"theirs": "x"}}));
        let wanted = object(json!({"max_age": 7, "metadata": {"ours": "y"}}));
        let result = overlay(&found, &wanted);
        assert_eq!(
            result.merged,
            object(json!({"max_age": 7, "new_setting": {"a": 1}, "metadata": {"theirs": "x", "ours": "y"}}))
        );
        assert_eq!(describe(&result.differences[..1]), "max_age: 5 -> 7");
    }

    #[test]
    fn a_null_removes_a_key() {
        let result = overlay(&object(json!({"filter_subject": "a"})), &object(json!({"filter_subject": null})));
        assert_eq!(result.differences.len(), 1);
        assert!(result.merged.is_empty());
    }
}
