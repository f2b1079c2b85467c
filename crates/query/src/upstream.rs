//! A query server that answers in this one's place: `query.upstream = "grpc://host:50051"`.
//!
//! The REST routes of views and `/v1/sql` ask it over [`headwater_grpc::v1`], and take rows as Arrow, so that they are
//! encoded here, in the form that the client accepts. Its problems are passed on as they are.
//!
//! 1. Each address has [`CONNECTIONS`] connections, made when they are needed and again when they broke.
//!    Calls go round all of them.
//! 2. A call that found nobody, or whose connection broke before the first message, is made again after a pause that
//!    doubles, on the next connection, if it only reads. What writes may have been done: the client has to decide.
//! 3. The first message has to come within the time limit. After that an answer takes as long as it takes: a broken
//!    connection is found out by HTTP/2's pings.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::{StreamDecoder, StreamReader};
use bytes::Bytes;
use datafusion::common::ScalarValue;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use headwater_event::clock::Clock;
use headwater_event::stored::Stored;
use headwater_grpc::status::problem;
use headwater_grpc::v1::query_client::QueryClient;
use headwater_grpc::v1::rows_request::Of;
use headwater_grpc::v1::rows_response::Kind as RowsKind;
use headwater_grpc::v1::sql_response::Kind as SqlKind;
use headwater_grpc::v1::{Condition, Encoding, Order, RowsRequest, SqlRequest};
use headwater_problem::{Problem, ProblemKind};
use headwater_sql::statement::Kind as StatementKind;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::error::QueryError;
use crate::grpc::values;
use crate::http::Rows;
use crate::http::query_string::invalid;
use crate::question::{Asked, Given};
use crate::session::Answer;

/// To each address.
const CONNECTIONS: usize = 2;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause before a call is made again; the next ones are twice as long each.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A message is a row at least, and rows can be large.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

pub struct Upstream {
    /// One after the other is used.
    clients: Vec<QueryClient<Channel>>,
    calls: AtomicUsize,
    addresses: String,
    timeout: Duration,
    clock: Arc<dyn Clock>,
}

/// Rows of a view.
pub struct Found {
    pub view: String,
    /// There is one row at most, because its key was named.
    pub by_key: bool,
    pub schema: SchemaRef,
    pub rows: Rows,
}

impl Upstream {
    /// Asks at these addresses, each `host:port`. Within a tokio runtime.
    ///
    /// # Errors
    /// What is wrong with an address.
    pub fn new(addresses: &[String], timeout: Duration, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let endpoint = |address: &String| {
            let endpoint = Endpoint::from_shared(format!("http://{address}"));
            let endpoint = endpoint.map_err(|error| format!("{address}: {error}"))?;
            Ok::<_, String>(
                endpoint
                    .connect_timeout(CONNECT_TIMEOUT)
                    .http2_keep_alive_interval(PING_INTERVAL)
                    .keep_alive_timeout(PING_TIMEOUT)
                    .keep_alive_while_idle(true),
            )
        };
        let endpoints = addresses.iter().map(endpoint).collect::<Result<Vec<_>, _>>()?;
        // Address after address, so that a call that is made again goes elsewhere.
        let clients = (0..CONNECTIONS).flat_map(|_| &endpoints).map(|endpoint| {
            let client = QueryClient::new(endpoint.connect_lazy());
            client.max_decoding_message_size(MESSAGE_BYTES_MAX)
        });
        Ok(Self {
            clients: clients.collect(),
            calls: AtomicUsize::new(0),
            addresses: addresses.join(", "),
            timeout,
            clock,
        })
    }

    /// The rows of a view that were asked for.
    pub async fn rows(&self, of: Of, asked: Asked<'_>) -> Result<Found, QueryError> {
        let request = rows_request(of, asked)?;
        let call = move |mut client: QueryClient<Channel>| {
            let request = request.clone();
            async move {
                let mut answer = client.rows(request).await?.into_inner();
                Ok((answer.message().await?, answer))
            }
            .boxed()
        };
        let (first, answer) = self.call(call, true).await?;
        let Some(RowsKind::Columns(columns)) = first.and_then(|first| first.kind) else {
            return Err(misunderstood());
        };
        let pieces = pieces(answer, |response| match response.kind {
            Some(RowsKind::Arrow(bytes)) => Some(Piece::Arrow(bytes)),
            _ => None,
        });
        let mut batches = Batches::new(pieces);
        Ok(Found {
            view: columns.view,
            by_key: columns.by_key,
            schema: batches.schema().await?,
            rows: batches.rows(),
        })
    }

    /// What statements gave. All results but the last are read before this returns, and take no more than `bytes_max`.
    pub async fn sql(
        &self,
        sql: &str,
        parameters: Vec<ScalarValue>,
        from: Option<&str>,
        stored: Stored,
        bytes_max: usize,
    ) -> Result<Vec<Answer>, QueryError> {
        let statements = headwater_sql::parse::parse(sql)?;
        let only_reads = statements.iter().all(|statement| {
            matches!(
                statement.kind,
                StatementKind::Select(_)
                    | StatementKind::Show(_)
                    | StatementKind::ShowState(_)
                    | StatementKind::Describe(_)
                    | StatementKind::Explain(_)
            )
        });
        let parameters = parameters.into_iter().map(values::message);
        let request = SqlRequest {
            sql: sql.to_owned(),
            parameters: parameters.collect::<Result<_, _>>()?,
            from: from.unwrap_or_default().to_owned(),
            encoding: Encoding::Arrow.into(),
            min_offset: min_offset(&stored),
        };
        let call = move |mut client: QueryClient<Channel>| {
            let request = request.clone();
            async move {
                let mut answer = client.sql(request).await?.into_inner();
                Ok((answer.message().await?, answer))
            }
            .boxed()
        };
        let (first, answer) = self.call(call, only_reads).await?;
        let first = stream::iter(first.and_then(|first| first.kind).map(piece).map(Ok));
        let rest = pieces(answer, |response| response.kind.map(piece));
        answers(first.chain(rest).boxed(), bytes_max).await
    }

    /// Calls until there is a first message, or it can't be helped.
    async fn call<T>(
        &self,
        call: impl Fn(QueryClient<Channel>) -> BoxFuture<'static, Result<T, Status>> + Send,
        again: bool,
    ) -> Result<T, QueryError> {
        let tried = async {
            let mut pause = PAUSE;
            loop {
                let place = self.calls.fetch_add(1, Ordering::Relaxed);
                match call(self.clients[place % self.clients.len()].clone()).await {
                    Err(status) if again && is_broken(&status) => {
                        tracing::debug!(%status, addresses = self.addresses, "a call of the query server is made again");
                    }
                    done => return done,
                }
                // Calls that broke together don't come again together.
                let spread = pause / 8 * u32::try_from(place % 8).unwrap_or_default();
                self.clock.sleep(pause + spread).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        };
        let problem = tokio::select! {
            biased;
            done = tried => match done {
                Ok(done) => return Ok(done),
                Err(status) if is_broken(&status) => {
                    Problem::new(ProblemKind::Unavailable, format!("the query server at {} broke off: {}", self.addresses, status.message()))
                        .hint("it may have been done: look before you send it again")
                }
                Err(status) => problem(&status),
            },
            () = self.clock.sleep(self.timeout) => {
                let seconds = self.timeout.as_secs_f64();
                Problem::new(ProblemKind::Unavailable, format!("the query server at {} did not answer within {seconds} s", self.addresses))
                    .retry_after(1)
            }
        };
        Err(problem.into())
    }
}

/// Whether the call found nobody, or lost who answered it. Other statuses are answers.
fn is_broken(status: &Status) -> bool {
    let of_connection = status.source().is_some() && status.details().is_empty();
    match status.code() {
        Code::Unavailable => true,
        Code::Unknown | Code::Internal | Code::Cancelled => of_connection,
        _ => false,
    }
}

fn rows_request(of: Of, asked: Asked<'_>) -> Result<RowsRequest, Problem> {
    let conditions = asked.equal.into_iter().map(|(column, given)| {
        let value = match given {
            Given::Text(text) => ScalarValue::Utf8(Some(text.into_owned())),
            Given::Value(value) => value,
        };
        Ok(Condition {
            column: column.into_owned(),
            value: Some(values::message(value)?),
        })
    });
    let order = asked.order.into_iter().map(|(column, descending)| Order {
        column: column.into_owned(),
        descending,
    });
    Ok(RowsRequest {
        of: Some(of),
        r#where: conditions.collect::<Result<_, Problem>>()?,
        order: order.collect(),
        limit: asked.limit.map(|limit| limit as u64),
        offset: asked.offset as u64,
        encoding: Encoding::Arrow.into(),
        min_offset: min_offset(&asked.stored),
    })
}

fn min_offset(stored: &Stored) -> Vec<String> {
    let text = (!stored.is_empty()).then(|| stored.to_string());
    text.into_iter().collect()
}

/// A part of an answer.
enum Piece {
    Arrow(Bytes),
    Result(SqlKind),
}

type Pieces = BoxStream<'static, Result<Piece, QueryError>>;

fn piece(kind: SqlKind) -> Piece {
    match kind {
        SqlKind::Arrow(bytes) => Piece::Arrow(bytes),
        other => Piece::Result(other),
    }
}

fn pieces<T: Send + 'static>(answer: Streaming<T>, piece: impl Fn(T) -> Option<Piece> + Send + 'static) -> Pieces {
    let pieces = answer.map(move |response| match response {
        Ok(response) => piece(response).ok_or_else(misunderstood),
        Err(status) => Err(problem(&status).into()),
    });
    pieces.boxed()
}

/// The results of statements, one after the other out of one answer.
async fn answers(mut pieces: Pieces, bytes_max: usize) -> Result<Vec<Answer>, QueryError> {
    let mut answers = Vec::new();
    let mut next = pieces.try_next().await?;
    let mut bytes = 0;
    while let Some(piece) = next {
        next = match piece {
            Piece::Arrow(_) => return Err(misunderstood()),
            Piece::Result(SqlKind::Done(done)) => {
                answers.push(Answer::Done {
                    tag: done.tag,
                    rows: done.rows.and_then(|rows| usize::try_from(rows).ok()),
                    notice: Some(done.notice).filter(|notice| !notice.is_empty()),
                });
                pieces.try_next().await?
            }
            Piece::Result(SqlKind::Columns(columns)) => {
                let mut batches = Batches::new(pieces);
                let schema = batches.schema().await?;
                if columns.last {
                    let rows = batches.rows();
                    answers.push(match columns.live {
                        true => Answer::Changes { schema, rows },
                        false => Answer::Rows { schema, rows },
                    });
                    return Ok(answers);
                }
                let mut read = Vec::new();
                while let Some(batch) = batches.next().await? {
                    bytes += batch.get_array_memory_size();
                    if bytes > bytes_max {
                        let detail = format!("the results of several statements take more than {bytes_max} bytes");
                        return Err(invalid(detail).hint("send the statements one by one").into());
                    }
                    read.push(Ok(batch));
                }
                let rows = stream::iter(read).boxed();
                answers.push(Answer::Rows { schema, rows });
                pieces = batches.pieces;
                batches.after
            }
            Piece::Result(_) => return Err(misunderstood()),
        };
    }
    Ok(answers)
}

/// The batches of one result.
struct Batches {
    pieces: Pieces,
    decoder: StreamDecoder,
    buffer: Buffer,
    /// What came behind the result.
    after: Option<Piece>,
}

impl Batches {
    fn new(pieces: Pieces) -> Self {
        Self {
            pieces,
            decoder: StreamDecoder::new(),
            buffer: Buffer::default(),
            after: None,
        }
    }

    /// The columns: the first piece has them, and nothing else. The decoder gives them only when it sees what comes behind,
    /// for which a live query can have to wait long.
    async fn schema(&mut self) -> Result<SchemaRef, QueryError> {
        if !self.read().await? {
            return Err(misunderstood());
        }
        Ok(StreamReader::try_new(&self.buffer[..], None)?.schema())
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>, QueryError> {
        loop {
            while !self.buffer.is_empty() {
                if let Some(batch) = self.decoder.decode(&mut self.buffer)? {
                    return Ok(Some(batch));
                }
            }
            if !self.read().await? {
                return Ok(None);
            }
        }
    }

    /// Whether there was another piece of this result.
    async fn read(&mut self) -> Result<bool, QueryError> {
        if self.after.is_some() {
            return Ok(false);
        }
        match self.pieces.try_next().await? {
            Some(Piece::Arrow(bytes)) => {
                self.buffer = Buffer::from(bytes);
                Ok(true)
            }
            after => {
                self.after = after;
                Ok(false)
            }
        }
    }

    fn rows(self) -> Rows {
        stream::try_unfold(self, |mut batches| async {
            let batch = batches.next().await?;
            Ok(batch.map(|batch| (batch, batches)))
        })
        .boxed()
    }
}

fn misunderstood() -> QueryError {
    QueryError::internal("the query server did not answer as this version understands it")
}
