//! What this machine can run, why not, and what its limits mean in sessions.
//!
//! io_uring is refused in many places for many reasons: a container's seccomp profile (EPERM with Docker and containerd,
//! ENOSYS with Podman), a sysctl, a security module, an old kernel, RLIMIT_MEMLOCK. The probe therefore tries it, with the
//! flags and sizes of the driver, and puts the error into words.

mod affinity;
mod choice;
mod limits;
mod thread_time;

use std::fmt;

pub use affinity::{cpus_allowed, pin_to_cpu};
pub use choice::{Choice, Preference, ProbeError, choose};
pub use limits::{Limit, SessionLimit, Sysctls, open_files_limit, raise_nofile_limit};
pub use thread_time::thread_cpu_time;

use crate::driver::DriverConfig;

/// A kernel version, without what distributions append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// 6 of 6.12.
    pub major: u32,
    /// 12 of 6.12.
    pub minor: u32,
}

impl KernelVersion {
    /// The oldest kernel for the io_uring driver (IORING_SETUP_DEFER_TASKRUN).
    pub const IO_URING_MIN: Self = Self { major: 6, minor: 1 };
    /// The oldest kernel for the epoll driver: the oldest that is tested.
    pub const EPOLL_MIN: Self = Self {
        major: 5,
        minor: 10,
    };

    /// Reads the release of uname(2), such as `6.12.8-fc-v595`.
    #[must_use]
    pub fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|character: char| !character.is_ascii_digit());
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        Some(Self { major, minor })
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

/// At which step a ring could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingStage {
    /// io_uring_setup.
    Setup,
    /// An operation the driver needs is missing.
    Operations,
    /// The table of direct descriptors.
    Descriptors,
    /// The provided-buffer ring.
    Buffers,
    /// io_uring_enter, or a NOP.
    Enter,
}

/// Why a ring could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingFailure {
    /// Where it failed.
    pub stage: RingStage,
    /// With which error number.
    pub errno: i32,
}

/// What [`probe`] found.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Version of the running kernel.
    pub kernel: KernelVersion,
    /// Its full release, as uname says it.
    pub release: String,
    /// Whether a ring with the driver's flags and sizes works.
    pub ring: Result<(), RingFailure>,
    /// RLIMIT_NOFILE.
    pub open_files: Limit,
    /// RLIMIT_MEMLOCK in bytes.
    pub locked_memory: Limit,
    /// Settings of the kernel that bound sessions.
    pub sysctls: Sysctls,
    /// The CPUs this process may run on.
    pub cpus: Vec<usize>,
    /// Size of a memory page.
    pub page_bytes: u64,
}

/// Looks at this machine, and tries a ring of the sizes in `config`.
#[must_use]
pub fn probe(config: &DriverConfig) -> Probe {
    probe_for_cores(config, 1)
}

/// As [`probe`], with one ring for each of `cores` cores held at once: RLIMIT_MEMLOCK may have room for one and not for all.
#[must_use]
pub fn probe_for_cores(config: &DriverConfig, cores: usize) -> Probe {
    let release = release();
    // SAFETY: sysconf takes an integer and no memory.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Probe {
        kernel: KernelVersion::parse(&release).unwrap_or(KernelVersion { major: 0, minor: 0 }),
        release,
        ring: crate::uring::check(config, cores),
        open_files: open_files_limit(),
        locked_memory: limits::locked_memory_limit(),
        sysctls: Sysctls::read(),
        cpus: cpus_allowed().unwrap_or_default(),
        page_bytes: u64::try_from(page_bytes).unwrap_or(4096),
    }
}

fn release() -> String {
    // SAFETY: utsname is arrays of characters, for which all zeroes is a value.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: `name` is a utsname and outlives the call.
    if unsafe { libc::uname(&raw mut name) } != 0 {
        return String::new();
    }
    name.release
        .iter()
        .map(|character| *character as u8)
        .take_while(|byte| *byte != 0)
        .map(char::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_read() {
        let version = |major, minor| Some(KernelVersion { major, minor });
        assert_eq!(KernelVersion::parse("6.18.44-fc-v595"), version(6, 18));
        assert_eq!(KernelVersion::parse("5.10.0"), version(5, 10));
        assert_eq!(KernelVersion::parse("6.1-rc3"), version(6, 1));
        assert_eq!(KernelVersion::parse("linux"), None);
        assert!(KernelVersion { major: 6, minor: 0 } < KernelVersion::IO_URING_MIN);
    }

    #[test]
    fn this_machine_can_be_probed() {
        let probe = probe(&DriverConfig::small());
        assert!(probe.kernel >= KernelVersion::EPOLL_MIN);
        assert!(!probe.cpus.is_empty() && probe.open_files.soft > 0 && probe.page_bytes >= 4096);
        assert!(probe.sysctls.somaxconn.is_some());
    }
}
