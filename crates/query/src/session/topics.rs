//! Streams that are bound to topics of others: whether such a topic can be used, and how many partitions it has, is asked before anything is
//! planned. What reads a stream is laid out by the partitions that there are.

use headwater_catalog::snapshot::Change;
use headwater_log::error::Error;
use headwater_sql::error::SqlError;
use headwater_sql::statement::{CreateStream, Kind, Name, OptionValue, Statement, StatementOption};

use crate::shared::Shared;

const TOPIC: &str = "topic";
const PARTITIONS: &str = "partitions";

/// The statements with the partitions of the topics that are there already; `None` where there is nothing to say. `planned` are their changes as
/// far as that is known.
pub async fn settled(
    shared: &Shared,
    statements: &[Statement],
    planned: &[Change],
) -> Result<Option<Vec<Statement>>, SqlError> {
    let mut settled = None;
    for (at, statement) in statements.iter().enumerate() {
        let Kind::CreateStream(create) = &statement.kind else {
            continue;
        };
        let Some((option, topic)) = bound_to(create).filter(|_| makes(create, planned)) else {
            continue;
        };
        let found = shared.parts.log.bound_topic(topic).await;
        let refused = |error: Error| SqlError::invalid(error.to_string()).at(option.place.clone());
        let Some(found) = found.map_err(refused)? else {
            continue;
        };
        let mut create = create.clone();
        take_over(&mut create, found.partitions)?;
        settled.get_or_insert_with(|| statements.to_vec())[at].kind = Kind::CreateStream(create);
    }
    Ok(settled)
}

fn bound_to(create: &CreateStream) -> Option<(&StatementOption, &str)> {
    let option = create.options.iter().find(|option| option.key.value == TOPIC)?;
    match &option.value {
        OptionValue::Text(topic) => Some((option, topic)),
        OptionValue::Number(_) | OptionValue::Boolean(_) => None,
    }
}

fn makes(create: &CreateStream, planned: &[Change]) -> bool {
    let is_it = |change: &Change| matches!(change, Change::Put(new) if new.name == create.name.value);
    planned.iter().any(is_it)
}

/// What is declared is how many there have to be at least.
fn take_over(create: &mut CreateStream, there: u32) -> Result<(), SqlError> {
    let partitions = OptionValue::Number(there.to_string());
    let declared = create.options.iter_mut().find(|option| option.key.value == PARTITIONS);
    let Some(declared) = declared else {
        let (key, place) = (PARTITIONS.to_owned(), create.name.place.clone());
        create.options.push(StatementOption {
            key: Name {
                value: key,
                place: place.clone(),
            },
            value: partitions,
            place,
        });
        return Ok(());
    };
    if let OptionValue::Number(number) = &declared.value
        && number.parse::<u32>().is_ok_and(|number| number > there)
    {
        return Err(SqlError::invalid(format!(
            "Kafka's topic has {there} partitions, fewer than the {number} that are declared"
        ))
        .at(declared.place.clone())
        .hint("leave partitions out, and the stream has those of the topic; or add some to the topic"));
    }
    declared.value = partitions;
    Ok(())
}
