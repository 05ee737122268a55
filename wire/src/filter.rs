//! Filters: CEL over the [`EventView`] that must yield a boolean.

use cel::common::ast::{Expr, IdedExpr, LiteralValue, operators};
use cel::{Context, Program, Value};
use thiserror::Error;

use crate::event::EventView;

/// Why an expression is refused before it ever runs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FilterError {
    #[error("`{expression}` does not compile: {problem}")]
    Syntax { expression: String, problem: String },
    #[error("`{expression}` yields {kind}, not true or false; compare it with something")]
    NotBoolean { expression: String, kind: &'static str },
    #[error("`{expression}` refers to `{name}`; the only variable is `event`")]
    UnknownVariable { expression: String, name: String },
}

/// Why an expression gave no answer for an event.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EvaluationError {
    #[error("the filter could not be evaluated: {0}")]
    Failed(String),
    #[error("the filter yielded {0}, not true or false")]
    NotBoolean(String),
}

/// A compiled filter.
#[derive(Debug)]
pub struct Filter {
    program: Program,
    needs_data: bool,
}

impl Filter {
    /// # Errors
    /// When the expression does not compile, refers to anything but `event`, or certainly yields no boolean.
    pub fn compile(expression: &str) -> Result<Self, FilterError> {
        let program = Program::compile(expression).map_err(|errors| FilterError::Syntax {
            expression: expression.to_owned(),
            problem: errors.to_string().lines().map(str::trim).collect::<Vec<_>>().join(" "),
        })?;
        let mut bound = Vec::new();
        bound_names(program.expression(), &mut bound);
        let unknown = program
            .references()
            .variables()
            .into_iter()
            .find(|name| *name != "event" && !name.starts_with('@') && !bound.contains(name))
            .map(str::to_owned);
        if let Some(name) = unknown {
            return Err(FilterError::UnknownVariable { expression: expression.to_owned(), name });
        }
        match kind_of(program.expression()) {
            Kind::Boolean | Kind::Unknown => {}
            Kind::Other(kind) => return Err(FilterError::NotBoolean { expression: expression.to_owned(), kind }),
        }
        // Looking for the word is coarse, and errs on the side of parsing.
        let needs_data = expression.contains("data") || !expression.contains("event.");
        Ok(Self { program, needs_data })
    }

    /// Whether the event passes.
    ///
    /// # Errors
    /// When the expression fails for this event (a missing field, types that do not compare) or yields something else.
    pub fn passes(&self, event: &EventView<'_>) -> Result<bool, EvaluationError> {
        let mut context = Context::default();
        context.add_variable_from_value("event", event.to_value(self.needs_data));
        match self.program.execute(&context) {
            Ok(Value::Bool(answer)) => Ok(answer),
            Ok(other) => Err(EvaluationError::NotBoolean(other.type_of().to_string())),
            Err(error) => Err(EvaluationError::Failed(error.to_string().chars().take(200).collect())),
        }
    }
}

/// The names that comprehensions (`exists(x, …)`) bring in.
fn bound_names<'e>(expression: &'e IdedExpr, bound: &mut Vec<&'e str>) {
    match &expression.expr {
        Expr::Comprehension(inner) => {
            bound.push(&inner.iter_var);
            bound.extend(inner.iter_var2.as_deref());
            bound.push(&inner.accu_var);
            for part in [&inner.iter_range, &inner.accu_init, &inner.loop_cond, &inner.loop_step, &inner.result] {
                bound_names(part, bound);
            }
        }
        Expr::Call(call) => call.args.iter().chain(call.target.as_deref()).for_each(|part| bound_names(part, bound)),
        Expr::Select(select) => bound_names(&select.operand, bound),
        Expr::List(list) => list.elements.iter().for_each(|part| bound_names(part, bound)),
        _ => {}
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
        Expr::Select(select) => match (&select.operand.expr, select.field.as_str()) {
            (Expr::Ident(name), "id" | "source" | "type" | "subject" | "time") if name == "event" => {
                Kind::Other("a string")
            }
            (Expr::Ident(name), "headers") if name == "event" => Kind::Other("a map"),
            _ => Kind::Unknown,
        },
        Expr::Ident(name) if name == "event" => Kind::Other("a map"),
        Expr::Call(call) => match call.func_name.as_str() {
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

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("event.data.celsius > 80", r#"{"celsius": 81.5}"#, true)]
    #[case("event.data.celsius > 80", r#"{"celsius": 80}"#, false)]
    #[case("event.data.name == 'a' && event.subject.startsWith('line/')", r#"{"name": "a"}"#, true)]
    #[case("event.data == 'plain text'", "plain text", true)]
    #[case("has(event.data.x)", r#"{"y": 1}"#, false)]
    #[case("event.headers['k'] == 'v'", "", true)]
    #[case("event.data.list.exists(x, x > 2)", r#"{"list": [1, 2, 3]}"#, true)]
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
    fn refuses(#[case] expression: &str, #[case] problem: &str) {
        let error = Filter::compile(expression).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }

    #[rstest]
    #[case("event.data.celsius > 80", "no json")]
    #[case("event.data.celsius > 80", r#"{"fahrenheit": 1}"#)]
    #[case("event.data.celsius > 80", r#"{"celsius": "hot"}"#)]
    #[case("event.data", r#"{"a": 1}"#)]
    fn gives_no_answer(#[case] expression: &str, #[case] data: &str) {
        let event = EventView { data: data.as_bytes(), ..EventView::default() };
        assert!(Filter::compile(expression).unwrap().passes(&event).is_err());
    }
}
