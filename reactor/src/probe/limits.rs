//! Limits of the process and the kernel, and what they mean in sessions.

use std::io;

use super::Probe;
use crate::driver::Backend;

/// Descriptors that are not sessions: listeners, rings, files, the control thread.
const DESCRIPTORS_RESERVED: u64 = 512;
/// The kernel's limit of direct descriptors per ring.
const DIRECT_DESCRIPTORS_MAX: u64 = 1 << 20;

/// A resource limit of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What holds now. `u64::MAX` = unlimited.
    pub soft: u64,
    /// What the process may raise it to.
    pub hard: u64,
}

/// Settings of the kernel that bound sessions. `None` where they cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sysctls {
    /// net.core.somaxconn: longest accept queue.
    pub somaxconn: Option<u64>,
    /// net.ipv4.ip_local_port_range: ports for outgoing connections, first and last.
    pub local_port_range: Option<(u16, u16)>,
    /// fs.file-max: open files of the whole machine.
    pub file_max: Option<u64>,
    /// fs.nr_open: highest RLIMIT_NOFILE.
    pub nr_open: Option<u64>,
    /// kernel.io_uring_disabled: 0 = allowed, 1 = only with CAP_SYS_ADMIN or in a group, 2 = for nobody.
    pub io_uring_disabled: Option<u64>,
    /// net.ipv4.tcp_mem: pages of all TCP buffers at which the kernel is at ease, saves, and refuses.
    pub tcp_mem_pages: Option<[u64; 3]>,
}

impl Sysctls {
    pub(super) fn read() -> Self {
        let port_range = numbers("net/ipv4/ip_local_port_range");
        let tcp_mem = numbers("net/ipv4/tcp_mem");
        Self {
            somaxconn: number("net/core/somaxconn"),
            local_port_range: match port_range.as_slice() {
                [first, last] => u16::try_from(*first).ok().zip(u16::try_from(*last).ok()),
                _ => None,
            },
            file_max: number("fs/file-max"),
            nr_open: number("fs/nr_open"),
            io_uring_disabled: number("kernel/io_uring_disabled"),
            tcp_mem_pages: tcp_mem.try_into().ok(),
        }
    }
}

/// How many sessions one limit admits, and how to raise it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionLimit {
    /// The limit and its value.
    pub limit: String,
    /// Sessions that each core can hold under it.
    pub sessions_per_core: u64,
    /// How to raise it.
    pub remedy: String,
}

impl Probe {
    /// What each limit means in sessions for `cores` cores on a backend; the tightest first.
    #[must_use]
    pub fn session_limits(&self, backend: Backend, cores: usize) -> Vec<SessionLimit> {
        let cores = cores.max(1) as u64;
        let mut limits = Vec::new();
        let files = self.open_files.soft;
        let per_core = if backend == Backend::IoUring {
            // The limit holds for each ring's own table.
            files
                .min(DIRECT_DESCRIPTORS_MAX)
                .saturating_sub(DESCRIPTORS_RESERVED)
        } else {
            files.saturating_sub(DESCRIPTORS_RESERVED) / cores
        };
        limits.push(SessionLimit {
            limit: format!("RLIMIT_NOFILE = {files}"),
            sessions_per_core: per_core,
            remedy: format!(
                "raise it with `ulimit -n`, LimitNOFILE= of the unit or the runtime's default ulimits (hard limit now {}, fs.nr_open {})",
                self.open_files.hard,
                self.sysctls.nr_open.map_or_else(|| "unknown".to_owned(), |value| value.to_string()),
            ),
        });
        if backend == Backend::IoUring && files > DIRECT_DESCRIPTORS_MAX {
            limits.push(SessionLimit {
                limit: format!("direct descriptors per ring = {DIRECT_DESCRIPTORS_MAX}"),
                sessions_per_core: DIRECT_DESCRIPTORS_MAX - DESCRIPTORS_RESERVED,
                remedy: "use more cores".to_owned(),
            });
        }
        if let Some(file_max) = self.sysctls.file_max {
            limits.push(SessionLimit {
                limit: format!("fs.file-max = {file_max}"),
                sessions_per_core: file_max.saturating_sub(DESCRIPTORS_RESERVED) / cores,
                remedy: "raise the sysctl fs.file-max on the machine".to_owned(),
            });
        }
        if let Some([_, _, high]) = self.sysctls.tcp_mem_pages {
            limits.push(SessionLimit {
                limit: format!("net.ipv4.tcp_mem = {high} pages of {} bytes, one per session with bytes under way", self.page_bytes),
                sessions_per_core: high / cores,
                remedy: "raise the sysctl net.ipv4.tcp_mem on the machine".to_owned(),
            });
        }
        limits.sort_by_key(|limit| limit.sessions_per_core);
        limits
    }

    /// Sessions that each core can hold under the tightest limit.
    #[must_use]
    pub fn sessions_per_core(&self, backend: Backend, cores: usize) -> u64 {
        self.session_limits(backend, cores)
            .first()
            .map_or(0, |limit| limit.sessions_per_core)
    }
}

/// RLIMIT_NOFILE of this process.
#[must_use]
pub fn open_files_limit() -> Limit {
    limit(libc::RLIMIT_NOFILE)
}

pub(super) fn locked_memory_limit() -> Limit {
    limit(libc::RLIMIT_MEMLOCK)
}

/// Raises RLIMIT_NOFILE to its hard limit and returns what holds then.
///
/// # Errors
/// What setrlimit says.
pub fn raise_nofile_limit() -> io::Result<Limit> {
    let now = open_files_limit();
    let raised = libc::rlimit {
        rlim_cur: now.hard,
        rlim_max: now.hard,
    };
    // SAFETY: `raised` is an rlimit and outlives the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(open_files_limit())
}

fn limit(resource: libc::__rlimit_resource_t) -> Limit {
    let mut value = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `value` is an rlimit and outlives the call. It fails only for a resource that does not exist.
    unsafe { libc::getrlimit(resource, &raw mut value) };
    Limit {
        soft: value.rlim_cur,
        hard: value.rlim_max,
    }
}

fn numbers(name: &str) -> Vec<u64> {
    let text = std::fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default();
    text.split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect()
}

fn number(name: &str) -> Option<u64> {
    numbers(name).first().copied()
}
