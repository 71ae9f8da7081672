//! Questions of the cores about clients: taken into a bounded queue, answered by what may be slow, and sent back as verdicts.
//!
//! **Every question that was taken gets its verdict**, and the room it takes is free again only when the core has it. One address
//! has a quarter of the room at most: whoever guesses passwords waits behind himself, and others in front of most of what he asks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use reactor::mesh::InboxSender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Access;
use super::stats::{Asked, Said, Stats};
use crate::access::address::{AddressKey, Network};
use crate::access::call_out::Reply;
use crate::access::password::PasswordFile;
use crate::access::policy::{
    Answer, Credentials, Method, Outcome, Policy, Question, Refusal, Verdict,
};
use crate::access::token::TokenError;
use crate::control::Cores;

/// Most bytes of user name and password together. Nothing longer is anybody's: tokens have 16 KiB at most.
const QUESTION_BYTES_MAX: usize = 32 * 1024;
/// How soon a core whose inbox is full is tried again.
const RETRY: Duration = Duration::from_millis(5);

/// The least that one address may have waiting, so that a small bound is not a tiny one for everybody behind a NAT.
const OF_ADDRESS_MIN: usize = 16;

/// A question, and the room that it takes.
pub(super) struct Waiting {
    question: Question,
    _room: OwnedSemaphorePermit,
    _place: Place,
}

/// How many questions each address has waiting.
struct Crowd {
    by_address: Mutex<BTreeMap<AddressKey, usize>>,
    of_address_max: usize,
    /// Addresses of many clients, which only the bound of all holds for.
    exempt: Box<[Network]>,
}

/// One of the places of an address; given back when dropped. `None` for an address without a bound.
struct Place(Option<(Arc<Crowd>, AddressKey)>);

impl Crowd {
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        if self.exempt.iter().any(|network| network.contains(address)) {
            return Some(Place(None));
        }
        let key = AddressKey::of(address);
        let mut by_address = self.by_address();
        let count = by_address.entry(key).or_default();
        if *count >= self.of_address_max {
            return None; // It is not 0, so the entry was there.
        }
        *count += 1;
        Some(Place(Some((Arc::clone(self), key))))
    }

    fn by_address(&self) -> MutexGuard<'_, BTreeMap<AddressKey, usize>> {
        self.by_address.lock().expect("no panic while held")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((crowd, key)) = self.0.take() else {
            return;
        };
        let mut by_address = crowd.by_address();
        if let Some(count) = by_address.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&key);
            }
        }
    }
}

/// Where a core puts its questions. Never waits.
#[derive(Clone)]
pub struct Asker {
    sender: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
    crowd: Arc<Crowd>,
    questions_max: usize,
    stats: Arc<Stats>,
}

impl Asker {
    pub(super) fn new(
        questions_max: usize,
        exempt: &[Network],
        stats: &Arc<Stats>,
    ) -> (Self, mpsc::Receiver<Waiting>) {
        let (sender, receiver) = mpsc::channel(questions_max);
        let asker = Self {
            sender,
            crowd: Arc::new(Crowd {
                by_address: Mutex::default(),
                of_address_max: (questions_max / 4).max(OF_ADDRESS_MIN),
                exempt: exempt.into(),
            }),
            room: Arc::new(Semaphore::new(questions_max)),
            questions_max,
            stats: Arc::clone(stats),
        };
        (asker, receiver)
    }

    /// Asks; the verdict comes later.
    ///
    /// # Errors
    /// The verdict is there already: there is no room, or none for this address, or nobody can have such a name and password.
    pub fn ask(&self, question: Question) -> Result<(), Verdict> {
        Stats::count(&self.stats.questions);
        let connection = question.connection;
        let refused = |refusal| Verdict {
            connection,
            outcome: Err(refusal),
        };
        let credentials = &question.credentials;
        let bytes = credentials.user_name.as_ref().map_or(0, |name| name.len())
            + credentials.password.as_ref().map_or(0, |it| it.len());
        if bytes > QUESTION_BYTES_MAX {
            return Err(refused(Refusal::Credentials));
        }
        let place = self.crowd.enter(credentials.peer.ip());
        let room = Arc::clone(&self.room).try_acquire_owned().ok();
        let waiting = place.zip(room).map(|(place, room)| Waiting {
            question,
            _room: room,
            _place: place,
        });
        // The queue has as many places as there is room; it is closed only when the node stops.
        let sent = waiting.is_some_and(|waiting| self.sender.try_send(waiting).is_ok());
        if sent {
            return Ok(());
        }
        Stats::count(&self.stats.refused);
        Err(refused(Refusal::Busy))
    }

    /// Questions that have no verdict yet.
    pub(super) fn waiting(&self) -> usize {
        self.questions_max - self.room.available_permits()
    }
}

impl Access {
    /// Answers questions for ever, all that there is room for at the same time.
    pub(super) async fn answer_questions(
        self: &Arc<Self>,
        cores: &Arc<Cores>,
        verdicts: Vec<InboxSender<Verdict>>,
    ) {
        let questions = self.questions.lock().expect("no panic while held").take();
        let Some(mut questions) = questions else {
            return;
        };
        while let Some(waiting) = questions.recv().await {
            let Some(inbox) = verdicts.get(usize::from(waiting.question.core)).cloned() else {
                continue;
            };
            let (access, cores) = (Arc::clone(self), Arc::clone(cores));
            tokio::spawn(async move { access.answer(waiting, &cores, &inbox).await });
        }
    }

    async fn answer(&self, waiting: Waiting, cores: &Cores, inbox: &InboxSender<Verdict>) {
        let Waiting {
            question,
            _room,
            _place,
        } = waiting;
        let connection = question.connection;
        // A client whose connection has timed out would never hear it.
        let patience = self.config.mqtt.connect_timeout;
        let outcome = tokio::time::timeout(patience, self.outcome(question, cores)).await;
        let outcome = outcome.unwrap_or_else(|_| {
            Stats::count(&self.stats.refused);
            Err(Refusal::Busy)
        });
        let mut verdict = Verdict {
            connection,
            outcome,
        };
        while let Err(back) = inbox.send(verdict) {
            verdict = back;
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Asks one method after the other, from the one that the core could not ask.
    async fn outcome(&self, question: Question, cores: &Cores) -> Outcome {
        let policy = question.policy;
        let credentials = Arc::<Credentials>::from(question.credentials);
        let mut from = question.from;
        loop {
            let number = match policy.ask(from, &credentials, self.clock.now().unix_ms) {
                Answer::Decided(outcome) => return outcome,
                Answer::Elsewhere(number) => number,
            };
            let said = match &policy.methods[number] {
                Method::Password(file) => self.password(&policy, number, file, &credentials).await,
                Method::Token(_) => self.token(&credentials, cores).await,
                Method::CallOut => self.call_out(&credentials).await,
                Method::Certificate(_) => None, // Never elsewhere.
            };
            self.count(&policy.methods[number], said.as_ref());
            match said {
                Some(outcome) => return outcome,
                None => from = number + 1,
            }
        }
    }

    fn count(&self, method: &Method, said: Option<&Outcome>) {
        let asked = match method {
            Method::Password(_) => Asked::Password,
            Method::Token(_) => Asked::Token,
            Method::CallOut => Asked::Http,
            Method::Certificate(_) => return,
        };
        let said = match said {
            None => Said::Ignored,
            Some(Ok(_)) => Said::Allowed,
            Some(Err(Refusal::Unavailable(_))) => Said::Unavailable,
            Some(Err(_)) => Said::Denied,
        };
        self.stats.said(asked, said);
    }

    /// `None` for a name that is not in the file while a service that is asked later may know it.
    async fn password(
        &self,
        policy: &Policy,
        number: usize,
        file: &Arc<PasswordFile>,
        credentials: &Arc<Credentials>,
    ) -> Option<Outcome> {
        let name = credentials.user_name.as_deref()?;
        let mut later = policy.methods[number + 1..].iter();
        if later.any(|method| matches!(method, Method::CallOut)) && !file.contains(name) {
            return None;
        }
        let room = Arc::clone(&self.passwords).acquire_owned().await; // Never closed.
        let (file, credentials) = (Arc::clone(file), Arc::clone(credentials));
        let checked = tokio::task::spawn_blocking(move || {
            let _room = room; // Until it is done, also when nobody waits for it any more.
            let name = credentials.user_name.as_deref().unwrap_or_default();
            let password = credentials.password.as_deref().unwrap_or_default();
            file.verify(name, password)
        });
        Some(match checked.await {
            Ok(Ok(identity)) => Ok(Some(Arc::new(identity))),
            Ok(Err(_)) => Err(Refusal::Credentials),
            Err(_) => Err(Refusal::Unavailable("the node is stopping".into())),
        })
    }

    /// A token whose key the core does not know: judged again with what the issuer has now.
    async fn token(&self, credentials: &Credentials, cores: &Cores) -> Option<Outcome> {
        self.keys_again(cores).await;
        let (policy, problem) = {
            let state = self.state();
            (Arc::clone(&state.policy), state.fetched.problem.clone())
        };
        let now_unix_ms = self.clock.now().unix_ms;
        let outcome = policy.tokens()?.check_password(credentials, now_unix_ms)?;
        Some(match (outcome, problem) {
            (Err(Refusal::Token(TokenError::NoKey(_))), Some(problem)) => {
                Err(Refusal::Unavailable(problem.into()))
            }
            (outcome, _) => outcome.map(|identity| Some(Arc::new(identity))),
        })
    }

    async fn call_out(&self, credentials: &Credentials) -> Option<Outcome> {
        let caller = self.state().caller.clone();
        let Some(caller) = caller else {
            return Some(Err(Refusal::Unavailable("no service is set".into())));
        };
        match caller.ask(credentials, self.clock, &self.stats).await {
            Ok(Reply::Allowed(identity)) => Some(Ok(Some(identity))),
            Ok(Reply::Denied) => Some(Err(Refusal::Credentials)),
            Ok(Reply::Ignored) => None,
            Err(problem) => Some(Err(Refusal::Unavailable(problem))),
        }
    }
}
