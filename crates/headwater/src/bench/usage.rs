//! What this process has used so far, as Linux tells it.

use std::time::Duration;

/// The kernel counts in hundredths of a second (`USER_HZ`), on every architecture.
pub const TICK: Duration = Duration::from_millis(10);

/// CPU time of all threads, user and system.
pub fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field, the command's name, may hold spaces: fields are counted after it.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u32 = fields
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u32>().ok())
        .sum();
    TICK * ticks
}

/// Begins to look for the most memory anew.
pub fn forget_memory_max() {
    // Where the kernel doesn't let us, the figure is that of the whole process.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The most memory that the process held, in bytes.
pub fn memory_max() -> f64 {
    status("VmHWM:")
}

/// The memory that the process holds, in bytes.
pub fn memory() -> f64 {
    status("VmRSS:")
}

fn status(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) * 1024.0
}
