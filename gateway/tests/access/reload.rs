//! Files that change while the node runs.

use std::time::Duration;

use edge_proto::packet::QoS;
use edge_proto::topic::TopicName;
use gateway::access::policy::{Policy, Refusal};
use gateway::access::{Identity, Who};

use crate::passwords::line;
use crate::world::{Folder, World, config, run, shown, until};

fn may_publish(policy: &Policy, topic: &str) -> bool {
    let identity = Identity::of_user("alice");
    let who = Who {
        identity: &identity,
        client: "phone-7",
    };
    let topic = TopicName::parse(topic).expect("a topic");
    let rules = policy.rules.as_ref().expect("there are rules");
    rules
        .publish(&who, topic, QoS::AtMostOnce, false)
        .is_allowed()
}

fn rule(topic: &str) -> String {
    format!("[[rule]]\nallow = [\"publish\"]\ntopics = [{topic:?}]\n")
}

/// A node with a file of users and one of rules.
fn world(folder: &Folder) -> World {
    let users = folder.write("users", line("alice", "secret"));
    let rules = folder.write("rules.toml", rule("a"));
    let text = format!(
        "[access]\nmethods = [\"password\"]\npassword_file = {users:?}\nrules = {rules:?}\n"
    );
    World::start(&config(&folder.0, &text))
}

#[test]
fn new_files_are_given_to_the_cores() {
    run(async {
        let folder = Folder::new();
        let mut world = world(&folder);
        let cores = world.cores.clone();
        let first = world.access.policy();
        assert!(may_publish(&first, "a") && !may_publish(&first, "b"));
        folder.write("rules.toml", rule("b"));
        folder.write("users", line("bob", "secret"));
        world.access.reload(&cores).await.expect("good files");
        let given = world.policies.lock().expect("no panic").pop();
        let given = given.expect("the cores were told");
        assert!(may_publish(&given, "b") && !may_publish(&given, "a"));
        let alice = world.ask(&shown("alice", "secret")).await;
        assert_eq!(alice, Err(Refusal::Credentials));
        let bob = world.user(&shown("bob", "secret")).await;
        assert_eq!(bob.as_deref(), Some("bob"));
    });
}

#[test]
fn files_are_taken_all_together_or_not_at_all() {
    run(async {
        let folder = Folder::new();
        let mut world = world(&folder);
        let cores = world.cores.clone();
        let bad = "[[rule]]\nallow = [\"write\"]\ntopics = [\"a\"]\n";
        folder.write("rules.toml", bad);
        folder.write("users", line("carol", "secret"));
        let error = world.access.reload(&cores).await.expect_err("a bad file");
        let error = error.to_string();
        let named = "rules.toml (access.rules): rule 1 (line 1): \"write\" is nothing to allow";
        assert!(error.contains(named), "{error}");
        assert!(
            error.ends_with("what was read before stays in use"),
            "{error}"
        );
        assert!(may_publish(&world.access.policy(), "a"));
        let carol = world.ask(&shown("carol", "secret")).await;
        assert_eq!(carol, Err(Refusal::Credentials));
        let report = world.access.report();
        assert_eq!(
            (report.files_good, report.generation, report.rules),
            (false, 1, Some(1))
        );
        folder.write("rules.toml", rule("c"));
        world.access.reload(&cores).await.expect("mended");
        assert!(world.access.report().files_good);
        let carol = world.user(&shown("carol", "secret")).await;
        assert_eq!(carol.as_deref(), Some("carol"));
    });
}

#[test]
fn a_change_is_seen_without_being_told() {
    run(async {
        let folder = Folder::new();
        let rules = folder.write("rules.toml", rule("a"));
        let world = World::start(&config(
            &folder.0,
            &format!("[access]\nrules = {rules:?}\n"),
        ));
        folder.write("rules.toml", rule("a") + &rule("b"));
        tokio::task::yield_now().await; // The watch begins.
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(5)).await;
        tokio::time::resume();
        until(|| may_publish(&world.access.policy(), "b")).await;
        assert_eq!(world.policies.lock().expect("no panic").len(), 1);
    });
}

#[test]
fn the_secret_of_a_node_outlives_it() {
    run(async {
        let folder = Folder::new();
        let config = config(&folder.0, "");
        let secret = || std::fs::read(folder.0.join("data/access.secret")).expect("it is there");
        drop(World::start(&config));
        let first = secret();
        drop(World::start(&config));
        assert_eq!((first.len(), &first), (32, &secret()));
    });
}
