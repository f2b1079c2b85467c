//! `UNION ALL`: branches with the same columns go on together. (`UNION` is a `DISTINCT` over it.)

use std::collections::BTreeMap;

use datafusion::logical_expr::{self, Expr};

use crate::error::Result;
use crate::plan::branch::{Branch, Key, Rows, Time};
use crate::plan::stages::Stages;

impl Stages<'_> {
    pub fn union(&mut self, union: &logical_expr::Union) -> Result<Branch> {
        let mut branches = Vec::with_capacity(union.inputs.len());
        for input in &union.inputs {
            let mut branch = self.node(input)?;
            let columns = input.schema().columns().into_iter();
            let named = columns.zip(union.schema.iter()).map(|(column, (relation, field))| {
                Expr::Column(column).alias_qualified(relation.cloned(), field.name())
            });
            self.project(&mut branch, &named.collect::<Vec<Expr>>(), &union.schema)?;
            branches.push(branch);
        }
        let changelog = branches.iter().any(|branch| branch.rows.changelog);
        if changelog {
            branches.iter_mut().for_each(Branch::make_changelog);
        }
        let tasks = branches.iter().map(|branch| branch.rows.tasks).max().unwrap_or(1);
        // Each task writes to the partition of its number, so rows that met by these columns still do.
        let first = branches.first().map(|branch| &branch.rows);
        let alike =
            |rows: &Rows| rows.tasks == tasks && Some(&rows.partitioned) == first.map(|first| &first.partitioned);
        let partitioned = match branches.iter().all(|branch| alike(&branch.rows)) {
            true => first.and_then(|first| first.partitioned.clone()),
            false => None,
        };
        let rows = Rows {
            columns: union.schema.as_ref().clone(),
            changelog,
            key: Key::Nothing,
            partitioned,
            times: common_times(&branches),
            tasks,
        };
        let schema = crate::plan::branch::schema_of(&rows);
        Ok(self.meet(branches, schema, Vec::new(), tasks, rows))
    }
}

/// The columns that hold the same kind of event time in all branches.
fn common_times(branches: &[Branch]) -> BTreeMap<usize, Time> {
    let Some((first, others)) = branches.split_first() else {
        return BTreeMap::new();
    };
    let times = first.rows.times.iter().filter(|(at, time)| {
        let same = |branch: &Branch| branch.rows.times.get(at) == Some(time);
        others.iter().all(same)
    });
    times.map(|(at, time)| (*at, *time)).collect()
}
