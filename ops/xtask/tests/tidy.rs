//! Rules of this repository that no other tool checks. Each failure names the file, the line and what to do.
//! The rules read tracked files only, so that build folders and tools do not count.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Most lines of code in a file: blank lines and comments are free. Named exceptions have their reason.
const CODE_LINES_MAX: usize = 500;
const LONGER_FILES: &[(&str, &str)] = &[(
    "edge-proto/tests/violations.rs",
    "one table: a row per rule of the protocol that a peer can break",
)];

/// Crates without a socket, clock, thread or file in reach.
const PURE: &[&str] = &["edge-proto/src/", "cluster/src/"];

/// What a pure crate must not name. Wasm's std has stubs for these, so that the compiler alone does not tell.
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io::stdin",
    "std::io::stdout",
    "std::net::Tcp",
    "std::net::ToSocketAddrs",
    "std::net::Udp",
    "std::os",
    "std::process",
    "std::thread",
    "Instant::now",
    "SystemTime",
    "println!",
];

/// Where `unsafe` may be.
const UNSAFE_ALLOWED: &str = "reactor/";

/// Words that are assembled here so that this file does not break its own rules.
fn word(parts: &[&str]) -> String {
    parts.concat()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the repository exists")
}

/// Tracked files as (path from the root, text); what is not text is left out.
fn tracked(keep: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let root = root();
    let listing = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(&root)
        .output()
        .expect("git lists the files of the repository");
    assert!(
        listing.status.success(),
        "git ls-files failed: is this a git repository?"
    );
    String::from_utf8(listing.stdout)
        .expect("file names are UTF-8")
        .split('\0')
        .filter(|path| !path.is_empty() && keep(path))
        .filter_map(|path| Some((path.to_owned(), fs::read_to_string(root.join(path)).ok()?)))
        .collect()
}

fn rust_files() -> Vec<(String, String)> {
    tracked(|path| path.ends_with(".rs"))
}

/// A line without its `//` comment. A `//` inside of a string cuts too much off, which no rule here minds.
fn code(line: &str) -> &str {
    line.split_once("//").map_or(line, |(before, _)| before)
}

fn report(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

/// `path:line: message` for each line that breaks a rule.
fn lines_that(
    files: &[(String, String)],
    breaks: impl Fn(&str, &str) -> Option<String>,
) -> Vec<String> {
    files
        .iter()
        .flat_map(|(path, text)| {
            text.lines()
                .enumerate()
                .filter_map(|(index, line)| {
                    Some(format!("{path}:{}: {}", index + 1, breaks(path, line)?))
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn files_are_short() {
    let mut violations = Vec::new();
    for (path, text) in rust_files() {
        let count = text
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with("//"))
            .count();
        let excepted = LONGER_FILES.iter().any(|(file, _reason)| *file == path);
        if count > CODE_LINES_MAX && !excepted {
            violations.push(format!(
                "{path}: {count} lines of code, {CODE_LINES_MAX} at most: split it by what it owns"
            ));
        }
        if count <= CODE_LINES_MAX && excepted {
            violations.push(format!(
                "{path}: {count} lines of code: take it off the list of longer files"
            ));
        }
    }
    report(&violations);
}

#[test]
fn every_module_says_what_it_owns() {
    let violations: Vec<String> = rust_files()
        .into_iter()
        .filter(|(_, text)| {
            !text
                .trim_start_matches("#![no_main]")
                .trim_start()
                .starts_with("//!")
        })
        .map(|(path, _)| {
            format!("{path}:1: begin with a `//!` header: what it owns, and what it must never do")
        })
        .collect();
    report(&violations);
}

#[test]
fn nothing_is_left_over() {
    let marks = [
        word(&["FIX", "ME"]),
        word(&["TO", "DO"]),
        word(&["XX", "X"]),
        word(&["db", "g!("]),
    ];
    let files =
        tracked(|path| path.ends_with(".rs") || path.ends_with(".py") || path.ends_with(".mjs"));
    report(&lines_that(&files, |_, line| {
        let mark = marks.iter().find(|mark| line.contains(mark.as_str()))?;
        Some(format!("`{mark}`: finish it, or file it as an issue"))
    }));
}

#[test]
fn unsafe_is_in_one_crate_and_says_why() {
    let unsafe_word = word(&["un", "safe"]);
    let starts = [
        format!("{unsafe_word} {{"),
        format!("{unsafe_word} impl"),
        format!("{unsafe_word} fn"),
    ];
    let mut violations = Vec::new();
    for (path, text) in rust_files() {
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let Some(start) = starts
                .iter()
                .find(|start| code(line).contains(start.as_str()))
            else {
                continue;
            };
            if !path.starts_with(UNSAFE_ALLOWED) {
                violations.push(format!(
                    "{path}:{}: `{unsafe_word}` belongs into {UNSAFE_ALLOWED}",
                    index + 1
                ));
                continue;
            }
            // The sentence stands in the comment above, or above the statement that the block is part of.
            let above = &lines[index.saturating_sub(12)..=index];
            let documented = above
                .iter()
                .any(|line| line.contains("SAFETY:") || line.contains("# Safety"));
            if !documented && !start.ends_with("fn") {
                violations.push(format!("{path}:{}: no `SAFETY:` sentence above", index + 1));
            }
        }
    }
    report(&violations);
}

#[test]
fn tests_neither_sleep_nor_hide() {
    let sleep = word(&["thread::", "sleep"]);
    let ignore = word(&["#[", "ignore"]);
    let mut violations = Vec::new();
    for (path, text) in rust_files() {
        // Tests are last in a file, so that everything below this line is one.
        let first_test = text
            .lines()
            .position(|line| line.starts_with("#[cfg(") && line.contains("test"));
        let only_tests =
            path.contains("/tests/") || path.ends_with("tests.rs") || path.contains("/fuzz/");
        for (index, line) in text.lines().enumerate() {
            if code(line).contains(&ignore) {
                violations.push(format!(
                    "{path}:{}: `{ignore}`: a test runs, or it is no test",
                    index + 1
                ));
            }
            let in_tests = only_tests || first_test.is_some_and(|first| index >= first);
            if in_tests && code(line).contains(&sleep) {
                violations.push(format!(
                    "{path}:{}: `{sleep}` in a test: wait for a condition",
                    index + 1
                ));
            }
        }
    }
    let scripts = tracked(|path| path.ends_with(".py") || path.ends_with(".mjs"));
    violations.extend(lines_that(&scripts, |_, line| {
        line.contains("time.sleep(")
            .then(|| "a script sleeps: wait for a condition with a deadline".to_owned())
    }));
    report(&violations);
}

#[test]
fn pure_crates_name_nothing_impure() {
    let files =
        tracked(|path| path.ends_with(".rs") && PURE.iter().any(|folder| path.starts_with(folder)));
    assert!(
        !files.is_empty(),
        "the pure crates have moved: tell this test where"
    );
    report(&lines_that(&files, |_, line| {
        let name = IMPURE.iter().find(|name| code(line).contains(*name))?;
        Some(format!("`{name}` in a pure crate: take it as an argument"))
    }));
}

#[test]
fn no_host_or_home_of_somebody_is_named() {
    let hosts = [
        word(&["deb.debian", ".org"]),
        word(&["security.debian", ".org"]),
        word(&["py", "pi.org"]),
        word(&["pythonhosted", ".org"]),
        word(&["registry.npm", "js.org"]),
        word(&["static.crates", ".io"]),
        word(&["index.crates", ".io"]),
        word(&["/ho", "me/"]),
        word(&["/ro", "ot/"]),
        word(&["/wo", "rk/"]),
        word(&["/tmp/", "target-"]),
    ];
    report(&lines_that(
        &tracked(|path| !path.starts_with("LICENSE")),
        |_, line| {
            let host = hosts.iter().find(|host| line.contains(host.as_str()))?;
            Some(format!(
                "`{host}`: a host or folder that is only somebody's; the package clients know theirs"
            ))
        },
    ));
}

#[test]
fn pages_have_a_size() {
    for (path, lines_max) in [("README.md", 150), ("docs/ARCHITECTURE.md", 400)] {
        let count = fs::read_to_string(root().join(path))
            .unwrap_or_default()
            .lines()
            .count();
        assert!(
            count <= lines_max,
            "{path}: {count} lines, {lines_max} at most: say less, or say it elsewhere"
        );
    }
}

#[test]
fn links_of_pages_lead_to_files() {
    let root = root();
    let mut violations = Vec::new();
    for (path, text) in tracked(|path| path.ends_with(".md")) {
        let folder = root.join(&path);
        let folder = folder.parent().expect("a file is in a folder");
        for (index, line) in text.lines().enumerate() {
            for target in line
                .split("](")
                .skip(1)
                .filter_map(|rest| rest.split_once(')'))
                .map(|(target, _)| target)
            {
                let file = target.split('#').next().unwrap_or_default().trim();
                let elsewhere =
                    file.is_empty() || file.contains("://") || file.starts_with("mailto:");
                if !elsewhere && !folder.join(file).exists() {
                    violations.push(format!("{path}:{}: `{file}` does not exist", index + 1));
                }
            }
        }
    }
    report(&violations);
}

#[test]
fn decisions_are_numbered_without_gaps() {
    let mut names: Vec<String> =
        tracked(|path| path.starts_with("docs/decisions/") && path.ends_with(".md"))
            .into_iter()
            .map(|(path, _)| path["docs/decisions/".len()..].to_owned())
            .collect();
    names.sort();
    for (index, name) in names.iter().enumerate() {
        let number = format!("{:04}-", index + 1);
        assert!(
            name.starts_with(&number),
            "docs/decisions/{name}: the next page is {number}….md"
        );
    }
}
