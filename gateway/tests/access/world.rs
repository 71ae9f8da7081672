//! The access side of a node without its cores: what they would ask is asked here, and what they would be told is kept.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use gateway::access::Identity;
use gateway::access::policy::{Answer, Credentials, Outcome, Policy, Question, Verdict};
use gateway::admin::{AdminReply, AdminRequest};
use gateway::config::{Config, Sources};
use gateway::control::access::Access;
use gateway::control::{Cores, SendToCore};
use gateway::event_loop::Clock;
use reactor::driver::{ConnectionId, Driver as _, DriverConfig};
use reactor::epoll::EpollDriver;
use reactor::mesh::{Inbox, inbox};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(2);

/// Runs a test on a runtime like that of the control thread.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// A folder that is removed at the end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("roadstead-access-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    /// Writes a file and returns its name.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("it can be written");
        path.display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A configuration with its store in a folder.
pub(crate) fn config(folder: &Path, text: &str) -> Config {
    let data = folder.join("data");
    std::fs::create_dir_all(&data).expect("a folder");
    let text = format!(
        "{text}\n[engine]\npath = {:?}\n",
        data.display().to_string()
    );
    Config::load(&Sources {
        file: Some(("node.toml".into(), text)),
        ..Sources::default()
    })
    .unwrap_or_else(|errors| panic!("{errors}"))
}

/// The policies that the cores were given.
type Policies = Arc<Mutex<Vec<Arc<Policy>>>>;

/// An access side that runs.
pub(crate) struct World {
    pub(crate) access: Arc<Access>,
    pub(crate) cores: Arc<Cores>,
    pub(crate) policies: Policies,
    inbox: Inbox<Verdict>,
    _driver: EpollDriver,
    next: u32,
}

impl World {
    /// Called inside of a runtime, which everything runs on.
    pub(crate) fn start(config: &Config) -> Self {
        let access = Access::open(config, Clock::start()).unwrap_or_else(|error| panic!("{error}"));
        let access = Arc::new(access);
        let (cores, policies) = cores();
        let driver = EpollDriver::new(DriverConfig::small()).expect("epoll works");
        let (sender, inbox) = inbox(2, driver.waker());
        let (serving, told) = (Arc::clone(&access), Arc::clone(&cores));
        tokio::spawn(async move { serving.serve(told, vec![sender]).await });
        Self {
            access,
            cores,
            policies,
            inbox,
            _driver: driver,
            next: 0,
        }
    }

    /// Asks as a core does: the number of the question, or what is known at once.
    pub(crate) fn put(&mut self, credentials: &Credentials) -> Result<u32, Outcome> {
        let policy = self.access.policy();
        let now_unix_ms = Clock::start().now().unix_ms;
        let from = match policy.ask(0, credentials, now_unix_ms) {
            Answer::Decided(outcome) => return Err(outcome),
            Answer::Elsewhere(from) => from,
        };
        self.next += 1;
        let question = Question {
            core: 0,
            connection: ConnectionId {
                slot: self.next,
                generation: 1,
            },
            policy,
            from,
            credentials: Box::new(credentials.clone()),
        };
        match self.access.asker().ask(question) {
            Ok(()) => Ok(self.next),
            Err(verdict) => Err(verdict.outcome),
        }
    }

    /// The next verdict.
    pub(crate) async fn verdict(&mut self) -> (u32, Outcome) {
        let mut verdict = None;
        let Self { inbox, .. } = self;
        let came = until(|| {
            inbox.drain(1, |it| verdict = Some(it));
            verdict.is_some()
        });
        came.await;
        let verdict = verdict.expect("it came");
        (verdict.connection.slot, verdict.outcome)
    }

    /// What becomes of a client.
    pub(crate) async fn ask(&mut self, credentials: &Credentials) -> Outcome {
        match self.put(credentials) {
            Ok(number) => {
                let (answered, outcome) = self.verdict().await;
                assert_eq!(answered, number, "one question at a time");
                outcome
            }
            Err(outcome) => outcome,
        }
    }

    /// The user that a client turns out to be.
    pub(crate) async fn user(&mut self, credentials: &Credentials) -> Option<String> {
        let identity: Arc<Identity> = self.ask(credentials).await.expect("let in")?;
        identity.user.as_deref().map(str::to_owned)
    }
}

/// Waits until something is so.
pub(crate) async fn until(mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(STEP).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.expect("it happens in time");
}

/// Two cores that take every policy.
fn cores() -> (Arc<Cores>, Policies) {
    let policies = Policies::default();
    let this = Arc::new(OnceLock::<Weak<Cores>>::new());
    let sender = |core: usize| -> SendToCore {
        let (this, policies) = (Arc::clone(&this), Arc::clone(&policies));
        Box::new(move |id, request| {
            let AdminRequest::SetPolicy(policy) = request else {
                panic!("nothing else is told: {request:?}");
            };
            if core == 0 {
                policies.lock().expect("no panic").push(policy);
            }
            let cores = this.get().and_then(Weak::upgrade).expect("they live");
            cores.answer(id, AdminReply::PolicySet);
            Ok(())
        })
    };
    let cores = Arc::new(Cores::new(vec![sender(0), sender(1)]));
    this.set(Arc::downgrade(&cores)).expect("set once");
    (cores, policies)
}

/// What a client shows.
pub(crate) fn shown(user_name: &str, password: impl AsRef<[u8]>) -> Credentials {
    Credentials {
        client: "phone-7".into(),
        user_name: Some(user_name.into()),
        password: Some(password.as_ref().into()),
        peer: "192.0.2.7:50123".parse().expect("an address"),
        certificate: None,
    }
}
