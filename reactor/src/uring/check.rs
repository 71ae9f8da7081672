//! Tries a small ring with everything the driver needs, for [`crate::probe`].

use std::io;

use io_uring::{Probe, opcode};

use super::buffer_ring::BufferRing;
use super::operation::{Kind, user_data};
use super::ring::{Ring, Wait};
use crate::driver::DriverConfig;
use crate::probe::{RingFailure, RingStage};
use crate::slab::Key;

const OPERATIONS: [(u8, &str); 9] = [
    (opcode::PollAdd::CODE, "POLL_ADD"),
    (opcode::Accept::CODE, "ACCEPT"),
    (opcode::Connect::CODE, "CONNECT"),
    (opcode::Recv::CODE, "RECV"),
    (opcode::Send::CODE, "SEND"),
    (opcode::Shutdown::CODE, "SHUTDOWN"),
    (opcode::Close::CODE, "CLOSE"),
    (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
    (opcode::Nop::CODE, "NOP"),
];

/// Sets a ring up as the driver does, in small, and completes one operation.
pub(crate) fn check(config: &DriverConfig) -> Result<(), RingFailure> {
    let at = |stage| {
        move |error: io::Error| RingFailure {
            stage,
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        }
    };
    let mut ring = Ring::new(config.submission_entries, config.completion_entries)
        .map_err(at(RingStage::Setup))?;
    let mut supported = Probe::new();
    ring.submitter()
        .register_probe(&mut supported)
        .map_err(at(RingStage::Operations))?;
    if OPERATIONS
        .iter()
        .any(|(code, _)| !supported.is_supported(*code))
    {
        return Err(RingFailure {
            stage: RingStage::Operations,
            errno: libc::EOPNOTSUPP,
        });
    }
    ring.submitter()
        .register_files_sparse(8)
        .map_err(at(RingStage::Descriptors))?;
    let buffers = BufferRing::new(&ring.submitter(), config).map_err(at(RingStage::Buffers))?;
    let nop = opcode::Nop::new().build().user_data(user_data(
        Kind::Cancel,
        Key {
            slot: 7,
            generation: 0,
        },
    ));
    // SAFETY: a NOP points to no memory.
    unsafe { ring.push(&nop) };
    ring.enter(Wait::Forever).map_err(at(RingStage::Enter))?;
    let mut completions = Vec::new();
    ring.take(1, &mut completions);
    drop(ring);
    drop(buffers);
    match completions.first() {
        Some(completion) if completion.result == 0 => Ok(()),
        Some(completion) => Err(RingFailure {
            stage: RingStage::Enter,
            errno: -completion.result,
        }),
        None => Err(RingFailure {
            stage: RingStage::Enter,
            errno: libc::EIO,
        }),
    }
}
