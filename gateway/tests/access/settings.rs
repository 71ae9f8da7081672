//! What the configuration of access refuses, what it warns of, and what follows from it.

use std::process::Command;

use gateway::access::policy::{CertificateName, Method, Origins};
use gateway::config::{Config, ConfigErrors, Sources};
use gateway::control::access::Access;
use gateway::event_loop::Clock;

use crate::passwords::line;
use crate::world::{Folder, config};

fn load(text: &str) -> Result<Config, ConfigErrors> {
    Config::load(&Sources {
        file: Some(("node.toml".into(), text.into())),
        ..Sources::default()
    })
}

#[test]
fn what_does_not_fit_together_is_refused() {
    for (text, error) in [
        (
            "[access]\nmethods = [\"password\"]",
            "access.password_file = \"\": the method \"password\" without a file",
        ),
        (
            "[access]\npassword_file = \"users\"",
            "node.toml:2: access.password_file = \"users\": nobody is asked for it",
        ),
        (
            "[access]\nmethods = [\"token\"]",
            "token.keys = []: the method \"token\" without a key",
        ),
        (
            "[token]\nsecrets = [\"s\"]",
            "node.toml:2: token.secrets = [\"s\"]: nobody is asked for it, for access.methods has no \"token\"",
        ),
        (
            "[access]\nmethods = [\"http\"]",
            "http.url = \"\": the method \"http\" without a service",
        ),
        (
            "[http]\nurl = \"http://127.0.0.1/\"",
            "http.url = \"http://127.0.0.1/\": nobody is asked for it",
        ),
        (
            "[access]\nmethods = [\"certificate\"]",
            "node.toml:2: access.methods = [\"certificate\"]: the method \"certificate\" without a TLS listener",
        ),
        (
            "[access]\nmethods = [\"certificate\"]\n[listeners]\ntls = [\"127.0.0.1:8883\"]\n[tls]\ncertificates = [\"c\"]\nkeys = [\"k\"]",
            "and clients are not asked for one",
        ),
        (
            "[access]\nmethods = [\"ldap\"]",
            "node.toml:2: access.methods = [\"ldap\"]: \"ldap\" is no method",
        ),
        (
            "[access]\nanonymous = \"nowhere\"\n[listeners]\ntcp = [\"0.0.0.0:1883\"]",
            "access.anonymous = \"nowhere\" lets only clients on this machine in",
        ),
        (
            "[http]\nurl = \"https://u:p@a.example/\"",
            "user and password in an address are shown",
        ),
        ("[token]\nuser_claim = \"\"", "not the name of a claim"),
    ] {
        let errors = load(text)
            .err()
            .unwrap_or_else(|| panic!("{text} is taken"))
            .to_string();
        assert!(errors.contains(error), "{text}: {errors}");
    }
}

#[test]
fn with_a_method_a_node_may_listen_everywhere() {
    let text = "[listeners]\ntls = [\"0.0.0.0:8883\"]\n[tls]\ncertificates = [\"c\"]\nkeys = [\"k\"]\n\
                [access]\nmethods = [\"http\"]\nrules = \"r\"\n[http]\nurl = \"https://a.example/\"";
    let config = load(text).expect("nobody comes in without proof");
    assert_eq!(config.access_warnings(), [""; 0]);
}

#[test]
fn what_is_probably_not_meant_is_said() {
    let warnings = |text: &str| load(text).expect("good").access_warnings().join("\n");
    let methods = "[access]\nmethods = [\"http\", \"token\"]\n";
    let services = "[http]\nurl = \"http://a.example/\"\n[token]\njwks_url = \"http://a.example/\"\n[listeners]\ntcp = [\"0.0.0.0:1883\"]";
    let all = warnings(&format!("{methods}{services}"));
    for part in [
        "without rules",
        "can be read on their way",
        "token.audience is not set",
        "token.jwks_url is not https",
        "http.url is not https",
    ] {
        assert!(all.contains(part), "{part}: {all}");
    }
    assert_eq!(all.lines().count(), 5);
    assert_eq!(warnings(""), "");
    let everywhere = "[access]\nmethods = [\"http\"]\nunruled = \"everywhere\"\n[http]\nurl = \"https://a.example/\"";
    assert_eq!(warnings(everywhere), "");
}

#[test]
fn a_file_without_a_rule_is_one_that_somebody_is_writing() {
    let folder = Folder::new();
    let rules = folder.write("rules.toml", "# nothing yet\n");
    let text = format!("[access]\nrules = {rules:?}");
    let error = Access::open(&config(&folder.0, &text), Clock::start())
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    assert!(error.contains("there is no rule in it"), "{error}");
}

#[test]
fn what_no_rule_decides_follows_from_the_other_keys() {
    let folder = Folder::new();
    let rules = folder.write(
        "rules.toml",
        "[[rule]]\nallow = [\"publish\"]\ntopics = [\"a\"]\n",
    );
    let policy = |text: &str| {
        let access = Access::open(&config(&folder.0, text), Clock::start());
        let policy = access.unwrap_or_else(|error| panic!("{error}")).policy();
        (policy.anonymous, policy.unruled)
    };
    let everywhere = "[access]\nanonymous = \"everywhere-without-any-authentication\"";
    assert_eq!(policy(""), (Origins::Loopback, Origins::Loopback));
    assert_eq!(
        policy(everywhere),
        (Origins::Everywhere, Origins::Everywhere)
    );
    assert_eq!(
        policy(&format!("{everywhere}\nrules = {rules:?}")),
        (Origins::Everywhere, Origins::Nowhere)
    );
    assert_eq!(
        policy(&format!(
            "[access]\nanonymous = \"nowhere\"\nrules = {rules:?}\nunruled = \"loopback\""
        )),
        (Origins::Nowhere, Origins::Loopback)
    );
}

#[test]
fn methods_are_asked_in_the_order_in_which_they_are_written() {
    let folder = Folder::new();
    let users = folder.write("users", line("alice", "secret"));
    let text = format!(
        "[access]\nmethods = [\"http\", \"certificate\", \"password\"]\ncertificate_name = \"uri\"\npassword_file = {users:?}\n\
         [http]\nurl = \"http://127.0.0.1:1/\"\n[listeners]\ntls = [\"127.0.0.1:8883\"]\n\
         [tls]\ncertificates = [\"c\"]\nkeys = [\"k\"]\nclient_certificates = \"optional\"\nclient_authorities = [\"a\"]\n"
    );
    let access = Access::open(&config(&folder.0, &text), Clock::start());
    let policy = access.unwrap_or_else(|error| panic!("{error}")).policy();
    assert!(matches!(
        *policy.methods,
        [
            Method::CallOut,
            Method::Certificate(CertificateName::Uri),
            Method::Password(_)
        ]
    ));
}

#[test]
fn bad_files_are_named_with_their_keys_and_without_their_secrets() {
    let folder = Folder::new();
    let bad = folder.write("bad", "topsecret\n");
    let absent = folder.0.join("absent").display().to_string();
    for (text, error) in [
        (
            format!("[access]\nrules = {bad:?}"),
            "(access.rules): line 1",
        ),
        (
            format!("[access]\nrules = {absent:?}"),
            "(access.rules): No such file",
        ),
        (
            format!("[access]\nmethods = [\"password\"]\npassword_file = {bad:?}"),
            "(access.password_file): line 1: not name:hash",
        ),
        (
            format!("[access]\nmethods = [\"token\"]\n[token]\nsecrets = [{bad:?}]"),
            "(token.secrets): a secret of 9 bytes can be guessed",
        ),
        (
            format!("[access]\nmethods = [\"token\"]\n[token]\nkeys = [{bad:?}]"),
            "(token.keys): not PEM",
        ),
        (
            format!("[access]\nmethods = [\"token\"]\n[token]\njwks = [{bad:?}]"),
            "(token.jwks): not a JSON Web Key Set",
        ),
        (
            format!(
                "[access]\nmethods = [\"http\"]\n[http]\nurl = \"http://127.0.0.1/\"\nheaders_file = {bad:?}"
            ),
            ":1 (http.headers_file): not a header",
        ),
        (
            format!(
                "[access]\nmethods = [\"http\"]\nauthorities = [{bad:?}]\n[http]\nurl = \"https://127.0.0.1/\""
            ),
            "(access.authorities): no certificate in it",
        ),
    ] {
        let found = Access::check(&config(&folder.0, &text))
            .expect_err(&text)
            .to_string();
        assert!(found.contains(error), "{text}: {found}");
        assert!(!found.contains("topsecret"), "{found}");
        // The command that checks a file says the same.
        let file = folder.write("node.toml", &text);
        let output = Command::new(env!("CARGO_BIN_EXE_roadstead"))
            .args(["config", "check", &file])
            .output();
        let output = output.expect("it runs");
        let err = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(err.contains(error), "{err}");
    }
}
