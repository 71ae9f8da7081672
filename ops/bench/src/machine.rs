//! What this machine is, and whether it can hold what was asked for.

use std::fs;
use std::process::Command;

use anyhow::{Result, bail};
use reactor::driver::{Backend, DriverConfig};
use reactor::probe::{Preference, choose, probe, raise_nofile_limit};

use crate::arguments::{Common, Io};
use crate::cleanup::{self, Guard};
use crate::memory;
use crate::server::root;

/// Descriptors of a ring that are not sessions: what its driver keeps beside them.
const RESERVED: u64 = 512;
/// Most sessions planned for a ring of 20,000 descriptors, as a share: SO_REUSEPORT spreads them unevenly.
const FILL: f64 = 0.935;
/// Sessions from one local address: half of the default range of ports, above which the kernel searches long.
pub(crate) const SESSIONS_PER_ADDRESS: u32 = 14_000;
/// Memory a session takes on both sides, kernel and process, at most.
const SESSION_BYTES: u64 = 12 * 1024;

/// How the sessions are spread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Cores of the server.
    pub(crate) cores: u16,
    /// Connections each of them may hold.
    pub(crate) connections_max: u32,
    /// Threads of the generator.
    pub(crate) threads: usize,
    /// Backend of the generator.
    pub(crate) backend: Backend,
}

/// Checks that the machine can hold `sessions` with these arguments, and says what is missing when it cannot.
pub(crate) fn plan(common: &Common, sessions: u32) -> Result<Plan> {
    let files = raise_nofile_limit()?.soft;
    let machine = probe(&DriverConfig::small());
    let backend = choose(Preference::Auto, &machine)?.backend;
    let cpus = machine.cpus.len().max(1);
    let wanted = u64::from(sessions);
    let ring = files.min(1 << 20).saturating_sub(RESERVED).max(1);
    let mean = ((ring as f64) * FILL) as u64;
    let mut missing = Vec::new();

    let cores = common
        .cores
        .map_or_else(|| wanted.div_ceil(mean).max(cpus as u64), u64::from);
    if common.address.is_none() && common.io == Io::IoUring && wanted > cores * mean {
        let needed = wanted.div_ceil(mean);
        missing.push(format!(
            "{cores} rings of the server with {mean} sessions each hold {} of {wanted}: use --cores {needed}, or raise \
             RLIMIT_NOFILE (`ulimit -n`, now {files})",
            cores * mean
        ));
    }
    if common.address.is_none() && common.io == Io::Epoll && wanted + RESERVED > files {
        missing.push(format!(
            "a server on epoll has one descriptor per session, and RLIMIT_NOFILE allows {files}: raise it with `ulimit -n` \
             to {}, or use --io io_uring, whose direct descriptors are counted per core",
            wanted + RESERVED
        ));
    }
    let threads = common.threads.map_or_else(
        || wanted.div_ceil(mean).max(cpus as u64),
        |threads| threads.max(1) as u64,
    );
    let capacity = if backend == Backend::IoUring {
        threads * ring
    } else {
        files.saturating_sub(RESERVED)
    };
    if wanted > capacity {
        missing.push(format!(
            "the generator's {threads} threads hold {capacity} of {wanted} connections: raise --threads or RLIMIT_NOFILE"
        ));
    }
    if let Some(address) = common.address
        && !address.ip().is_loopback()
        && sessions > 2 * SESSIONS_PER_ADDRESS
    {
        missing.push(format!(
            "one local address has ports for {} connections to {address}: widen net.ipv4.ip_local_port_range, or use \
             several machines",
            2 * SESSIONS_PER_ADDRESS
        ));
    }
    let available = memory::meminfo("MemAvailable:");
    if wanted * SESSION_BYTES > available {
        missing.push(format!(
            "{wanted} sessions take about {} MiB on both sides, and {} MiB are available: use fewer sessions",
            (wanted * SESSION_BYTES) >> 20,
            available >> 20
        ));
    }
    if !missing.is_empty() {
        bail!(
            "this machine cannot do that:\n  - {}",
            missing.join("\n  - ")
        );
    }
    Ok(Plan {
        cores: u16::try_from(cores).unwrap_or(u16::MAX),
        connections_max: u32::try_from(ring).unwrap_or(u32::MAX),
        threads: threads as usize,
        backend,
    })
}

/// Sets what the sessions need of the kernel and what is set too low; it is set back when the guards are dropped.
pub(crate) fn raise_sysctls(sessions: u32) -> Result<Vec<Guard>> {
    let sessions = u64::from(sessions);
    // Both ends of each connection are files of this machine.
    let wanted = [
        ("fs/file-max", 2 * sessions + 100_000),
        ("net/core/somaxconn", 1_024),
    ];
    let mut guards = Vec::new();
    for (name, least) in wanted {
        let text = fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default();
        if text.trim().parse::<u64>().is_ok_and(|now| now < least) {
            match cleanup::set_sysctl(name, &least.to_string()) {
                Ok(guard) => guards.push(guard),
                Err(error) => bail!(
                    "the sysctl {name} has to be at least {least} and cannot be set: {error}; set it as root"
                ),
            }
            eprintln!("set the sysctl {name} to {least} for this run");
        }
    }
    Ok(guards)
}

/// What a row of results says about the machine and the code.
pub(crate) fn description() -> serde_json::Value {
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = file("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    let load = file("/proc/loadavg");
    serde_json::json!({
        "commit": git(&["rev-parse", "--short=12", "HEAD"]),
        "changed": changed.is_some_and(|changed| !changed.is_empty()),
        "kernel": file("/proc/sys/kernel/osrelease").trim(),
        "cpu": model.map(|model| model.trim_start_matches([' ', '\t', ':'])),
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "memory_bytes": memory::meminfo("MemTotal:"),
        "load_before": load.split_whitespace().next().and_then(|word| word.parse::<f64>().ok()),
    })
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(root())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
