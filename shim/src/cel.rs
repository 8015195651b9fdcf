//! The Common Expression Language as Kubernetes speaks it: parsed by the `cel` crate, evaluated here, because what the API
//! server evaluates must stop when its cost is spent, works on JSON as a schema types it, and has functions of its own.
//!
//! Never: an expression that runs without a budget.

mod check;
mod cost;
mod depth;
mod eval;
mod functions;
mod net;
mod quantity;
#[cfg(test)]
mod tests;
mod url;
mod value;

pub use cost::LIMIT;
pub use value::{Key, Type, Val, unescape};

use cel::Env;
use cel::common::ast::{Expr, IdedExpr};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// Cost that one expression may have (apiserver's `PerCallLimit`).
pub const PER_CALL: u64 = 1_000_000;
/// Cost that all rules of one object may have together (apiserver's `RuntimeCELCostBudget`).
pub const PER_OBJECT: u64 = 10_000_000;

/// An expression, parsed once.
#[derive(Debug)]
pub struct Program {
    expr: IdedExpr,
}

/// Why an evaluation has no value, in cel-go's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    #[error("no such key: {0}")]
    NoSuchKey(String),
    #[error("no such overload{0}")]
    NoSuchOverload(String),
    #[error("operation cancelled: actual cost limit exceeded")]
    Cost,
    #[error("{0}")]
    Failed(String),
}

impl EvalError {
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }
}

/// What is left to spend. Expressions are evaluated on one thread each.
#[derive(Debug)]
pub struct Budget {
    left: Cell<u64>,
}

impl Budget {
    pub fn new(cost: u64) -> Self {
        Self { left: Cell::new(cost) }
    }

    pub fn left(&self) -> u64 {
        self.left.get()
    }

    /// Spends.
    ///
    /// # Errors
    /// When there is not that much left.
    pub fn spend(&self, cost: u64) -> Result<(), EvalError> {
        match self.left.get().checked_sub(cost) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => {
                self.left.set(0);
                Err(EvalError::Cost)
            }
        }
    }
}

/// The parser's macros, with those of optionals.
static SYNTAX: LazyLock<Env> = LazyLock::new(|| Env::stdlib().with_optional_support(true));

impl Program {
    /// Parses.
    ///
    /// # Errors
    /// The parser's text.
    pub fn compile(source: &str) -> Result<Self, String> {
        if depth::is_too_deep(source) {
            return Err(format!("ERROR: <input>:-1:0: expression recursion limit exceeded: {}", depth::LIMIT));
        }
        let expr = SYNTAX.parser().enable_ident_escape_syntax(true).parse(source).map_err(|error| error.to_string())?;
        let mut unknown = BTreeSet::new();
        functions::unknown(&expr, &mut unknown);
        match unknown.into_iter().next() {
            Some(name) => Err(format!("ERROR: <input>:1:1: undeclared reference to '{name}' (in container '')")),
            None => Ok(Self { expr }),
        }
    }

    /// Whether it names that variable.
    pub fn mentions(&self, name: &str) -> bool {
        walk(&self.expr, &mut |expr| matches!(expr, Expr::Ident(ident) if ident == name))
    }

    /// The paths of fields that it selects on a variable: `self.a.b` is `["a", "b"]` of `self`.
    pub fn selections(&self, name: &str) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        walk(&self.expr, &mut |expr| {
            if let Expr::Select(select) = expr {
                let mut path = vec![select.field.clone()];
                let mut operand = &select.operand.expr;
                while let Expr::Select(inner) = operand {
                    path.push(inner.field.clone());
                    operand = &inner.operand.expr;
                }
                if matches!(operand, Expr::Ident(ident) if ident == name) {
                    path.reverse();
                    found.push(path);
                }
            }
            false
        });
        found
    }

    /// The first name that is none of these variables.
    pub fn undeclared(&self, variables: &[&str]) -> Option<String> {
        check::undeclared(&self.expr, &mut variables.iter().map(|name| (*name).to_owned()).collect())
    }

    /// The type of its value where that does not depend on its variables, as cel-go names it.
    pub fn type_name(&self) -> Option<&'static str> {
        check::type_of(&self.expr)
    }

    /// What it may cost at most on a `self` of that schema, as far as its loops tell.
    pub fn estimate(&self, schema: &serde_json::Value) -> u64 {
        cost::estimate(&self.expr, schema)
    }

    /// Evaluates with these variables.
    ///
    /// # Errors
    /// As cel-go words them; `Cost` when the budget is spent.
    pub fn evaluate<'v>(&self, variables: &[(&str, Val<'v>)], budget: &Budget) -> Result<Val<'v>, EvalError> {
        eval::evaluate(&self.expr, variables, budget)
    }
}

/// Whether the test holds of any part of the expression.
fn walk(expr: &IdedExpr, test: &mut dyn FnMut(&Expr) -> bool) -> bool {
    if test(&expr.expr) {
        return true;
    }
    match &expr.expr {
        Expr::Call(call) => {
            call.target.iter().any(|target| walk(target, test)) || call.args.iter().any(|arg| walk(arg, test))
        }
        Expr::Comprehension(loop_) => {
            let parts = [&loop_.iter_range, &loop_.accu_init, &loop_.loop_cond, &loop_.loop_step, &loop_.result];
            parts.into_iter().any(|part| walk(part, test))
        }
        Expr::List(list) => list.elements.iter().any(|element| walk(element, test)),
        Expr::Map(map) => map.entries.iter().any(|entry| match &entry.expr {
            cel::common::ast::EntryExpr::MapEntry(entry) => walk(&entry.key, test) || walk(&entry.value, test),
            cel::common::ast::EntryExpr::StructField(field) => walk(&field.value, test),
        }),
        Expr::Select(select) => walk(&select.operand, test),
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) => false,
    }
}
