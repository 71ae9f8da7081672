//! Transmits on their way to the kernel, and what it says about them.

use io_uring::opcode;
use io_uring::types::Fixed;

use super::{Datagrams, Held, Key, empty_message};
use crate::socket::RawAddress;
use crate::transmit::{Outgoing, Settled};
use crate::udp::{self, Control};
use crate::uring::UringDriver;
use crate::uring::operation::{Kind, user_data};

/// Transmits of one socket that are started before it is the others' turn.
const SENDS_IN_A_ROW: usize = 64;

/// What a send in flight points to, beside the bytes.
#[derive(Debug)]
pub(super) struct Header {
    message: libc::msghdr,
    part: libc::iovec,
    address: RawAddress,
    control: Control,
}

impl Header {
    fn new() -> Self {
        // SAFETY: iovec is an integer and a pointer, for which all zeroes is a value.
        let part = unsafe { std::mem::zeroed() };
        Self {
            message: empty_message(),
            part,
            address: RawAddress::empty(),
            control: Control::new(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Send {
    pub(super) header: Held<Header>,
    /// What is in flight, and of which socket.
    outgoing: Option<(Key, Outgoing)>,
}

impl Datagrams {
    /// A place for a send, made if there may be one more.
    fn place(&mut self) -> Option<u32> {
        if let Some(index) = self.free.pop() {
            return Some(index);
        }
        if self.sends.len() >= usize::from(self.config.sends_max.max(1)) {
            return None;
        }
        self.sends.push(Send {
            header: Held::new(Header::new()),
            outgoing: None,
        });
        Some(self.sends.len() as u32 - 1)
    }
}

impl UringDriver {
    /// Each socket in turn, until the headers are used up; completions bring them back.
    pub(super) fn start_sends(&mut self) {
        while let Some(key) = self.datagrams.sending.pop_front() {
            for started in 0..SENDS_IN_A_ROW {
                let datagrams = &mut self.datagrams;
                let Some(socket) = datagrams.sockets.get_mut(key) else {
                    break;
                };
                if socket.outbound.is_empty() {
                    socket.listed = false;
                    break;
                }
                let Some(place) = datagrams.place() else {
                    if started == 0 {
                        datagrams.sending.push_front(key);
                    } else {
                        datagrams.sending.push_back(key);
                    }
                    return;
                };
                // Looked up again, since `place` had all of them.
                let Some(socket) = datagrams.sockets.get_mut(key) else {
                    break;
                };
                let outgoing = socket.outbound.pop(&mut datagrams.spare);
                socket.sends += 1;
                datagrams.sends[place as usize].outgoing = outgoing.map(|outgoing| (key, outgoing));
                self.start_send(place);
            }
            if let Some(socket) = self.datagrams.sockets.get(key)
                && socket.listed
            {
                self.datagrams.sending.push_back(key);
            }
        }
    }

    /// Sends the next part of what is at this place, where nothing is in flight.
    fn start_send(&mut self, place: u32) {
        let datagrams = &mut self.datagrams;
        let send = &mut datagrams.sends[place as usize];
        let Some((key, outgoing)) = &mut send.outgoing else {
            return;
        };
        let Some(socket) = datagrams.sockets.get(*key) else {
            return;
        };
        let segment = outgoing.choose(socket.outbound.segmentation);
        let bytes = outgoing.chosen();
        let part = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        let header = send.header.0.as_ptr();
        // SAFETY: the header is a live box that only this function and the kernel use, and the kernel does not: the last send
        // from this place has completed. What `message` points to is in the same box.
        unsafe {
            (*header).part = part;
            (*header).control.fill(&outgoing.transmit, segment);
            let message = &raw mut (*header).message;
            (*message).msg_iov = &raw mut (*header).part;
            (*message).msg_iovlen = 1;
            udp::point_to_control(&mut *message, &(*header).control);
            if socket.outbound.connected {
                (*message).msg_name = std::ptr::null_mut();
                (*message).msg_namelen = 0;
            } else {
                (*header).address = outgoing.transmit.to.into();
                (*message).msg_name = (&raw mut (*header).address.storage).cast();
                (*message).msg_namelen = (*header).address.length;
            }
        }
        let descriptor = Fixed(datagrams.base + key.slot);
        let slot = Key {
            slot: place,
            generation: 0,
        };
        // SAFETY: this computes an address and reads nothing.
        let message = unsafe { &raw const (*header).message };
        let entry = opcode::SendMsg::new(descriptor, message)
            .flags(libc::MSG_NOSIGNAL as u32)
            .build()
            .user_data(user_data(Kind::DatagramSend, slot));
        // SAFETY: neither the header nor the bytes of `outgoing`, which stays at this place, are touched before the send
        // completed; both are released only when nothing is in flight, or leaked.
        unsafe { self.ring.push(&entry) };
    }

    pub(super) fn datagrams_sent(&mut self, place: u32, result: i32) {
        let datagrams = &mut self.datagrams;
        let send = &mut datagrams.sends[place as usize];
        let Some((key, mut outgoing)) = send.outgoing.take() else {
            return;
        };
        let Some(socket) = datagrams.sockets.get_mut(key) else {
            return;
        };
        let outbound = &mut socket.outbound;
        let counters = &mut self.counters.datagrams;
        let result = if result < 0 { Err(-result) } else { Ok(()) };
        let settled = outgoing.settle(result, &mut outbound.segmentation, counters);
        if settled == Settled::Again && !socket.closing {
            send.outgoing = Some((key, outgoing));
            self.start_send(place);
            return;
        }
        if settled == Settled::Again {
            outbound.abandon(outgoing, &mut self.reclaimed, counters);
        } else {
            outbound.finish(outgoing, &mut self.reclaimed, counters);
        }
        socket.sends -= 1;
        datagrams.free.push(place);
        if socket.closing {
            datagrams.mark_dirty(key);
        }
    }
}
