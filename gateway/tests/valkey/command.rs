//! `roadstead engine check`, and `roadstead check` with a Valkey: what is printed, and how it ends.

use gateway::cli::{self, EXIT_DONE, EXIT_FAILED, Output};
use gateway::config::Config;

use crate::servers::Server;

/// Exit code, output, errors.
pub(crate) fn run(typed: &[&str], settings: &[&str]) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut output = Output {
        out: &mut out,
        err: &mut err,
    };
    let settings = settings.iter().flat_map(|setting| ["--set", setting]);
    let typed = ["roadstead"]
        .into_iter()
        .chain(typed.iter().copied())
        .chain(settings);
    let start = |_: Config| -> Result<(), String> { panic!("no node is to start") };
    let code = cli::run(typed.map(Into::into), &[], &mut output, start);
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (code, text(out), text(err))
}

fn check(server: &Server, more: &[&str], settings: &[&str]) -> (u8, String, String) {
    let urls = format!("engine.urls={}", server.url());
    let settings = [&["engine.kind=redis", urls.as_str()], settings].concat();
    run(&[&["engine", "check"], more].concat(), &settings)
}

#[test]
fn a_good_server_ends_with_0_and_says_what_is_promised() {
    let server = Server::durable();
    let (code, out, err) = check(&server, &[], &[]);
    assert_eq!((code, err.as_str()), (EXIT_DONE, ""), "{out}");
    assert!(out.contains("Valkey 8.1.8: 1 primary, 0 replicas"), "{out}");
    let promise = "durability  aof (auto): acknowledged when the disk of the primary has it";
    assert!(out.contains(promise), "{out}");
    assert!(out.ends_with("a node would use it\n"), "{out}");
}

#[test]
fn a_server_that_would_break_a_promise_ends_with_1_and_says_why() {
    let server = Server::start(&["maxmemory-policy allkeys-lru", "maxmemory 100mb"]);
    let (code, out, _) = check(&server, &[], &["engine.durability=aof"]);
    assert_eq!(code, EXIT_FAILED);
    assert!(
        out.contains("maxmemory-policy = allkeys-lru; right: noeviction"),
        "{out}"
    );
    assert!(out.contains("appendonly = no; right: yes"), "{out}");
    assert!(
        out.ends_with("a node would NOT use it: see REFUSE above\n"),
        "{out}"
    );

    let (code, out, _) = check(&server, &["--json"], &[]);
    assert_eq!(code, EXIT_FAILED);
    let answer: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(answer["good"], false);
    assert_eq!(answer["durability"], "memory");
    assert_eq!(answer["servers"][0]["role"], "primary");
    let worst = &answer["findings"][0];
    assert_eq!(
        (&worst["severity"], &worst["setting"]),
        (&"refuse".into(), &"maxmemory-policy".into())
    );
    for key in ["found", "right", "why", "server"] {
        assert!(
            worst[key].as_str().is_some_and(|text| !text.is_empty()),
            "{worst}"
        );
    }

    let urls = format!("engine.urls={}", server.url());
    let (code, out, _) = run(
        &["check"],
        &[
            "engine.kind=redis",
            urls.as_str(),
            "listeners.tcp=127.0.0.1:0",
            "listeners.websocket=[]",
            "admin.address=off",
        ],
    );
    assert_eq!(code, EXIT_FAILED);
    assert!(out.contains("maxmemory-policy = allkeys-lru"), "{out}");
}

#[test]
fn without_a_server_in_the_configuration_it_says_so() {
    let (code, _, err) = run(&["engine", "check"], &[]);
    assert_eq!(code, EXIT_FAILED);
    assert!(
        err.contains("engine.kind is \"embedded\"") && err.contains("engine.kind = \"redis\""),
        "{err}"
    );
}

#[test]
fn a_password_file_that_is_not_there_is_told_with_its_key() {
    let server = Server::start(&[]);
    let (code, out, err) = check(&server, &[], &["engine.password_file=/nonexistent/secret"]);
    assert_eq!((code, out.as_str()), (EXIT_FAILED, ""));
    assert!(
        err.contains("engine.password_file = \"/nonexistent/secret\""),
        "{err}"
    );
}
