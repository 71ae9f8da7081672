//! Which CPUs this process may use, and binding a core's thread to one.

use std::io;
use std::mem::{size_of, zeroed};

/// The CPUs the calling thread may run on, in order.
///
/// # Errors
/// What sched_getaffinity says.
pub fn cpus_allowed() -> io::Result<Vec<usize>> {
    // SAFETY: cpu_set_t is an array of bits, for which all zeroes is a value.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    // SAFETY: `set` has the size that is passed and outlives the call; 0 is the calling thread.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let count = size_of::<libc::cpu_set_t>() * 8;
    // SAFETY: every index is below the number of bits in the set.
    Ok((0..count)
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .collect())
}

/// Binds the calling thread to the `index`-th of the CPUs it may use (counted round), and returns that CPU.
///
/// # Errors
/// What the scheduler says.
pub fn pin_to_cpu(index: usize) -> io::Result<usize> {
    let cpus = cpus_allowed()?;
    let cpu = *cpus
        .get(index % cpus.len().max(1))
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    // SAFETY: cpu_set_t is an array of bits, for which all zeroes is a value.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    // SAFETY: `cpu` came from a set of the same size.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: `set` has the size that is passed and outlives the call; 0 is the calling thread.
    if unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_has_one_cpu() {
        std::thread::spawn(|| {
            let cpu = pin_to_cpu(1).expect("affinity can be set");
            assert_eq!(cpus_allowed().expect("affinity can be read"), [cpu]);
        })
        .join()
        .expect("the thread does not panic");
    }
}
