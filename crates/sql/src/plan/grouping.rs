//! `GROUPING SETS`, `ROLLUP` and `CUBE`: every row goes on once for each set, with NULL for the groups that are not in it
//! and with the set's number, and is aggregated by all groups and that number then.
//!
//! The number is the one that DataFusion's plans know as `__grouping_id`, of which `GROUPING(…)` is made: a bit for each
//! group, the last one lowest, that is set if the group is not in the set; and above them how many equal sets are before it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::{self, Expr, ExprSchemable, GroupingSet as Written};
use headwater_engine::plan::{GroupingSet, GroupingSets, Operator};

use crate::error::{Result, SqlError, find};
use crate::plan::branch::{Branch, Key, schema_of};
use crate::plan::stages::Stages;

/// A row goes on at most so many times.
const SETS_MAX: usize = 128;

/// The groups of an aggregate, and in which sets they are.
pub struct Grouping {
    /// Each once.
    pub groups: Vec<Expr>,
    sets: Vec<GroupingSet>,
}

impl Stages<'_> {
    /// `None` for an aggregate that has its groups in one set, as most have.
    pub fn grouping(&self, aggregate: &logical_expr::Aggregate) -> Result<Option<Grouping>> {
        let [Expr::GroupingSet(written)] = aggregate.group_expr.as_slice() else {
            return Ok(None);
        };
        let groups: Vec<Expr> = written.distinct_expr().into_iter().cloned().collect();
        let count = groups.len();
        let first = |len: usize| (0..count).map(|at| at < len).collect::<Vec<bool>>();
        let members: Vec<Vec<bool>> = match written {
            Written::Rollup(_) => (0..=count).rev().map(first).collect(),
            Written::Cube(_) if count > SETS_MAX.ilog2() as usize => return Err(self.too_many_sets()),
            Written::Cube(_) => {
                let without = |bits: usize| (0..count).map(|at| bits >> (count - 1 - at) & 1 == 0).collect();
                (0..1 << count).map(without).collect()
            }
            Written::GroupingSets(sets) => {
                let of = |set: &Vec<Expr>| groups.iter().map(|group| set.contains(group)).collect();
                sets.iter().map(of).collect()
            }
        };
        if members.len() > SETS_MAX {
            return Err(self.too_many_sets());
        }
        let mut equal: HashMap<Vec<bool>, u64> = HashMap::new();
        let sets = members.into_iter().map(|groups| {
            let before = equal.entry(groups.clone()).or_default();
            let mask = groups.iter().fold(0, |mask, &is_in| mask << 1 | u64::from(!is_in));
            let id = mask | *before << count;
            *before += 1;
            GroupingSet { groups, id }
        });
        Ok(Some(Grouping {
            sets: sets.collect(),
            groups,
        }))
    }

    /// Rows once for each set. Answers the columns to group by instead: a column for each of the groups `among` all of them
    /// (which are given as they are to be computed over the branch's rows), and the number of the set, which is of type `id`.
    pub fn in_sets(
        &self,
        branch: &mut Branch,
        grouping: &Grouping,
        among: &[usize],
        groups: &[Expr],
        id: &DataType,
    ) -> Result<Vec<Expr>> {
        let mut fields: Vec<_> = branch
            .rows
            .columns
            .iter()
            .map(|(relation, field)| (relation.cloned(), Arc::clone(field)))
            .collect();
        let mut physical = Vec::with_capacity(groups.len());
        let mut columns = Vec::with_capacity(groups.len() + 1);
        let mut add = |name: String, data_type: DataType, nullable: bool| {
            let field: FieldRef = Arc::new(Field::new(&name, data_type, nullable));
            fields.push((None, field));
            columns.push(Expr::Column(Column::new_unqualified(name)));
        };
        for (at, group) in groups.iter().enumerate() {
            let group = group.clone().unalias();
            let data_type = group
                .get_type(&branch.rows.columns)
                .map_err(|error| self.error(&error))?;
            physical.push(self.physical(branch, &group)?);
            add(format!("group {at} in its sets"), data_type, true);
        }
        add("grouping set".to_owned(), id.clone(), false);
        let schema = DFSchema::new_with_metadata(fields, HashMap::new()).map_err(|error| self.error(&error))?;
        let sets = grouping.sets.iter().map(|set| GroupingSet {
            groups: among.iter().map(|&at| set.groups[at]).collect(),
            id: set.id,
        });
        let sets = sets.collect();
        branch.rows.columns = schema;
        branch.rows.key = Key::Nothing;
        branch.part.operators.push(Operator::GroupingSets(GroupingSets {
            groups: physical,
            sets,
            schema: schema_of(&branch.rows),
        }));
        Ok(columns)
    }

    /// The aggregate by columns of the branch, whose rows go on once for each of its sets.
    pub fn by_sets(&self, branch: &mut Branch, aggregate: &logical_expr::Aggregate) -> Result<logical_expr::Aggregate> {
        let mut aggregate = aggregate.clone();
        if let Some(grouping) = self.grouping(&aggregate)? {
            let among: Vec<usize> = (0..grouping.groups.len()).collect();
            let id = aggregate.schema.field(among.len()).data_type();
            aggregate.group_expr = self.in_sets(branch, &grouping, &among, &grouping.groups, id)?;
        }
        Ok(aggregate)
    }

    fn too_many_sets(&self) -> SqlError {
        SqlError::unsupported(format!("a row would be counted in more than {SETS_MAX} grouping sets"))
            .at(find(&self.select.source, "group"))
            .or_at_start(&self.select.source)
            .hint("write out the sets that are needed: GROUP BY GROUPING SETS ((…), (…))")
    }
}

impl Grouping {
    /// Whether the group is in every set.
    pub fn is_everywhere(&self, group: usize) -> bool {
        self.sets.iter().all(|set| set.groups[group])
    }
}
