//! A connection's statements, by the simple and the extended protocol.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast;
use futures::future::BoxFuture;
use futures::{Sink, SinkExt};
use headwater_sql::statement::{Kind, Statement};
use pgwire::api::auth::StartupHandler;
use pgwire::api::auth::noop::NoopStartupHandler;
use pgwire::api::cancel::{CancelHandler, DefaultCancelHandler};
use pgwire::api::portal::{Format, Portal, PortalExecutionState};
use pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler, send_ready_for_query};
use pgwire::api::results::{Response, Tag};
use pgwire::api::store::{Entry, PortalStore};
use pgwire::api::{
    ClientInfo, ClientPortalStore, ConnectionManager, DEFAULT_NAME, METADATA_DATABASE, METADATA_USER,
    PgWireConnectionState, PgWireServerHandlers,
};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::extendedquery::Execute;
use pgwire::messages::simplequery::Query;
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};

use crate::error::QueryError;
use crate::http::Rows;
use crate::postgres::introspection::{Introspection, asks_about_the_server};
use crate::postgres::named::{Named, normalize, unknown};
use crate::postgres::prepared::{Prepared, Preparer, What};
use crate::postgres::rows::{Fields, fields, response, told};
use crate::postgres::{NAME, live, settings};
use crate::session::{Answer, Session};
use crate::shared::Shared;

/// What answers on every connection.
pub struct Handlers {
    statements: Arc<Statements>,
    startup: Arc<Startup>,
    cancel: Arc<DefaultCancelHandler>,
}

/// Lets the one user in.
pub struct Startup {
    connections: Arc<ConnectionManager>,
}

/// Carries statements out.
pub struct Statements {
    shared: Arc<Shared>,
    introspection: Arc<Introspection>,
    preparer: Arc<Preparer>,
}

/// What a connection has prepared.
struct Connection<'a> {
    /// In SQL.
    named: Arc<Named>,
    /// Forgets what was prepared by the extended protocol; whether it was there.
    forget: &'a (dyn Fn(&str) -> bool + Send + Sync),
}

impl Handlers {
    pub fn new(shared: Arc<Shared>) -> Self {
        let connections = Arc::new(ConnectionManager::new());
        let introspection = Arc::new(Introspection::new(Arc::clone(&shared)));
        let preparer = Preparer {
            shared: Arc::clone(&shared),
            introspection: Arc::clone(&introspection),
        };
        Self {
            statements: Arc::new(Statements {
                shared,
                introspection,
                preparer: Arc::new(preparer),
            }),
            cancel: Arc::new(DefaultCancelHandler::new(Arc::clone(&connections))),
            startup: Arc::new(Startup { connections }),
        }
    }
}

impl PgWireServerHandlers for Handlers {
    fn simple_query_handler(&self) -> Arc<impl SimpleQueryHandler> {
        Arc::clone(&self.statements)
    }

    fn extended_query_handler(&self) -> Arc<impl ExtendedQueryHandler> {
        Arc::clone(&self.statements)
    }

    fn startup_handler(&self) -> Arc<impl StartupHandler> {
        Arc::clone(&self.startup)
    }

    fn cancel_handler(&self) -> Arc<impl CancelHandler> {
        Arc::clone(&self.cancel)
    }
}

#[async_trait]
impl NoopStartupHandler for Startup {
    fn connection_manager(&self) -> Option<Arc<ConnectionManager>> {
        Some(Arc::clone(&self.connections))
    }

    async fn post_startup<C>(&self, client: &mut C, _message: PgWireFrontendMessage) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let said = |key| client.metadata().get(key).map_or(NAME, String::as_str);
        let (user, database) = (said(METADATA_USER), said(METADATA_DATABASE));
        let (sqlstate, what, name) = match (user == NAME, database == NAME) {
            (true, true) => return Ok(()),
            (false, _) => ("28000", "user", user),
            (true, false) => ("3D000", "database", database),
        };
        let message = format!("there is no {what} '{name}': user and database are both '{NAME}'");
        let error = ErrorInfo::new("FATAL".to_owned(), sqlstate.to_owned(), message);
        Err(PgWireError::UserError(Box::new(error)))
    }
}

impl Statements {
    /// What there is to know besides goes to `notices`.
    async fn simple(
        &self,
        sql: &Arc<str>,
        connection: &Connection<'_>,
        notices: &mut Vec<String>,
    ) -> PgWireResult<Vec<Response>> {
        if asks_about_the_server(sql) {
            return self.ask_about_the_server(sql).await;
        }
        let statements = self.parse(sql)?;
        if statements.is_empty() {
            return Ok(vec![Response::EmptyQuery]);
        }
        let session = Session::new(Arc::clone(&self.shared));
        let mut responses = Vec::with_capacity(statements.len());
        // What is said to the session stands between statements that are done together.
        for group in statements.chunk_by(|one, next| !is_other(one) && !is_other(next)) {
            if let [
                Statement {
                    kind: Kind::Other(other),
                    ..
                },
            ] = group
            {
                responses.push(self.other(other, connection).await?);
                continue;
            }
            let answers = session.run(group, &[]).await.map_err(|error| told(&error, sql))?;
            for answer in answers {
                if let Answer::Done { notice, .. } = &answer {
                    notices.extend(notice.clone());
                }
                responses.push(response(answer, &Format::UnifiedText, sql)?);
            }
        }
        Ok(responses)
    }

    async fn ask_about_the_server(&self, sql: &Arc<str>) -> PgWireResult<Vec<Response>> {
        let told = |error: QueryError| told(&error, sql);
        let plans = self.introspection.plan(sql).await.map_err(told)?;
        let mut responses = Vec::with_capacity(plans.len());
        for plan in plans {
            let answer = self.introspection.rows(plan, &[]).map_err(told)?;
            responses.push(response(answer, &Format::UnifiedText, sql)?);
        }
        Ok(responses)
    }

    async fn prepared(&self, portal: &Portal<Prepared>) -> PgWireResult<Response> {
        let prepared = self.preparer.current(&portal.statement.statement).await?;
        let values = prepared.values(portal)?;
        self.carry_out(prepared, &values, &portal.result_column_format).await
    }

    /// What is said to the session: about its statements, its settings, its transaction.
    async fn other(&self, other: &ast::Statement, connection: &Connection<'_>) -> PgWireResult<Response> {
        let named = &connection.named;
        match other {
            ast::Statement::Prepare {
                name,
                data_types,
                statement,
            } => {
                named.prepare(&self.preparer, name, data_types, statement).await?;
                return Ok(Response::Execution(Tag::new("PREPARE")));
            }
            ast::Statement::Execute {
                name: Some(name),
                parameters,
                ..
            } => {
                let name = name.0.last().and_then(|part| part.as_ident()).map(normalize);
                let statement = named.get(&name.unwrap_or_default())?;
                let session = Session::new(Arc::clone(&self.shared));
                let values = statement.values(&session, parameters).await?;
                let prepared = self.preparer.current(&statement.prepared).await?;
                return self.carry_out(prepared, &values, &Format::UnifiedText).await;
            }
            ast::Statement::Deallocate { name, .. } => {
                let name = normalize(name);
                match name.as_str() {
                    "all" => named.clear(),
                    name if named.remove(name) || (connection.forget)(name) => {}
                    name => return Err(unknown(name)),
                }
            }
            ast::Statement::Discard { .. } => named.clear(),
            _ => {}
        }
        settings::answer(other, &Format::UnifiedText)
    }

    async fn carry_out(&self, prepared: Prepared, values: &[ScalarValue], format: &Format) -> PgWireResult<Response> {
        let session = Session::new(Arc::clone(&self.shared));
        let answer = match prepared.what() {
            What::Introspection(plan) => self.introspection.rows(plan.clone(), values),
            What::Select(plan) => session.rows(plan.clone(), values),
            What::Insert(plan) => session.append(plan.clone(), values).await,
            What::Statement(
                Statement {
                    kind: Kind::Other(other),
                    ..
                },
                _,
            ) => {
                return settings::answer(other, format);
            }
            What::Statement(statement, _) => {
                let answers = session.run(std::slice::from_ref(statement), &[]).await;
                answers.and_then(only)
            }
        };
        let answer = answer.map_err(|error| told(&error, &prepared.sql))?;
        response(answer, format, &prepared.sql)
    }

    // Futures that hold SQL as it was parsed are boxed here, in functions that are no futures themselves: there the
    // compiler knows already that its many types can be sent, and elsewhere proves it anew, for seconds each time.

    fn simple_boxed<'a>(
        &'a self,
        sql: &'a Arc<str>,
        connection: &'a Connection<'_>,
        notices: &'a mut Vec<String>,
    ) -> BoxFuture<'a, PgWireResult<Vec<Response>>> {
        Box::pin(self.simple(sql, connection, notices))
    }

    fn prepared_boxed<'a>(&'a self, portal: &'a Portal<Prepared>) -> BoxFuture<'a, PgWireResult<Response>> {
        Box::pin(self.prepared(portal))
    }

    fn live_boxed<'a>(&'a self, sql: &'a Arc<str>) -> BoxFuture<'a, PgWireResult<Option<(Fields, Rows)>>> {
        Box::pin(self.live(sql))
    }

    fn changes_boxed<'a>(
        &'a self,
        prepared: &'a Prepared,
        format: &'a Format,
    ) -> BoxFuture<'a, PgWireResult<Option<(Fields, Rows)>>> {
        Box::pin(self.prepared_changes(prepared, format))
    }

    /// The rows of what was prepared, if it is a live query.
    async fn prepared_changes(&self, prepared: &Prepared, format: &Format) -> PgWireResult<Option<(Fields, Rows)>> {
        match prepared.what() {
            What::Statement(statement, _) if is_live(statement) => {
                self.changes(statement, format, &prepared.sql).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The rows of the text, if it is a live query.
    async fn live(&self, sql: &Arc<str>) -> PgWireResult<Option<(Fields, Rows)>> {
        if asks_about_the_server(sql) {
            return Ok(None);
        }
        match self.parse(sql)?.as_slice() {
            [statement] if is_live(statement) => self.changes(statement, &Format::UnifiedText, sql).await.map(Some),
            _ => Ok(None),
        }
    }

    async fn changes(&self, statement: &Statement, format: &Format, sql: &Arc<str>) -> PgWireResult<(Fields, Rows)> {
        let session = Session::new(Arc::clone(&self.shared));
        let answers = session.run(std::slice::from_ref(statement), &[]).await;
        match answers.and_then(only).map_err(|error| told(&error, sql))? {
            Answer::Changes { schema, rows } | Answer::Rows { schema, rows } => Ok((fields(&schema, format)?, rows)),
            Answer::Done { .. } => Err(told(&QueryError::internal("a live query has no rows"), sql)),
        }
    }

    fn parse(&self, sql: &Arc<str>) -> PgWireResult<Vec<Statement>> {
        headwater_sql::parse::parse(sql).map_err(|error| told(&error.into(), sql))
    }
}

#[async_trait]
impl SimpleQueryHandler for Statements {
    async fn on_query<C>(&self, client: &mut C, query: Query) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let sql: Arc<str> = Arc::from(query.query.as_str());
        let Some((fields, rows)) = self.live_boxed(&sql).await? else {
            return self._on_query(client, query).await;
        };
        client.set_state(PgWireConnectionState::QueryInProgress);
        live::send(client, fields, rows, sql, true).await?;
        client.set_state(PgWireConnectionState::ReadyForQuery);
        let status = client.transaction_status();
        send_ready_for_query(client, status).await
    }

    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let named = client.session_extensions().get_or_insert_with(Named::default);
        let portals = client.portal_store();
        let forget = |name: &str| {
            let there = portals.get_statement(name).is_some();
            portals.rm_statement(name);
            there
        };
        let connection = Connection { named, forget: &forget };
        let mut notices = Vec::new();
        let sql = Arc::from(query);
        let responses = self.simple_boxed(&sql, &connection, &mut notices).await?;
        for notice in notices {
            let notice = ErrorInfo::new("NOTICE".to_owned(), "00000".to_owned(), notice);
            client.feed(PgWireBackendMessage::NoticeResponse(notice.into())).await?;
        }
        Ok(responses)
    }
}

#[async_trait]
impl ExtendedQueryHandler for Statements {
    type Statement = Prepared;
    type QueryParser = Preparer;

    fn query_parser(&self) -> Arc<Preparer> {
        Arc::clone(&self.preparer)
    }

    async fn on_execute<C>(&self, client: &mut C, message: Execute) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        let portal = match client.portal_store().get_portal(name) {
            Some(Entry::Value(portal)) => portal,
            _ => return self._on_execute(client, message).await,
        };
        let prepared = &portal.statement.statement;
        let changes = self.changes_boxed(prepared, &portal.result_column_format).await?;
        let Some((fields, rows)) = changes else {
            return self._on_execute(client, message).await;
        };
        client.set_state(PgWireConnectionState::QueryInProgress);
        *portal.state().lock().await = PortalExecutionState::Finished;
        live::send(client, fields, rows, Arc::clone(&prepared.sql), false).await?;
        client.set_state(PgWireConnectionState::ReadyForQuery);
        Ok(())
    }

    async fn do_query<C>(&self, _client: &mut C, portal: &Portal<Prepared>, _max_rows: usize) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        self.prepared_boxed(portal).await
    }
}

fn is_other(statement: &Statement) -> bool {
    matches!(statement.kind, Kind::Other(_))
}

fn is_live(statement: &Statement) -> bool {
    matches!(&statement.kind, Kind::Select(select) if select.emit_changes)
}

fn only(answers: Vec<Answer>) -> Result<Answer, QueryError> {
    let answer = answers.into_iter().next();
    answer.ok_or_else(|| QueryError::internal("a statement gave no answer"))
}
