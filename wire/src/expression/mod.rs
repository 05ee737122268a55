//! Expressions of routes: CEL over the [`crate::event::EventView`], compiled once. A [`Filter`] yields a boolean, a
//! [`Transform`] the event's new data.

mod filter;
mod strict;
mod transform;

use cel::common::ast::{EntryExpr, Expr, IdedEntryExpr, IdedExpr};
use cel::{Context, Program, Value};
use thiserror::Error;

use crate::event::EventView;

pub use filter::Filter;
pub use transform::{Transform, Transformed};

/// Longest expression in bytes, as the API has it.
pub const MAX_LENGTH: usize = 4096;

/// Opening brackets that an expression may have, those in strings included: the parser calls itself for brackets in each
/// other, and takes a second for some thousand.
pub const MAX_BRACKETS: usize = 128;

/// How deep `exists`, `all`, `map` and `filter` may be in each other. Each level multiplies the work for an event, and a
/// bridge that computes carries nothing.
pub const MAX_NESTING: usize = 2;

/// Why an expression is refused before it ever runs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExpressionError {
    #[error("`{expression}` does not compile: {problem}")]
    Syntax { expression: String, problem: String },
    #[error("`{expression}` yields {kind}, not true or false; compare it with something")]
    NotBoolean { expression: String, kind: &'static str },
    #[error("`{expression}` refers to `{name}`; the only variable is `event`")]
    UnknownVariable { expression: String, name: String },
    #[error(
        "`{expression}` goes through a list within a list within a list; {MAX_NESTING} of `exists`, `all`, `map` and `filter` may be in each other"
    )]
    TooDeep { expression: String },
    #[error("the expression has more than {MAX_LENGTH} bytes, or more than {MAX_BRACKETS} opening brackets")]
    TooLarge,
}

/// Why an expression gave no answer for an event.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EvaluationError {
    #[error("the {0} could not be evaluated: {1}")]
    Failed(&'static str, String),
    #[error("the filter yielded {0}, not true or false")]
    NotBoolean(String),
    #[error("the transform yielded no data: null, or what JSON can not hold")]
    NoData,
}

/// An expression that may be run for each event.
#[derive(Debug)]
struct Expression {
    parsed: IdedExpr,
    needs_data: bool,
}

impl Expression {
    /// # Errors
    /// When it does not compile, is out of bounds, or refers to anything but `event`.
    fn compile(expression: &str) -> Result<Self, ExpressionError> {
        if expression.len() > MAX_LENGTH || expression.matches(['(', '[', '{']).count() > MAX_BRACKETS {
            return Err(ExpressionError::TooLarge);
        }
        let program = Program::compile(expression).map_err(|errors| ExpressionError::Syntax {
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
            return Err(ExpressionError::UnknownVariable { expression: expression.to_owned(), name });
        }
        if nesting(program.expression()) > MAX_NESTING {
            return Err(ExpressionError::TooDeep { expression: expression.to_owned() });
        }
        // Looking for the word is coarse, and errs on the side of parsing.
        let needs_data = expression.contains("data") || !expression.contains("event.");
        Ok(Self { parsed: strict::fields(program.expression().clone()), needs_data })
    }

    /// What it yields for an event; `what` names it in the error.
    fn run(&self, event: &EventView<'_>, what: &'static str) -> Result<Value, EvaluationError> {
        let mut context = Context::default();
        context.add_variable_from_value("event", event.to_value(self.needs_data));
        let failed =
            |error: cel::ExecutionError| EvaluationError::Failed(what, error.to_string().chars().take(200).collect());
        Value::resolve(&self.parsed, &context).map_err(failed)
    }
}

/// The names that comprehensions (`exists(x, …)`) bring in.
fn bound_names<'e>(expression: &'e IdedExpr, bound: &mut Vec<&'e str>) {
    if let Expr::Comprehension(inner) = &expression.expr {
        bound.push(&inner.iter_var);
        bound.extend(inner.iter_var2.as_deref());
        bound.push(&inner.accu_var);
    }
    for part in parts(expression) {
        bound_names(part, bound);
    }
}

/// How many comprehensions are in each other, at most. The list that one goes through is computed once, not each time.
fn nesting(expression: &IdedExpr) -> usize {
    let deepest = |parts: &[&IdedExpr]| parts.iter().map(|part| nesting(part)).max().unwrap_or(0);
    match &expression.expr {
        Expr::Comprehension(inner) => {
            let each = [&inner.accu_init, &inner.loop_cond, &inner.loop_step, &inner.result];
            nesting(&inner.iter_range).max(1 + deepest(&each))
        }
        _ => deepest(&parts(expression)),
    }
}

/// The expressions that an expression is made of.
fn parts(expression: &IdedExpr) -> Vec<&IdedExpr> {
    match &expression.expr {
        Expr::Comprehension(inner) => {
            vec![&inner.iter_range, &inner.accu_init, &inner.loop_cond, &inner.loop_step, &inner.result]
        }
        Expr::Call(call) => call.args.iter().chain(call.target.as_deref()).collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map.entries.iter().flat_map(entry_parts).collect(),
        Expr::Struct(made) => made.entries.iter().flat_map(entry_parts).collect(),
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
    }
}

fn entry_parts(entry: &IdedEntryExpr) -> Vec<&IdedExpr> {
    match &entry.expr {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}
