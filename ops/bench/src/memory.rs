//! What a server's sessions cost: resident memory of its process, slab memory of the kernel, CPU time.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};

/// Resident memory of a process, in bytes (`/proc/PID/smaps_rollup`).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Resident {
    /// All of it, program text included.
    pub(crate) rss: u64,
    /// What the process itself allocated: heap, stacks, anonymous maps.
    pub(crate) anonymous: u64,
}

/// Resident memory of a process now.
pub(crate) fn resident(pid: u32) -> Result<Resident> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| {
        format!("cannot read {path}: the server has ended, or it is another user's")
    })?;
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim_end_matches("kB").trim().parse::<u64>().ok())
            .with_context(|| format!("{path} has no {name}"))
    };
    Ok(Resident {
        rss: kib("Rss:")? * 1024,
        anonymous: kib("Anonymous:")? * 1024,
    })
}

/// CPU time in nanoseconds of all threads of a process that live.
pub(crate) fn cpu_ns(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let threads = threads.into_iter().flatten().flatten();
    threads
        .filter_map(|thread| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        })
        .sum()
}

/// One slab cache of the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cache {
    /// Objects in use.
    pub(crate) objects: u64,
    /// Size of an object in bytes.
    pub(crate) object_bytes: u64,
    /// Its share of a slab's pages in bytes: the object and what no object fits into.
    pub(crate) share_bytes: f64,
}

/// Memory of the kernel, whole machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    /// `/proc/slabinfo` by name; empty without the right to read it.
    pub(crate) caches: BTreeMap<String, Cache>,
    /// `Slab` of `/proc/meminfo` in bytes.
    pub(crate) slab_bytes: u64,
}

/// Memory of the kernel now.
pub(crate) fn kernel() -> Kernel {
    let slabinfo = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    Kernel {
        caches: slabinfo.lines().filter_map(parse_cache).collect(),
        slab_bytes: meminfo("Slab:"),
    }
}

/// A line of `/proc/meminfo` in bytes; 0 when there is none.
pub(crate) fn meminfo(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim_end_matches("kB").trim().parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}

/// `name active total object_bytes objects_per_slab pages_per_slab : …`
fn parse_cache(line: &str) -> Option<(String, Cache)> {
    let mut words = line.split_whitespace();
    let name = words.next().filter(|name| !name.starts_with('#'))?;
    let numbers: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
    let [objects, _, object_bytes, per_slab, pages] = numbers.get(..5)? else {
        return None;
    };
    let cache = Cache {
        objects: *objects,
        object_bytes: *object_bytes,
        share_bytes: (*pages * 4096) as f64 / (*per_slab).max(1) as f64,
    };
    Some((name.to_owned(), cache))
}

/// Growth of one slab cache, and how many of its objects each session of the server is held to own.
#[derive(Clone, Debug)]
pub(crate) struct Growth {
    /// Its name.
    pub(crate) cache: String,
    /// Objects more than before, whole machine.
    pub(crate) objects: i64,
    /// Bytes of an object.
    pub(crate) object_bytes: u64,
    /// The same with what no object of a slab uses.
    pub(crate) share_bytes: f64,
    /// Objects of one session at the server.
    pub(crate) per_session: f64,
}

/// How the growth of the kernel's memory is divided between server and generator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Division {
    /// Sessions that were added.
    pub(crate) sessions: u64,
    /// True exactly when the server is known to use io_uring.
    pub(crate) server_uring: bool,
    /// True exactly when the generator uses io_uring.
    pub(crate) generator_uring: bool,
    /// True exactly when the generator's sockets are on this machine's books too (they are, on the same machine).
    pub(crate) both_here: bool,
    /// True exactly when a session has a socket of its own: over QUIC all sessions of a core share one.
    pub(crate) own_sockets: bool,
}

/// A TCP session is one socket at each end, and a socket has one of each.
const SOCKET: [&str; 4] = ["TCP", "sock_inode_cache", "filp", "dentry"];

/// What a session costs the kernel at the server's side, cache by cache; the largest first.
///
/// Sockets are known, not estimated: one at each end. The measured growth is shown beside, and tells by how much others on
/// the machine opened or closed sockets meanwhile. A ring has at least one request (`io_kiocb`) waiting for each idle
/// connection; what it has more is measured, half of it the generator's when that has rings too. `eventpoll_epi` is shared
/// with the port buckets of outgoing connections: a server on epoll has one per session, one on io_uring has none. General
/// caches (`kmalloc-…`, `skbuff…`) count half when they grew by one object for two sessions or more: less is the noise of the
/// machine.
pub(crate) fn divide(before: &Kernel, after: &Kernel, division: Division) -> Vec<Growth> {
    let sessions = division.sessions.max(1) as f64;
    let sides = if division.both_here { 2.0 } else { 1.0 };
    let objects = |kernel: &Kernel, name: &str| {
        kernel.caches.get(name).map_or(0, |cache| cache.objects) as i64
    };
    let mut list: Vec<Growth> = after
        .caches
        .iter()
        .map(|(name, cache)| {
            let objects = objects(after, name) - objects(before, name);
            let each = objects.max(0) as f64 / sessions;
            let per_session = match name.as_str() {
                "io_kiocb" | "eventpoll_epi" | "eventpoll_pwq" if !division.own_sockets => 0.0,
                name if SOCKET.contains(&name) && !division.own_sockets => 0.0,
                name if SOCKET.contains(&name) => 1.0,
                "io_kiocb" if !division.server_uring => 0.0,
                "io_kiocb" if division.generator_uring => (each / sides).max(1.0),
                "io_kiocb" => each.max(1.0),
                "eventpoll_epi" | "eventpoll_pwq" if division.server_uring => 0.0,
                "eventpoll_epi" | "eventpoll_pwq" => each.min(1.0),
                name if is_general(name) && each >= 0.5 => each / sides,
                _ => 0.0,
            };
            Growth {
                cache: name.clone(),
                objects,
                object_bytes: cache.object_bytes,
                share_bytes: cache.share_bytes,
                per_session,
            }
        })
        .filter(|growth| growth.per_session > 0.0)
        .collect();
    list.sort_by(|a, b| bytes_of(b).total_cmp(&bytes_of(a)));
    list
}

/// Growth of TCP sockets on the whole machine by session: 2 when nobody else opened or closed any, both ends being here.
pub(crate) fn sockets_per_session(before: &Kernel, after: &Kernel, sessions: u32) -> f64 {
    let objects =
        |kernel: &Kernel| kernel.caches.get("TCP").map_or(0, |cache| cache.objects) as f64;
    (objects(after) - objects(before)) / f64::from(sessions.max(1))
}

fn bytes_of(growth: &Growth) -> f64 {
    growth.per_session * growth.share_bytes
}

/// Bytes of the kernel's objects for one session.
pub(crate) fn object_bytes(growth: &[Growth]) -> f64 {
    growth
        .iter()
        .map(|growth| growth.per_session * growth.object_bytes as f64)
        .sum()
}

/// Bytes of the kernel for one session, slack of the slabs included.
pub(crate) fn kernel_bytes(growth: &[Growth]) -> f64 {
    // The sum of nothing is -0, which is written so.
    growth.iter().map(bytes_of).sum::<f64>() + 0.0
}

fn is_general(name: &str) -> bool {
    name.starts_with("kmalloc-") || name.starts_with("skbuff_") || name == "request_sock_TCP"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel_with(caches: &[(&str, u64, f64)]) -> Kernel {
        let cache = |(name, objects, bytes): &(&str, u64, f64)| {
            let cache = Cache {
                objects: *objects,
                object_bytes: 1,
                share_bytes: *bytes,
            };
            ((*name).to_owned(), cache)
        };
        Kernel {
            caches: caches.iter().map(cache).collect(),
            slab_bytes: 0,
        }
    }

    #[test]
    fn a_line_of_slabinfo_is_read() {
        let line = "TCP 118 156 2368 13 8 : tunables 0 0 0 : slabdata 12 12 0";
        let (name, cache) = parse_cache(line).expect("a cache");
        assert_eq!(
            (name.as_str(), cache.objects, cache.object_bytes),
            ("TCP", 118, 2368)
        );
        assert_eq!(cache.share_bytes.round() as u64, 2521);
        assert!(parse_cache("# name <active_objs>").is_none());
        assert!(parse_cache("slabinfo - version: 2.1").is_none());
    }

    #[test]
    fn the_generators_half_is_not_the_servers() {
        let before = kernel_with(&[
            ("TCP", 10, 2500.0),
            ("io_kiocb", 0, 256.0),
            ("dentry", 9000, 195.0),
        ]);
        let after = kernel_with(&[
            ("TCP", 2310, 2500.0),
            ("io_kiocb", 3000, 256.0),
            ("dentry", 9500, 195.0),
        ]);
        let mut division = Division {
            sessions: 1000,
            server_uring: true,
            generator_uring: true,
            both_here: true,
            own_sockets: true,
        };
        assert_eq!(
            kernel_bytes(&divide(&before, &after, division)),
            2500.0 + 1.5 * 256.0 + 195.0
        );
        assert_eq!(sockets_per_session(&before, &after, 1000), 2.3);
        division.server_uring = false;
        assert_eq!(
            kernel_bytes(&divide(&before, &after, division)),
            2500.0 + 195.0
        );
        division.own_sockets = false;
        let without = kernel_bytes(&divide(&before, &after, division));
        assert_eq!(without.to_string(), "0");
    }

    #[test]
    fn noise_of_the_machine_is_left_out() {
        let before = kernel_with(&[("kmalloc-64", 0, 64.0), ("xfs_inode", 0, 1024.0)]);
        let after = kernel_with(&[("kmalloc-64", 400, 64.0), ("xfs_inode", 5000, 1024.0)]);
        let division = Division {
            sessions: 1000,
            server_uring: true,
            generator_uring: true,
            both_here: true,
            own_sockets: true,
        };
        assert_eq!(kernel_bytes(&divide(&before, &after, division)), 0.0);
    }
}
