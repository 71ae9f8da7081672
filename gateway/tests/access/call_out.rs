//! The HTTP service, right and wrong.

use std::time::Duration;

use gateway::access::policy::Refusal;
use gateway::control::access::{Asked, Said};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::server::{Behaviour, Server};
use crate::world::{Folder, World, config, run, shown, until};

/// A node that asks this server, with more of the section.
fn world(folder: &Folder, server: &Server, more: &str) -> World {
    let text = format!(
        "[access]\nmethods = [\"http\"]\n[http]\nurl = {:?}\n{more}",
        server.url()
    );
    World::start(&config(&folder.0, &text))
}

fn unavailable(outcome: gateway::access::policy::Outcome) -> String {
    match outcome {
        Err(Refusal::Unavailable(problem)) => problem.into(),
        other => panic!("nobody comes in: {other:?}"),
    }
}

#[test]
fn the_service_is_asked_and_its_word_holds() {
    run(async {
        let folder = Folder::new();
        let server = Server::answering(
            r#"{"result": "allow", "user": "Alice", "groups": ["staff"], "rules": [{"allow": ["publish"], "topics": ["u/%u/#"]}]}"#,
        )
        .await;
        let headers = folder.write("headers", "Authorization: Bearer abc\n");
        let mut world = world(&folder, &server, &format!("headers_file = {headers:?}"));
        let identity = world.ask(&shown("alice", "secret")).await;
        let identity = identity.expect("let in").expect("proved");
        assert_eq!(identity.user.as_deref(), Some("Alice"));
        assert_eq!(*identity.groups, [Box::<str>::from("staff")]);
        assert_eq!(identity.rules.as_ref().map(|rules| rules.len()), Some(1));
        let seen = server.seen().remove(0);
        assert!(seen.head.starts_with("POST /ask HTTP/1.1"), "{}", seen.head);
        assert!(
            seen.head.contains("authorization: Bearer abc"),
            "{}",
            seen.head
        );
        let body: Value = serde_json::from_str(&seen.body).expect("JSON");
        assert_eq!(
            body,
            json!({"client_id": "phone-7", "user_name": "alice", "password": "secret", "peer": "192.0.2.7:50123", "certificate": null})
        );
        server.answer(r#"{"result": "deny"}"#);
        let denied = world.ask(&shown("bob", "secret")).await;
        assert_eq!(denied, Err(Refusal::Credentials));
        server.answer(r#"{"result": "ignore"}"#);
        let ignored = world.ask(&shown("carol", "secret")).await;
        assert_eq!(ignored, Err(Refusal::Unknown), "no other method knows her");
        let said = |said| world.access.stats().answers(Asked::Http, said);
        assert_eq!(
            (said(Said::Allowed), said(Said::Denied), said(Said::Ignored)),
            (1, 1, 1)
        );
    });
}

#[test]
fn a_client_that_shows_nothing_is_not_asked_about() {
    run(async {
        let folder = Folder::new();
        let server = Server::answering(r#"{"result": "allow", "user": "x"}"#).await;
        let mut world = world(&folder, &server, "");
        let mut nobody = shown("", "");
        (nobody.user_name, nobody.password) = (None, None);
        assert_eq!(world.ask(&nobody).await, Err(Refusal::Anonymous));
        assert_eq!(server.count(), 0);
    });
}

#[test]
fn whatever_else_the_service_does_lets_nobody_in() {
    run(async {
        let folder = Folder::new();
        let server = Server::start(Behaviour::Hangs).await;
        let mut world = world(&folder, &server, "timeout = \"200ms\"");
        let answers = |status, body: &str| Behaviour::Answers(status, body.to_owned());
        let allow = r#"{"result": "allow"}"#;
        for (number, (behaviour, problem)) in [
            (Behaviour::Hangs, "did not answer within 200 ms"),
            (Behaviour::Stalls, "did not answer within 200 ms"),
            (Behaviour::Closes, "cannot be reached"),
            (Behaviour::Floods, "more than 262144 bytes"),
            (Behaviour::Babbles, "cannot be reached"),
            (answers(204, ""), "status 204"),
            (answers(201, allow), "status 201"),
            (answers(302, allow), "status 302"),
            (answers(401, allow), "status 401"),
            (answers(500, allow), "status 500"),
            (answers(200, ""), "not understood"),
            (answers(200, "allow"), "not understood"),
            (
                answers(200, r#"{"result": "allow", "is_superuser": true}"#),
                "unknown field",
            ),
            (
                answers(200, r#"{"result": "allow", "user": ""}"#),
                "which user",
            ),
        ]
        .into_iter()
        .enumerate()
        {
            server.set(behaviour.clone());
            let outcome = world.ask(&shown("alice", number.to_string())).await;
            let said = unavailable(outcome);
            assert!(said.contains(problem), "{behaviour:?}: {said}");
        }
        // It is asked again, and nothing of the failures is left.
        server.answer(allow);
        assert_eq!(
            world.user(&shown("alice", "0")).await.as_deref(),
            Some("alice")
        );
        assert_eq!(
            world.access.stats().answers(Asked::Http, Said::Unavailable),
            14
        );
        assert_eq!(world.access.report().waiting, 0, "all room is free again");
    });
}

#[test]
fn a_service_that_is_not_there_lets_nobody_in() {
    run(async {
        let folder = Folder::new();
        let text = "[access]\nmethods = [\"http\"]\n[http]\nurl = \"http://127.0.0.1:1/\"";
        let mut world = World::start(&config(&folder.0, text));
        let said = unavailable(world.ask(&shown("alice", "x")).await);
        assert!(said.contains("refused"), "{said}");
    });
}

#[test]
fn an_answer_is_kept_for_those_who_show_the_same() {
    run(async {
        let folder = Folder::new();
        let server = Server::answering(r#"{"result": "allow"}"#).await;
        let mut world = world(&folder, &server, "cache_ttl = \"1h\"");
        for _ in 0..3 {
            assert_eq!(
                world.user(&shown("alice", "secret")).await.as_deref(),
                Some("alice")
            );
        }
        assert_eq!(server.count(), 1);
        server.answer(r#"{"result": "deny"}"#);
        for _ in 0..3 {
            assert_eq!(
                world.ask(&shown("alice", "Secret")).await,
                Err(Refusal::Credentials)
            );
        }
        assert_eq!(server.count(), 2, "another password is another question");
        assert_eq!(world.access.stats().totals()[2], 4);
        let cores = world.cores.clone();
        world.access.reload(&cores).await.expect("good files");
        assert_eq!(
            world.ask(&shown("alice", "secret")).await,
            Err(Refusal::Credentials)
        );
        assert_eq!(server.count(), 3, "a reload forgets");
    });
}

#[test]
fn without_a_cache_each_client_is_asked_about() {
    run(async {
        let folder = Folder::new();
        let server = Server::answering(r#"{"result": "allow"}"#).await;
        let mut world = world(&folder, &server, "cache_ttl = \"0s\"");
        for _ in 0..3 {
            world.user(&shown("alice", "secret")).await;
        }
        assert_eq!(server.count(), 3);
    });
}

#[test]
fn those_who_show_the_same_at_the_same_time_wait_for_one_request() {
    run(async {
        let folder = Folder::new();
        let server = Server::start(Behaviour::Hangs).await;
        let mut world = world(&folder, &server, "timeout = \"300ms\"\ncache_ttl = \"0s\"");
        for _ in 0..20 {
            world.put(&shown("alice", "secret")).expect("asked");
        }
        for _ in 0..20 {
            unavailable(world.verdict().await.1);
        }
        assert_eq!(server.count(), 1);
    });
}

#[test]
fn requests_at_the_same_time_are_bounded_and_so_are_questions() {
    run(async {
        let folder = Folder::new();
        let server = Server::start(Behaviour::Hangs).await;
        let text = format!(
            "[access]\nmethods = [\"http\"]\nquestions_max = 5\n[http]\nurl = {:?}\nrequests_max = 2\ntimeout = \"300ms\"",
            server.url()
        );
        let mut world = World::start(&config(&folder.0, &text));
        let began = Instant::now();
        for number in 0..5 {
            world
                .put(&shown("alice", number.to_string()))
                .expect("there is room");
        }
        assert_eq!(world.put(&shown("alice", "6")), Err(Err(Refusal::Busy)));
        for _ in 0..5 {
            unavailable(world.verdict().await.1);
        }
        // Two, two and one, each of which the server lets wait to the end.
        assert!(began.elapsed() >= Duration::from_millis(850));
        assert_eq!(server.count(), 5);
        until(|| world.access.report().waiting == 0).await;
        assert_eq!(world.access.stats().totals()[..2], [6, 1]);
    });
}

#[test]
fn a_question_that_waits_for_longer_than_its_client_does_is_given_up() {
    run(async {
        let folder = Folder::new();
        let server = Server::start(Behaviour::Hangs).await;
        let text = format!(
            "[access]\nmethods = [\"http\"]\n[http]\nurl = {:?}\ntimeout = \"10s\"\n[mqtt]\nconnect_timeout = \"200ms\"",
            server.url()
        );
        let mut world = World::start(&config(&folder.0, &text));
        assert_eq!(world.ask(&shown("alice", "x")).await, Err(Refusal::Busy));
        until(|| world.access.report().waiting == 0).await;
    });
}

#[test]
fn nobody_has_a_name_and_a_password_of_more_than_32_kib() {
    run(async {
        let folder = Folder::new();
        let server = Server::answering(r#"{"result": "allow"}"#).await;
        let mut world = world(&folder, &server, "");
        let long = shown("alice", vec![b'x'; 33_000]);
        assert_eq!(world.put(&long), Err(Err(Refusal::Credentials)));
        assert_eq!(server.count(), 0);
    });
}
