//! What the two programs here share: the arguments of a conversation, and the run of its scenarios. Each scenario prints a
//! line; the exit code is 1 when one fails.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// Most that one answer of the server may take.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// What a scenario becomes.
pub type Outcome<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// A scenario by its name; `T` says where the server is and how to speak.
pub type Scenario<T> = (&'static str, fn(&T) -> Outcome<'_>);

/// What a client trusts and shows: names of files in a folder, without their endings.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Where the files are.
    pub folder: PathBuf,
    /// The authority that is trusted.
    pub authority: String,
    /// The certificate that is shown.
    pub certificate: Option<String>,
}

impl Tls {
    /// The path of one of the files.
    #[must_use]
    pub fn file(&self, name: &str, ending: &str) -> PathBuf {
        self.folder.join(format!("{name}.{ending}"))
    }
}

/// A machine whose address a client may change, and the node as it is seen from there.
#[derive(Clone, Debug)]
pub struct Ground {
    /// The network device.
    pub device: String,
    /// The addresses that the device has in turn, with the length of their network's prefix. The first is the one it has.
    pub addresses: Vec<String>,
    /// Where the node is for a client that stays: in a network where nothing changes.
    pub still: IpAddr,
    /// The node's admin interface.
    pub admin: SocketAddr,
}

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// Address or name of the server.
    pub host: String,
    /// Its port, of UDP or TCP.
    pub port: u16,
    /// What the client trusts and shows.
    pub tls: Tls,
    /// True for QUIC, false for TLS over TCP.
    pub quic: bool,
    /// True for the clients that must not get in, instead of the conversation.
    pub refusals: bool,
    /// For a client on the move.
    pub ground: Option<Ground>,
    /// Scenarios whose name contains this.
    pub only: String,
    /// Scenarios, with commas between, that this server is known to fail.
    pub known: String,
}

impl Arguments {
    /// Reads the arguments of the process.
    ///
    /// # Errors
    /// One is missing, unknown or no value of its kind.
    pub fn parse() -> Result<Self> {
        Self::read(std::env::args().skip(1))
    }

    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let (mut folder, mut certificate) = (None, None);
        let (mut device, mut addresses, mut still, mut admin) = (None, Vec::new(), None, None);
        let mut parsed = Self {
            host: "localhost".to_owned(),
            port: 14_567,
            tls: Tls {
                folder: PathBuf::new(),
                authority: "authority".to_owned(),
                certificate: None,
            },
            quic: false,
            refusals: false,
            ground: None,
            only: String::new(),
            known: String::new(),
        };
        while let Some(flag) = arguments.next() {
            match flag.as_str() {
                "--quic" => parsed.quic = true,
                "--refusals" => parsed.refusals = true,
                flag => {
                    let value = arguments
                        .next()
                        .with_context(|| format!("`{flag}` takes a value"))?;
                    match flag {
                        "--host" => parsed.host = value,
                        "--port" => parsed.port = value.parse()?,
                        "--ws-port" => {} // Every conversation takes it; none here speaks over WebSocket.
                        "--tls" => folder = Some(PathBuf::from(value)),
                        "--certificate" => certificate = Some(value),
                        "--only" => parsed.only = value,
                        "--known" => parsed.known = value,
                        "--device" => device = Some(value),
                        "--addresses" => addresses.extend(value.split(',').map(str::to_owned)),
                        "--still" => still = Some(value.parse()?),
                        "--admin" => admin = Some(value.parse()?),
                        _ => bail!("unexpected argument `{flag}`"),
                    }
                }
            }
        }
        parsed.tls.folder =
            folder.context("`--tls FOLDER` is missing: what `certificates` has made")?;
        parsed.tls.certificate = certificate;
        if let Some(device) = device {
            parsed.ground = Some(Ground {
                device,
                addresses,
                still: still.context("`--device` needs `--still`")?,
                admin: admin.context("`--device` needs `--admin`")?,
            });
        }
        Ok(parsed)
    }
}

/// Holds a conversation in one version of the protocol; false when a scenario has failed that is not known to.
pub async fn converse<T>(
    scenarios: &[Scenario<T>],
    arguments: &Arguments,
    version: &str,
    talk: impl Fn(&'static str) -> T,
) -> bool {
    let mut passed = true;
    let chosen = scenarios
        .iter()
        .filter(|(name, _)| name.contains(&arguments.only));
    for (name, scenario) in chosen {
        let start = tokio::time::Instant::now();
        match scenario(&talk(name)).await {
            Ok(()) => println!(
                "ok {name} {version} ({:.2} s)",
                start.elapsed().as_secs_f64()
            ),
            Err(error) if arguments.known.split(',').any(|known| known == *name) => {
                println!("known {name} {version}: {error:#}");
            }
            Err(error) => {
                passed = false;
                println!("FAIL {name} {version}: {error:#}");
            }
        }
    }
    passed
}

/// Waits for an answer until the deadline.
///
/// # Errors
/// There is none; the error says for what.
pub async fn within<T>(what: &str, answer: impl Future<Output = T>) -> Result<T> {
    let answer = tokio::time::timeout(DEADLINE, answer).await;
    answer.with_context(|| format!("waited {} s for {what}", DEADLINE.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Arguments> {
        Arguments::read(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_client_on_the_move_is_told_of_its_ground() {
        let text = "--tls f --quic --host 10.0.0.1 --port 7 --device cable --addresses a/24,b/24 --still 10.0.1.1 \
                    --admin 10.0.0.1:9";
        let arguments = parsed(text).expect("all is there");
        let ground = arguments.ground.expect("there is one");
        assert_eq!(ground.addresses, ["a/24", "b/24"]);
        assert_eq!((ground.device.as_str(), arguments.port), ("cable", 7));
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        let error = |text| parsed(text).expect_err("it is incomplete").to_string();
        assert!(error("--quic").contains("--tls"));
        assert!(error("--tls").contains("`--tls` takes a value"));
        assert!(error("--tls f --device d").contains("--still"));
        assert!(error("--tls f --what x").contains("`--what`"));
    }

    #[test]
    fn a_scenario_that_fails_unknown_to_us_fails_the_conversation() {
        const SCENARIOS: &[Scenario<()>] = &[
            ("good", |()| Box::pin(async { Ok(()) })),
            ("bad", |()| Box::pin(async { bail!("it is bad") })),
        ];
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        let passed = |more: &str| {
            let arguments = parsed(&format!("--tls f {more}")).expect("they are complete");
            runtime.block_on(converse(SCENARIOS, &arguments, "5", |_| ()))
        };
        assert!(!passed(""));
        assert!(passed("--only good"));
        assert!(passed("--known bad,other"));
    }
}
