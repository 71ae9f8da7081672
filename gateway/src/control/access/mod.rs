//! Who may connect and what they may do, as far as it is decided outside the cores: makes the [`Policy`] of files, fetched keys and bans,
//! gives it to all cores whenever one of these changes, and answers what the cores cannot answer at once.
//!
//! ```text
//! files ──┐                       ┌─▶ AdminRequest::SetPolicy ─▶ every core
//! keys  ──┼─▶ State ─▶ Policy ────┘
//! bans  ──┘                       core ─▶ Asker ─▶ questions ─▶ argon2id, HTTP, keys ─▶ Verdict ─▶ the core that asked
//! ```
//!
//! **What was read before stays in use** when something cannot be read or fetched. Policies are given out one after another, so that no core
//! ends up with an older one.

mod answer;
mod bans;
mod call_out;
mod fetch;
mod files;
mod keys;
mod stats;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aws_lc_rs::rand;
use reactor::mesh::InboxSender;
use tokio::sync::{Semaphore, mpsc};

use super::{AskError, Cores};
use crate::access::bans::Bans;
use crate::access::policy::{CertificateName, Method, Origins, Policy, TokenMethod, Verdict};
use crate::access::token::{KeySet, TokenPolicy};
use crate::admin::AdminRequest;
use crate::config::{self, AccessMethod, Anonymous, Config, Unruled};
use crate::durable_file;
use crate::event_loop::Clock;

pub use answer::Asker;
pub use bans::{BANS_MAX, BanFailure, BanKind, BanRecord};
pub use files::AccessError;
pub use stats::{Asked, Said, Stats};

use answer::Waiting;
use call_out::Caller;
use files::{Content, Seen};
use keys::KeySource;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How long they must stay as they are before they are read.
const SETTLE: Duration = Duration::from_secs(1);

/// Why a policy is not in use everywhere.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// Something in the files; all cores keep what they had.
    #[error("the access files are not taken: {0}; what was read before stays in use")]
    Files(#[from] AccessError),
    /// A core did not take it yet.
    #[error("{0}; it is given what was read as soon as it takes it")]
    Core(#[from] AskError),
}

/// What is in use, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessReport {
    /// The methods in order.
    pub methods: Vec<&'static str>,
    /// Counts the policies since the start of the node.
    pub generation: u64,
    /// True exactly when the files were good when they were read last.
    pub files_good: bool,
    /// Users of the password file.
    pub users: usize,
    /// Rules of the rules file; `None` without one.
    pub rules: Option<usize>,
    /// Keys that tokens are checked with.
    pub token_keys: usize,
    /// Milliseconds since keys were last fetched, or since the start where that never worked; `None` when none are fetched.
    pub token_keys_age_ms: Option<u64>,
    /// Bans, those that are over and not dropped yet included.
    pub bans: usize,
    /// Questions being answered.
    pub waiting: usize,
}

/// The access side of a node.
pub struct Access {
    config: Config,
    folder: PathBuf,
    clock: Clock,
    /// Makes what the password file says about unknown names; the same after a restart.
    secret: [u8; 32],
    stats: Arc<Stats>,
    state: Mutex<State>,
    /// Held from the making of a policy until the cores have it.
    delivery: tokio::sync::Mutex<()>,
    keys: Option<KeySource>,
    asker: Asker,
    questions: Mutex<Option<mpsc::Receiver<Waiting>>>,
    /// One for each password that may be checked at the same time.
    passwords: Arc<Semaphore>,
}

struct State {
    seen: Vec<Seen>,
    files_good: bool,
    content: Content,
    caller: Option<Arc<Caller>>,
    fetched: Fetched,
    bans: Arc<Bans>,
    policy: Arc<Policy>,
    generation: u64,
    /// True exactly when a core may have another policy than this.
    undelivered: bool,
}

/// Keys of tokens from a URL.
struct Fetched {
    /// Empty before the first time.
    keys: KeySet,
    /// When, or when the node started.
    at_mono_ms: u64,
    /// Why there are none, while there are none.
    problem: Option<String>,
}

impl Access {
    /// Reads everything that is in files. The folder of the engine is there already.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn open(config: &Config, clock: Clock) -> Result<Self, AccessError> {
        let folder = config.engine.path.clone();
        let now = clock.now();
        let secret = own_secret(&folder, "access.secret")?;
        let seen = files::look(config); // Before they are read, so that no change is missed.
        let content = files::read(config, &secret)?;
        let bans = Arc::new(bans::load(&folder, random_u64()?, now.unix_ms)?);
        let stats = Arc::new(Stats::default());
        let questions_max = config.access.questions_max as usize;
        let (asker, questions) = Asker::new(questions_max, &config.admission.exempt.0, &stats);
        let mut state = State {
            seen,
            files_good: true,
            caller: Caller::of(config, &content)?,
            content,
            fetched: Fetched {
                keys: KeySet::default(),
                at_mono_ms: now.mono_ms,
                problem: Some("they are not fetched yet".into()),
            },
            bans,
            policy: Arc::new(Policy::open()),
            generation: 1,
            undelivered: false,
        };
        state.policy = Arc::new(policy(config, &state));
        Ok(Self {
            config: config.clone(),
            folder,
            clock,
            secret,
            stats,
            state: Mutex::new(state),
            delivery: tokio::sync::Mutex::default(),
            keys: KeySource::of(config),
            asker,
            questions: Mutex::new(Some(questions)),
            passwords: Arc::new(Semaphore::new(config.access.password_threads as usize)),
        })
    }

    /// Reads the files and keeps nothing: whether a node would start with them.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(config: &Config) -> Result<(), AccessError> {
        files::read(config, &[0; 32]).map(drop)
    }

    /// Where cores ask.
    pub fn asker(&self) -> Asker {
        self.asker.clone()
    }

    /// The policy that holds.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.state().policy)
    }

    /// The time, as the bans count it.
    pub(super) fn now_unix_ms(&self) -> u64 {
        self.clock.now().unix_ms
    }

    /// What was counted.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What is in use.
    pub fn report(&self) -> AccessReport {
        let state = self.state();
        let age = |_: &KeySource| {
            let now = self.clock.now().mono_ms;
            now.saturating_sub(state.fetched.at_mono_ms)
        };
        let content = &state.content;
        let methods = self.config.access.methods.0.iter();
        AccessReport {
            methods: methods.map(|method| method.word()).collect(),
            generation: state.generation,
            files_good: state.files_good,
            users: content.passwords.as_ref().map_or(0, |file| file.len()),
            rules: content.rules.as_ref().map(|rules| rules.len()),
            token_keys: content.keys.len() + state.fetched.keys.len(),
            token_keys_age_ms: self.keys.as_ref().map(age),
            bans: state.bans.len(),
            waiting: self.asker.waiting(),
        }
    }

    /// Answers questions, watches the files and fetches keys, for ever. Verdicts go to the cores in their order.
    pub async fn serve(self: &Arc<Self>, cores: Arc<Cores>, verdicts: Vec<InboxSender<Verdict>>) {
        tokio::join!(
            self.answer_questions(&cores, verdicts),
            self.watch(&cores),
            self.keep_keys(&cores),
        );
    }

    /// Reads the files again and gives what they say to all cores. Keys from a URL are fetched soon after.
    ///
    /// # Errors
    /// See [`ReloadError`].
    pub async fn reload(&self, cores: &Cores) -> Result<(), ReloadError> {
        let held = self.delivery.lock().await;
        self.state().seen = files::look(&self.config);
        let read = files::read(&self.config, &self.secret)
            .and_then(|content| Ok((Caller::of(&self.config, &content)?, content)));
        self.state().files_good = read.is_ok();
        let (caller, content) = read?;
        self.renew(cores, held, |state| {
            state.caller = caller;
            state.content = content;
        })
        .await?;
        if let Some(keys) = &self.keys {
            keys.want();
        }
        tracing::info!("access files read again");
        Ok(())
    }

    async fn watch(&self, cores: &Cores) {
        loop {
            tokio::time::sleep(LOOK).await;
            let outcome = if files::look(&self.config) != self.state().seen {
                self.settled().await;
                self.reload(cores).await
            } else if self.state().undelivered {
                let held = self.delivery.lock().await;
                self.renew(cores, held, |_| {}).await
            } else {
                Ok(())
            };
            if let Err(error) = outcome {
                tracing::error!("{error}");
            }
        }
    }

    /// Waits until nobody writes the files any more: half a file may be valid, and what it does not allow would be cut.
    async fn settled(&self) {
        let mut before = files::look(&self.config);
        loop {
            tokio::time::sleep(SETTLE).await;
            let now = files::look(&self.config);
            if now == before {
                return;
            }
            before = now;
        }
    }

    /// Makes a policy of what has changed, and gives it to all cores.
    async fn renew(
        &self,
        cores: &Cores,
        held: tokio::sync::MutexGuard<'_, ()>,
        change: impl FnOnce(&mut State),
    ) -> Result<(), ReloadError> {
        let policy = {
            let mut state = self.state();
            change(&mut state);
            state.policy = Arc::new(policy(&self.config, &state));
            state.generation += 1;
            state.undelivered = true;
            Arc::clone(&state.policy)
        };
        cores.ask_all(AdminRequest::SetPolicy(policy)).await?;
        self.state().undelivered = false;
        drop(held);
        Ok(())
    }

    async fn keys_fetched(&self, keys: KeySet, changed: bool, cores: &Cores) {
        let held = self.delivery.lock().await;
        let at_mono_ms = self.clock.now().mono_ms;
        if !changed {
            self.state().fetched.at_mono_ms = at_mono_ms;
            return;
        }
        let change = |state: &mut State| {
            state.fetched = Fetched {
                keys,
                at_mono_ms,
                problem: None,
            };
        };
        if let Err(error) = self.renew(cores, held, change).await {
            tracing::error!("{error}");
        }
    }

    fn keys_failed(&self, error: &str) {
        let mut state = self.state();
        if state.fetched.problem.is_some() {
            state.fetched.problem = Some(format!("its keys cannot be fetched: {error}"));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}

/// The policy that follows from the configuration and what was read and fetched.
fn policy(config: &Config, state: &State) -> Policy {
    let access = &config.access;
    let passwords = || {
        let file = state.content.passwords.clone();
        file.expect("a configuration with this method names a file, and all files were read")
    };
    let method = |method: &AccessMethod| match method {
        AccessMethod::Certificate => Method::Certificate(match access.certificate_name {
            config::CertificateName::CommonName => CertificateName::CommonName,
            config::CertificateName::Dns => CertificateName::DnsName,
            config::CertificateName::Uri => CertificateName::Uri,
            config::CertificateName::Email => CertificateName::Email,
        }),
        AccessMethod::Token => Method::Token(Arc::new(tokens(config, state))),
        AccessMethod::Password => Method::Password(passwords()),
        AccessMethod::Http => Method::CallOut,
    };
    Policy {
        anonymous: match access.anonymous {
            Anonymous::Nowhere => Origins::Nowhere,
            Anonymous::Loopback => Origins::Loopback,
            Anonymous::Everywhere => Origins::Everywhere,
        },
        methods: access.methods.0.iter().map(method).collect(),
        rules: state.content.rules.clone(),
        unruled: match config.unruled() {
            Unruled::Nowhere => Origins::Nowhere,
            Unruled::Loopback | Unruled::Auto => Origins::Loopback,
            Unruled::Everywhere => Origins::Everywhere,
        },
        stamps_senders: access.stamp_senders,
        bans: Arc::clone(&state.bans),
        web_origins: config.listeners.websocket_origins.to_web_origins(),
    }
}

fn tokens(config: &Config, state: &State) -> TokenMethod {
    let token = &config.token;
    TokenMethod {
        keys: state.content.keys.clone(),
        fetched: token
            .jwks_url
            .0
            .is_some()
            .then(|| state.fetched.keys.clone()),
        policy: TokenPolicy {
            issuer: token.issuer.0.clone(),
            audience: token.audience.0.clone(),
            leeway_ms: u64::try_from(token.leeway.as_millis()).unwrap_or(u64::MAX),
            expiry_required: token.expiry_required,
            user_claim: token.user_claim.0.clone(),
            groups_claim: token.groups_claim.0.clone(),
            rules_claim: token.rules_claim.0.clone(),
        },
    }
}

/// A secret of this node alone, made when it starts for the first time. The folder of the engine is there already.
///
/// # Errors
/// What is wrong with its file.
pub fn own_secret(folder: &Path, name: &str) -> Result<[u8; 32], AccessError> {
    let path = folder.join(name);
    let failed = |detail: String, remedy| AccessError::Own {
        file: path.display().to_string(),
        detail,
        remedy,
    };
    match std::fs::read(&path) {
        Ok(bytes) => <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| {
            let detail = format!("{} bytes, and 32 are right", bytes.len());
            failed(
                detail,
                "remove it: another one is made, and nothing that is stored depends on it",
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let secret = random()?;
            durable_file::replace(&path, &secret).map_err(|error| {
                failed(
                    error.to_string(),
                    "see that the node may write to its folder",
                )
            })?;
            Ok(secret)
        }
        Err(error) => Err(failed(
            error.to_string(),
            "see that the node may read its folder",
        )),
    }
}

fn random() -> Result<[u8; 32], AccessError> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| AccessError::NoRandomness)?;
    Ok(bytes)
}

fn random_u64() -> Result<u64, AccessError> {
    let [a, b, c, d, e, f, g, h, ..] = random()?;
    Ok(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
}
