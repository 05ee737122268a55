//! The description of the application's port, as OpenAPI 3.1.

/// What `GET /openapi.json` answers.
pub const DESCRIPTION: &str = include_str!("openapi.json");

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::super::ROUTES;
    use super::*;

    #[test]
    fn every_path_is_described_and_no_other() {
        let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
        assert_eq!(description["openapi"], "3.1.1");
        let mut described: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (path, item) in description["paths"].as_object().unwrap() {
            let path = path.replace("{subject}", "");
            described.insert(path, item.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect());
        }
        let mut served: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (method, path, _) in ROUTES {
            served.entry(path.to_owned()).or_default().insert(method.to_string());
        }
        assert_eq!(described, served);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(members) => {
                    found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    members.values().for_each(|member| references(member, found));
                }
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
        let mut found = Vec::new();
        references(&description, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            assert!(description.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
        }
    }
}
