"""The seccomp profile: made here, kept as JSON in ops/seccomp, and enforced on real nodes."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import urllib.request

import pyseccomp

from common import NODE, ROOT, Failures, kept, until
from load import crowd, node

PROFILE = ROOT / "ops/seccomp/roadstead.json"

# By what they are for. Found with strace on both drivers, and by reading what the C library and the runtime of Rust do on other machines
# (arm64 has none of the older calls) and when things go wrong.
GROUPS = {
    "Start, threads, memory, signals, the end.": """
        arch_prctl brk clone clone3 execve exit exit_group futex futex_waitv get_robust_list getcwd getegid geteuid getgid getpid getppid gettid
        getuid madvise membarrier mmap mprotect mremap munmap prctl prlimit64 restart_syscall rseq rt_sigaction rt_sigprocmask rt_sigreturn
        rt_sigtimedwait sched_getaffinity sched_setaffinity sched_yield set_robust_list set_tid_address sigaltstack sysinfo tgkill uname wait4""",
    "Time and randomness.": "clock_getres clock_gettime clock_nanosleep getrandom gettimeofday nanosleep",
    "io_uring.": "io_uring_enter io_uring_register io_uring_setup",
    "epoll, and what both drivers wake each other by.": """
        epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd2 pipe2 poll ppoll""",
    "Sockets.": """
        accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg sendto setsockopt shutdown
        socketpair""",
    "Files: the store, the configuration, what is read again.": """
        access close close_range dup dup3 faccessat faccessat2 fadvise64 fallocate fchmod fchmodat fcntl fdatasync flock fstat fstatfs fsync
        ftruncate getdents64 ioctl lseek lstat mkdir mkdirat newfstatat open openat pread64 preadv pwrite64 pwritev read readlink readlinkat readv
        rename renameat renameat2 rmdir stat statfs statx sync_file_range unlink unlinkat write writev""",
    "What a container runtime does between loading the profile and starting the program.": """
        capget capset chdir fchdir fchown getgroups setgid setgroups setuid""",
}
# Kinds of sockets: local, IPv4, IPv6, and what name resolution asks the kernel by.
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}
# None of these is ever needed.
NEVER = "bpf init_module keyctl kexec_load mount open_by_handle_at perf_event_open pivot_root process_vm_writev ptrace setns unshare userfaultfd"
RING = ("io_uring_setup", "io_uring_enter", "io_uring_register")


def profile():
    """The profile as container runtimes read it."""
    calls = [{"names": sorted(names.split()), "action": "SCMP_ACT_ALLOW", "comment": comment} for comment, names in GROUPS.items()]
    for name, number in FAMILIES.items():
        argument = {"index": 0, "value": number, "op": "SCMP_CMP_EQ"}
        calls.append({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [argument], "comment": f"Sockets of {name}."})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []},
        ],
        "syscalls": calls,
    }


def loader(text, others, without=()):
    """A function that loads a profile into the process that calls it, with another action for all that it does not allow."""
    read = json.loads(text)

    def load():
        made = pyseccomp.SyscallFilter(others)
        for call in read["syscalls"]:
            arguments = [pyseccomp.Arg(each["index"], pyseccomp.EQ, each["value"]) for each in call.get("args", [])]
            for name in call["names"]:
                # Those of other machines do not exist here.
                with contextlib.suppress(OSError, ValueError):
                    if name not in without:
                        made.add_rule(pyseccomp.ALLOW, name, *arguments)
        made.load()

    return load


def metrics(ports):
    """What the node tells."""
    with urllib.request.urlopen(f"http://127.0.0.1:{ports['monitoring']}/metrics", timeout=10) as answer:
        return answer.read().decode()


def quic_answers(port):
    """True when somebody speaks QUIC there: a first packet of a version that nobody has is answered with those that there are."""
    first = bytes([0xC0]) + bytes.fromhex("0a0a0a0a") + bytes([8]) + b"chart-id" + bytes([8]) + b"chart-of"
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.sendto(first.ljust(1200, b"\0"), ("127.0.0.1", port))
        answer = client.recv(2048)
    return answer[1:5] == bytes(4) and b"chart-of" in answer


def ctl(ports, load, *words):
    """`roadstead ctl` under the same profile, as by `kubectl exec`."""
    environment = os.environ | {"ROADSTEAD_ADDRESS": f"127.0.0.1:{ports['admin']}"}
    done = subprocess.run([NODE, "ctl", *words], env=environment, preexec_fn=load, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stdout + done.stderr


def enforced(failures, text, backend, others, without=(), wanted=None):
    """A node lives under the profile, twice on one store, and does everything."""
    load = loader(text, others, without)
    name = f"seccomp-{backend}{'-fallback' if without else ''}"
    for start in ("first", "second"):
        with node(name, backend, before=load, again=start == "second") as (child, ports, log):
            status = (open(f"/proc/{child.pid}/status").read())
            failures.check("Seccomp:\t2" in status, f"{name}: no profile is in force")
            with crowd(ports) as clients:
                until(lambda: all(each.received > 50 for each in clients), 60, f"{name}: messages arrive")
                failures.check(quic_answers(ports["tls"]), f"{name}: no answer over QUIC")
                for words in (["status"], ["bans", "add", "user", "eve"], ["reload"], ["sessions", "list"]):
                    code, said = ctl(ports, load, *words)
                    failures.check(code == 0, f"{name}: ctl {' '.join(words)}: {code} {said}")
            scraped = metrics(ports)
            driver = f'roadstead_io_backend_info{{backend="{wanted or backend}"'
            failures.check(driver in scraped, f"{name}: not on {wanted or backend}: {log.read_text()}")
            child.send_signal(signal.SIGTERM)
            failures.check(child.wait(30) == 0, f"{name}: {start} start ended with {child.returncode}: {log.read_text()}")


def commands(failures, text):
    """What runs besides a node in its container, with all other calls fatal."""
    load = loader(text, pyseccomp.KILL_PROCESS)
    for words in (["check"], ["config", "print"], ["config", "example"], ["passwd", "/dev/null/users", "alice"]):
        done = subprocess.run([NODE, *words], preexec_fn=load, input="secret\n", capture_output=True, text=True, timeout=60, check=False)
        failures.check(done.returncode in (0, 1), f"roadstead {' '.join(words)} under the profile: {done.returncode} {done.stdout}{done.stderr}")


def planted(failures, text):
    """The way of looking finds a call that is missing."""
    less = json.loads(text)
    for call in less["syscalls"]:
        call["names"] = [name for name in call["names"] if name != "eventfd2"]
    done = subprocess.run([NODE, "ctl", "status"], preexec_fn=loader(json.dumps(less), pyseccomp.KILL_PROCESS), capture_output=True, timeout=30, check=False)
    failures.check(done.returncode == -signal.SIGSYS, f"a missing call is not found: {done.returncode}")


def main():
    failures = Failures()
    kept(failures, PROFILE, json.dumps(profile(), indent=2) + "\n")
    text = PROFILE.read_text()
    allowed = {name for call in json.loads(text)["syscalls"] for name in call["names"]}
    for name in NEVER.split():
        failures.check(name not in allowed, f"{name} is allowed")
    planted(failures, text)
    commands(failures, text)
    for backend in ("io_uring", "epoll"):
        enforced(failures, text, backend, pyseccomp.KILL_PROCESS)
    # As RuntimeDefault has it: io_uring is refused, and the node says so and goes on.
    enforced(failures, text, "auto", pyseccomp.ERRNO(1), without=RING, wanted="epoll")
    print(f"{len(allowed)} system calls are allowed")
    failures.end("seccomp")


if __name__ == "__main__":
    main()
