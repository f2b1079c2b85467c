//! What a person types: one file per command.
//!
//! Exit codes: 0 it worked, 1 it failed, 2 it was not understood (usage, configuration, or what the
//! machine must have before it can begin). Results go to standard output, everything else to
//! standard error. Ctrl-C ends every command.

pub mod serve;

pub mod check;
pub mod test;

pub mod send;
pub mod sql;
pub mod status;
pub mod tail;

pub mod demo;
pub mod simulate;

pub mod client;
pub mod embedded;
pub mod failure;
pub mod output;
pub mod welcome;

use std::future::Future;

use clap::{Parser, Subcommand};
use headwater_sql::parse::STACK_BYTES;

use crate::bench::BenchArgs;
use crate::cli::failure::{Failed, Failure};

/// Events in, SQL on them while they flow, answers out.
#[derive(Debug, Parser)]
#[command(name = "headwater", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Serve(serve::Serve),
    Demo(demo::Demo),
    Check(check::Check),
    Test(test::Test),
    Sql(sql::Sql),
    Send(send::Send),
    Tail(tail::Tail),
    Status(status::Status),
    Simulate(simulate::Simulate),
    Bench(BenchArgs),
}

pub fn run(cli: Cli) -> Failed {
    match cli.command {
        Command::Serve(serve) => block_on(serve.run()),
        Command::Demo(demo) => block_on(demo.run()),
        Command::Check(check) => block_on(until_interrupted(check.run())),
        Command::Test(test) => block_on(until_interrupted(test.run())),
        Command::Sql(sql) => block_on(sql.run()),
        Command::Send(send) => block_on(until_interrupted(send.run())),
        Command::Tail(tail) => block_on(until_interrupted(tail.run())),
        Command::Status(status) => block_on(until_interrupted(status.run())),
        Command::Simulate(simulate) => block_on(simulate.run()),
        Command::Bench(bench) => block_on(until_interrupted(bench.run())),
    }
}

fn block_on(command: impl Future<Output = Failed>) -> Failed {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("can't start threads: {error}")))?;
    let result = runtime.block_on(command);
    // A thread that waits for a line of standard input would keep the process alive.
    runtime.shutdown_background();
    result
}

/// Runs a command that has nothing to finish when Ctrl-C ends it.
async fn until_interrupted(command: impl Future<Output = Failed>) -> Failed {
    tokio::select! {
        result = command => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
    }
}
