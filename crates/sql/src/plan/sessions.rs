//! What a continuous query over `SESSION` may be: an aggregate by the very columns that tell the sessions
//! apart, over all of their rows.

use datafusion::common::Column;
use datafusion::logical_expr::Expr;

use crate::error::{Result, SqlError, find};
use crate::plan::stages::Stages;
use crate::plan::windows::Sessions;

const GROUPS: &str = "GROUP BY window_start, window_end, and the columns of the PARTITION BY";

impl Stages<'_> {
    /// `plain` are the groups that are not about the window.
    pub fn check_session_groups(&self, plain: &[Expr], sessions: &Sessions) -> Result<()> {
        let column = |group: &Expr| match group.clone().unalias() {
            Expr::Column(column) => Some(column),
            _ => None,
        };
        let grouped: Vec<Option<Column>> = plain.iter().map(column).collect();
        let keys = &sessions.partition_by;
        if let Some(key) = keys.iter().find(|key| !grouped.contains(&Some((*key).clone()))) {
            let error = SqlError::invalid(format!(
                "the sessions are partitioned by {}, which is not in the GROUP BY",
                key.name
            ));
            return Err(self.about_sessions(error.hint(GROUPS), "group"));
        }
        let is_key = |column: &Option<Column>| column.as_ref().is_some_and(|column| keys.contains(column));
        if let Some((other, _)) = plain.iter().zip(&grouped).find(|(_, column)| !is_key(column)) {
            let name = match other.clone().unalias() {
                Expr::Column(column) => column.name,
                other => other.human_display().to_string(),
            };
            let error = SqlError::unsupported(format!(
                "sessions can't be grouped by {name}: they are not partitioned by it"
            ));
            return Err(self.about_sessions(error.hint(GROUPS), "group"));
        }
        Ok(())
    }

    /// A filter may choose among sessions, but not among the rows that make them: `own` are the
    /// columns of the windows.
    pub fn check_session_filters(&self, filters: &[Expr], own: &[Column], sessions: &Sessions) -> Result<()> {
        let is_known = |column: &&Column| own.contains(column) || sessions.partition_by.contains(column);
        if filters.iter().all(|filter| filter.column_refs().iter().all(is_known)) {
            return Ok(());
        }
        let error = SqlError::unsupported("WHERE on the rows of a SESSION is not available in continuous queries");
        let hint =
            "before the sessions: SESSION((SELECT … WHERE …) PARTITION BY …); within them: count(*) FILTER (WHERE …)";
        Err(self.about_sessions(error.hint(hint), "where"))
    }

    pub fn session_without_aggregate(&self) -> SqlError {
        let error = SqlError::unsupported("SESSION without an aggregate is not available in continuous queries");
        self.about_sessions(error.hint(GROUPS), "session")
    }

    fn about_sessions(&self, error: SqlError, word: &str) -> SqlError {
        error
            .at(find(&self.select.source, word))
            .or_at_start(&self.select.source)
    }
}
