//! Subscriptions at their owners and homes, members of shared ones, and the retained messages of new ones.

use crate::core_message::{
    FindSubscription, HomeSubscribe, LimitSubscription, Presence, ReplyTo, RetainedPage,
    RetainedScan, SharedPresence, SubscribeRequest, Subscriber, SubscriptionName, Target,
    UnsubscribeRequest,
};

record! { ReplyTo { core, home, request, index } }

record! { SubscribeRequest { filter via filter, subscriber, presence, reply } }

record! { Subscriber { session, target, options, subscription_id via subscription_id, qos_allowed } }

tagged! { Target as "target" {
    1 => Live { core, connection },
    2 => Home { partition },
} }

record! { SubscriptionName { session, filter } }

record! { Presence { connected, load } }

record! { SharedPresence { filter via filter, session, presence } }

record! { UnsubscribeRequest { filter via filter, session, reply } }

record! { LimitSubscription { filter via filter, session, qos_allowed } }

record! { FindSubscription { filter via filter, session, reply } }

record! { HomeSubscribe {
    home,
    reply,
    filter via filter,
    options,
    subscription_id via subscription_id,
    only_replaces,
} }

record! { RetainedScan { filter via filter, after via topic_or_start, limit via nonzero, mailbox, home_partition, reply } }

record! { RetainedPage { reply, messages, next via next_topic } }
