//! How the rows of both sides of a join are laid out, so that one topic takes them.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, Literal};

use crate::plan::branch::Branch;

pub struct Slots {
    /// The side, then the slots.
    pub schema: Schema,
    /// Where each column of a side is in it.
    pub left: Vec<usize>,
    pub right: Vec<usize>,
}

impl Slots {
    /// Keys share their slots, and other columns of equal types do so as they come.
    pub fn new(left: &DFSchema, left_keys: &[usize], right: &DFSchema, right_keys: &[usize]) -> Self {
        let mut fields = vec![Field::new("side", DataType::Int8, false)];
        let mut names: BTreeSet<String> = BTreeSet::from(["side".to_owned()]);
        let mut slot_of = |field: &Field| {
            let names_tried =
                std::iter::once(field.name().clone()).chain((2..).map(|n| format!("{} {n}", field.name())));
            let name = names_tried
                .into_iter()
                .find(|name| names.insert(name.clone()))
                .unwrap_or_default();
            fields.push(Field::new(name, field.data_type().clone(), true));
            fields.len() - 1
        };
        let of_left: Vec<usize> = left.fields().iter().map(|field| slot_of(field)).collect();
        let mut free: BTreeSet<usize> = (0..of_left.len()).filter(|at| !left_keys.contains(at)).collect();
        let of_right = right.fields().iter().enumerate().map(|(at, field)| {
            if let Some(key) = right_keys.iter().position(|&key| key == at) {
                return of_left[left_keys[key]];
            }
            let alike = free
                .iter()
                .copied()
                .find(|&at| left.field(at).data_type() == field.data_type());
            match alike {
                Some(at) => {
                    free.remove(&at);
                    of_left[at]
                }
                None => slot_of(field),
            }
        });
        let of_right = of_right.collect();
        Self {
            schema: Schema::new(fields),
            left: of_left,
            right: of_right,
        }
    }

    /// The branch's rows become rows of `schema`; `of` says where its columns go.
    pub fn lay_out(&self, branch: &mut Branch, side: i8, of: &[usize]) {
        let known = branch.rows.columns.fields();
        let slots = self.schema.fields().iter().enumerate();
        let expressions = slots.map(|(slot, field)| -> Arc<dyn PhysicalExpr> {
            match of.iter().position(|&at| at == slot) {
                Some(at) => Arc::new(Column::new(known[at].name(), at)),
                None if slot == 0 => Arc::new(Literal::new(ScalarValue::Int8(Some(side)))),
                // Of every type that a column has there is a NULL.
                None => Arc::new(Literal::new(
                    ScalarValue::try_from(field.data_type()).unwrap_or(ScalarValue::Null),
                )),
            }
        });
        let expressions = expressions.collect();
        branch.push_project(expressions, self.schema.clone());
    }
}
