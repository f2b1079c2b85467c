//! The columns of a stream as its events must have them.

use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::types::is_json;

/// Field metadata key and value of text that holds JSON (the SQL type `JSON`): it is checked at the
/// door, and written out as JSON instead of as a string.
pub const TYPE_KEY: &str = "headwater.type";
pub const TYPE_JSON: &str = "json";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    #[serde(serialize_with = "write_type", deserialize_with = "read_type")]
    pub data_type: DataType,
    /// The text is JSON; `data_type` is `Utf8`.
    #[serde(default)]
    pub json: bool,
    pub nullable: bool,
    /// What an event gets that doesn't have the field.
    #[serde(default)]
    pub default: Option<ColumnDefault>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ColumnDefault {
    /// `uuid()`: a fresh UUID, as text.
    Uuid,
    /// `now()`: the time of ingest.
    Now,
    /// A constant, as the JSON that an event could have brought.
    Value(String),
}

/// What happens to a field of an event that the stream has no column for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnknownFields {
    #[default]
    Reject,
    Drop,
}

/// What the events of a stream look like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventSchema {
    pub columns: Vec<Column>,
    #[serde(default)]
    pub unknown_fields: UnknownFields,
}

impl Column {
    pub fn field(&self) -> Field {
        let field = Field::new(&self.name, self.data_type.clone(), self.nullable);
        if self.json {
            field.with_metadata([(TYPE_KEY.to_owned(), TYPE_JSON.to_owned())].into())
        } else {
            field
        }
    }
}

impl EventSchema {
    pub fn arrow(&self) -> SchemaRef {
        let fields: Vec<_> = self.columns.iter().map(Column::field).collect();
        Arc::new(Schema::new(fields))
    }
}

fn write_type<S: Serializer>(data_type: &DataType, to: S) -> Result<S::Ok, S::Error> {
    StoredType::of(data_type).serialize(to)
}

fn read_type<'de, D: Deserializer<'de>>(from: D) -> Result<DataType, D::Error> {
    StoredType::deserialize(from)?.arrow().map_err(de::Error::custom)
}

/// A type as it is kept: by Arrow's name for it, or in parts. (Arrow's text for nested types can't be
/// read back when their fields have metadata.)
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredType {
    Name(String),
    List { list: Box<StoredField> },
    Struct { fields: Vec<StoredField> },
}

#[derive(Serialize, Deserialize)]
struct StoredField {
    name: String,
    #[serde(rename = "type")]
    data_type: StoredType,
    #[serde(default)]
    json: bool,
    nullable: bool,
}

impl StoredType {
    fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::List(item) => Self::List {
                list: Box::new(StoredField::of(item)),
            },
            DataType::Struct(fields) => Self::Struct {
                fields: fields.iter().map(|field| StoredField::of(field)).collect(),
            },
            other => Self::Name(other.to_string()),
        }
    }

    fn arrow(&self) -> Result<DataType, arrow::error::ArrowError> {
        Ok(match self {
            Self::Name(name) => DataType::from_str(name)?,
            Self::List { list } => DataType::List(Arc::new(list.arrow()?)),
            Self::Struct { fields } => {
                let fields: Result<Vec<_>, _> = fields.iter().map(StoredField::arrow).collect();
                DataType::Struct(fields?.into())
            }
        })
    }
}

impl StoredField {
    fn of(field: &Field) -> Self {
        Self {
            name: field.name().clone(),
            data_type: StoredType::of(field.data_type()),
            json: is_json(field),
            nullable: field.is_nullable(),
        }
    }

    fn arrow(&self) -> Result<Field, arrow::error::ArrowError> {
        let column = Column {
            name: self.name.clone(),
            data_type: self.data_type.arrow()?,
            json: self.json,
            nullable: self.nullable,
            default: None,
        };
        Ok(column.field())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_as_they_were_written() {
        let json = Field::new("more", DataType::Utf8, true)
            .with_metadata([(TYPE_KEY.to_owned(), TYPE_JSON.to_owned())].into());
        let list = DataType::List(Arc::new(Field::new_list_field(DataType::Int32, true)));
        let nested = DataType::Struct(vec![Field::new("a \" b", list, false), json].into());
        let time = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("+00:00".into()));
        for data_type in [nested, time, DataType::Decimal128(12, 2), DataType::Utf8] {
            let column = Column {
                name: "a".to_owned(),
                data_type,
                json: false,
                nullable: true,
                default: None,
            };
            let text = serde_json::to_string(&column).unwrap();
            assert_eq!(serde_json::from_str::<Column>(&text).unwrap(), column, "{text}");
        }
    }
}
