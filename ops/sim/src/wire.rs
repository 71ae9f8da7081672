//! A connection between a client and an edge: two byte streams, cut into pieces, slow or broken.

use reactor::driver::{Close, ConnectionId};

/// One TCP connection.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) id: ConnectionId,
    /// Place of its core.
    pub(crate) core: usize,
    pub(crate) client: usize,
    pub(crate) accepted: bool,
    /// On its way to the server.
    pub(crate) to_server: Vec<u8>,
    /// Written by the server, not taken by its kernel yet.
    pub(crate) unsent: Vec<u8>,
    /// On its way to the client.
    pub(crate) to_client: Vec<u8>,
    /// The server does not read.
    pub(crate) paused: bool,
    pub(crate) watched: bool,
    /// How the server closes it, and when it stops waiting for the client.
    pub(crate) closing: Option<(Close, u64)>,
    /// The client has sent FIN.
    pub(crate) finished: bool,
    finish_told: bool,
    /// The connection is broken: what is on its way is lost.
    pub(crate) broken: bool,
    /// The server has heard that it is gone.
    pub(crate) gone: bool,
    /// The client takes nothing until then.
    pub(crate) slow_until_ms: u64,
    /// When the client last wrote something.
    pub(crate) wrote_ms: u64,
    /// Its end was lost, because the client took too long.
    pub(crate) lost: bool,
    /// Its CONNECT was answered with success.
    pub(crate) connected: bool,
    /// Upheavals of the world before that.
    pub(crate) connected_at: u64,
    /// Its node leaves.
    pub(crate) sent_away: bool,
}

/// What the driver says next about a connection.
#[derive(Debug)]
pub(crate) enum Say {
    Accepted,
    Received(Vec<u8>),
    Drained,
    PeerClosed,
    Closed,
}

impl Wire {
    pub(crate) fn new(id: ConnectionId, core: usize, client: usize, now_ms: u64) -> Self {
        Self {
            id,
            core,
            client,
            accepted: false,
            to_server: Vec::new(),
            unsent: Vec::new(),
            to_client: Vec::new(),
            paused: false,
            watched: false,
            closing: None,
            finished: false,
            finish_told: false,
            broken: false,
            gone: false,
            slow_until_ms: 0,
            wrote_ms: now_ms,
            lost: false,
            connected: false,
            connected_at: 0,
            sent_away: false,
        }
    }

    /// The next event of this connection, if there is one. `piece` cuts what is read.
    pub(crate) fn next(&mut self, now_ms: u64, piece: impl FnOnce(usize) -> usize) -> Option<Say> {
        if self.gone {
            return None;
        }
        if !self.accepted {
            self.accepted = true;
            return Some(Say::Accepted);
        }
        if let Some((how, until_ms)) = self.closing {
            let abort = how == Close::Abort || now_ms >= until_ms;
            if abort || self.broken || self.unsent.is_empty() {
                self.gone = true;
                self.lost = !self.unsent.is_empty();
                self.to_server.clear();
                self.unsent.clear();
                return Some(Say::Closed);
            }
            return None;
        }
        if !self.to_server.is_empty() && (!self.paused || self.broken && self.to_server.len() < 4) {
            let length = piece(self.to_server.len()).clamp(1, self.to_server.len());
            return Some(Say::Received(self.to_server.drain(..length).collect()));
        }
        if self.broken {
            self.gone = true;
            self.to_server.clear();
            self.unsent.clear();
            return Some(Say::Closed);
        }
        if self.watched && self.unsent.is_empty() {
            self.watched = false;
            return Some(Say::Drained);
        }
        if self.finished && !self.finish_told && self.to_server.is_empty() {
            self.finish_told = true;
            return Some(Say::PeerClosed);
        }
        None
    }

    /// The kernel of the server takes bytes, the client's window permitting.
    pub(crate) fn carry(&mut self, now_ms: u64, piece: impl FnOnce(usize) -> usize) {
        const WINDOW: usize = 4096;
        if self.broken {
            self.unsent.clear();
            return;
        }
        if now_ms < self.slow_until_ms && self.to_client.len() >= WINDOW.min(256) {
            return;
        }
        let room = WINDOW.saturating_sub(self.to_client.len());
        let length = piece(self.unsent.len()).min(self.unsent.len()).min(room);
        self.to_client.extend(self.unsent.drain(..length));
    }

    /// True when the client sees the end of the stream behind what is still on its way.
    pub(crate) fn ended(&self) -> bool {
        self.gone && self.to_client.is_empty()
    }

    /// True when nothing more will happen to it.
    pub(crate) fn is_quiet(&self) -> bool {
        self.gone
            || (self.to_server.is_empty()
                && self.unsent.is_empty()
                && !self.broken
                && self.closing.is_none())
    }
}
