//! `connector = 'postgres'`: rows of a table of Postgres's, by a key that a unique index has.
//!
//! All keys go in one statement, as an array for each of the key's columns, which the server joins with the table. It says the
//! number of the key with each row, so that what equals what is decided there alone. The queries of a process share one
//! connection, on which statements follow each other without waiting.

mod values;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::Field;
use async_trait::async_trait;
use bytes::BytesMut;
use headwater_schema::types::field_type_name;
use tokio::sync::Mutex;
use tokio_postgres::types::{IsNull, ToSql, to_sql_checked};
use tokio_postgres::{Client, Statement};

use crate::address::{Address, Unconnected};
use crate::lookup::postgres::values::{Key, Readable, columns};
use crate::lookup::{Answer, Asked, Connector};
use crate::options::{About, Refusal};
use crate::postgres::connection::connect;
use crate::postgres::name::{Name, is_there, quoted, said};
use crate::source::Error;
use crate::within::Within;

const EXAMPLE: &str =
    "WITH (connector = 'postgres', url = 'postgres://user:${env:PG_PASSWORD}@host:5432/database', table = 'customers')";

struct Postgres {
    address: Address,
    name: Name,
    fields: Vec<Field>,
    key: Vec<usize>,
    session: Mutex<Option<Arc<Session>>>,
}

/// As long as the connection lasts, and the table is as it was.
struct Session {
    client: Client,
    statement: Statement,
    keys: Vec<Key>,
}

/// A value in the server's own form.
#[derive(Debug)]
struct Encoded(Vec<u8>);

pub(super) fn open(asked: &mut Asked<'_>) -> Result<Box<dyn Connector>, Refusal> {
    let address = Address::read(&mut asked.options, &["postgres", "postgresql"], EXAMPLE)?;
    let name = asked.options.text("table").ok_or_else(|| {
        Refusal::new(
            About::Statement,
            "a table with the connector postgres needs the option table",
        )
        .hint(EXAMPLE)
    })?;
    let name = Name::parse(name).ok_or_else(|| Refusal::option("table", "'table' or 'schema.table'"))?;
    for field in &asked.fields {
        if Readable::types(field).is_none() {
            let (column, kind) = (field.name(), field_type_name(field));
            let about = About::Column(column.clone());
            return Err(
                Refusal::new(about, format!("a column of Postgres's can't be read as {kind}"))
                    .hint("leave the column out, or declare it TEXT or JSON if that is what it holds"),
            );
        }
    }
    for &place in &asked.key {
        let field = &asked.fields[place];
        if !Key::is_possible(field) {
            let (column, kind) = (field.name(), field_type_name(field));
            let about = About::Column(column.clone());
            return Err(Refusal::new(about, format!("a key can't be {kind}"))
                .hint("keys are texts, whole numbers, decimals, booleans, dates, times and bytes"));
        }
    }
    Ok(Box::new(Postgres {
        address,
        name,
        fields: asked.fields.clone(),
        key: asked.key.clone(),
        session: Mutex::default(),
    }))
}

#[async_trait]
impl Connector for Postgres {
    async fn look(&self, within: &Within, is_made: bool) -> Result<(), Error> {
        let url = self.address.resolve(within)?;
        match connect(&url, "headwater").await {
            Ok(client) if is_made && !is_there(&client, &self.name).await? => Ok(()),
            Ok(client) => self.fit(&client).await.map(drop),
            Err(Unconnected::Unreachable(_)) => Ok(()),
            Err(Unconnected::Refused(error)) => Err(error),
        }
    }

    async fn ask(&self, keys: &[ArrayRef], within: &Within) -> Result<Answer, Error> {
        let session = self.session(within).await?;
        let answer = self.ask_of(&session, keys).await;
        if answer.is_err() {
            let mut current = self.session.lock().await;
            // Unless somebody else has begun another one already.
            if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &session)) {
                *current = None;
            }
        }
        answer
    }
}

impl Postgres {
    async fn session(&self, within: &Within) -> Result<Arc<Session>, Error> {
        let mut current = self.session.lock().await;
        if let Some(session) = current.as_ref().filter(|session| !session.client.is_closed()) {
            return Ok(Arc::clone(session));
        }
        let url = self.address.resolve(within)?;
        let client = connect(&url, "headwater lookup").await?;
        let (readable, keys) = self.fit(&client).await?;
        let statement = client.prepare(&self.statement(&readable, &keys)).await.map_err(said)?;
        let session = Arc::new(Session {
            client,
            statement,
            keys,
        });
        *current = Some(Arc::clone(&session));
        Ok(session)
    }

    fn statement(&self, readable: &[Readable], keys: &[Key]) -> String {
        let columns = self.fields.iter().zip(readable);
        let columns: Vec<_> = columns
            .map(|(field, readable)| format!("t.{}{}", quoted(field.name()), readable.cast))
            .collect();
        let arrays: Vec<_> = (1..)
            .zip(keys)
            .map(|(number, key)| format!("${number}::{}[]", key.name))
            .collect();
        let names: Vec<_> = (0..keys.len()).map(|number| format!("k{number}")).collect();
        let equal: Vec<_> = names
            .iter()
            .zip(&self.key)
            .map(|(name, &place)| format!("t.{} = k.{name}", quoted(self.fields[place].name())))
            .collect();
        format!(
            "SELECT k.n, {} FROM unnest({}) WITH ORDINALITY AS k({}, n) JOIN {} AS t ON {}",
            columns.join(", "),
            arrays.join(", "),
            names.join(", "),
            self.name.sql(),
            equal.join(" AND ")
        )
    }

    async fn ask_of(&self, session: &Session, keys: &[ArrayRef]) -> Result<Answer, Error> {
        let count = keys.first().map_or(0, |key| key.len());
        let encoded: Vec<_> = session
            .keys
            .iter()
            .zip(keys)
            .map(|(key, array)| key.encoded(array))
            .collect::<Result<_, _>>()
            .map_err(|error| Error::outside(error.to_string()))?;
        let encoded: Vec<_> = encoded.into_iter().map(Encoded).collect();
        let parameters: Vec<&(dyn ToSql + Sync)> = encoded.iter().map(|array| array as _).collect();
        let rows = session
            .client
            .query(&session.statement, &parameters)
            .await
            .map_err(said)?;
        let mut bad: BTreeMap<usize, String> = BTreeMap::new();
        let columns = columns(&self.fields, &rows, &mut bad).map_err(said)?;
        let mut places = vec![None; count];
        let mut unusable = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            let number: i64 = row.try_get(0).map_err(said)?;
            let key = usize::try_from(number - 1).unwrap_or(usize::MAX);
            let Some(place) = places.get_mut(key) else {
                return Err(Error::outside("Postgres: a row for a key that was not asked for"));
            };
            match (bad.remove(&at), &place) {
                (Some(why), _) => {
                    unusable.push((key as u32, format!("the row in the table {}: {why}", self.name.table)))
                }
                (None, None) => *place = Some(at as u32),
                (None, Some(_)) => {
                    let why = format!("the table {} has several rows with this key", self.name.table);
                    unusable.push((key as u32, why));
                }
            }
        }
        Ok(Answer {
            rows: columns,
            places,
            unusable,
        })
    }

    /// How the columns are read and the keys written, if the table has them as they are declared.
    async fn fit(&self, client: &Client) -> Result<(Vec<Readable>, Vec<Key>), Error> {
        let table = &self.name.table;
        if !is_there(client, &self.name).await? {
            return Err(Error::outside(format!(
                "Postgres: there is no table {}",
                self.name.sql()
            )));
        }
        let sql = "SELECT a.attname::text, t.typname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                   has_column_privilege(a.attrelid, a.attnum, 'SELECT'), current_user::text
                   FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                   WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped";
        let found = client.query(sql, &[&self.name.sql()]).await.map_err(said)?;
        let (mut readable, mut keys) = (Vec::new(), Vec::new());
        for (place, field) in self.fields.iter().enumerate() {
            let name = field.name();
            let Some(row) = found.iter().find(|row| row.get::<_, &str>(0) == name) else {
                return Err(Error::outside(format!("the table {table} has no column {name}")));
            };
            let (type_name, sql_type): (&str, &str) = (row.get(1), row.get(2));
            if !row.get::<_, bool>(4) {
                let (user, sql) = (row.get::<_, &str>(5), self.name.sql());
                return Err(Error::outside(format!(
                    "Postgres: {user} may not read the column {name} of the table {table}: GRANT SELECT ON {sql} TO {user}"
                )));
            }
            readable.push(Readable::of(field, type_name).ok_or_else(|| {
                let wanted = Readable::types(field).unwrap_or_default().join(" or ");
                Error::outside(format!(
                    "the column {name} of the table {table} is {sql_type}, and to be read as {} it has to be {wanted}",
                    field_type_name(field)
                ))
            })?);
            if !field.is_nullable() && !row.get::<_, bool>(3) {
                return Err(Error::outside(format!(
                    "the column {name} of the table {table} may be NULL, and is declared NOT NULL here"
                )));
            }
            if self.key.contains(&place) && Key::of(field, type_name).is_none() {
                return Err(Error::outside(format!(
                    "the column {name} of the table {table} is {sql_type}, which no key can be"
                )));
            }
        }
        for &place in &self.key {
            let field = &self.fields[place];
            let row = found.iter().find(|row| row.get::<_, &str>(0) == field.name());
            keys.extend(row.and_then(|row| Key::of(field, row.get(1))));
        }
        self.has_index(client).await?;
        Ok((readable, keys))
    }

    /// There is one row at most for each key, and it is found without reading all of them.
    async fn has_index(&self, client: &Client) -> Result<(), Error> {
        let names: Vec<&str> = self
            .key
            .iter()
            .map(|&place| self.fields[place].name().as_str())
            .collect();
        let sql = "SELECT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid
                   AND i.indpred IS NULL AND i.indexprs IS NULL
                   AND array(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = i.indrelid
                             AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) <@ $2::text[])";
        let row = client.query_one(sql, &[&self.name.sql(), &names]).await.map_err(said)?;
        if row.get(0) {
            return Ok(());
        }
        let columns: Vec<_> = names.iter().map(|name| quoted(name)).collect();
        Err(Error::outside(format!(
            "the table {} has no unique index on ({}), by which its rows are to be looked up",
            self.name.table,
            columns.join(", ")
        )))
    }
}

impl ToSql for Encoded {
    fn to_sql(
        &self,
        _: &tokio_postgres::types::Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &tokio_postgres::types::Type) -> bool {
        true
    }

    to_sql_checked!();
}
