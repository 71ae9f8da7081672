//! Tries a small ring with everything the driver needs, for [`crate::probe`].

use std::io;

use io_uring::{Probe, opcode};

use super::buffer_ring::{BufferRing, GROUP};
use super::operation::{Kind, user_data};
use super::ring::{Ring, Wait};
use crate::driver::DriverConfig;
use crate::probe::{RingFailure, RingStage};
use crate::slab::Key;

const OPERATIONS: [u8; 10] = [
    opcode::PollAdd::CODE,
    opcode::Accept::CODE,
    opcode::Connect::CODE,
    opcode::Recv::CODE,
    opcode::Send::CODE,
    opcode::RecvMsgMulti::CODE,
    opcode::SendMsg::CODE,
    opcode::Shutdown::CODE,
    opcode::Close::CODE,
    opcode::AsyncCancel::CODE,
];

/// Sets up as many rings as there will be cores, each as the driver does, and completes one operation on each. They are
/// held together, since RLIMIT_MEMLOCK counts them together.
pub(crate) fn check(config: &DriverConfig, cores: usize) -> Result<(), RingFailure> {
    let mut held = Vec::new();
    for _ in 0..cores.max(1) {
        held.push(check_one(config)?);
    }
    Ok(())
}

fn check_one(config: &DriverConfig) -> Result<(Ring, BufferRing), RingFailure> {
    let at = |stage| {
        move |error: io::Error| RingFailure {
            stage,
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        }
    };
    let mut ring = Ring::new(config.submission_entries, config.completion_entries)
        .map_err(at(RingStage::Setup))?;
    let submitter = ring.submitter();
    let mut supported = Probe::new();
    submitter
        .register_probe(&mut supported)
        .map_err(at(RingStage::Operations))?;
    if OPERATIONS.iter().any(|code| !supported.is_supported(*code)) {
        return Err(RingFailure {
            stage: RingStage::Operations,
            errno: libc::EOPNOTSUPP,
        });
    }
    submitter
        .register_files_sparse(8)
        .map_err(at(RingStage::Descriptors))?;
    let buffers = BufferRing::new(
        &submitter,
        GROUP,
        config.receive_buffers,
        config.receive_buffer_bytes,
        0,
    )
    .map_err(at(RingStage::Buffers))?;
    let anything = Key {
        slot: 0,
        generation: 0,
    };
    let nop = opcode::Nop::new()
        .build()
        .user_data(user_data(Kind::Cancel, anything));
    // SAFETY: a NOP points to no memory.
    unsafe { ring.push(&nop) };
    ring.enter(Wait::Forever).map_err(at(RingStage::Enter))?;
    let mut completions = Vec::new();
    ring.take(1, &mut completions);
    let result = completions
        .first()
        .map_or(-libc::EIO, |completion| completion.result);
    if result < 0 {
        return Err(RingFailure {
            stage: RingStage::Enter,
            errno: -result,
        });
    }
    Ok((ring, buffers))
}
