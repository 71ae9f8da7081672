//! `roadstead check`: would a node start here, with what I/O, and what do the limits of the system mean in sessions?
//!
//! Nothing is changed: addresses are bound and let go, files are only looked at.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use reactor::driver::Backend;
use reactor::probe::{self, Preference, Probe};
use rustix::fs::Access;
use serde::Serialize;

use super::table::printable;
use super::{CommandError, EXIT_DONE, EXIT_FAILED};
use crate::config::{Config, Origin, Protocol};
use crate::control::engine::{connect_options, inspect};
use crate::engine::redis::inspect::Severity;

/// User-space and kernel bytes of an idle session, together: the first bar of the budgets.
const SESSION_BYTES: u64 = 768 + 4_096;
/// Fewer sessions than this on a core are a limit that nobody meant to set.
const SESSIONS_WANTED: u64 = 50_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// The node starts, with less than it could have.
    Warning,
    /// The node would not start.
    Failure,
}

/// One thing looked at: what it is, what was found, what that means and what to do.
#[derive(Debug, Serialize)]
struct Finding {
    level: Level,
    subject: String,
    found: String,
    meaning: String,
}

impl Finding {
    fn new(
        level: Level,
        subject: impl Into<String>,
        found: impl ToString,
        meaning: impl Into<String>,
    ) -> Self {
        Self {
            level,
            subject: subject.into(),
            found: found.to_string(),
            meaning: meaning.into(),
        }
    }
}

/// Looks at everything and prints it.
pub(super) fn run(config: &Config, json: bool, out: &mut dyn Write) -> Result<u8, CommandError> {
    let _ = probe::raise_nofile_limit(); // As the node does at its start; the probe tells what came of it.
    let probe = probe::probe(&config.driver_config());
    let (backend, io) = io_finding(config, &probe);
    let mut findings = vec![
        Finding::new(Level::Ok, "kernel", &probe.release, ""),
        io,
        seccomp(),
        cores(config, &probe),
    ];
    findings.extend(session_limits(config, &probe, backend));
    findings.push(locked_memory(&probe));
    findings.push(memory(config));
    findings.extend(backlogs(config, &probe));
    findings.push(engine_folder(&config.engine.path));
    findings.extend(engine_servers(config));
    findings.push(files(config));
    findings.extend(warnings(config));
    findings.extend(addresses(config));
    let starts = findings
        .iter()
        .all(|finding| finding.level != Level::Failure);
    if json {
        writeln!(
            out,
            "{:#}",
            serde_json::json!({ "starts": starts, "findings": findings })
        )?;
    } else {
        write!(out, "{}", text(&findings))?;
        let verdict = if starts {
            "a node would start here"
        } else {
            "a node would NOT start here: see FAIL above"
        };
        writeln!(out, "\n{verdict}")?;
    }
    Ok(if starts { EXIT_DONE } else { EXIT_FAILED })
}

/// One line for what was found, one below it for what it means.
fn text(findings: &[Finding]) -> String {
    let width = findings
        .iter()
        .map(|finding| finding.subject.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for Finding {
        level,
        subject,
        found,
        meaning,
    } in findings
    {
        let mark = match level {
            Level::Ok => "ok  ",
            Level::Warning => "warn",
            Level::Failure => "FAIL",
        };
        text.push_str(&format!(
            "{mark}  {subject:<width$}  {}\n",
            printable(found)
        ));
        if !meaning.is_empty() {
            text.push_str(&format!("      {:<width$}  {meaning}\n", ""));
        }
    }
    text
}

fn read_trimmed(path: &str) -> Option<String> {
    std::fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

/// The backend the node would take, and why.
fn io_finding(config: &Config, probe: &Probe) -> (Backend, Finding) {
    let preference = config.io_preference();
    match probe::choose(preference, probe) {
        Ok(choice) => {
            let found = backend_word(choice.backend);
            let remedy = choice
                .remedy
                .map(|remedy| format!("; for io_uring: {remedy}"))
                .unwrap_or_default();
            let level = if remedy.is_empty() {
                Level::Ok
            } else {
                Level::Warning
            };
            (
                choice.backend,
                Finding::new(level, "I/O", found, format!("{}{remedy}", choice.reason)),
            )
        }
        Err(error) => {
            let wanted = if preference == Preference::Epoll {
                Backend::Epoll
            } else {
                Backend::IoUring
            };
            (
                wanted,
                Finding::new(Level::Failure, "I/O", "none", error.to_string()),
            )
        }
    }
}

/// The word for a backend in messages, metrics and JSON.
pub(super) fn backend_word(backend: Backend) -> &'static str {
    match backend {
        Backend::IoUring => "io_uring",
        Backend::Epoll => "epoll",
        Backend::Fake => "fake",
    }
}

fn seccomp() -> Finding {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mode = status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp:"))
        .map_or("unknown", str::trim);
    match mode {
        "0" => Finding::new(Level::Ok, "seccomp", "off", "no system call is filtered"),
        "2" => Finding::new(
            Level::Ok,
            "seccomp",
            "filter",
            "a container's filter may block io_uring; I/O above tells",
        ),
        mode => Finding::new(Level::Ok, "seccomp", mode, ""),
    }
}

fn cores(config: &Config, probe: &Probe) -> Finding {
    let (wanted, allowed) = (config.core_count(), probe.cpus.len());
    if wanted > allowed {
        let meaning = format!(
            "the process may use {allowed}; more cores than CPUs only take turns: lower node.cores"
        );
        return Finding::new(Level::Warning, "cores", wanted, meaning);
    }
    Finding::new(
        Level::Ok,
        "cores",
        format!("{wanted} of {allowed} CPUs"),
        "",
    )
}

/// What each limit of the system, and `io.connections_max`, means in sessions.
fn session_limits(config: &Config, probe: &Probe, backend: Backend) -> Vec<Finding> {
    let cores = config.core_count();
    let own = format!("{} sessions per core", config.io.connections_max);
    let mut findings = vec![Finding::new(
        Level::Ok,
        "io.connections_max",
        config.io.connections_max,
        own,
    )];
    for limit in probe.session_limits(backend, cores) {
        let (name, value) = limit.limit.split_once(" = ").unwrap_or((&limit.limit, ""));
        let meaning = format!("{} sessions per core", limit.sessions_per_core);
        findings.push(if limit.sessions_per_core < SESSIONS_WANTED {
            Finding::new(
                Level::Warning,
                name,
                value,
                format!("{meaning}; {}", limit.remedy),
            )
        } else {
            Finding::new(Level::Ok, name, value, meaning)
        });
    }
    findings
}

fn locked_memory(probe: &Probe) -> Finding {
    let found = match probe.locked_memory.soft {
        u64::MAX => "unlimited".into(),
        bytes => super::table::bytes(bytes),
    };
    Finding::new(
        Level::Ok,
        "RLIMIT_MEMLOCK",
        found,
        "no bound on sessions: kernels with all that io_uring needs do not charge it",
    )
}

/// The memory the process may use: of its control group, else of the machine.
fn memory(config: &Config) -> Finding {
    let group = read_trimmed("/sys/fs/cgroup/memory.max").and_then(|text| text.parse::<u64>().ok());
    let machine = read_trimmed("/proc/meminfo").and_then(|text| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemAvailable:").map(str::to_owned))?;
        line.trim()
            .trim_end_matches(" kB")
            .trim()
            .parse::<u64>()
            .ok()
            .map(|kib| kib * 1024)
    });
    let Some(bytes) = group.into_iter().chain(machine).min() else {
        return Finding::new(Level::Ok, "memory", "unknown", "");
    };
    let buffers = config.queues.total_bytes_max.0
        + config.queues.pending_bytes_max.0
        + config.queues.partial_bytes_max.0
        + config.retained.bytes_max.0;
    let sessions = bytes.saturating_sub(buffers) / SESSION_BYTES;
    let found = super::table::bytes(bytes);
    let full = super::table::bytes(buffers);
    if buffers > bytes {
        let meaning = format!(
            "queues and retained messages may take {full}: lower queues.* and retained.bytes_max"
        );
        return Finding::new(Level::Warning, "memory", found, meaning);
    }
    let meaning = format!(
        "with all queues full ({full}): about {sessions} idle sessions of {SESSION_BYTES} bytes"
    );
    Finding::new(Level::Ok, "memory", found, meaning)
}

/// Bounds on bursts of new connections, and on connections that a firewall tracks.
fn backlogs(config: &Config, probe: &Probe) -> Vec<Finding> {
    let mut findings = Vec::new();
    let backlog = u64::from(config.listeners.backlog);
    match probe.sysctls.somaxconn {
        Some(value) if value < backlog => {
            let meaning = format!(
                "less than listeners.backlog = {backlog}, so bursts of new connections are slowed down sooner; \
                 sysctl -w net.core.somaxconn={backlog}"
            );
            findings.push(Finding::new(
                Level::Warning,
                "net.core.somaxconn",
                value,
                meaning,
            ));
        }
        Some(value) => findings.push(Finding::new(Level::Ok, "net.core.somaxconn", value, "")),
        None => {}
    }
    if let Some(tracked) = read_trimmed("/proc/sys/net/netfilter/nf_conntrack_max") {
        let meaning =
            "where a firewall tracks the connections of clients, at most so many sessions";
        findings.push(Finding::new(
            Level::Ok,
            "nf_conntrack_max",
            tracked,
            meaning,
        ));
    }
    findings
}

/// The folder of the engine, or the nearest folder above it in which it would be made.
fn engine_folder(path: &Path) -> Finding {
    let found = path.display();
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let Some(existing) = absolute.ancestors().find(|folder| folder.exists()) else {
        return Finding::new(
            Level::Failure,
            "engine.path",
            found,
            "no folder above it exists",
        );
    };
    if !existing.is_dir() {
        let meaning = format!(
            "{} is a file; set engine.path to a folder",
            existing.display()
        );
        return Finding::new(Level::Failure, "engine.path", found, meaning);
    }
    if rustix::fs::access(existing, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        let meaning = format!(
            "no permission to write in {}; change its owner or engine.path",
            existing.display()
        );
        return Finding::new(Level::Failure, "engine.path", found, meaning);
    }
    let meaning = if existing == absolute {
        ""
    } else {
        "will be made"
    };
    Finding::new(Level::Ok, "engine.path", found, meaning)
}

/// The Valkey or Redis, in short; `roadstead engine check` tells everything. Bad files are told by [`files`].
fn engine_servers(config: &Config) -> Vec<Finding> {
    let Ok(Some(options)) = connect_options(config) else {
        return Vec::new();
    };
    let report = inspect(config, &options);
    let durability = report.durability.word();
    let mut findings = Vec::new();
    if report.is_good() {
        let meaning = format!("durability {durability}");
        findings.push(Finding::new(
            Level::Ok,
            "engine.urls",
            report.summary(),
            meaning,
        ));
    }
    let bad = report
        .findings
        .iter()
        .filter(|finding| finding.severity != Severity::Info);
    findings.extend(bad.map(|finding| {
        let level = match finding.severity {
            Severity::Refuse => Level::Failure,
            Severity::Warn | Severity::Info => Level::Warning,
        };
        let found = format!("{} = {}", finding.setting, finding.found);
        let meaning = format!("right: {}; {}", finding.right, finding.why);
        Finding::new(level, &finding.server, found, meaning)
    }));
    findings
}

/// The files that the configuration names, read as at a start.
fn files(config: &Config) -> Finding {
    let errors = super::settings::file_errors(config);
    if errors.is_empty() {
        return Finding::new(Level::Ok, "files", "good", "");
    }
    Finding::new(Level::Failure, "files", "bad", errors.join("; "))
}

/// What is allowed and was probably not meant so.
fn warnings(config: &Config) -> Vec<Finding> {
    let finding = |subject: &'static str| {
        move |warning| Finding::new(Level::Warning, subject, "as configured", warning)
    };
    let access = config.access_warnings().into_iter().map(finding("access"));
    let engine = config.engine_warnings().into_iter().map(finding("engine"));
    access.chain(engine).collect()
}

fn addresses(config: &Config) -> Vec<Finding> {
    let admin: Vec<_> = config.admin.address.0.into_iter().collect();
    let monitoring: Vec<_> = config.admin.monitoring_address.0.into_iter().collect();
    let listeners = Protocol::ALL.map(|protocol| {
        let bind = if protocol.is_datagrams() {
            |address| UdpSocket::bind(address).err()
        } else {
            bind_stream
        };
        (protocol.key(), bind, config.addresses(protocol))
    });
    let admin: [(_, Bind, _); 2] = [
        ("admin.address", bind_stream, &admin[..]),
        ("admin.monitoring_address", bind_stream, &monitoring[..]),
    ];
    let one = |(key, bind, addresses): (&str, Bind, &[SocketAddr])| {
        let optional = *config.origin(key) == Origin::Default;
        addresses
            .iter()
            .map(|address| tried(key, *address, bind, optional))
            .collect::<Vec<_>>()
    };
    listeners.into_iter().chain(admin).flat_map(one).collect()
}

/// Tries to bind an address; what went wrong.
type Bind = fn(SocketAddr) -> Option<io::Error>;

fn bind_stream(address: SocketAddr) -> Option<io::Error> {
    TcpListener::bind(address).err()
}

/// `optional`: an address of the defaults, which a machine without IPv6 need not have.
fn tried(key: &str, address: SocketAddr, bind: Bind, optional: bool) -> Finding {
    let Some(error) = bind(address) else {
        return Finding::new(Level::Ok, key, address, "");
    };
    let absent = matches!(
        error.kind(),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported
    );
    let (level, meaning) = match error.kind() {
        io::ErrorKind::AddrInUse => (
            Level::Failure,
            "in use: a node runs already, or another program has the port".into(),
        ),
        io::ErrorKind::PermissionDenied => (
            Level::Failure,
            "no permission: ports below 1024 need CAP_NET_BIND_SERVICE; take a higher one".into(),
        ),
        _ if absent && optional && address.is_ipv6() => (
            Level::Warning,
            "this machine has no IPv6; it is left out".into(),
        ),
        _ if absent => (
            Level::Failure,
            format!("not an address of this machine; change {key}"),
        ),
        _ => (Level::Failure, error.to_string()),
    };
    Finding::new(level, key, address, meaning)
}
