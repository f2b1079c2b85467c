//! Computing one-off queries, away from the threads that serve sockets.

use std::future::Future;
use std::sync::Arc;

use datafusion::dataframe::DataFrame;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use futures::StreamExt;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use crate::error::QueryError;

/// Batches that a query is ahead of whoever reads its rows.
const BATCHES_AHEAD: usize = 2;

/// Runs `work` on the executor. It stops when the caller no longer waits for it.
pub async fn on<T: Send + 'static>(
    executor: &Handle,
    work: impl Future<Output = Result<T, QueryError>> + Send + 'static,
) -> Result<T, QueryError> {
    let task = AbortOnDropHandle::new(executor.spawn(work));
    task.await
        .unwrap_or_else(|failed| Err(QueryError::internal(format!("the query broke off: {failed}"))))
}

/// Runs what may wait for the disk on a thread that may.
pub async fn blocking<T: Send + 'static>(
    executor: &Handle,
    work: impl FnOnce() -> Result<T, QueryError> + Send + 'static,
) -> Result<T, QueryError> {
    let task = executor.spawn_blocking(work);
    task.await
        .unwrap_or_else(|failed| Err(QueryError::internal(format!("the query broke off: {failed}"))))
}

/// The rows of a query, computed on the executor as they are asked for. Dropping them stops it.
pub fn rows(executor: &Handle, frame: DataFrame) -> SendableRecordBatchStream {
    let schema = Arc::clone(frame.schema().inner());
    let mut rows = RecordBatchReceiverStreamBuilder::new(schema, BATCHES_AHEAD);
    let send = rows.tx();
    let work = async move {
        let mut computed = frame.execute_stream().await?;
        while let Some(batch) = computed.next().await {
            if send.send(batch).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    rows.spawn_on(work, executor);
    rows.build()
}
