//! Who handles what: messages of cores, answers of the engine, timers.

use super::{Shard, TokenRole, role_of};
use crate::core_message::{CoreMessage, Origin};
use crate::edge::Edge;
use crate::engine::Completion;
use crate::handover::Speaker;
use crate::home::Home;
use crate::owner::Owner;
use crate::turn::{Timer, Turn};

/// Hands an answer of the engine to the role that waits for it.
pub(super) fn completed(
    owner: &mut Owner,
    home: &mut Home,
    turn: &mut Turn<'_>,
    completion: Completion,
) {
    let token = match &completion {
        Completion::Done { token }
        | Completion::Published { token, .. }
        | Completion::MailboxPage { token, .. }
        | Completion::SessionDeleted { token, .. }
        | Completion::Subscriptions { token, .. }
        | Completion::Received { token, .. }
        | Completion::Loaded { token, .. }
        | Completion::Claimed { token, .. }
        | Completion::Deposed { token }
        | Completion::Moved { token, .. } => *token,
        Completion::Appended { session, .. } | Completion::Rejected { session }
            if session.is_group_queue() =>
        {
            return owner.queue_answered(turn, completion);
        }
        Completion::Appended { .. } | Completion::Rejected { .. } => {
            return home.appended(turn, completion);
        }
    };
    match role_of(token) {
        (TokenRole::Nobody | TokenRole::Claim, _) => {}
        (TokenRole::Owner, id) => match completion {
            Completion::Published { rejected, .. } => owner.answered(turn, id, rejected > 0),
            Completion::Deposed { .. } => owner.deposed(turn, id),
            completion => owner.completed(turn, id, completion),
        },
        (TokenRole::Home, request) => home.completed(turn, request, completion),
    }
}

/// Fires the timers that are due.
pub(super) fn fire(edge: &mut Edge, owner: &mut Owner, home: &mut Home, turn: &mut Turn<'_>) {
    let mut due = Vec::new();
    turn.timers
        .expire(turn.now.mono_ms, Shard::TIMERS_PER_TICK, |timer| {
            due.push(timer);
        });
    for timer in due {
        match timer {
            Timer::Connect(connection) => edge.connect_timeout(turn, connection),
            Timer::KeepAlive(connection) => edge.keep_alive(turn, connection),
            Timer::Login(connection) => edge.login_over(turn, connection),
            Timer::Throttled(connection) => edge.throttle_over(turn, connection),
            Timer::Session(key) => home.timer(turn, key),
            Timer::Group(key) => owner.retry(turn, key),
        }
    }
}

/// Hands a message to the role it is for.
#[expect(clippy::too_many_lines, reason = "one arm for each message")]
pub(super) fn dispatch(
    (edge, owner, home): (&mut Edge, &mut Owner, &mut Home),
    turn: &mut Turn<'_>,
    from: Speaker,
    message: CoreMessage,
) {
    match message {
        // The event loop takes the one, the hand-over the other.
        CoreMessage::Stray(_) | CoreMessage::Handover(_) => {}
        CoreMessage::FindSubscriptions { core, names } => {
            home.find_subscriptions(turn, core, &names);
        }
        CoreMessage::SubscriptionsEnded(names) => owner.subscriptions_ended(turn, &names),
        CoreMessage::Publish(request) => owner.publish(turn, *request),
        // A second answer to what was sent twice.
        CoreMessage::PublishDone { id, origin, .. }
            if !id.is_none() && !turn.unanswered.answered(id, origin) => {}
        CoreMessage::PublishDone {
            origin: Origin::Admin { request, .. },
            reason,
            recipients,
            ..
        } => {
            let published = crate::admin::published(reason, recipients);
            turn.outbox.admin.push((request, published));
        }
        CoreMessage::PublishDone { origin, reason, .. } => edge.publish_done(turn, origin, reason),
        CoreMessage::Deliver(deliver) => edge.deliver(turn, *deliver),
        CoreMessage::DeliverDone { publish } => owner.delivered(turn, publish, from.core),
        CoreMessage::Append(request) => home.append(turn, *request),
        CoreMessage::AppendDone { publish, rejected } => {
            owner.stored(turn, publish, from.core, rejected);
        }
        CoreMessage::DeliverHome(deliver) => home.deliver_live(turn, *deliver),
        CoreMessage::Subscribe(request) => owner.subscribe(turn, *request),
        CoreMessage::Unsubscribe(request) => owner.unsubscribe(turn, &request),
        CoreMessage::LimitSubscription(limit) => owner.limit_subscription(turn, &limit),
        CoreMessage::FindSubscription(find) => owner.find_subscription(turn, &find),
        CoreMessage::SubscriptionDone { reply, existed } if reply.home => {
            home.operation_step(turn, reply.request, Some(existed));
        }
        CoreMessage::SubscriptionDone { reply, existed } => {
            edge.subscription_done(turn, reply, existed);
        }
        CoreMessage::SharedPresence(member) => owner.set_presence(turn, &member),
        CoreMessage::Hand(hand) => edge.hand(turn, *hand),
        CoreMessage::HandHome { session, hand } => home.hand(turn, session, hand),
        CoreMessage::HandDone { transfer, taken } => owner.handed(turn, transfer, taken),
        CoreMessage::RetainedScan(scan) => owner.scan_retained(turn, *scan),
        CoreMessage::RetainedPage(page) if page.reply.home => home.retained_page(turn, *page),
        CoreMessage::RetainedPage(page) => edge.retained_page(turn, *page),
        CoreMessage::Attach(attach) => home.attach(turn, *attach),
        CoreMessage::Attached(attached) => edge.attached(turn, from, *attached),
        CoreMessage::Evict {
            home,
            connection,
            reason,
        } => edge.evict(turn, from, (connection, home), reason),
        CoreMessage::Detach(detach) => home.detached(turn, *detach),
        CoreMessage::DetachDone { connection, known } => edge.detach_done(connection, known),
        CoreMessage::Identify(identify) => home.identify(turn, *identify),
        CoreMessage::SubscriptionCut { connection } => edge.subscription_cut(connection),
        CoreMessage::HomeSubscribe(request) => home.subscribe(turn, *request),
        CoreMessage::HomeUnsubscribe {
            home: session,
            reply,
            filter,
        } => home.unsubscribe(turn, session, Some(reply), filter),
        CoreMessage::MailboxPush(push) => edge.mailbox_push(turn, from, *push),
        CoreMessage::MailboxAck {
            home: session,
            sequence,
            bytes,
            outcome,
        } => {
            home.mailbox_ack(turn, session, sequence, bytes, outcome);
        }
        CoreMessage::MailboxPubRec {
            home: session,
            sequence,
        } => home.mailbox_pubrec(turn, session, sequence),
        CoreMessage::PubRecRecorded {
            connection,
            sequence,
        } => edge.pubrec_recorded(turn, connection, sequence),
        CoreMessage::Release {
            home: session,
            packet_id,
        } => home.release(turn, session, packet_id),
        CoreMessage::Released {
            connection,
            packet_id,
        } => edge.released(turn, connection, packet_id),
        CoreMessage::Receive {
            home: session,
            received,
        } => home.receive(turn, session, received),
        CoreMessage::Received {
            connection,
            received,
        } => edge.received_id(turn, connection, received),
        CoreMessage::Reattach(session) => home.reattach(turn, *session),
        CoreMessage::Reattached {
            connection,
            home: session,
        } => edge.reattached(turn, from, connection, session),
    }
}
