//! How to talk to a cluster: where it is, how to get in, and what all clients have in common.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::client::Client;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, ClientContext};

use crate::error::{Error, Result};
use crate::kafka::context::Context;
use crate::kafka::getting_in::{self, TOKEN_FILE};

/// How long a question to the cluster may take before it is an error.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// A record can be a single event of the largest size that comes in, and a little around it.
pub(super) const RECORD_BYTES_MAX: usize = 32 << 20;

/// A process that dies in a transaction keeps others from reading past it for so long; one whose id is taken over, not at all.
const TRANSACTION_TIME_MAX: Duration = Duration::from_secs(10);

/// How many of the client's words to listen to, when it can't get in.
const REASONS_MAX: usize = 20;

/// How long a broker waits for something that it can answer a fetch with. Meanwhile it answers nothing else on that connection.
const FETCH_WAIT_MS: &str = "100";

/// The same for who follows topics that come and go, and so asks for other things as well.
const FOLLOWER_FETCH_WAIT_MS: &str = "10";

/// What a client fetches ahead, beyond what its reader takes from it: what the next fetch brings, about.
const READ_AHEAD_KIB: usize = 1024;

/// How long a client waits before it fetches on, once it has that much. By itself it would wait a second, and so read no more than what it
/// fetches ahead in each.
const FETCH_PAUSE_MS: &str = "2";

/// How often to look whether something is decided. Transactions end by themselves in half of all this time.
const DECIDED_POLL_TIME: Duration = Duration::from_millis(5);
const DECIDED_POLLS_MAX: usize = 4000;

/// Consumers join no group, but have to name one.
const GROUP: &str = "headwater";

/// A consumer of Kafka's client.
pub type Consumer = BaseConsumer<Context>;

/// Properties of librdkafka by their names (`security.protocol`, `sasl.*`, `ssl.*`). They may be secret: only their names are shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Security(pub BTreeMap<String, String>);

impl std::fmt::Debug for Security {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

/// See the module. Nothing is connected before a client is made.
#[derive(Clone)]
pub struct Connection {
    common: ClientConfig,
    context: Context,
}

impl Connection {
    /// `brokers` is `host:port`, several with commas; `client` is how the cluster's logs call us.
    pub fn new(brokers: &str, client: &str, security: &Security) -> Self {
        let mut common = ClientConfig::new();
        for (key, value) in &security.0 {
            common.set(key, value);
        }
        common
            .set("bootstrap.servers", brokers)
            .set("client.id", client)
            .set("message.max.bytes", RECORD_BYTES_MAX.to_string())
            .set("socket.nagle.disable", "true")
            .set("reconnect.backoff.max.ms", "2000");
        Self {
            common,
            context: Context::default(),
        }
    }

    /// A consumer of what is committed, which is told what to read, and says where a partition ends.
    pub fn consumer(&self) -> Result<Consumer> {
        self.made(&self.consuming())
    }

    /// A consumer like all, to which partitions are added all the time.
    pub(super) fn follower(&self) -> Result<Consumer> {
        let mut config = self.consuming();
        config.set("fetch.wait.max.ms", FOLLOWER_FETCH_WAIT_MS);
        self.made(&config)
    }

    fn made(&self, config: &ClientConfig) -> Result<Consumer> {
        let consumer: Consumer = config.create_with_context(self.context.clone())?;
        self.admit(consumer.client())?;
        Ok(consumer)
    }

    /// Gives a client that was just made what it gets in with, beyond what it was made with. Without it, it would have to be polled first.
    pub(super) fn admit<C: ClientContext>(&self, client: &Client<C>) -> Result<()> {
        match self.token_file() {
            Some(file) => getting_in::give(client, &getting_in::token(&file)?),
            None => Ok(()),
        }
    }

    /// Where tokens are needed.
    pub(super) fn token_file(&self) -> Option<String> {
        self.common.get(TOKEN_FILE).map(str::to_owned)
    }

    fn consuming(&self) -> ClientConfig {
        let mut config = self.common.clone();
        config
            .set("group.id", GROUP)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "earliest")
            .set("fetch.wait.max.ms", FETCH_WAIT_MS)
            .set("fetch.queue.backoff.ms", FETCH_PAUSE_MS)
            .set("queued.max.messages.kbytes", READ_AHEAD_KIB.to_string());
        config
    }

    /// A consumer, if the cluster answers, and lets us in. Blocks.
    ///
    /// # Errors
    /// With the reason, as the client itself says it.
    pub fn reach(&self) -> Result<Consumer> {
        let consumer = self.consumer()?;
        let Err(error) = consumer.client().fetch_metadata(None, ANSWER_TIME_MAX) else {
            return Ok(consumer);
        };
        // The reasons wait in its queue, one at a time.
        for _ in 0..REASONS_MAX {
            consumer.poll(Duration::from_millis(10));
        }
        Err(match self.context.last() {
            Some(reason) => Error::Kafka(getting_in::advised(&reason)),
            None => error.into(),
        })
    }

    /// A consumer of what is committed and what may be.
    pub(super) fn everything(&self) -> Result<Consumer> {
        let mut config = self.common.clone();
        config.set("group.id", GROUP).set("isolation.level", "read_uncommitted");
        self.made(&config)
    }

    /// Returns when all that stands in the partition by now is decided: committed, or taken back. Until then a reader of what is committed doesn't come
    /// to what stands behind it. Blocks.
    pub fn decided(&self, topic: &str, partition: i32) -> Result<()> {
        let everything = self.everything()?;
        let (_, end) = everything.fetch_watermarks(topic, partition, ANSWER_TIME_MAX)?;
        let committed = self.consumer()?;
        for _ in 0..DECIDED_POLLS_MAX {
            if committed.fetch_watermarks(topic, partition, ANSWER_TIME_MAX)?.1 >= end {
                return Ok(());
            }
            std::thread::sleep(DECIDED_POLL_TIME);
        }
        Err(Error::Kafka(format!(
            "a transaction on {topic}[{partition}] doesn't end"
        )))
    }

    /// For what is done to topics.
    pub fn admin(&self) -> Result<AdminClient<Context>> {
        let admin: AdminClient<Context> = self.common.create_with_context(self.context.clone())?;
        self.admit(admin.inner())?;
        Ok(admin)
    }

    /// What clients say goes here.
    pub(super) fn context(&self) -> Context {
        self.context.clone()
    }

    /// For producers with this transactional id.
    pub(super) fn transactional(&self, id: &str) -> ClientConfig {
        let mut config = self.common.clone();
        config
            .set("transactional.id", id)
            .set("transaction.timeout.ms", TRANSACTION_TIME_MAX.as_millis().to_string())
            .set("linger.ms", "0")
            // As Kafka's own clients have it.
            .set("partitioner", "murmur2_random")
            .set("queue.buffering.max.kbytes", "131072")
            .set("queue.buffering.max.messages", "1000000");
        config
    }
}
