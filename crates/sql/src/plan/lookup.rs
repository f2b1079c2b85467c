//! Lookup joins: `a JOIN t FOR SYSTEM_TIME AS OF now() AS t ON a.key = t.key`, where `t` is a table that is kept elsewhere. Each
//! left row meets the row that the table has when it comes. Nothing has to change place for that.

use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{self, Expr, ExprSchemable, LogicalPlan};
use headwater_catalog::definition::{Definition, Table as Described};
use headwater_engine::plan::{JoinKind, Lookup, Operator};

use crate::error::{Result, SqlError};
use crate::plan::branch::{Branch, Rows};
use crate::plan::join::padded;
use crate::plan::stages::{Stages, physical, unchanged};
use crate::plan::tables::Table;
use crate::plan::temporal::Versioned;

/// The table that is kept elsewhere, if these are its rows.
pub fn kept_elsewhere(plan: &LogicalPlan) -> Option<Arc<Definition>> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let table = scan.source.downcast_ref::<Table>()?;
            table.definition.table().map(|_| Arc::clone(&table.definition))
        }
        // It leaves columns out, no more.
        LogicalPlan::Projection(projection) => kept_elsewhere(&projection.input),
        _ => None,
    }
}

impl Stages<'_> {
    pub fn lookup_join(
        &mut self,
        join: &logical_expr::Join,
        kind: JoinKind,
        left: Branch,
        side: Versioned<'_>,
        definition: &Definition,
    ) -> Result<Branch> {
        let table = definition.table();
        let table = table.ok_or_else(|| SqlError::internal("a table that is none"))?;
        let mut right = side.versions.input.schema().as_ref().clone();
        for name in side.names {
            let renamed = DFSchema::try_from_qualified_schema(name, right.as_arrow());
            right = renamed.map_err(|error| self.error(&error))?;
        }
        let mut conditions = side.filters;
        conditions.extend(join.filter.clone().into_iter().flat_map(split_conjunction_owned));
        let keys = self.on_whole_key(
            table,
            &definition.name,
            (&left, &right),
            join.on.clone(),
            &mut conditions,
        )?;
        let left = self.with_keys(left, "left", keys, None)?;
        let (mut branch, keys) = (left.branch, left.keys);
        let pair = branch.rows.columns.join(&right).map_err(|error| self.error(&error))?;
        let filter = conjunction(conditions)
            .map(|filter| physical(&filter, &pair))
            .transpose();
        let columns = right.fields().iter().filter_map(|field| {
            let mut columns = table.columns.iter();
            columns.position(|column| column.name == *field.name())
        });
        let rows = Rows {
            columns: padded(pair, kind, branch.rows.columns.fields().len()),
            ..branch.rows
        };
        branch.part.operators.push(Operator::Lookup(Lookup {
            table: definition.topic().into(),
            keys,
            columns: columns.collect(),
            keeps_unmatched: kind == JoinKind::Left,
            filter: filter.map_err(|error| self.error(&error))?,
            schema: Arc::new(rows.columns.as_arrow().clone()),
        }));
        // There is one match at most, so what named a row before names it still.
        branch.rows = rows;
        self.reads.push(definition.name.clone());
        self.without_added(branch, &join.schema)
    }

    /// What of the left side equals each column of the table's key. All other equalities are asked of the row that is found.
    fn on_whole_key(
        &self,
        table: &Described,
        name: &str,
        (left, right): (&Branch, &DFSchema),
        mut on: Vec<(Expr, Expr)>,
        conditions: &mut Vec<Expr>,
    ) -> Result<Vec<Expr>> {
        let mut keys = Vec::with_capacity(table.key.len());
        for key in &table.key {
            let is_of =
                |expression: &Expr| unchanged(expression, right).is_some_and(|place| right.field(place).name() == key);
            let Some(place) = on.iter().position(|(_, right)| is_of(right)) else {
                return Err(self.without_key(table, name, key, &on));
            };
            let (given, wanted) = on.remove(place);
            let found = given.get_type(&left.rows.columns).map_err(|error| self.error(&error))?;
            let of_key = unchanged(&wanted, right).map(|place| right.field(place).data_type());
            if of_key != Some(&found) {
                return Err(self.other_type(name, key));
            }
            keys.push(given);
        }
        conditions.extend(on.into_iter().map(|(left, right)| left.eq(right)));
        Ok(keys)
    }

    fn without_key(&self, table: &Described, name: &str, key: &str, on: &[(Expr, Expr)]) -> SqlError {
        let casts = |expression: &Expr| matches!(expression, Expr::Cast(_) | Expr::TryCast(_));
        let is_cast = |right: &Expr| casts(right) && right.column_refs().iter().any(|column| column.name == key);
        if on.iter().any(|(_, right)| is_cast(right)) {
            return self.other_type(name, key);
        }
        self.about_as_of(&format!(
            "the rows of {name} are looked up by its key: all of its columns, as they are, have to be equal to something of the left side"
        ))
        .hint(format!("the key is {}", table.key.join(", ")))
    }

    fn other_type(&self, name: &str, key: &str) -> SqlError {
        self.about_as_of(&format!(
            "the column {key} of {name} is of another type than what it has to be equal to, and rows are looked up by it as it is"
        ))
        .hint(format!(
            "cast the left side to its type, or declare {key} with the larger type of both in CREATE TABLE {name}"
        ))
    }
}
