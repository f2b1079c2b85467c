//! Rows of a table as keys in Redis: put there by who reads them, taken away by who writes them. What both have to do, so that nobody is answered
//! with an outdated row:
//!
//! 1. Who finds nothing at a key reserves it ([`reserve`]): puts there a word that nobody else has (`SET … NX PX`). Then it reads the table, and puts the
//!    row there ([`put`]) only if its word still is. So what it has read was read after that.
//! 2. Before the writer commits it *marks* each key that it changes ([`mark`]), over whatever is there: nobody is answered from a mark, and nobody can
//!    reserve the key. It goes by itself after [`MARK_MS`], so that a writer that ends there leaves nothing behind.
//! 3. After the commit the writer deletes the keys ([`delete`]). Who reserves one from then on reads what was committed.
//!
//! So who has read an outdated row had reserved the key before the commit; the mark, or the deletion, has taken the reservation away, and the row is not
//! put there. Times don't matter for that, but for the one that a mark lives. Where the writer can't reach Redis it goes on without it, and deletes
//! the keys when it can; and Redis may lose a mark, with a restart from an older state or for want of memory. A row is gone by itself `cache.ttl` after
//! its key was reserved, and that is as long as it can be outdated then, or where a commit takes longer than a mark lives.
//!
//! | at the key | is |
//! |---|---|
//! | `{…}` | the row, as JSON |
//! | `reading:…` | a reservation, with the word of who has it |
//! | `writing` | a mark |

pub(crate) mod link;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use headwater_catalog::snapshot::nearest;
use headwater_schema::types::{field_type_name, is_json};
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisResult};

use crate::address::Address;
use crate::options::{About, Options, Refusal};
use crate::template::{Template, Wrong};
use crate::texts::Texts;

/// For as long as a commit may take.
const MARK_MS: u64 = 60_000;
/// For as long as reading the table may take; a row that took longer is not put there.
const RESERVATION_MS: i64 = 5_000;
const MARK: &[u8] = b"writing";
const RESERVATION: &str = "reading:";

/// Commands that are sent together.
const COMMANDS_MAX: usize = 4096;

/// Puts a row in the place of the reservation, for what is left of its time since then. What another program keeps there is left as it is.
const PUT: &str = "if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local left = redis.call('PTTL', KEYS[1]) + ARGV[3]
if left < 1 then return redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], ARGV[2], 'PX', string.format('%d', left))
return 1";

pub(crate) const URL: &str = "cache.url";
pub(crate) const KEY: &str = "cache.key";
const EXAMPLE: &str = "cache.url = 'redis://:${env:REDIS_PASSWORD}@host:6379', cache.key = '{user_id}__+__{page_url}'";

/// Where the keys are, and how they are named: the options `cache.url` and `cache.key`.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) address: Address,
    template: Template,
    /// The columns that name a row.
    columns: SchemaRef,
}

impl Keys {
    /// `named_by` are the columns that name a row. None where there is no cache.
    pub(crate) fn read(named_by: &[Field], options: &mut Options<'_>) -> Result<Option<Self>, Refusal> {
        let text = match (options.text(URL), options.text(KEY)) {
            (None, None) => return Ok(None),
            (None, Some(_)) => {
                let message = "cache.key says how rows are named in Redis, and there is no cache.url";
                return Err(Refusal::new(About::Key(KEY.to_owned()), message).hint(EXAMPLE));
            }
            (Some(_), None) => {
                let message = "cache.url needs a cache.key, which says how rows are named in Redis";
                return Err(Refusal::new(About::Key(URL.to_owned()), message).hint(EXAMPLE));
            }
            (Some(_), Some(text)) => text,
        };
        let address = Address::named(URL, options, &["redis", "rediss"], EXAMPLE)?;
        let about = || About::Option(KEY.to_owned());
        // Who reads and who writes declare the columns each for themselves.
        if let Some(field) = named_by.iter().find(|field| !is_written_one_way(field)) {
            let (name, kind) = (field.name(), field_type_name(field));
            let message = format!("rows are named by {name}, a {kind}, of which the cache can't make keys");
            return Err(
                Refusal::new(about(), message).hint("texts, whole numbers, booleans and dates can be keys there")
            );
        }
        let nullable = |field: &Field| field.clone().with_nullable(true);
        let columns = Arc::new(Schema::new(named_by.iter().map(nullable).collect::<Vec<_>>()));
        let names = || named_by.iter().map(|field| field.name().as_str());
        let template = Template::parse(text, &columns).map_err(|wrong| match wrong {
            Wrong::Brace => Refusal::new(about(), "the option cache.key has a brace without its other half")
                .hint("a column stands in braces, '{user_id}'; a brace of its own is written twice"),
            Wrong::Column(name) => {
                let known = names().collect::<Vec<_>>().join(", ");
                let message = format!("'{name}' is none of the columns that name a row, {known}");
                Refusal::new(about(), message).near(nearest(name, names()))
            }
        })?;
        if let Some(missing) = (0..named_by.len()).find(|place| !template.has(*place)) {
            let name = named_by[missing].name();
            let message =
                format!("rows are named by {name}, which is not in cache.key: several would have the same one");
            return Err(Refusal::new(about(), message));
        }
        Ok(Some(Self {
            address,
            template,
            columns,
        }))
    }

    /// The keys of rows, by the values that name them. None where one of these is NULL: such a row is in no cache.
    pub(crate) fn of(&self, named_by: &[ArrayRef]) -> Result<Vec<Option<Vec<u8>>>, ArrowError> {
        let rows = RecordBatch::try_new(Arc::clone(&self.columns), named_by.to_vec())?;
        let texts = Texts::new(&rows)?;
        let key = |row| self.template.key(&rows, &texts, row).ok();
        Ok((0..rows.num_rows()).map(key).collect())
    }
}

/// Whether a value is the same text by whichever of the types that hold it.
fn is_written_one_way(field: &Field) -> bool {
    match field.data_type() {
        DataType::Utf8 => !is_json(field),
        DataType::Boolean | DataType::Date32 => true,
        other => other.is_integer(),
    }
}

/// What is there at each of the keys.
pub(crate) async fn look(connection: &mut MultiplexedConnection, keys: &[&[u8]]) -> RedisResult<Vec<Option<Vec<u8>>>> {
    redis::cmd("MGET").arg(keys).query_async(connection).await
}

/// A word that nobody else has, if `unique` is that.
pub(crate) fn word(unique: impl std::fmt::Display) -> String {
    format!("{RESERVATION}{unique}")
}

/// Puts the word at the keys where nothing is.
pub(crate) async fn reserve(connection: &mut MultiplexedConnection, keys: &[&[u8]], word: &str) -> RedisResult<()> {
    let command = |commands: &mut Pipeline, key: &&[u8]| {
        let set = commands.cmd("SET").arg(*key).arg(word);
        set.arg("NX").arg("PX").arg(RESERVATION_MS).ignore();
    };
    all(connection, keys, command).await
}

/// Puts rows at the keys where the word still is.
pub(crate) async fn put(
    connection: &mut MultiplexedConnection,
    rows: &[(&[u8], Vec<u8>)],
    word: &str,
    ttl_ms: i64,
) -> RedisResult<()> {
    let command = |commands: &mut Pipeline, (key, row): &(&[u8], Vec<u8>)| {
        let put = commands.cmd("EVAL").arg(PUT).arg(1).arg(*key);
        put.arg(word).arg(row).arg(ttl_ms - RESERVATION_MS).ignore();
    };
    all(connection, rows, command).await
}

/// The rows of these keys are about to change.
pub(crate) async fn mark(connection: &mut MultiplexedConnection, keys: &[&[u8]]) -> RedisResult<()> {
    let command = |commands: &mut Pipeline, key: &&[u8]| {
        commands.cmd("SET").arg(*key).arg(MARK).arg("PX").arg(MARK_MS).ignore();
    };
    all(connection, keys, command).await
}

/// The rows of these keys have changed.
pub(crate) async fn delete(connection: &mut MultiplexedConnection, keys: &[&[u8]]) -> RedisResult<()> {
    for keys in keys.chunks(COMMANDS_MAX) {
        redis::cmd("DEL").arg(keys).exec_async(connection).await?;
    }
    Ok(())
}

async fn all<T>(
    connection: &mut MultiplexedConnection,
    of: &[T],
    command: impl Fn(&mut Pipeline, &T),
) -> RedisResult<()> {
    for some in of.chunks(COMMANDS_MAX) {
        let mut commands = redis::pipe();
        some.iter().for_each(|one| command(&mut commands, one));
        commands.exec_async(connection).await?;
    }
    Ok(())
}
