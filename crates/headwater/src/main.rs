//! `headwater`: parse the command line, run the command, say what went wrong in one line.

use std::process::ExitCode;

use clap::Parser;
use headwater::cli::{self, Cli};
use tikv_jemallocator::Jemalloc;

/// Set up in `.cargo/config.toml`. The system's allocator keeps much of what large requests have
/// freed, beyond what `memory.limit` can allow.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
