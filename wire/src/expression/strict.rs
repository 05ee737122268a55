//! A field of what has no fields is an error, as the language has it.
//!
//! The evaluator says `false` instead: `!event.data.closed` would let every event pass that is no JSON. It takes an index of
//! such a value for the error that it is, so each field is asked for by index. `has()` stays as it is.

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr, LiteralValue, operators};

/// The expression with every field asked for by index.
pub(super) fn fields(mut expression: IdedExpr) -> IdedExpr {
    make_strict(&mut expression);
    expression
}

fn make_strict(expression: &mut IdedExpr) {
    match &mut expression.expr {
        Expr::Comprehension(inner) => {
            make_strict(&mut inner.iter_range);
            make_strict(&mut inner.accu_init);
            make_strict(&mut inner.loop_cond);
            make_strict(&mut inner.loop_step);
            make_strict(&mut inner.result);
        }
        Expr::Call(call) => call.args.iter_mut().chain(call.target.as_deref_mut()).for_each(make_strict),
        Expr::Select(select) => {
            make_strict(&mut select.operand);
            if !select.test {
                let field = Expr::Literal(LiteralValue::String(std::mem::take(&mut select.field).into()));
                let operand = std::mem::take(&mut *select.operand);
                expression.expr = Expr::Call(CallExpr {
                    func_name: operators::INDEX.to_owned(),
                    target: None,
                    args: vec![operand, IdedExpr { id: expression.id, expr: field }],
                });
            }
        }
        Expr::List(list) => list.elements.iter_mut().for_each(make_strict),
        Expr::Map(map) => map.entries.iter_mut().for_each(entry),
        Expr::Struct(made) => made.entries.iter_mut().for_each(entry),
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => {}
    }
}

fn entry(entry: &mut IdedEntryExpr) {
    match &mut entry.expr {
        EntryExpr::StructField(field) => make_strict(&mut field.value),
        EntryExpr::MapEntry(entry) => {
            make_strict(&mut entry.key);
            make_strict(&mut entry.value);
        }
    }
}
