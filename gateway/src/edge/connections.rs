//! The connections of a core by id: sockets and streams of QUIC in a table each, since each kind has slots of its own, dense from 0.

use reactor::driver::ConnectionId;
use reactor::slab::Table;

use super::Connection;
use crate::quic::split_slot;

/// All connections of a core.
#[derive(Debug, Default)]
pub(super) struct Connections {
    /// Of sockets, and of streams.
    tables: [Table<Connection>; 2],
}

impl Connections {
    /// Adds one; its slot is free.
    pub(super) fn insert(&mut self, id: ConnectionId, connection: Connection) {
        let (table, slot) = split_slot(id.slot);
        self.tables[table].insert(slot, connection);
    }

    /// The connection with this id, if it is not over.
    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let (table, slot) = split_slot(id.slot);
        self.tables[table]
            .get_mut(slot)
            .filter(|connection| connection.link.id == id)
    }

    /// Takes it out.
    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        self.get_mut(id)?;
        let (table, slot) = split_slot(id.slot);
        self.tables[table].remove(slot)
    }

    /// The ids of all.
    pub(super) fn ids(&self) -> impl Iterator<Item = ConnectionId> {
        let all = self.tables.iter().flat_map(Table::iter);
        all.map(|(_, connection)| connection.link.id)
    }
}
