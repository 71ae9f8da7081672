//! Which backend to run, with the reason in words.

use super::{KernelVersion, Probe, RingFailure, RingStage};
use crate::driver::Backend;

/// What the operator asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preference {
    /// io_uring where it works, else epoll.
    Auto,
    /// io_uring or nothing.
    IoUring,
    /// epoll.
    Epoll,
}

/// The backend to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Which one.
    pub backend: Backend,
    /// Why: a sentence for the log.
    pub reason: String,
    /// What to do for io_uring, when it would be preferred.
    pub remedy: Option<String>,
}

/// No backend can be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The machine's kernel has to be newer.
    #[error(
        "the kernel is {found}, and the oldest that Roadstead runs on is {}",
        KernelVersion::EPOLL_MIN
    )]
    KernelTooOld {
        /// The running kernel.
        found: KernelVersion,
    },
    /// io_uring was asked for and cannot be had.
    #[error(
        "io_uring was asked for, but {reason}; {remedy}, or choose the backend `auto` or `epoll`"
    )]
    RingUnavailable {
        /// Why.
        reason: String,
        /// What to do.
        remedy: String,
    },
}

/// Chooses a backend.
///
/// # Errors
/// When the kernel is too old for any, or io_uring was asked for and cannot be had.
pub fn choose(preference: Preference, probe: &Probe) -> Result<Choice, ProbeError> {
    if probe.kernel < KernelVersion::EPOLL_MIN {
        return Err(ProbeError::KernelTooOld {
            found: probe.kernel,
        });
    }
    if preference == Preference::Epoll {
        let reason = "epoll was asked for".to_owned();
        return Ok(Choice {
            backend: Backend::Epoll,
            reason,
            remedy: None,
        });
    }
    match why_not(probe) {
        None => {
            let reason = format!("io_uring works (kernel {})", probe.kernel);
            Ok(Choice {
                backend: Backend::IoUring,
                reason,
                remedy: None,
            })
        }
        Some((reason, remedy)) if preference == Preference::IoUring => {
            Err(ProbeError::RingUnavailable { reason, remedy })
        }
        Some((reason, remedy)) => Ok(Choice {
            backend: Backend::Epoll,
            reason,
            remedy: Some(remedy),
        }),
    }
}

/// Cause and remedy, when io_uring cannot be used.
fn why_not(probe: &Probe) -> Option<(String, String)> {
    if probe.kernel < KernelVersion::IO_URING_MIN {
        let reason = format!(
            "the kernel is {}, and io_uring is used from {}",
            probe.kernel,
            KernelVersion::IO_URING_MIN
        );
        return Some((reason, "run a newer kernel".to_owned()));
    }
    let failure = probe.ring.err()?;
    let disabled = probe.sysctls.io_uring_disabled.unwrap_or(0);
    let (reason, remedy) = match failure.errno {
        libc::EPERM if disabled > 0 => (
            format!("io_uring is not permitted (EPERM): the sysctl kernel.io_uring_disabled is {disabled}"),
            "set kernel.io_uring_disabled=0 on the machine".to_owned(),
        ),
        libc::EPERM => (
            "io_uring is not permitted (EPERM): most likely the container's seccomp profile denies it".to_owned(),
            "use a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register".to_owned(),
        ),
        libc::ENOSYS => (
            "io_uring does not exist here (ENOSYS): a seccomp profile hides it, or the kernel is built without it".to_owned(),
            "use a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register, or a kernel with \
             CONFIG_IO_URING"
                .to_owned(),
        ),
        libc::EACCES => (
            "io_uring is denied (EACCES): a security module such as SELinux or AppArmor forbids it".to_owned(),
            "allow io_uring to this process in the policy of the security module".to_owned(),
        ),
        libc::EINVAL | libc::EOPNOTSUPP => (
            format!("the kernel {} lacks a part of io_uring that is needed ({})", probe.release, step(failure)),
            "run a newer kernel; 6.12 or later is best".to_owned(),
        ),
        libc::ENOMEM => (
            format!(
                "the memory of the ring was refused (ENOMEM): RLIMIT_MEMLOCK is {} bytes ({})",
                probe.locked_memory.soft,
                step(failure)
            ),
            "raise RLIMIT_MEMLOCK (`ulimit -l`, LimitMEMLOCK=), give CAP_IPC_LOCK, or make the rings smaller".to_owned(),
        ),
        errno => (
            format!("io_uring failed with {} ({})", std::io::Error::from_raw_os_error(errno), step(failure)),
            "report this, with the release of the kernel".to_owned(),
        ),
    };
    Some((reason, remedy))
}

const fn step(failure: RingFailure) -> &'static str {
    match failure.stage {
        RingStage::Setup => "io_uring_setup",
        RingStage::Operations => "operations",
        RingStage::Descriptors => "direct descriptors",
        RingStage::Buffers => "provided buffers",
        RingStage::Enter => "io_uring_enter",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;
    use crate::driver::DriverConfig;
    use crate::probe::{Limit, Sysctls, probe as probe_here};

    fn probe(ring: Result<(), RingFailure>) -> Probe {
        Probe {
            kernel: KernelVersion {
                major: 6,
                minor: 12,
            },
            release: "6.12.1".to_owned(),
            ring,
            open_files: Limit {
                soft: 1024,
                hard: 524_288,
            },
            locked_memory: Limit {
                soft: 65_536,
                hard: 65_536,
            },
            sysctls: Sysctls::default(),
            cpus: vec![0],
            page_bytes: 4096,
        }
    }

    #[test]
    fn each_error_has_its_cause_and_its_remedy() {
        let cases = [
            (libc::EPERM, "seccomp", "io_uring_setup"),
            (libc::ENOSYS, "ENOSYS", "CONFIG_IO_URING"),
            (libc::EACCES, "SELinux", "policy"),
            (libc::EINVAL, "6.12.1 lacks", "newer kernel"),
            (libc::ENOMEM, "65536", "RLIMIT_MEMLOCK"),
            (libc::EIO, "failed with", "report"),
        ];
        for (errno, cause, remedy) in cases {
            let probe = probe(Err(RingFailure {
                stage: RingStage::Setup,
                errno,
            }));
            let choice = choose(Preference::Auto, &probe).expect("epoll works");
            assert_eq!(choice.backend, Backend::Epoll);
            assert!(choice.reason.contains(cause), "{}", choice.reason);
            assert!(choice.remedy.is_some_and(|text| text.contains(remedy)));
            let error = choose(Preference::IoUring, &probe).expect_err("io_uring was asked for");
            assert!(error.to_string().contains(cause));
        }
    }

    #[test]
    fn a_sysctl_is_blamed_before_seccomp() {
        let mut probe = probe(Err(RingFailure {
            stage: RingStage::Setup,
            errno: libc::EPERM,
        }));
        probe.sysctls.io_uring_disabled = Some(2);
        let choice = choose(Preference::Auto, &probe).expect("epoll works");
        assert!(choice.reason.contains("kernel.io_uring_disabled is 2"));
    }

    #[test]
    fn kernels_have_to_be_new_enough() {
        let mut probe = probe(Ok(()));
        assert_eq!(
            choose(Preference::Auto, &probe).map(|choice| choice.backend),
            Ok(Backend::IoUring)
        );
        assert_eq!(
            choose(Preference::Epoll, &probe).map(|choice| choice.backend),
            Ok(Backend::Epoll)
        );
        probe.kernel = KernelVersion {
            major: 5,
            minor: 15,
        };
        assert_eq!(
            choose(Preference::Auto, &probe).map(|choice| choice.backend),
            Ok(Backend::Epoll)
        );
        assert!(choose(Preference::IoUring, &probe).is_err());
        probe.kernel = KernelVersion { major: 5, minor: 4 };
        assert_eq!(
            choose(Preference::Epoll, &probe),
            Err(ProbeError::KernelTooOld {
                found: probe.kernel
            })
        );
    }

    #[test]
    fn limits_are_told_in_sessions() {
        let mut probe = probe(Ok(()));
        probe.open_files.soft = 100_512;
        probe.sysctls.file_max = Some(1_000_512);
        assert_eq!(probe.sessions_per_core(Backend::IoUring, 4), 100_000);
        assert_eq!(probe.sessions_per_core(Backend::Epoll, 4), 25_000);
        let limits = probe.session_limits(Backend::IoUring, 16);
        assert!(limits[0].limit.contains("fs.file-max") && limits[0].sessions_per_core == 62_500);
    }

    const CHILD: &str = "REACTOR_TEST_SECCOMP_CHILD";

    /// Makes io_uring_setup return EPERM in this process, as Docker's profile does.
    fn deny_io_uring_setup() -> std::io::Result<()> {
        let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
        let jump = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        let give = (libc::BPF_RET | libc::BPF_K) as u16;
        let call = libc::SYS_io_uring_setup as u32;
        let mut filter = [
            libc::sock_filter {
                code: load,
                jt: 0,
                jf: 0,
                k: 0,
            },
            libc::sock_filter {
                code: jump,
                jt: 0,
                jf: 1,
                k: call,
            },
            libc::sock_filter {
                code: give,
                jt: 0,
                jf: 0,
                k: libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
            },
            libc::sock_filter {
                code: give,
                jt: 0,
                jf: 0,
                k: libc::SECCOMP_RET_ALLOW,
            },
        ];
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_mut_ptr(),
        };
        // SAFETY: prctl copies the program, which outlives the call; the filter only denies one call that is not in use.
        let denied = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(
                    libc::PR_SET_SECCOMP,
                    libc::SECCOMP_MODE_FILTER,
                    &raw const program,
                    0,
                    0,
                ) == 0
        };
        if denied {
            Ok(())
        } else {
            Err(std::io::Error::last_os_error())
        }
    }

    #[test]
    fn under_a_seccomp_filter_epoll_is_chosen_and_seccomp_named() {
        if std::env::var_os(CHILD).is_some() {
            let choice =
                choose(Preference::Auto, &probe_here(&DriverConfig::small())).expect("epoll works");
            assert_eq!(choice.backend, Backend::Epoll);
            assert!(choice.reason.contains("EPERM"), "{}", choice.reason);
            return;
        }
        let mut child = Command::new(std::env::current_exe().expect("the test's own path"));
        let name = "probe::choice::tests::under_a_seccomp_filter_epoll_is_chosen_and_seccomp_named";
        child.args(["--exact", name]).env(CHILD, "1");
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and allocates nothing.
        unsafe { child.pre_exec(deny_io_uring_setup) };
        let output = child.output().expect("the child runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
}
