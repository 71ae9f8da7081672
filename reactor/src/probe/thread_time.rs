//! What a thread has had of its CPU.

use std::mem::zeroed;
use std::time::Duration;

/// CPU time of the calling thread, the kernel's work for it included: what it does, however long it was kept waiting. A system call of
/// some 200 ns.
pub fn thread_cpu_time() -> Duration {
    // SAFETY: timespec is plain integers, for which all zeroes is a value.
    let mut time: libc::timespec = unsafe { zeroed() };
    // SAFETY: `time` is ours and outlives the call. It cannot fail: the clock is there in every Linux, and zero is what is said if not.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_cpu_time() {
        let before = thread_cpu_time();
        let mut sum = 0_u64;
        while thread_cpu_time() - before < Duration::from_millis(1) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(sum > 0);
    }
}
