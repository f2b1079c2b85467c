//! The current catalog as DataFusion's: the database `headwater` with the schema `public`.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, SchemaProvider,
    TableProvider,
};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::TableType;
use headwater_catalog::definition::{Definition, Object};
use headwater_catalog::store::Catalog;
use headwater_log::Log;
use headwater_sql::define::source::not_readable;
use headwater_sql::error::SqlError;

use crate::tables::stream::StreamTable;
use crate::tables::view::ViewTable;
use crate::views::Views;

/// The one database that there is.
pub const DATABASE: &str = "headwater";
/// The one schema in it.
pub const SCHEMA: &str = "public";

/// Everything in the catalog as it is at the moment of asking.
#[derive(Debug)]
pub struct PublicSchema {
    catalog: Arc<Catalog>,
    log: Arc<dyn Log>,
    views: Arc<Views>,
}

/// The list of databases, for a session's state.
pub fn databases(catalog: Arc<Catalog>, log: Arc<dyn Log>, views: Arc<Views>) -> Result<Arc<dyn CatalogProviderList>> {
    let database = MemoryCatalogProvider::new();
    database.register_schema(SCHEMA, Arc::new(PublicSchema { catalog, log, views }))?;
    let list = MemoryCatalogProviderList::new();
    list.register_catalog(DATABASE.to_owned(), Arc::new(database));
    Ok(Arc::new(list))
}

impl PublicSchema {
    /// The stream or view of this name.
    fn find(&self, name: &str) -> Option<Arc<Definition>> {
        let snapshot = self.catalog.snapshot();
        snapshot.get(name).filter(|definition| definition.has_rows()).cloned()
    }

    async fn provider(&self, definition: &Arc<Definition>) -> Result<Arc<dyn TableProvider>> {
        match &definition.object {
            Object::Stream(stream) => {
                let table = StreamTable::new(Arc::clone(&self.log), definition.topic(), stream);
                Ok(Arc::new(table))
            }
            Object::View(_) => {
                let view = self.views.open(definition).await;
                let view = view.map_err(|error| DataFusionError::External(Box::new(error)))?;
                Ok(Arc::new(ViewTable::new(view)))
            }
            Object::Source(_) | Object::Sink(_) | Object::Table(_) => {
                let error = not_readable(definition).unwrap_or_else(|| SqlError::internal("it has no rows"));
                Err(DataFusionError::External(Box::new(error)))
            }
        }
    }
}

#[async_trait]
impl SchemaProvider for PublicSchema {
    fn table_names(&self) -> Vec<String> {
        let snapshot = self.catalog.snapshot();
        let readable = snapshot.iter().filter(|definition| definition.has_rows());
        readable.map(|definition| definition.name.clone()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let snapshot = self.catalog.snapshot();
        match snapshot.get(name) {
            Some(definition) => Ok(Some(self.provider(definition).await?)),
            None => Ok(None),
        }
    }

    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        Ok(self.find(name).map(|definition| match definition.view() {
            Some(_) => TableType::View,
            None => TableType::Base,
        }))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.find(name).is_some()
    }
}
