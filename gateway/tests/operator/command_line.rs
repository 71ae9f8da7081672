//! What is printed for what is typed.

use std::net::TcpListener;

use gateway::cli::{self, EXIT_DONE, EXIT_FAILED, EXIT_USAGE, Output};
use gateway::config::Config;
use gateway::control::status::banner;
use gateway::engine::status::EngineState;
use serde_json::Value;

use crate::fake::{Mood, Node, status};
use crate::golden;

/// Exit code, standard output, standard error, and the configuration a node would have been started with.
struct Run {
    code: u8,
    out: String,
    err: String,
    started: Option<Config>,
}

fn run_in(environment: &[(&str, &str)], arguments: &[&str]) -> Run {
    let environment: Vec<_> = environment
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    let (mut out, mut err, mut started) = (Vec::new(), Vec::new(), None);
    let typed = std::iter::once("roadstead")
        .chain(arguments.iter().copied())
        .map(Into::into);
    let code = cli::run(
        typed,
        &environment,
        &mut Output {
            out: &mut out,
            err: &mut err,
        },
        |config| {
            started = Some(config);
            Ok::<_, String>(())
        },
    );
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Run {
        code,
        out: text(out),
        err: text(err),
        started,
    }
}

fn run(arguments: &[&str]) -> Run {
    run_in(&[], arguments)
}

/// `roadstead ctl` towards a node.
fn ctl(node: &Node, arguments: &[&str]) -> Run {
    let address = node.address.to_string();
    run(&[&["ctl", "--address", &address], arguments].concat())
}

fn printed(run: &Run) -> &str {
    assert_eq!((run.code, run.err.as_str()), (EXIT_DONE, ""));
    &run.out
}

#[test]
fn help_is_as_agreed() {
    let mut all = String::new();
    for command in [
        &[][..],
        &["check"],
        &["config"],
        &["config", "print"],
        &["ctl"],
        &["ctl", "sessions"],
        &["ctl", "publish"],
        &["ctl", "bans"],
        &["ctl", "bans", "add"],
        &["engine"],
        &["engine", "check"],
        &["engine", "migrate"],
        &["passwd"],
    ] {
        let typed = [command, &["-h"]].concat();
        all += &format!(
            "$ roadstead {}\n{}\n",
            typed.join(" "),
            printed(&run(&typed))
        );
    }
    golden("help.txt", &all);
}

#[test]
fn what_is_typed_wrongly_ends_with_2_and_what_fails_with_1() {
    for typed in [
        &["ctl"][..],
        &["frobnicate"],
        &["--set", "node.cores"],
        &["ctl", "publish", "a"],
        &["ctl", "publish", "a", "b", "--qos", "3"],
        &["ctl", "bans", "add", "group", "staff"],
        &["ctl", "bans", "add", "user", "eve", "--for", "1 parsec"],
        &["engine"],
        &["engine", "check", "--jso"],
        &["engine", "migrate"],
        &["passwd", "users"],
        &["passwd", "users", "eve", "--delete", "--scram"],
    ] {
        assert_eq!(run(typed).code, EXIT_USAGE, "{typed:?}");
    }
    let refused = run(&["--set", "node.core=2"]);
    assert_eq!(refused.code, EXIT_FAILED);
    assert_eq!(
        refused.err,
        "error: flag --set: unknown key node.core; did you mean node.cores?\n"
    );
    assert!(refused.started.is_none());
}

#[test]
fn without_a_command_a_node_runs_with_what_the_flags_say() {
    let flags = [
        "--io",
        "epoll",
        "--cores",
        "1",
        "--data",
        "/tmp/d",
        "--listen",
        "127.0.0.1:1",
        "--listen",
        "[::1]:2",
    ];
    for typed in [flags.to_vec(), [&["run"], &flags[..]].concat()] {
        let config = run(&typed).started.expect("a node was started");
        assert_eq!(
            (config.core_count(), config.engine.path.to_str()),
            (1, Some("/tmp/d"))
        );
        assert_eq!(config.listeners.tcp.len(), 2);
        assert_eq!(config.origin("listeners.tcp").to_string(), "flag --listen");
    }
    let config = run_in(&[("ROADSTEAD_NODE_NAME", "n1")], &[])
        .started
        .expect("started");
    assert_eq!(config.node.name.0, "n1");
}

#[test]
fn a_node_that_does_not_start_says_why() {
    let mut err = Vec::new();
    let output = &mut Output {
        out: &mut Vec::new(),
        err: &mut err,
    };
    let code = cli::run(["roadstead".into()], &[], output, |_| {
        Err("the store is in use")
    });
    assert_eq!(
        (code, err.as_slice()),
        (EXIT_FAILED, b"error: the store is in use\n".as_slice())
    );
}

#[test]
fn the_configuration_is_printed_with_origins() {
    golden(
        "config_print.txt",
        printed(&run(&["config", "print", "--cores", "2"])),
    );
    let json: Value =
        serde_json::from_str(printed(&run(&["config", "print", "--json"]))).expect("JSON");
    assert_eq!(json["mqtt"]["packet_bytes_max"]["origin"], "default");
}

#[test]
fn files_are_checked() {
    let folder =
        std::env::temp_dir().join(format!("roadstead-config-check-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("node.toml");
    let name = path.to_str().expect("text");
    std::fs::write(&path, "[node]\ncores = 2\n").expect("written");
    assert_eq!(
        printed(&run(&["config", "check", name])),
        format!("{name}: good\n")
    );
    assert_eq!(
        run(&["--config", name])
            .started
            .expect("started")
            .core_count(),
        2
    );
    assert_eq!(
        run_in(&[("ROADSTEAD_CONFIG", name)], &[])
            .started
            .expect("started")
            .core_count(),
        2
    );
    std::fs::write(&path, "[node]\ncores = -1\nnam = 1\n").expect("written");
    let bad = run(&["config", "check", name]);
    assert_eq!((bad.code, bad.err.lines().count()), (EXIT_FAILED, 2));
    assert!(bad.err.contains("did you mean node.name?"), "{}", bad.err);
    std::fs::remove_dir_all(&folder).expect("removed");
    let missing = run(&["config", "check", name]);
    assert!(
        missing.err.contains("name an existing file with --config"),
        "{}",
        missing.err
    );
}

#[test]
fn check_tells_what_would_prevent_a_start() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let quiet = [
        "--set",
        "listeners.websocket=[]",
        "--set",
        "admin.address=off",
        "--io",
        "epoll",
    ];
    let busy = run(&[&["check", "--listen", &address], &quiet[..]].concat());
    assert_eq!(busy.code, EXIT_FAILED, "{}", busy.out);
    assert!(
        busy.out
            .contains("in use: a node runs already, or another program has the port"),
        "{}",
        busy.out
    );
    drop(taken);
    let free = run(&[&["check", "--json", "--listen", "127.0.0.1:0"], &quiet[..]].concat());
    let json: Value = serde_json::from_str(printed(&free)).expect("JSON");
    assert_eq!(json["starts"], true);
    let findings = json["findings"].as_array().expect("findings");
    for subject in [
        "kernel",
        "I/O",
        "seccomp",
        "cores",
        "RLIMIT_NOFILE",
        "RLIMIT_MEMLOCK",
        "memory",
        "engine.path",
    ] {
        assert!(
            findings.iter().any(|finding| finding["subject"] == subject),
            "{subject} is not looked at"
        );
    }
}

#[test]
fn a_folder_that_cannot_be_made_is_told() {
    let bad = run(&[
        "check",
        "--data",
        "/dev/null/data",
        "--listen",
        "127.0.0.1:0",
    ]);
    assert!(
        bad.out
            .contains("/dev/null is a file; set engine.path to a folder"),
        "{}",
        bad.out
    );
    assert_eq!(bad.code, EXIT_FAILED);
}

#[test]
fn ctl_prints_tables_for_people() {
    let node = Node::start();
    let mut all = String::new();
    for typed in [
        &["status"][..],
        &["sessions", "list"],
        &["sessions", "list", "--limit", "2"],
        &["sessions", "list", "--prefix", "nobody"],
        &["sessions", "show", "device-1"],
        &["sessions", "show", "device-10"],
        &["sessions", "kick", "device-1"],
        &["sessions", "kick", "device-1", "--delete"],
        &["publish", "a/b", "hello", "--qos", "1", "--retain"],
        &["subscriptions"],
        &["retained", "list"],
        &["retained", "clear", "r/#", "--yes"],
        &["bans", "list"],
        &["bans", "add", "network", "192.0.2.7/24", "--reason", "spam"],
        &["bans", "add", "client", "phone-7"],
        &["bans", "list"],
        &["bans", "lift", "network", "192.0.2.0/24"],
        &["bans", "list"],
    ] {
        all += &format!(
            "$ roadstead ctl {}\n{}\n",
            typed.join(" "),
            printed(&ctl(&node, typed))
        );
    }
    golden("ctl.txt", &all);
}

#[test]
fn ctl_prints_json_for_machines() {
    let node = Node::start();
    let json =
        |typed: &[&str]| serde_json::from_str::<Value>(printed(&ctl(&node, typed))).expect("JSON");
    assert_eq!(json(&["--json", "publish", "a", "b"])["recipients"], 3);
    assert_eq!(
        json(&["sessions", "list", "--all", "--json"])["sessions"]
            .as_array()
            .map(Vec::len),
        Some(6)
    );
    let failed = ctl(&node, &["--json", "sessions", "show", "nobody"]);
    let error: Value = serde_json::from_str(&failed.err).expect("JSON");
    assert_eq!(
        (failed.code, error["error"].as_str()),
        (EXIT_FAILED, Some("no session \"nobody\""))
    );
}

#[test]
fn ctl_says_what_failed_and_what_to_do() {
    let node = Node::start();
    let refused = ctl(&node, &["publish", "refused", ""]);
    assert_eq!(refused.code, EXIT_FAILED);
    assert!(
        refused
            .err
            .starts_with("error: the publish was refused: the engine is full\n  see "),
        "{}",
        refused.err
    );
    node.set_mood(0, Mood::Full);
    assert!(
        ctl(&node, &["subscriptions"])
            .err
            .starts_with("error: core 0 takes no more requests")
    );
    let address = node.address.to_string();
    drop(node);
    let absent = run_in(&[("ROADSTEAD_ADDRESS", &address)], &["ctl", "status"]);
    let expected = format!(
        "error: no node answers at {address}\n  start one with `roadstead`, or name its admin address with --address\n"
    );
    assert_eq!((absent.code, absent.err), (EXIT_FAILED, expected));
}

#[test]
fn a_payload_can_come_from_a_file_of_any_bytes() {
    let node = Node::start();
    let path = std::env::temp_dir().join(format!("roadstead-payload-{}", std::process::id()));
    std::fs::write(&path, b"\xff\0\n").expect("written");
    printed(&ctl(
        &node,
        &["publish", "a", "--file", path.to_str().expect("text")],
    ));
    std::fs::remove_file(&path).expect("removed");
    let requests = node.requests.lock().expect("no panic");
    assert!(
        matches!(&requests[0].1, gateway::admin::AdminRequest::Publish { payload, .. } if payload.0 == b"\xff\0\n")
    );
}

#[test]
fn the_banner_names_everything_and_a_first_thing_to_try() {
    golden("banner.txt", &banner(&status(EngineState::Working)));
}
