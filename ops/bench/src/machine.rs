//! What this machine is, and whether it can hold what was asked for.

use std::fs;
use std::process::Command;

use anyhow::{Result, bail};
use reactor::driver::{Backend, DriverConfig};
use reactor::probe::{Preference, choose, probe, raise_nofile_limit};

use crate::arguments::{Common, Io, Pin};
use crate::cleanup::{self, Guard};
use crate::memory;
use crate::server::root;
use crate::subject::Subject;

/// Descriptors of a ring that are not sessions: what its driver keeps beside them.
const RESERVED: u64 = 512;
/// Most sessions planned for a ring of 20,000 descriptors, as a share: SO_REUSEPORT spreads them unevenly.
const FILL: f64 = 0.935;
/// Sessions from one local address: half of the default range of ports, above which the kernel searches long.
pub(crate) const SESSIONS_PER_ADDRESS: u32 = 14_000;
/// Memory a session takes on both sides, kernel and process, at most.
const SESSION_BYTES: u64 = 12 * 1024;

/// How the sessions are spread.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Cores of the server.
    pub(crate) cores: u16,
    /// Connections each of them may hold.
    pub(crate) connections_max: u32,
    /// Threads of the generator.
    pub(crate) threads: usize,
    /// Backend of the generator.
    pub(crate) backend: Backend,
    /// Who has which CPUs; `None` when all share all.
    pub(crate) division: Option<CpuDivision>,
}

/// The CPUs of the server and those of the generator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CpuDivision {
    /// The server's, by their numbers.
    pub(crate) server: Vec<usize>,
    /// Place of the generator's first one among all that may be used; all after it are the generator's too.
    pub(crate) generator_first: usize,
}

impl CpuDivision {
    /// A server of one thread; `None` when there is only one CPU.
    pub(crate) fn of_one(cpus: &[usize]) -> Option<Self> {
        Self::of(cpus, 1, Pin::Auto)
    }

    /// The server has the first CPUs, as many as it has cores; there has to be one left.
    fn of(cpus: &[usize], cores: u64, pin: Pin) -> Option<Self> {
        let server = usize::try_from(cores).unwrap_or(usize::MAX);
        (pin != Pin::Never && server < cpus.len()).then(|| Self {
            server: cpus[..server].to_vec(),
            generator_first: server,
        })
    }
}

/// Cores of the server when nobody says how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cores {
    /// One, for figures of CPU that can be compared.
    One,
    /// One for each CPU.
    All,
}

/// Checks that the machine can hold `sessions` of `subject` with these arguments, and says what is missing when it cannot.
pub(crate) fn plan(
    common: &Common,
    subject: &Subject,
    sessions: u32,
    least: Cores,
) -> Result<Plan> {
    let files = raise_nofile_limit()?.soft;
    let machine = probe(&DriverConfig::small());
    let backend = choose(Preference::Auto, &machine)?.backend;
    let wanted = u64::from(sessions);
    let ring = files.min(1 << 20).saturating_sub(RESERVED).max(1);
    let mean = ((ring as f64) * FILL) as u64;
    let cpus = machine.cpus.len().max(1) as u64;
    let cores_least = if least == Cores::One { 1 } else { cpus };
    let cores = match common.cores {
        Some(cores) => u64::from(cores),
        // A rival is given as many CPUs as ours.
        None => wanted.div_ceil(mean).max(cores_least),
    };
    let division = CpuDivision::of(&machine.cpus, cores, common.pin);
    if common.pin == Pin::Always && division.is_none() {
        bail!(
            "a server of {cores} cores and a generator cannot each have CPUs of their own: there are {cpus}; use fewer \
             --cores or --pin never"
        );
    }
    let threads_least = match &division {
        Some(division) => machine.cpus.len() - division.generator_first,
        None => machine.cpus.len().max(1),
    };
    let threads = common.threads.map_or_else(
        || wanted.div_ceil(mean).max(threads_least as u64),
        |threads| threads.max(1) as u64,
    );
    let mut missing = Vec::new();
    if subject.is_ours() {
        missing.extend(server_lacks(common.io, wanted, [cores, mean, files]));
    }
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
    missing.extend(addresses_lack(common, sessions));
    let available = memory::meminfo("MemAvailable:");
    if wanted * SESSION_BYTES > available {
        missing.push(format!(
            "{wanted} sessions take about {} MiB on both sides, and {} MiB are available: use fewer sessions, or --scale \
             where there is one",
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
        division,
    })
}

/// What keeps our server from holding so many sessions.
fn server_lacks(io: Io, wanted: u64, [cores, mean, files]: [u64; 3]) -> Option<String> {
    if io == Io::IoUring && wanted > cores * mean {
        let needed = wanted.div_ceil(mean);
        return Some(format!(
            "{cores} rings of the server with {mean} sessions each hold {} of {wanted}: use --cores {needed}, or raise \
             RLIMIT_NOFILE (`ulimit -n`, now {files})",
            cores * mean
        ));
    }
    (io == Io::Epoll && wanted + RESERVED > files).then(|| {
        format!(
            "a server on epoll has one descriptor per session, and RLIMIT_NOFILE allows {files}: raise it with `ulimit -n` \
             to {}, or use --io io_uring, whose direct descriptors are counted per core",
            wanted + RESERVED
        )
    })
}

fn addresses_lack(common: &Common, sessions: u32) -> Option<String> {
    let address = common.address?;
    (!address.ip().is_loopback() && sessions > 2 * SESSIONS_PER_ADDRESS).then(|| {
        format!(
            "one local address has ports for {} connections to {address}: widen net.ipv4.ip_local_port_range, or use \
             several machines",
            2 * SESSIONS_PER_ADDRESS
        )
    })
}

/// RLIMIT_NOFILE, raised to its hard limit.
pub(crate) fn open_files() -> Result<u64> {
    Ok(raise_nofile_limit()?.soft)
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

/// CPU time in nanoseconds that all CPUs of the machine have worked since it started, what others took from a virtual
/// machine included.
pub(crate) fn busy_ns() -> u64 {
    const TICKS_PER_S: u64 = 100; // USER_HZ, which the kernel keeps the same on every machine.
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .map_while(|word| word.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    let all: u64 = ticks.iter().take(8).sum();
    (all - idle.min(all)) * (1_000_000_000 / TICKS_PER_S)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_and_generator_share_no_cpu() {
        let cpus = [0, 1, 4, 5];
        let division = CpuDivision::of(&cpus, 1, Pin::Auto).expect("there are enough");
        assert_eq!((division.server, division.generator_first), (vec![0], 1));
        assert_eq!(CpuDivision::of(&cpus, 4, Pin::Auto), None);
        assert_eq!(CpuDivision::of(&cpus, 1, Pin::Never), None);
    }

    #[test]
    fn what_a_server_lacks_is_said_with_what_to_set() {
        let said = server_lacks(Io::IoUring, 100_000, [2, 18_000, 20_000]);
        assert!(said.is_some_and(|said| said.contains("--cores 6")));
        assert_eq!(
            server_lacks(Io::IoUring, 100_000, [6, 18_000, 20_000]),
            None
        );
        assert!(server_lacks(Io::Epoll, 20_000, [1, 18_000, 20_000]).is_some());
    }
}
