//! From bytes to inputs that get past the first check of a parser.

use arbitrary::{Result, Unstructured};
use serde_json::Value;

/// A text of up to `most` pieces, each one of `pieces` or any character.
pub fn text(input: &mut Unstructured<'_>, pieces: &[&str], most: usize) -> Result<String> {
    let count = input.int_in_range(0..=most)?;
    let mut text = String::new();
    for _ in 0..count {
        // One piece more than there are stands for any character.
        match pieces.get(input.int_in_range(0..=pieces.len())?) {
            Some(piece) => text.push_str(piece),
            None => text.push(input.arbitrary()?),
        }
    }
    Ok(text)
}

/// Puts any values into a few fields of a document.
pub fn disturb(input: &mut Unstructured<'_>, document: &mut Value, texts: &[&str]) -> Result<()> {
    let mut paths = Vec::new();
    collect(document, String::new(), &mut paths);
    for _ in 0..input.int_in_range(1..=6)? {
        let path = input.choose(&paths)?.clone();
        let value = value(input, texts)?;
        if let Some(place) = document.pointer_mut(&path) {
            *place = value;
        }
    }
    Ok(())
}

fn collect(value: &Value, path: String, paths: &mut Vec<String>) {
    let below: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    for (name, value) in below {
        collect(value, format!("{path}/{name}"), paths);
    }
    paths.push(path);
}

fn value(input: &mut Unstructured<'_>, texts: &[&str]) -> Result<Value> {
    Ok(match input.int_in_range(0..=6)? {
        0 => Value::Null,
        1 => input.arbitrary::<bool>()?.into(),
        2 => input.arbitrary::<u64>()?.into(),
        3 => input.arbitrary::<i64>()?.into(),
        4 => u64::MAX.into(),
        _ => text(input, texts, 12)?.into(),
    })
}
