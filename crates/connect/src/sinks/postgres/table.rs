//! The table that rows go to: made where it is missing, and else checked, so that what doesn't fit is said before the first row, by the name of
//! the column.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use crate::postgres::columns::{Mapping, Type};
use crate::postgres::name::{Name, is_there, quoted, said};
use crate::source::Error;

/// From this version on an index can take NULLs for equal: `server_version_num`.
const NULLS_NOT_DISTINCT: i32 = 150_000;

/// A column of the rows.
pub(super) struct Column {
    pub(super) name: String,
    pub(super) nullable: bool,
    pub(super) mapping: Mapping,
}

/// What the table has to be.
pub(super) struct Wanted {
    pub(super) name: Name,
    pub(super) columns: Vec<Column>,
    /// The places of the columns that name a row, where rows are changed.
    pub(super) key: Option<Vec<usize>>,
}

/// The table as it is.
pub(super) struct Table {
    /// How the values of each of the columns are written.
    pub(super) types: Vec<Type>,
    /// Their types in SQL.
    pub(super) declared: Vec<String>,
}

impl Wanted {
    /// Looks whether the table can be written to, or made.
    pub(super) async fn look(&self, client: &Client) -> Result<(), Error> {
        match is_there(client, &self.name).await? {
            true => self.check(client).await.map(drop),
            false => self.check_schema(client).await,
        }
    }

    /// Makes the table if it isn't there.
    pub(super) async fn ensure(&self, client: &Client) -> Result<Table, Error> {
        if !is_there(client, &self.name).await? {
            self.check_schema(client).await?;
            let create = self.create(client).await?;
            client.batch_execute(&create).await.map_err(said)?;
        }
        self.check(client).await
    }

    async fn create(&self, client: &Client) -> Result<String, Error> {
        let is_key = |place: usize| self.key.as_ref().is_some_and(|key| key.contains(&place));
        let column = |(place, column): (usize, &Column)| {
            // What a view's other columns hold may be NULL at times, whatever their types say.
            let not_null = !column.nullable && (self.key.is_none() || is_key(place));
            let not_null = if not_null { " NOT NULL" } else { "" };
            format!("{} {}{not_null}", quoted(&column.name), column.mapping.declared)
        };
        let mut parts: Vec<_> = self.columns.iter().enumerate().map(column).collect();
        if let Some(key) = self.key.as_deref().filter(|key| !key.is_empty()) {
            let names = self.names(key);
            match key.iter().find(|place| self.columns[**place].nullable) {
                None => parts.push(format!("PRIMARY KEY ({names})")),
                Some(place) if version(client).await? < NULLS_NOT_DISTINCT => {
                    return Err(Error::outside(format!(
                        "the column {} of the view's key may be NULL, for which Postgres 15 or later is needed; or make it NOT NULL, by \
                         coalesce({}, …) in the view",
                        self.columns[*place].name, self.columns[*place].name
                    )));
                }
                Some(_) => parts.push(format!("UNIQUE NULLS NOT DISTINCT ({names})")),
            }
        }
        // Somebody else may be making it just now.
        Ok(format!(
            "CREATE TABLE IF NOT EXISTS {} ({})",
            self.name.sql(),
            parts.join(", ")
        ))
    }

    pub(super) fn names(&self, places: &[usize]) -> String {
        let names: Vec<_> = places.iter().map(|&place| quoted(&self.columns[place].name)).collect();
        names.join(", ")
    }

    async fn check_schema(&self, client: &Client) -> Result<(), Error> {
        let sql = "SELECT s, to_regnamespace(quote_ident(s)) IS NOT NULL, current_user::text,
                   CASE WHEN to_regnamespace(quote_ident(s)) IS NULL THEN false ELSE has_schema_privilege(s, 'CREATE') END
                   FROM (SELECT coalesce($1, current_schema()::text, 'public') AS s) AS named";
        let row = client.query_one(sql, &[&self.name.schema]).await.map_err(said)?;
        let (schema, is_there, user, may): (String, bool, String, bool) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        match (is_there, may) {
            (false, _) => Err(Error::outside(format!(
                "Postgres: there is no schema {schema}: CREATE SCHEMA {schema}"
            ))),
            (true, false) => Err(Error::outside(format!(
                "Postgres: the table {} is not there, and {user} may not make it: GRANT CREATE ON SCHEMA {schema} TO {user}",
                self.name.table
            ))),
            (true, true) => Ok(()),
        }
    }

    async fn check(&self, client: &Client) -> Result<Table, Error> {
        let table = &self.name.table;
        let sql = "SELECT a.attname::text, t.typname::text, format_type(a.atttypid, a.atttypmod),
                   a.attnotnull AND NOT a.atthasdef AND a.attidentity = '', a.attgenerated <> ''
                   FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                   WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped";
        let found = client.query(sql, &[&self.name.sql()]).await.map_err(said)?;
        let (mut types, mut declared) = (Vec::new(), Vec::new());
        for column in &self.columns {
            let name = &column.name;
            let Some(row) = found.iter().find(|row| row.get::<_, &str>(0) == name) else {
                return Err(Error::outside(format!(
                    "the table {table} has no column {name}: ALTER TABLE {} ADD COLUMN {} {}",
                    self.name.sql(),
                    quoted(name),
                    column.mapping.declared
                )));
            };
            let sql_type: String = row.get(2);
            if row.get(4) {
                return Err(Error::outside(format!(
                    "the column {name} of the table {table} is generated, and can't be written"
                )));
            }
            let Some(written) = column.mapping.type_of(row.get(1)) else {
                return Err(Error::outside(format!(
                    "the column {name} of the table {table} is {sql_type}, and has to be {}",
                    column.mapping.accepted()
                )));
            };
            types.push(written);
            declared.push(sql_type);
        }
        let is_ours = |name: &str| self.columns.iter().any(|column| column.name == name);
        if let Some(row) = found.iter().find(|row| row.get(3) && !is_ours(row.get(0))) {
            return Err(Error::outside(format!(
                "the column {} of the table {table} is NOT NULL without a DEFAULT, and no column of that name is delivered",
                row.get::<_, &str>(0)
            )));
        }
        self.check_rights(client).await?;
        self.check_key(client).await?;
        Ok(Table { types, declared })
    }

    async fn check_rights(&self, client: &Client) -> Result<(), Error> {
        let rights: &[&str] = match self.key {
            Some(_) => &["SELECT", "INSERT", "UPDATE", "DELETE"],
            None => &["INSERT"],
        };
        for right in rights {
            let sql = "SELECT has_table_privilege(to_regclass($1), $2), current_user::text";
            let row = client.query_one(sql, &[&self.name.sql(), right]).await.map_err(said)?;
            if !row.get::<_, bool>(0) {
                let user: String = row.get(1);
                let table = self.name.sql();
                return Err(Error::outside(format!(
                    "Postgres: {user} lacks the right to {right} on the table {}: GRANT {right} ON {table} TO {user}",
                    self.name.table
                )));
            }
        }
        Ok(())
    }

    /// Rows are changed by their key, which a unique index has to have.
    async fn check_key(&self, client: &Client) -> Result<(), Error> {
        let Some(key) = self.key.as_deref().filter(|key| !key.is_empty()) else {
            return Ok(());
        };
        let sql = "SELECT array(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = i.indrelid
                                AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])),
                   coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false)
                   FROM pg_index i WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid AND i.indimmediate
                   AND i.indpred IS NULL AND i.indexprs IS NULL";
        let found = client.query(sql, &[&self.name.sql()]).await.map_err(said)?;
        let wanted: BTreeSet<&str> = key.iter().map(|&place| self.columns[place].name.as_str()).collect();
        let is_found =
            |row: &&tokio_postgres::Row| row.get::<_, Vec<&str>>(0).into_iter().collect::<BTreeSet<_>>() == wanted;
        let has_nulls = key.iter().any(|&place| self.columns[place].nullable);
        let nulls = if has_nulls { " NULLS NOT DISTINCT" } else { "" };
        let all: Vec<_> = found.iter().filter(is_found).collect();
        if all.is_empty() {
            let names = self.names(key);
            return Err(Error::outside(format!(
                "the table {} has no unique index on the view's key: ALTER TABLE {} ADD UNIQUE{nulls} ({names})",
                self.name.table,
                self.name.sql()
            )));
        }
        if has_nulls && !all.iter().any(|row| row.get(1)) && !self.has_no_nulls(client, key).await? {
            return Err(Error::outside(format!(
                "the view's key may be NULL, and the unique index of the table {} takes NULLs for different: make it{nulls}",
                self.name.table
            )));
        }
        Ok(())
    }

    /// Whether the table takes no NULLs in these columns: rows with them are dead letters then.
    async fn has_no_nulls(&self, client: &Client, places: &[usize]) -> Result<bool, Error> {
        let names: Vec<&str> = places.iter().map(|&place| self.columns[place].name.as_str()).collect();
        let sql = "SELECT count(*) = 0 FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = ANY ($2) AND NOT attnotnull";
        let row = client.query_one(sql, &[&self.name.sql(), &names]).await;
        Ok(row.map_err(said)?.get(0))
    }
}

async fn version(client: &Client) -> Result<i32, Error> {
    let row = client
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await;
    Ok(row.map_err(said)?.get(0))
}
