//! Topics that streams are bound to by name: taken over where they are there, made where they aren't, and left to others when the stream goes.

use headwater_event::offset::Offset;

use crate::RefusedRecord;
use crate::error::{Error, Result};
use crate::kafka::KafkaLog;
use crate::kafka::cluster::bound::Found;
use crate::kafka::partitions::Partitions;
use crate::kafka::readers::Place;
use crate::kafka::registry::{Event, KnownTopic};
use crate::topic::{BoundTopic, TopicSpec};

/// As many looks at what was fetched as there have to be, to see all that is there.
const LOOKS_MAX: usize = 8;

impl KafkaLog {
    /// What there is of the topic.
    pub(super) async fn find_bound(&self, name: &str) -> Result<Option<BoundTopic>> {
        self.names.check_bound(name)?;
        let found = self.cluster.find(name).await?;
        Ok(found.map(|found| BoundTopic {
            partitions: found.partitions,
        }))
    }

    /// Makes the topic on the cluster, or takes it over as it is. The answer is what to register.
    pub(super) async fn bind(&self, spec: &TopicSpec, kafka: &str) -> Result<Event> {
        self.names.check_bound(kafka)?;
        if let Some(found) = self.cluster.find(kafka).await? {
            found.check(kafka, spec)?;
        } else if self.cluster.create_topic(kafka, spec.partitions, &spec.cleanup).await? {
            return Ok(Event::TopicMade(spec.name.clone()));
        }
        Ok(Event::TopicBound(spec.name.clone()))
    }

    /// Takes over what the topic is like now.
    pub(super) async fn look_at(&self, topic: &KnownTopic) -> Result<()> {
        let Some(events) = topic.events.as_ref().filter(|events| events.is_bound()) else {
            return Ok(());
        };
        let found = self.cluster.find(&topic.kafka).await?;
        let found = found.ok_or_else(|| Error::Kafka(format!("topic '{}' isn't there", topic.kafka)))?;
        found.check(&topic.kafka, &topic.spec)?;
        if found.partitions > topic.spec.partitions {
            let (topic, there, read) = (&*topic.kafka, found.partitions, topic.spec.partitions);
            tracing::warn!(
                topic,
                there,
                read,
                "partitions were added; make the stream anew to read them"
            );
        }
        events.limit(found.record_bytes_max);
        Ok(())
    }

    /// Deletes the topic on the cluster, unless it is somebody else's, or another stream is bound to it.
    pub(super) async fn delete_unless_shared(&self, topic: &KnownTopic) -> Result<()> {
        let is_shared = self.followed().registry.read().sharing(&topic.kafka).next().is_some();
        match topic.is_ours && !is_shared {
            true => self.cluster.delete_topic(&topic.kafka).await,
            false => Ok(()),
        }
    }
}

impl Found {
    fn check(&self, topic: &str, spec: &TopicSpec) -> Result<()> {
        if self.partitions >= spec.partitions {
            return Ok(());
        }
        Err(Error::TopicDiffers {
            topic: topic.to_owned(),
            what: format!("{} partitions, the stream has {}", self.partitions, spec.partitions),
        })
    }
}

impl Partitions {
    /// Records from `from` on that are no events, and where to look on.
    pub(super) async fn refused(&self, place: Place<'_>, from: Offset) -> Result<(Vec<RefusedRecord>, Offset)> {
        let mut lease = self.looking.at(place, from)?;
        let (mut refused, mut next) = (Vec::new(), from);
        for look in 0..LOOKS_MAX {
            if look > 0 && refused.is_empty() && next == from {
                lease.more().await;
            }
            next = lease.refused(place, &mut refused);
            if !refused.is_empty() || look > 0 && next > from {
                break;
            }
        }
        Ok((refused, next))
    }
}
