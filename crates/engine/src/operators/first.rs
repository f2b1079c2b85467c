//! Keeps the first row of every group in an order, for ever, where rows are only added and the view that is filled has all
//! of their columns: its rows are the state, and nothing is kept beside them.
//!
//! 1. A group that is new to the epoch is looked up in a bounded cache, and where it isn't there, in the view.
//! 2. A row whose order columns put it behind the first one is lost: a comparison of bytes (see [`super::row_order`]). Only
//!    the others are encoded as a whole.
//! 3. At the epoch's end the groups whose first row is another one come out.
//!
//! The first rows of a group where they are several, or can go again, are [`super::top_n`]'s.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int8Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use hashbrown::HashMap;
use headwater_event::op::{Op, is_changelog};
use headwater_log::StateTable;

use super::counted_rows::{GROUP_BYTES_MAX, too_long};
use super::row_order::{Encoded, RowOrder};
use super::{Operator, Rejected, Saved, StateChanges, batch_of};
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::holdings::Held;
use crate::plan;
use crate::view::ViewCodec;

pub struct First {
    plan: plan::TopN,
    input: SchemaRef,
    order: RowOrder,
    view: ViewCodec,
    /// Where the input's columns are among the view's.
    columns: Vec<usize>,
    table: Option<Arc<dyn StateTable>>,
    cache: Option<Cache>,
    /// The groups of this epoch, in the order in which they came.
    standings: Vec<Standing>,
    by_group: HashMap<Bytes, usize>,
    rejected: Vec<Rejected>,
}

/// The first row of a group, encoded.
struct Standing {
    group: Bytes,
    /// At the beginning of the epoch.
    before: Option<Bytes>,
    now: Option<Bytes>,
}

impl First {
    pub fn new(plan: plan::TopN, kept: &plan::RowsOfView, input: SchemaRef) -> Result<Self> {
        if plan.limit != 1 || plan.row_number || plan.closes_by.is_some() || is_changelog(&input) {
            return Err(Error::Plan(
                "only first rows that are only added are kept in a view".to_owned(),
            ));
        }
        Ok(Self {
            order: RowOrder::new(&input, &plan.partition_by, &plan.order_by)?,
            view: ViewCodec::new(Arc::clone(&kept.schema), &plan::ViewKey::Columns(kept.key.clone()))?,
            columns: kept.columns.clone(),
            plan,
            input,
            table: None,
            cache: None,
            standings: Vec::new(),
            by_group: HashMap::new(),
            rejected: Vec::new(),
        })
    }

    /// Where the groups of rows stand. All that are not known in this epoch are looked up at once.
    fn places(&mut self, batch: &RecordBatch, keys: &Encoded, rows: &[u32]) -> Result<Vec<usize>> {
        let mut places = Vec::with_capacity(rows.len());
        let mut missing = Vec::new();
        for &row in rows {
            let group = keys.get(row as usize);
            let place = match self.by_group.get(group) {
                Some(place) => *place,
                None => {
                    let known = self.cache.as_mut().and_then(|cache| cache.get(group));
                    let known = known.map(Bytes::copy_from_slice);
                    if known.is_none() {
                        missing.push((row, self.standings.len()));
                    }
                    let group = Bytes::copy_from_slice(group);
                    self.by_group.insert(group.clone(), self.standings.len());
                    self.standings.push(Standing {
                        group,
                        before: known.clone(),
                        now: known,
                    });
                    self.standings.len() - 1
                }
            };
            places.push(place);
        }
        let is_complete = self.cache.as_ref().is_none_or(Cache::is_complete);
        if !missing.is_empty() && !is_complete {
            self.look_up(batch, &missing)?;
        }
        Ok(places)
    }

    /// Reads groups from the view: a row of each, and where it stands.
    fn look_up(&mut self, batch: &RecordBatch, missing: &[(u32, usize)]) -> Result<()> {
        let Some(table) = &self.table else { return Ok(()) };
        let of = UInt32Array::from_iter_values(missing.iter().map(|(row, _)| *row));
        let rows = take_record_batch(batch, &of)?;
        let groups = self
            .plan
            .partition_by
            .iter()
            .map(|&column| Arc::clone(rows.column(column)));
        let keys = self.view.key(&groups.collect::<Vec<_>>())?;
        let values = table.get_many(&keys)?;
        let known = keys.into_iter().zip(values).zip(missing);
        let known = known.filter_map(|((key, value), (_, place))| Some(((key, value?), *place)));
        let (entries, places): (Vec<_>, Vec<_>) = known.unzip();
        if entries.is_empty() {
            return Ok(());
        }
        let shown = self.view.decode(&entries)?;
        let columns = self.columns.iter().map(|&at| Arc::clone(shown.column(at))).collect();
        let encoded = self.order.rows(&batch_of(&self.input, columns)?)?;
        for (row, place) in places.into_iter().enumerate() {
            let known = Some(Bytes::copy_from_slice(encoded.get(row)));
            self.standings[place].before.clone_from(&known);
            self.standings[place].now = known;
        }
        Ok(())
    }
}

impl Operator for First {
    fn process(&mut self, batch: RecordBatch, _: &mut Vec<RecordBatch>) -> Result<()> {
        let keys = self.order.keys(&batch)?;
        let leads = self.order.leads(&batch)?;
        let (fit, unfit): (Vec<u32>, Vec<u32>) =
            (0..batch.num_rows() as u32).partition(|&row| keys.get(row as usize).len() <= GROUP_BYTES_MAX);
        let places = self.places(&batch, &keys, &fit)?;
        let (mut hopeful, mut of) = (Vec::new(), Vec::new());
        for (&row, place) in fit.iter().zip(places) {
            let lead = leads.get(row as usize);
            if self.standings[place]
                .now
                .as_ref()
                .is_none_or(|first| lead <= &first[..])
            {
                hopeful.push(row);
                of.push(place);
            }
        }
        let rows = match hopeful.len() == batch.num_rows() {
            true => self.order.rows(&batch)?,
            false => self
                .order
                .rows(&take_record_batch(&batch, &UInt32Array::from(hopeful))?)?,
        };
        for (row, place) in of.into_iter().enumerate() {
            let (row, standing) = (rows.get(row), &mut self.standings[place]);
            if standing.now.as_ref().is_none_or(|first| row < &first[..]) {
                standing.now = Some(Bytes::copy_from_slice(row));
            }
        }
        self.rejected.extend(too_long(&batch, unfit)?);
        Ok(())
    }

    fn flush(&mut self, out: &mut Vec<RecordBatch>) -> Result<()> {
        self.by_group.clear();
        let standings = std::mem::take(&mut self.standings);
        let (mut rows, mut ops) = (Vec::new(), Vec::new());
        for Standing { group, before, now } in &standings {
            let Some(now) = now else { continue };
            if let Some(cache) = &mut self.cache {
                cache.put(group, now);
            }
            match before {
                Some(before) if before == now => continue,
                Some(before) => {
                    rows.extend([(&group[..], &before[..]), (group, now)]);
                    ops.extend([Op::UpdateBefore as i8, Op::UpdateAfter as i8]);
                }
                None => {
                    rows.push((group, now));
                    ops.push(Op::Insert as i8);
                }
            }
        }
        if !rows.is_empty() {
            let mut columns = self.order.decode(rows.into_iter())?;
            columns.push(Arc::new(Int8Array::from(ops)) as ArrayRef);
            out.push(batch_of(&self.plan.schema, columns)?);
        }
        Ok(())
    }

    fn changes(&mut self, _: &mut StateChanges) -> Result<()> {
        Ok(())
    }

    fn restore(&mut self, saved: &Saved) -> Result<()> {
        // Other partitions' rows are among them.
        let is_empty = saved.table.scan(&[]).next().transpose()?.is_none();
        self.cache = Some(Cache::new(saved.caches.share(), is_empty));
        self.table = Some(Arc::clone(&saved.table));
        Ok(())
    }

    fn held(&self) -> Held {
        Held::cache(self.cache.as_ref().map_or(0, Cache::bytes))
    }

    fn take_rejected(&mut self) -> Vec<Rejected> {
        std::mem::take(&mut self.rejected)
    }
}
