//! From group keys to group indices: the first row of a group gives it the next index.
//!
//! One integer-like column and one text column have representations of their own. Everything else
//! is row-encoded (`arrow-row`). Owned keys lie one behind the other in an arena, so that no row
//! allocates. Hashes are seeded at random: keys come from outside.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, StringArray};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    DataType, Date32Type, Int8Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType, TimeUnit,
    TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use hashbrown::{DefaultHashBuilder, HashTable};

/// What is kept of the room that groups took. There are many tasks, and each has its largest epoch now and then.
const KEPT_BYTES: usize = 256 << 10;
const KEPT_GROUPS: usize = KEPT_BYTES / 16;

/// The distinct keys seen, in the order in which they came.
pub struct Groups {
    keys: Box<dyn Keys>,
}

trait Keys: Send {
    fn intern(&mut self, columns: &[ArrayRef], rows: usize, indices: &mut Vec<usize>) -> Result<(), ArrowError>;
    fn columns(&self) -> Result<Vec<ArrayRef>, ArrowError>;
    fn len(&self) -> usize;
    /// The memory that they take.
    fn bytes(&self) -> usize;
    fn clear(&mut self);
}

impl Groups {
    pub fn new(types: &[DataType]) -> Result<Self, ArrowError> {
        let keys: Box<dyn Keys> = match types {
            [] => Box::new(NoKeys { seen: false }),
            [DataType::Int8] => PrimitiveKeys::<Int8Type>::boxed(types),
            [DataType::Int16] => PrimitiveKeys::<Int16Type>::boxed(types),
            [DataType::Int32] => PrimitiveKeys::<Int32Type>::boxed(types),
            [DataType::Int64] => PrimitiveKeys::<Int64Type>::boxed(types),
            [DataType::UInt8] => PrimitiveKeys::<UInt8Type>::boxed(types),
            [DataType::UInt16] => PrimitiveKeys::<UInt16Type>::boxed(types),
            [DataType::UInt32] => PrimitiveKeys::<UInt32Type>::boxed(types),
            [DataType::UInt64] => PrimitiveKeys::<UInt64Type>::boxed(types),
            [DataType::Date32] => PrimitiveKeys::<Date32Type>::boxed(types),
            [DataType::Time64(TimeUnit::Microsecond)] => PrimitiveKeys::<Time64MicrosecondType>::boxed(types),
            [DataType::Timestamp(TimeUnit::Microsecond, _)] => PrimitiveKeys::<TimestampMicrosecondType>::boxed(types),
            [DataType::Utf8] => Box::new(TextKeys::default()),
            _ => Box::new(RowKeys::new(types)?),
        };
        Ok(Self { keys })
    }

    /// Replaces `indices` by the group of every row.
    pub fn intern(&mut self, columns: &[ArrayRef], rows: usize, indices: &mut Vec<usize>) -> Result<(), ArrowError> {
        indices.clear();
        indices.reserve(rows);
        self.keys.intern(columns, rows, indices)
    }

    /// The keys of all groups, by index.
    pub fn columns(&self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.keys.columns()
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The memory that they take.
    pub fn bytes(&self) -> usize {
        self.keys.bytes()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all groups, and keeps some of the room they took.
    pub fn clear(&mut self) {
        self.keys.clear();
    }
}

/// Without columns every row is in one group.
struct NoKeys {
    seen: bool,
}

impl Keys for NoKeys {
    fn intern(&mut self, _: &[ArrayRef], rows: usize, indices: &mut Vec<usize>) -> Result<(), ArrowError> {
        self.seen |= rows > 0;
        indices.resize(rows, 0);
        Ok(())
    }

    fn columns(&self) -> Result<Vec<ArrayRef>, ArrowError> {
        Ok(Vec::new())
    }

    fn len(&self) -> usize {
        usize::from(self.seen)
    }

    fn bytes(&self) -> usize {
        0
    }

    fn clear(&mut self) {
        self.seen = false;
    }
}

struct PrimitiveKeys<T: ArrowPrimitiveType> {
    data_type: DataType,
    hasher: DefaultHashBuilder,
    table: HashTable<(T::Native, usize)>,
    values: Vec<T::Native>,
    null: Option<usize>,
}

impl<T: ArrowPrimitiveType> PrimitiveKeys<T>
where
    T::Native: Hash + Eq,
{
    fn boxed(types: &[DataType]) -> Box<dyn Keys> {
        Box::new(Self {
            data_type: types[0].clone(),
            hasher: DefaultHashBuilder::default(),
            table: HashTable::new(),
            values: Vec::new(),
            null: None,
        })
    }

    fn index_of(&mut self, value: T::Native) -> usize {
        let Self {
            hasher, table, values, ..
        } = self;
        let entry = table.entry(
            hasher.hash_one(value),
            |(known, _)| *known == value,
            |(known, _)| hasher.hash_one(known),
        );
        entry
            .or_insert_with(|| {
                values.push(value);
                (value, values.len() - 1)
            })
            .get()
            .1
    }

    fn index_of_null(&mut self) -> usize {
        *self.null.get_or_insert_with(|| {
            self.values.push(T::Native::default());
            self.values.len() - 1
        })
    }
}

impl<T: ArrowPrimitiveType> Keys for PrimitiveKeys<T>
where
    T::Native: Hash + Eq,
{
    fn intern(&mut self, columns: &[ArrayRef], _: usize, indices: &mut Vec<usize>) -> Result<(), ArrowError> {
        let column = columns[0].as_primitive::<T>();
        if column.null_count() == 0 {
            indices.extend(column.values().iter().map(|&value| self.index_of(value)));
            return Ok(());
        }
        indices.extend(column.iter().map(|value| match value {
            Some(value) => self.index_of(value),
            None => self.index_of_null(),
        }));
        Ok(())
    }

    fn columns(&self) -> Result<Vec<ArrayRef>, ArrowError> {
        let nulls = null_at(self.null, self.values.len());
        let array = PrimitiveArray::<T>::try_new(ScalarBuffer::from(self.values.clone()), nulls)?;
        Ok(vec![Arc::new(array.with_data_type(self.data_type.clone()))])
    }

    fn len(&self) -> usize {
        self.values.len()
    }

    fn bytes(&self) -> usize {
        self.table.allocation_size() + self.values.capacity() * size_of::<T::Native>()
    }

    fn clear(&mut self) {
        self.table.clear();
        // No group is there that would have to be hashed anew.
        self.table.shrink_to(KEPT_GROUPS, |_| 0);
        self.values.clear();
        self.values.shrink_to(KEPT_GROUPS);
        self.null = None;
    }
}

/// Byte strings, each once, one behind the other.
struct Arena {
    hasher: DefaultHashBuilder,
    table: HashTable<usize>,
    bytes: Vec<u8>,
    /// Where each begins, and at last where the next will.
    offsets: Vec<usize>,
}

impl Default for Arena {
    fn default() -> Self {
        Self {
            hasher: DefaultHashBuilder::default(),
            table: HashTable::new(),
            bytes: Vec::new(),
            offsets: vec![0],
        }
    }
}

impl Arena {
    fn index_of(&mut self, key: &[u8]) -> usize {
        let Self {
            hasher,
            table,
            bytes,
            offsets,
        } = self;
        let hash = hasher.hash_one(key);
        if let Some(&index) = table.find(hash, |&index| &bytes[offsets[index]..offsets[index + 1]] == key) {
            return index;
        }
        bytes.extend_from_slice(key);
        offsets.push(bytes.len());
        let added = offsets.len() - 2;
        table.insert_unique(hash, added, |&index| {
            hasher.hash_one(&bytes[offsets[index]..offsets[index + 1]])
        });
        added
    }

    /// Takes an index that no key finds.
    fn reserve_index(&mut self) -> usize {
        self.offsets.push(self.bytes.len());
        self.offsets.len() - 2
    }

    fn get(&self, index: usize) -> &[u8] {
        &self.bytes[self.offsets[index]..self.offsets[index + 1]]
    }

    fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    fn bytes(&self) -> usize {
        self.table.allocation_size() + self.bytes.capacity() + self.offsets.capacity() * size_of::<usize>()
    }

    fn clear(&mut self) {
        self.table.clear();
        // No group is there that would have to be hashed anew.
        self.table.shrink_to(KEPT_GROUPS, |_| 0);
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        self.offsets.truncate(1);
        self.offsets.shrink_to(KEPT_GROUPS);
    }
}

#[derive(Default)]
struct TextKeys {
    arena: Arena,
    null: Option<usize>,
}

impl Keys for TextKeys {
    fn intern(&mut self, columns: &[ArrayRef], _: usize, indices: &mut Vec<usize>) -> Result<(), ArrowError> {
        let Self { arena, null } = self;
        indices.extend(columns[0].as_string::<i32>().iter().map(|value| match value {
            Some(value) => arena.index_of(value.as_bytes()),
            None => *null.get_or_insert_with(|| arena.reserve_index()),
        }));
        Ok(())
    }

    fn columns(&self) -> Result<Vec<ArrayRef>, ArrowError> {
        let ends = self.arena.offsets.iter().map(|&offset| i32::try_from(offset));
        let offsets = ends
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| ArrowError::ComputeError("the group keys of one window take more than 2 GiB".to_owned()))?;
        let nulls = null_at(self.null, self.arena.len());
        let bytes = Buffer::from_slice_ref(&self.arena.bytes);
        let array = StringArray::try_new(OffsetBuffer::new(offsets.into()), bytes, nulls)?;
        Ok(vec![Arc::new(array)])
    }

    fn len(&self) -> usize {
        self.arena.len()
    }

    fn bytes(&self) -> usize {
        self.arena.bytes()
    }

    fn clear(&mut self) {
        self.arena.clear();
        self.null = None;
    }
}

struct RowKeys {
    converter: RowConverter,
    arena: Arena,
    encoded: Rows,
}

impl RowKeys {
    fn new(types: &[DataType]) -> Result<Self, ArrowError> {
        let converter = RowConverter::new(types.iter().cloned().map(SortField::new).collect())?;
        let encoded = converter.empty_rows(0, 0);
        Ok(Self {
            converter,
            arena: Arena::default(),
            encoded,
        })
    }
}

impl Keys for RowKeys {
    fn intern(&mut self, columns: &[ArrayRef], _: usize, indices: &mut Vec<usize>) -> Result<(), ArrowError> {
        let Self {
            converter,
            arena,
            encoded,
        } = self;
        encoded.clear();
        converter.append(encoded, columns)?;
        indices.extend(encoded.iter().map(|row| arena.index_of(row.data())));
        Ok(())
    }

    fn columns(&self) -> Result<Vec<ArrayRef>, ArrowError> {
        let parser = self.converter.parser();
        let rows = (0..self.arena.len()).map(|index| parser.parse(self.arena.get(index)));
        self.converter.convert_rows(rows)
    }

    fn len(&self) -> usize {
        self.arena.len()
    }

    fn bytes(&self) -> usize {
        self.arena.bytes()
    }

    fn clear(&mut self) {
        self.arena.clear();
        if self.encoded.size() > KEPT_BYTES {
            self.encoded = self.converter.empty_rows(0, 0);
        }
    }
}

fn null_at(index: Option<usize>, len: usize) -> Option<NullBuffer> {
    let index = index?;
    Some(NullBuffer::from_iter((0..len).map(|row| row != index)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, TimestampMicrosecondArray};

    fn interned(types: &[DataType], columns: &[ArrayRef]) -> (Groups, Vec<usize>) {
        let mut groups = Groups::new(types).unwrap();
        let mut indices = Vec::new();
        groups.intern(columns, columns[0].len(), &mut indices).unwrap();
        (groups, indices)
    }

    #[test]
    fn integers_and_null() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), None, Some(0), Some(7), None]));
        let (mut groups, indices) = interned(&[DataType::Int64], std::slice::from_ref(&column));
        assert_eq!(indices, [0, 1, 2, 0, 1]);
        let expected: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), None, Some(0)]));
        assert_eq!(&groups.columns().unwrap()[0], &expected);
        groups.clear();
        assert!(groups.is_empty());
    }

    #[test]
    fn the_time_zone_stays() {
        let column: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1, 2, 1]).with_timezone("+00:00"));
        let (groups, indices) = interned(&[column.data_type().clone()], std::slice::from_ref(&column));
        assert_eq!(indices, [0, 1, 0]);
        assert_eq!(groups.columns().unwrap()[0].data_type(), column.data_type());
    }

    #[test]
    fn text_the_empty_text_and_null_are_three_groups() {
        let column: ArrayRef = Arc::new(StringArray::from(vec![Some(""), None, Some("a"), None, Some("")]));
        let (groups, indices) = interned(&[DataType::Utf8], std::slice::from_ref(&column));
        assert_eq!(indices, [0, 1, 2, 1, 0]);
        let expected: ArrayRef = Arc::new(StringArray::from(vec![Some(""), None, Some("a")]));
        assert_eq!(&groups.columns().unwrap()[0], &expected);
    }

    #[test]
    fn several_columns() {
        let a: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(1), None, None]));
        let b: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), Some("y"), Some("x"), Some("x")]));
        let (groups, indices) = interned(&[DataType::Int64, DataType::Utf8], &[a, b]);
        assert_eq!(indices, [0, 1, 2, 2]);
        assert_eq!(groups.columns().unwrap()[0].null_count(), 1);
    }
}
