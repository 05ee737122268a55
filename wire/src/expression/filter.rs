//! Filters: only events for which the expression is true pass.

use cel::Value;
use cel::common::ast::{Expr, IdedExpr, LiteralValue, operators};

use super::{EvaluationError, Expression, ExpressionError};
use crate::event::EventView;

/// A compiled filter.
#[derive(Debug)]
pub struct Filter(Expression);

impl Filter {
    /// # Errors
    /// When the expression does not compile, refers to anything but `event`, or certainly yields no boolean.
    pub fn compile(expression: &str) -> Result<Self, ExpressionError> {
        let compiled = Expression::compile(expression)?;
        match kind_of(&compiled.parsed) {
            Kind::Boolean | Kind::Unknown => Ok(Self(compiled)),
            Kind::Other(kind) => Err(ExpressionError::NotBoolean { expression: expression.to_owned(), kind }),
        }
    }

    /// Whether the event passes.
    ///
    /// # Errors
    /// When the expression fails for this event (a missing field, types that do not compare) or yields something else.
    pub fn passes(&self, event: &EventView<'_>) -> Result<bool, EvaluationError> {
        match self.0.run(event, "filter")? {
            Value::Bool(answer) => Ok(answer),
            other => Err(EvaluationError::NotBoolean(other.type_of().to_string())),
        }
    }
}

enum Kind {
    Boolean,
    Other(&'static str),
    Unknown,
}

/// What an expression yields, as far as its shape tells.
fn kind_of(expression: &IdedExpr) -> Kind {
    match &expression.expr {
        Expr::Literal(LiteralValue::Boolean(_)) => Kind::Boolean,
        Expr::Literal(LiteralValue::String(_)) => Kind::Other("a string"),
        Expr::Literal(LiteralValue::Bytes(_)) => Kind::Other("bytes"),
        Expr::Literal(LiteralValue::Null) => Kind::Other("null"),
        Expr::Literal(_) => Kind::Other("a number"),
        Expr::List(_) => Kind::Other("a list"),
        Expr::Map(_) | Expr::Struct(_) => Kind::Other("a map"),
        Expr::Select(select) if select.test => Kind::Boolean,
        Expr::Ident(name) if name == "event" => Kind::Other("a map"),
        Expr::Call(call) => match call.func_name.as_str() {
            operators::INDEX => match (&call.args[0].expr, field_name(&call.args[1])) {
                (Expr::Ident(name), Some("id" | "source" | "type" | "subject" | "time")) if name == "event" => {
                    Kind::Other("a string")
                }
                (Expr::Ident(name), Some("headers" | "attributes")) if name == "event" => Kind::Other("a map"),
                _ => Kind::Unknown,
            },
            operators::CONDITIONAL => match (kind_of(&call.args[1]), kind_of(&call.args[2])) {
                (Kind::Other(kind), _) | (_, Kind::Other(kind)) => Kind::Other(kind),
                (Kind::Boolean, Kind::Boolean) => Kind::Boolean,
                _ => Kind::Unknown,
            },
            operators::ADD => Kind::Other("a sum"),
            operators::SUBSTRACT
            | operators::MULTIPLY
            | operators::DIVIDE
            | operators::MODULO
            | operators::NEGATE
            | "size"
            | "int"
            | "uint"
            | "double" => Kind::Other("a number"),
            "string" => Kind::Other("a string"),
            _ => Kind::Unknown,
        },
        _ => Kind::Unknown,
    }
}

fn field_name(key: &IdedExpr) -> Option<&str> {
    match &key.expr {
        Expr::Literal(LiteralValue::String(name)) => Some(name.inner()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::expression::{MAX_BRACKETS, MAX_LENGTH};

    #[rstest]
    #[case("event.data.celsius > 80", r#"{"celsius": 81.5}"#, true)]
    #[case("event.data.celsius > 80", r#"{"celsius": 80}"#, false)]
    #[case("event.data.name == 'a' && event.subject.startsWith('line/')", r#"{"name": "a"}"#, true)]
    #[case("event.data == 'plain text'", "plain text", true)]
    #[case("has(event.data.x)", r#"{"y": 1}"#, false)]
    #[case("event.headers['k'] == 'v'", "", true)]
    #[case("event.data.list.exists(x, x > 2)", r#"{"list": [1, 2, 3]}"#, true)]
    #[case("{'any': event.data.list.exists(x, x > 2)}['any']", r#"{"list": [1, 2, 3]}"#, true)]
    #[case(
        "event.data.list.map(x, x * 2).filter(x, x > 2).map(x, [x]).exists(x, x.exists(y, y == 4))",
        r#"{"list": [1, 2]}"#,
        true
    )]
    #[case("true", "", true)]
    fn evaluates(#[case] expression: &str, #[case] data: &str, #[case] expected: bool) {
        let headers = [("k".to_owned(), "v".to_owned())];
        let event = EventView { subject: "line/1", data: data.as_bytes(), headers: &headers, ..EventView::default() };
        assert_eq!(Filter::compile(expression).unwrap().passes(&event), Ok(expected));
    }

    #[rstest]
    #[case("event.data.celsius >", "does not compile")]
    #[case("event.data.celsius + 1", "yields a sum")]
    #[case("'text'", "yields a string")]
    #[case("1", "yields a number")]
    #[case("event.subject", "yields a string")]
    #[case("size(event.subject)", "yields a number")]
    #[case("true ? 1 : 2", "yields a number")]
    #[case("[true]", "yields a list")]
    #[case("evnt.data > 1", "refers to `evnt`")]
    #[case("[1].exists(a, [1].all(b, [1].exists(c, a + b + c > 2)))", "may be in each other")]
    #[case("{'k': [1].map(a, [1].map(b, [1].map(c, c)))} == {}", "may be in each other")]
    fn refuses(#[case] expression: &str, #[case] problem: &str) {
        let error = Filter::compile(expression).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }

    #[test]
    fn a_parser_that_calls_itself_is_given_nothing_too_deep() {
        let deep = |brackets: usize| format!("{}true{}", "(".repeat(brackets), ")".repeat(brackets));
        // The stack of a main thread, on which operator and bridge run; a test's is smaller.
        let main = std::thread::Builder::new().stack_size(8 << 20);
        let compiled = main.spawn(move || Filter::compile(&deep(32)).is_ok()).unwrap();
        assert!(compiled.join().unwrap());
        for refused in [deep(MAX_BRACKETS + 1), "[".repeat(4000), format!("event.id == '{}'", "x".repeat(MAX_LENGTH))] {
            assert_eq!(Filter::compile(&refused).unwrap_err(), ExpressionError::TooLarge);
        }
    }

    #[rstest]
    #[case("event.data.celsius > 80", "no json")]
    #[case("event.data.celsius > 80", r#"{"fahrenheit": 1}"#)]
    #[case("event.data.celsius > 80", r#"{"celsius": "hot"}"#)]
    #[case("event.data", r#"{"a": 1}"#)]
    #[case("!event.data.closed", "no json")]
    #[case("event.data.door.closed == false", r#"{"door": "open"}"#)]
    fn gives_no_answer(#[case] expression: &str, #[case] data: &str) {
        let event = EventView { data: data.as_bytes(), ..EventView::default() };
        assert!(Filter::compile(expression).unwrap().passes(&event).is_err());
    }
}
