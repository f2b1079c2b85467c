//! `make services`: all servers that tests start, until Ctrl-C.

#![allow(clippy::print_stdout, reason = "it is what it is for")]

use headwater_test_servers::kafka;
use headwater_test_servers::postgres::Postgres;
use headwater_test_servers::redis::Redis;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let kafka = kafka::shared().map(|kafka| kafka.brokers.clone());
    let postgres = Postgres::start().await;
    let redis = Redis::start().await;
    let postgres = postgres.as_ref().map(Postgres::url);
    let redis = redis.as_ref().map(Redis::url);
    for (name, address) in [("KAFKA_BROKERS", kafka), ("PG_URL", postgres), ("REDIS_URL", redis)] {
        println!("export {name}='{}'", address.unwrap_or_default());
    }
    println!("Ctrl-C ends them.");
    tokio::signal::ctrl_c().await
}
