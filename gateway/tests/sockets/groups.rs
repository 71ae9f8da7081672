//! Shared subscriptions as work queues, also when the process is killed, and limits of a session.

use edge_proto::reason::ReasonCode;

use crate::world::{Client, Node};

const FILTER: &str = "$share/workers/jobs/new";
const JOBS: u32 = 100;

#[test]
fn jobs_wait_for_any_worker_and_the_first_that_comes_gets_them_in_order() {
    let mut node = Node::start("work-queue", &[]);
    for name in ["one", "two"] {
        let mut worker = Client::connect(&node, name);
        assert_eq!(worker.subscribe(FILTER), 1);
        worker.leave();
    }
    let mut publisher = Client::connect(&node, "publisher");
    for job in 0..JOBS {
        publisher.publish("jobs/new", &job.to_string());
    }
    node.kill();
    let mut two = Client::connect(&node, "two");
    for job in 0..JOBS {
        assert_eq!(two.message(), job.to_string());
    }
    // One that comes now finds nothing, and shares what comes next.
    let mut one = Client::connect(&node, "one");
    let mut publisher = Client::connect(&node, "publisher");
    for text in ["a", "b"] {
        publisher.publish("jobs/new", text);
    }
    let mut got = [one.message(), two.message()];
    got.sort();
    assert_eq!(got, ["a", "b"]);
}

#[test]
fn a_live_only_worker_that_is_busy_leaves_the_rest_to_others() {
    const AT_ONCE: u32 = 32;
    let node = Node::start("busy", &[]);
    let mut founder = Client::connect(&node, "founder");
    assert_eq!(founder.subscribe(FILTER), 1);
    founder.leave();
    let mut publisher = Client::connect(&node, "publisher");
    for job in 0..JOBS {
        publisher.publish("jobs/new", &job.to_string());
    }
    let mut busy = Client::connect_for(&node, "busy", 0);
    busy.subscribe(FILTER);
    for job in 0..AT_ONCE {
        assert_eq!(busy.unacknowledged().1, job.to_string());
    }
    let mut quick = Client::connect_for(&node, "quick", 0);
    quick.subscribe(FILTER);
    for job in AT_ONCE..JOBS {
        assert_eq!(quick.message(), job.to_string());
    }
}

#[test]
fn a_session_with_as_many_subscriptions_as_it_may_have_can_replace_one() {
    const GRANTED: u8 = 1;
    const QUOTA_EXCEEDED: u8 = ReasonCode::QuotaExceeded as u8;
    let node = Node::start("replace", &["mqtt.subscriptions_per_session_max=3"]);
    for expiry_s in [0, 3600] {
        let mut client = Client::connect_for(&node, "client", expiry_s);
        for filter in ["a/b", "+/b", "$share/group/a/b"] {
            assert_eq!(client.subscribe(filter), GRANTED);
        }
        assert_eq!(client.subscribe("c"), QUOTA_EXCEEDED);
        assert_eq!(client.subscribe("$share/other/a/b"), QUOTA_EXCEEDED);
        for filter in ["$share/group/a/b", "+/b", "a/b"] {
            assert_eq!(client.subscribe(filter), GRANTED, "{filter} is not new");
        }
        assert_eq!(client.subscribe("c"), QUOTA_EXCEEDED);
        client.leave();
    }
}
