//! What a turn produced, to whoever carries the connection: the driver, TLS or QUIC. And new certificates to those who use them.

use std::sync::Arc;

use reactor::driver::Driver;

use super::{EventLoop, Quic, Secured};
use crate::outbox::Order;
use crate::quic::is_stream;
use crate::tls::Acceptor;
use crate::turn::Now;

/// New connections get these; open ones stay as they are.
pub(super) fn reload(
    secured: &mut Option<Secured>,
    quic: &mut Option<Quic>,
    acceptors: &[Arc<Acceptor>],
) {
    if let Some(secured) = secured {
        secured.reload(acceptors);
    }
    if let (Some(quic), Some(acceptor)) = (quic, acceptors.get(Quic::ACCEPTOR)) {
        quic.reload(acceptor);
    }
}

impl<D: Driver> EventLoop<D> {
    /// Sends what was written.
    pub(super) fn send_outputs(&mut self) {
        let mut emptied = Vec::new();
        if let Some(quic) = &mut self.quic {
            let streams = self.outbox.streams.drain(..);
            emptied.extend(streams.filter_map(|(id, what)| quic.for_stream(id, what)));
        }
        for output in self.outbox.outputs.drain(..) {
            let id = output.connection;
            match (&mut self.secured, &mut self.quic) {
                (_, Some(quic)) if is_stream(id) => {
                    quic.send(id, &output.bytes);
                    emptied.push(output.bytes);
                }
                (Some(secured), _) if secured.has(id) => {
                    emptied.push(secured.send(&mut self.driver, id, output.bytes));
                }
                _ => self.driver.send(id, output.bytes),
            }
        }
        for buffer in emptied {
            self.outbox.recycle(buffer);
        }
    }

    /// Carries out the orders of the shard.
    pub(super) fn carry_out_orders(&mut self, now: Now) {
        for order in self.outbox.orders.drain(..) {
            if let (Some(quic), true) = (&mut self.quic, is_stream(order.connection())) {
                quic.order(now, order);
            }
            match order {
                Order::Close(connection, how) if !is_stream(connection) => {
                    if let Some(secured) = &mut self.secured {
                        secured.close(&mut self.driver, connection);
                    }
                    self.driver.close(connection, how);
                }
                Order::Pause(connection) if !is_stream(connection) => self.driver.pause(connection),
                Order::Resume(connection) if !is_stream(connection) => {
                    self.driver.resume(connection);
                }
                Order::Watch(connection) => self.watched.push(connection),
                Order::Close(..) | Order::Pause(_) | Order::Resume(_) => {}
            }
        }
    }
}
