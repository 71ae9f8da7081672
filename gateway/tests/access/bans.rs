//! Bans: given to the cores, kept in a file, there again after a restart.

use gateway::access::bans::{Subject, Term};
use gateway::control::access::{Access, BanKind};
use gateway::event_loop::Clock;

use crate::world::{Folder, World, config, run};

fn term(seconds: Option<u64>) -> Term {
    let now_unix_ms = Clock::start().now().unix_ms;
    Term {
        until_unix_ms: seconds.map(|seconds| now_unix_ms + seconds * 1_000),
        reason: "spam".into(),
    }
}

#[test]
fn a_ban_reaches_the_cores_and_outlives_the_node() {
    run(async {
        let folder = Folder::new();
        let config = config(&folder.0, "");
        let world = World::start(&config);
        let network = BanKind::Network.subject("192.0.2.9/24").expect("a network");
        let user = Subject::User("eve".into());
        for (subject, term) in [
            (network.clone(), term(None)),
            (user.clone(), term(Some(3_600))),
            (Subject::Client("phone-7".into()), term(Some(0))),
        ] {
            world
                .access
                .ban(&world.cores, subject, term)
                .await
                .expect("there is room");
        }
        let given = world
            .policies
            .lock()
            .expect("no panic")
            .pop()
            .expect("the cores were told");
        let now = Clock::start().now().unix_ms;
        let address = "192.0.2.7".parse().expect("an address");
        let other = "192.0.3.7".parse().expect("an address");
        let banned = |address, client, user| {
            given
                .ban(address, client, user, now)
                .map(|(subject, _)| subject)
        };
        assert_eq!(banned(address, "x", None), Some(network.clone()));
        assert_eq!(banned(other, "x", Some("eve")), Some(user.clone()));
        assert_eq!(banned(other, "phone-7", Some("alice")), None, "it is over");
        let names = |access: &Access| -> Vec<String> {
            access.bans().into_iter().map(|ban| ban.name).collect()
        };
        assert_eq!(names(&world.access), ["eve", "192.0.2.0/24"]);
        drop(world);

        let world = World::start(&config);
        assert_eq!(names(&world.access), ["eve", "192.0.2.0/24"]);
        let policy = world.access.policy();
        assert_eq!(
            policy
                .ban(address, "x", None, now)
                .map(|(_, term)| &*term.reason),
            Some("spam")
        );
        assert!(
            world
                .access
                .lift(&world.cores, &network)
                .await
                .expect("lifted")
        );
        assert!(
            !world
                .access
                .lift(&world.cores, &network)
                .await
                .expect("nothing to do")
        );
        assert!(world.access.policy().ban(address, "x", None, now).is_none());
        drop(world);
        assert_eq!(names(&World::start(&config).access), ["eve"]);
    });
}

#[test]
fn a_ban_that_cannot_be_stored_holds_all_the_same() {
    run(async {
        let folder = Folder::new();
        let config = config(&folder.0, "");
        let world = World::start(&config);
        std::fs::remove_dir_all(folder.0.join("data")).expect("removed");
        let user = Subject::User("eve".into());
        let failure = world.access.ban(&world.cores, user, term(None)).await;
        let failure = failure.expect_err("no folder").to_string();
        assert!(
            failure.starts_with("it holds, and is lost with the next start"),
            "{failure}"
        );
        let policy = world.access.policy();
        let address = "192.0.2.7".parse().expect("an address");
        assert!(policy.ban(address, "x", Some("eve"), 0).is_some());
    });
}

#[test]
fn a_damaged_file_is_told_and_not_overwritten() {
    let folder = Folder::new();
    let config = config(&folder.0, "");
    let file = folder.write(
        "data/bans.json",
        "[{\"kind\": \"network\", \"name\": \"here\"}]",
    );
    let error = Access::open(&config, Clock::start())
        .err()
        .expect("a bad file")
        .to_string();
    assert!(
        error.contains("bans.json: \"here\" is not a network"),
        "{error}"
    );
    assert!(
        error.ends_with("mend it, or move it away to start without bans"),
        "{error}"
    );
    assert!(
        std::fs::read_to_string(file)
            .expect("there")
            .contains("here")
    );
}
