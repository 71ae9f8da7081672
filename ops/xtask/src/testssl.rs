//! testssl.sh against the TLS listener of a node, with an ECDSA certificate and an RSA one, TLS 1.2 and 1.3: what somebody else thinks
//! of our choices. The program is that of Debian's release, so that its opinion changes when the release does.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::process::run;
use crate::project::Project;
use crate::server::{Against, Security, Server, certificates};
use crate::step::Step;
use crate::tools::{Tool, debian_libraries};

/// Most that it may take.
const SCAN_LIMIT: Duration = Duration::from_secs(600);
/// What is worse than "low", in its words, and what keeps it from its work.
const TOO_BAD: [&str; 4] = ["MEDIUM", "HIGH", "CRITICAL", "FATAL"];
/// What is no finding.
const GOOD: [&str; 2] = ["OK", "INFO"];

/// Lets a node be scanned, which has to be built.
pub(crate) fn step() -> Step {
    Step::call("testssl.sh", &[Tool::Testssl], scan).slow()
}

fn scan(project: &Project) -> Result<()> {
    let mut server = Server::start(project, &Against::Roadstead("auto"), Security::BothKeys)?;
    let tool = project.tools().join("testssl");
    let table = project.scratch("testssl")?.join("findings.csv");
    if table.exists() {
        fs::remove_file(&table)?; // It does not write over anything.
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = project.command("bash");
    command
        .arg(tool.join("usr/bin/testssl"))
        .args(["--warnings", "off", "--color", "0", "--quiet"])
        .args(["--nodns", "none", "--ip", "127.0.0.1", "--add-ca"])
        .arg(certificates(project)?.join("authority.pem"))
        .arg("--openssl")
        .arg(tool.join("usr/bin/openssl"))
        .arg("--csvfile")
        .arg(&table)
        .arg(format!("localhost:{}", server.port))
        .env("TESTSSL_INSTALL_DIR", tool.join("etc/testssl"))
        .env("PATH", format!("{}:{path}", tool.join("usr/bin").display()))
        .env("LD_LIBRARY_PATH", debian_libraries(&tool))
        .stdout(Stdio::null());
    // It counts findings in its exit code; what it found is in the table.
    let outcome = run(project, &mut command, SCAN_LIMIT);
    server.still_runs()?;
    let text = fs::read_to_string(&table)
        .with_context(|| format!("testssl.sh wrote no findings ({outcome:?})"))?;
    judge(&text)
}

/// Prints the findings that are any, and fails when one is too bad.
fn judge(table: &str) -> Result<()> {
    let mut findings = 0;
    let mut too_bad = Vec::new();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.trim_matches('"').split("\",\"").collect();
        let [id, _host, _port, severity, finding, ..] = fields[..] else {
            bail!("not a line of testssl.sh's table: {line}");
        };
        findings += 1;
        if !GOOD.contains(&severity) {
            println!("{severity:8} {id}: {finding}");
        }
        if TOO_BAD.contains(&severity) {
            too_bad.push(id);
        }
    }
    println!("{findings} findings, {} above low", too_bad.len());
    if findings < 100 {
        bail!("testssl.sh did not come to its end: it has some 150 findings");
    }
    if !too_bad.is_empty() {
        bail!("above low: {}", too_bad.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(severity: &str) -> String {
        let head = "\"id\",\"fqdn/ip\",\"port\",\"severity\",\"finding\",\"cve\",\"cwe\"\n";
        let line =
            |severity: &str| format!("\"x\",\"h\",\"1\",\"{severity}\",\"of x\",\"\",\"\"\n");
        format!("{head}{}{}", line("OK").repeat(120), line(severity))
    }

    #[test]
    fn a_finding_above_low_fails_and_one_below_does_not() {
        for severity in ["OK", "INFO", "LOW", "WARN"] {
            judge(&table(severity)).expect("nothing is bad");
        }
        for severity in TOO_BAD {
            let error = judge(&table(severity)).expect_err("it is bad");
            assert!(error.to_string().contains("above low: x"), "{error}");
        }
        judge("\"id\"\n").expect_err("it found nothing at all");
    }
}
