//! Retained messages for new subscriptions of live-only sessions, page by page, as the client takes them.

use edge_proto::packet::RetainHandling;
use reactor::driver::ConnectionId;
use reactor::slab::Key;

use super::Edge;
use crate::core_message::{Deliver, Recipient, ReplyTo, RetainedPage};
use crate::engine::SubscriptionRecord;
use crate::retained_scan::{self, Scan};
use crate::turn::{Turn, is_shared};

impl Edge {
    /// Ends the scans of a subscription that is replaced or removed.
    pub(super) fn end_scans(&mut self, id: ConnectionId, filter: &str) {
        let ended = self
            .scans
            .iter()
            .filter(|(_, scan)| scan.is_for(&id, filter));
        let ended: Vec<Key> = ended.map(|(key, _)| key).collect();
        for key in ended {
            self.scans.remove(key);
            if let Some((_, session)) = self.live(id) {
                session
                    .traffic()
                    .waiting_scans
                    .retain(|waiting| *waiting != key);
            }
        }
    }

    /// Asks for the retained messages that a new subscription of a live-only session gets.
    pub(super) fn start_scan(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        filter: Box<str>,
        record: SubscriptionRecord,
        existed: bool,
    ) {
        let wanted = match record.options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => !existed,
            RetainHandling::DoNotSend => false,
        };
        if !wanted || is_shared(&filter) {
            return; // Shared subscriptions get no retained messages (MQTT 5.0 §4.8.2).
        }
        let owners = turn.owners_of_filter(&filter);
        let key = self.scans.insert(Scan::new(id, filter, record, owners));
        self.ask_scan(turn, key);
    }

    pub(super) fn ask_scan(&self, turn: &mut Turn<'_>, key: Key) {
        let Some(scan) = self.scans.get(key) else {
            return;
        };
        scan.ask(
            turn,
            None,
            ReplyTo {
                core: turn.facts.core,
                home: false,
                request: key,
                index: 0,
            },
        );
    }

    /// A page of retained messages for a live-only session. The next one is asked for when this one has been sent.
    pub fn retained_page(&mut self, turn: &mut Turn<'_>, page: RetainedPage) {
        let key = page.reply.request;
        let Some(scan) = self.scans.get_mut(key) else {
            return;
        };
        let (id, record) = (scan.target, scan.record);
        let more = scan.advance(page.next);
        for message in page.messages {
            let delivery = retained_scan::delivery(&message, record);
            let recipients = vec![Recipient {
                connection: id,
                delivery,
            }];
            self.deliver(
                turn,
                Deliver {
                    message,
                    recipients,
                    answer: None,
                    is_lossy: false,
                },
            );
        }
        let Some((_, session)) = self.live(id).filter(|_| more) else {
            self.scans.remove(key);
            return self.continue_scan(turn, id);
        };
        session.traffic().waiting_scans.push(key);
        self.continue_scan(turn, id);
    }

    /// Asks for the next page once the queue is empty.
    pub(super) fn continue_scan(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let Some((_, session)) = self.live(id) else {
            return;
        };
        let Some(traffic) = session.traffic_if_any() else {
            return;
        };
        if !traffic.queue.is_empty() || traffic.waiting_scans.is_empty() {
            return;
        }
        let key = traffic.waiting_scans.remove(0);
        self.ask_scan(turn, key);
        self.resume(turn, id);
    }
}
