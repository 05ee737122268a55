//! Transforms: what the expression yields is the event's new data.

use cel::Value;

use super::{EvaluationError, Expression, ExpressionError};
use crate::event::EventView;

/// A compiled transform.
#[derive(Debug)]
pub struct Transform(Expression);

/// The new data of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transformed {
    pub data: Vec<u8>,
    /// What the data is, for the attribute `datacontenttype`; absent: as it was.
    pub content_type: Option<&'static str>,
}

impl Transform {
    /// # Errors
    /// When the expression does not compile or refers to anything but `event`.
    pub fn compile(expression: &str) -> Result<Self, ExpressionError> {
        Expression::compile(expression).map(Self)
    }

    /// The event's new data: a string or bytes as they are, anything else as JSON (maps in the order of their keys).
    ///
    /// # Errors
    /// When the expression fails for this event, or yields what JSON can not hold.
    pub fn apply(&self, event: &EventView<'_>) -> Result<Transformed, EvaluationError> {
        match self.0.run(event, "transform")? {
            Value::String(text) => {
                Ok(Transformed { data: text.as_bytes().to_vec(), content_type: Some("text/plain; charset=utf-8") })
            }
            // Not what anybody wants in place of the data.
            Value::Null => Err(EvaluationError::NoData),
            Value::Bytes(bytes) => Ok(Transformed { data: bytes.to_vec(), content_type: None }),
            other => {
                let json = other.json().map_err(|_| EvaluationError::NoData)?;
                Ok(Transformed { data: json.to_string().into_bytes(), content_type: Some("application/json") })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        "{'c': event.data.celsius, 'b': [1, 2.5, true, null]}",
        r#"{"b":[1,2.5,true,null],"c":81.5}"#,
        Some("application/json")
    )]
    #[case("event.data.celsius", "81.5", Some("application/json"))]
    #[case("event.subject", "line/1", Some("text/plain; charset=utf-8"))]
    #[case("bytes(event.subject)", "line/1", None)]
    fn yields_the_new_data(#[case] expression: &str, #[case] data: &str, #[case] content_type: Option<&'static str>) {
        let event = EventView { subject: "line/1", data: br#"{"celsius": 81.5}"#, ..EventView::default() };
        let transformed = Transform::compile(expression).unwrap().apply(&event).unwrap();
        assert_eq!(transformed, Transformed { data: data.into(), content_type });
    }

    #[rstest]
    #[case("event.data.fahrenheit", "could not be evaluated")]
    #[case("event.subject.celsius", "could not be evaluated")]
    #[case("null", "yielded no data")]
    fn gives_no_data(#[case] expression: &str, #[case] problem: &str) {
        let event = EventView { data: b"{}", ..EventView::default() };
        let error = Transform::compile(expression).unwrap().apply(&event).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
}
