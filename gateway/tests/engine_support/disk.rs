//! A disk in memory that fails like a real one: writes that were not synced may be lost, torn or there; a failed sync loses
//! what it could not write although reading goes on showing it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use redb::StorageBackend;

use super::Rng;

/// Bytes that are written as a whole or not at all.
const SECTOR: usize = 512;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Writes and growing fail, nothing of them happens.
    Full,
    /// Writes fail after a part of them.
    ShortWrite,
    /// Syncs fail, and an arbitrary part of what was to be synced never gets to the disk.
    Sync,
    /// Reads fail.
    Read,
    /// Everything fails.
    Dead,
}

/// See the module. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct FaultyDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// What reads show.
    shown: Vec<u8>,
    /// What a loss of power leaves for sure.
    durable: Vec<u8>,
    /// What happened since the last sync, in order.
    unsynced: Vec<Change>,
    /// Operations until the fault begins, and the fault.
    armed: Option<(u64, Fault)>,
    rng: Rng,
    operations: u64,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(*length as usize, 0),
            Self::Write(offset, data) => {
                let end = *offset as usize + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset as usize..end].copy_from_slice(data);
            }
        }
    }

    /// Applies none, all or some sectors of the change.
    fn apply_in_part(&self, bytes: &mut Vec<u8>, rng: &mut Rng) {
        match (rng.below(3), self) {
            (0, _) => {}
            (1, Self::Write(offset, data)) => {
                for (index, sector) in data.chunks(SECTOR).enumerate() {
                    if rng.chance(50) {
                        Self::Write(offset + (index * SECTOR) as u64, sector.to_vec()).apply(bytes);
                    }
                }
            }
            _ => self.apply(bytes),
        }
    }
}

impl FaultyDisk {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            shown: Vec::new(),
            durable: Vec::new(),
            unsynced: Vec::new(),
            armed: None,
            rng: Rng(seed),
            operations: 0,
        })))
    }

    pub fn storage(&self) -> Arc<dyn StorageBackend> {
        Arc::new(self.clone())
    }

    /// Lets `fault` begin after so many operations.
    pub fn arm(&self, operations: u64, fault: Fault) {
        self.state().armed = Some((operations, fault));
    }

    /// Everything works again.
    pub fn heal(&self) {
        self.state().armed = None;
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The power goes and comes back.
    pub fn lose_power(&self) {
        let mut state = self.state();
        let State {
            shown,
            durable,
            unsynced,
            rng,
            armed,
            ..
        } = &mut *state;
        for change in unsynced.drain(..) {
            change.apply_in_part(durable, rng);
        }
        shown.clone_from(durable);
        *armed = None;
    }

    /// Reading shows again what is on the disk or on its way there, and not what a failed sync has lost.
    pub fn forget_lost_pages(&self) {
        let mut state = self.state();
        let mut shown = state.durable.clone();
        for change in &state.unsynced {
            change.apply(&mut shown);
        }
        state.shown = shown;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0
            .lock()
            .expect("no test panics while it holds the disk")
    }
}

impl State {
    /// Counts an operation; true when one of `faults` hits it.
    fn fails(&mut self, faults: &[Fault]) -> bool {
        self.operations += 1;
        match &mut self.armed {
            Some((0, fault)) => *fault == Fault::Dead || faults.contains(fault),
            Some((operations, _)) => {
                *operations -= 1;
                false
            }
            None => false,
        }
    }

    fn full(&self) -> io::Error {
        match self.armed {
            Some((_, Fault::Full)) => io::Error::from_raw_os_error(28),
            _ => io::Error::from_raw_os_error(5),
        }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.shown);
        self.unsynced.push(change);
    }
}

impl StorageBackend for FaultyDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().shown.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.state();
        if state.fails(&[Fault::Read]) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let stored = state
            .shown
            .get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(stored.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        if state.fails(&[Fault::Full]) {
            return Err(state.full());
        }
        state.change(Change::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        let fails = state.fails(&[Fault::Sync]);
        let State {
            durable,
            unsynced,
            rng,
            ..
        } = &mut *state;
        for change in unsynced.drain(..) {
            if fails {
                change.apply_in_part(durable, rng);
            } else {
                change.apply(durable);
            }
        }
        if fails {
            Err(io::Error::from_raw_os_error(5))
        } else {
            Ok(())
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        if state.fails(&[Fault::Full]) {
            return Err(state.full());
        }
        let short = matches!(state.armed, Some((0, Fault::ShortWrite)));
        let written = if short {
            state.rng.below(data.len() as u64) as usize
        } else {
            data.len()
        };
        state.change(Change::Write(offset, data[..written].to_vec()));
        if short {
            Err(io::Error::from_raw_os_error(5))
        } else {
            Ok(())
        }
    }
}
