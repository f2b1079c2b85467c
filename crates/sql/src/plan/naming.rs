//! The names of columns that were not given one.
//!
//! 1. A column's own name stays.
//! 2. `count(*)` becomes `count`, as in Postgres, unless another column has that name.
//! 3. Any other expression is called what was written: `1`, `price * 2`.

use std::collections::BTreeSet;

use datafusion::sql::sqlparser::ast::{Expr, Ident, Query, SelectItem, SetExpr, SetQuantifier};

use crate::parse::normalize;

/// The query with a name for each column of its result.
pub fn name_columns(query: &Query) -> Query {
    let mut query = query.clone();
    let mut body = query.body.as_mut();
    loop {
        body = match body {
            SetExpr::Query(inner) => inner.body.as_mut(),
            // Columns of both sides meet by place; then the left side's names count.
            SetExpr::SetOperation {
                left, set_quantifier, ..
            } if !by_name(*set_quantifier) => left.as_mut(),
            SetExpr::Select(select) => {
                name_items(&mut select.projection);
                return query;
            }
            _ => return query,
        }
    }
}

fn name_items(items: &mut [SelectItem]) {
    let mut taken: BTreeSet<String> = items.iter().filter_map(given_name).collect();
    for item in items {
        let SelectItem::UnnamedExpr(expr) = item else {
            continue;
        };
        if own_name(expr).is_some() {
            continue;
        }
        let names = [natural_name(expr), Some(expr.to_string())];
        let Some(name) = names.into_iter().flatten().find(|name| taken.insert(name.clone())) else {
            continue;
        };
        *item = SelectItem::ExprWithAlias {
            expr: expr.clone(),
            alias: Ident::with_quote('"', name),
        };
    }
}

fn by_name(quantifier: SetQuantifier) -> bool {
    use SetQuantifier::{AllByName, ByName, DistinctByName};
    matches!(quantifier, AllByName | ByName | DistinctByName)
}

fn given_name(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(normalize(alias)),
        SelectItem::UnnamedExpr(expr) => own_name(expr),
        _ => None,
    }
}

fn own_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(ident) => Some(normalize(ident)),
        Expr::CompoundIdentifier(idents) => idents.last().map(normalize),
        _ => None,
    }
}

/// What Postgres calls an expression.
fn natural_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Function(function) => function.name.0.last().map(|part| part.to_string().to_lowercase()),
        Expr::Cast { expr, .. } => own_name(expr).or_else(|| natural_name(expr)),
        Expr::Nested(inner) => natural_name(inner),
        Expr::Extract { .. } => Some("extract".to_owned()),
        Expr::Case { .. } => Some("case".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(sql: &str) -> String {
        name_columns(&crate::parse::parse_query(sql).unwrap().query).to_string()
    }

    #[test]
    fn columns_get_the_names_that_people_expect() {
        assert_eq!(named("SELECT a, t.b FROM t"), "SELECT a, t.b FROM t");
        assert_eq!(named("SELECT 1"), r#"SELECT 1 AS "1""#);
        assert_eq!(
            named("SELECT count(*), count(a), price * 2 FROM t"),
            r#"SELECT count(*) AS "count", count(a) AS "count(a)", price * 2 AS "price * 2" FROM t"#
        );
    }

    #[test]
    fn a_name_that_is_taken_is_not_given_twice() {
        assert_eq!(
            named("SELECT sum(a), sum FROM t"),
            r#"SELECT sum(a) AS "sum(a)", sum FROM t"#
        );
    }

    #[test]
    fn the_left_side_names_the_columns_of_a_union() {
        assert_eq!(
            named("SELECT 1 UNION ALL SELECT 2"),
            r#"SELECT 1 AS "1" UNION ALL SELECT 2"#
        );
    }
}
