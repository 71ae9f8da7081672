//! What a node asks of those who connect: one immutable object, made outside the cores, the same on all of them, replaced whole.
//!
//! ```text
//! CONNECT ─▶ Policy::ask ─▶ Decided ───────────────────────────────▶ attach, or CONNACK with a reason
//!                │                                          ▲
//!                └─ Elsewhere ─▶ Question ─▶ control thread ─┴ Verdict     (what is slow: argon2id, HTTP)
//! ```
//!
//! Methods are asked in order. The first that takes the credentials as its own decides; the others never see them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use reactor::driver::ConnectionId;

use super::bans::{Bans, Subject, Term};
use super::call_out;
use super::password::PasswordFile;
use super::rules::{Decision, Denial, Rules};
use super::scram::ScramError;
use super::token::{self, KeySet, TokenError, TokenPolicy};
use super::web_origin::{Borrowed, WebOrigins};
use super::{Identity, Who};
use crate::tls;
use edge_proto::packet::QoS;
use edge_proto::reason::ReasonCode;
use edge_proto::topic::TopicName;

/// Who may come in, how they prove who they are, and what they may do.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Where clients may come from that prove nothing.
    pub anonymous: Origins,
    /// How a client proves who it is, in the order in which they are asked.
    pub methods: Box<[Method]>,
    /// What clients may do. `None`: there are no rules of the node.
    pub rules: Option<Arc<Rules>>,
    /// Where clients may come from for whom everything is allowed that no rule decides. Whoever brings rules is never one of them.
    pub unruled: Origins,
    /// Whether the server writes who sent a message to an inbox (`u/{user}/in`, `g/{group}/in`) on it: the user property [`SENDER`].
    pub stamps_senders: bool,
    /// Who is kept out, whoever they prove to be.
    pub bans: Arc<Bans>,
    /// Which web pages may connect.
    pub web_origins: WebOrigins,
}

/// The user property with the authenticated user who sent a message to an inbox. Nobody but the server writes it.
pub const SENDER: &str = "from";

/// Where a client may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origins {
    /// From nowhere.
    Nowhere,
    /// From this machine.
    Loopback,
    /// From everywhere.
    Everywhere,
}

/// A way to prove who one is.
#[derive(Clone, Debug)]
pub enum Method {
    /// A name in the client's certificate, which TLS has verified.
    Certificate(CertificateName),
    /// A JSON Web Token as the password.
    Token(Arc<TokenMethod>),
    /// User name and password, and SCRAM-SHA-256, against a file.
    Password(Arc<PasswordFile>),
    /// Whatever the client shows, asked of an HTTP service.
    CallOut,
}

/// Which name of a certificate is the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateName {
    /// CN of the subject.
    CommonName,
    /// The first subject alternative name of type DNS.
    DnsName,
    /// The first subject alternative name of type URI.
    Uri,
    /// The first subject alternative name of type e-mail.
    Email,
}

/// Tokens and what they must say.
#[derive(Clone, Debug)]
pub struct TokenMethod {
    /// Keys of the issuer that are in files.
    pub keys: KeySet,
    /// Those that are fetched while the node runs, as they were last: empty before the first time. `None` when none are fetched.
    pub fetched: Option<KeySet>,
    /// What a token must say.
    pub policy: TokenPolicy,
}

/// What a client shows of itself.
#[derive(Clone)]
pub struct Credentials {
    /// Its client identifier.
    pub client: Box<str>,
    /// Its user name.
    pub user_name: Option<Box<str>>,
    /// Its password: a secret.
    pub password: Option<Box<[u8]>>,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Its certificate.
    pub certificate: Option<Arc<tls::Identity>>,
}

/// Who a client is: `None` for one that proved nothing and may come in all the same.
pub type Outcome = Result<Option<Arc<Identity>>, Refusal>;

/// Why a client is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It proved nothing.
    #[error("it showed no credentials, and anonymous clients are not let in from its address")]
    Anonymous,
    /// Nobody knows what it showed.
    #[error("no method knows its credentials")]
    Unknown,
    /// User name or password are wrong, which of them is not told.
    #[error("the name or the password is wrong")]
    Credentials,
    /// Its token is no good.
    #[error("{0}")]
    Token(TokenError),
    /// Its exchange of messages failed.
    #[error("{0}")]
    Exchange(ScramError),
    /// Its certificate has no name of the kind that is asked for.
    #[error("its certificate has no {0}")]
    NoName(CertificateName),
    /// It may not come in, whoever it is.
    #[error("it is banned")]
    Banned,
    /// The method could not be asked: nobody comes in by it until it can.
    #[error("the method cannot be asked: {0}")]
    Unavailable(Box<str>),
    /// Too many wait already.
    #[error("too many clients wait to be authenticated")]
    Busy,
}

/// What a policy says to credentials.
#[derive(Debug)]
pub enum Answer {
    /// This.
    Decided(Outcome),
    /// The method of this number must be asked, outside the core.
    Elsewhere(usize),
}

/// What a core wants to know of the control thread: the methods of the policy from a number on.
#[derive(Debug)]
pub struct Question {
    /// The core that asks.
    pub core: u16,
    /// About which connection.
    pub connection: ConnectionId,
    /// Under which policy.
    pub policy: Arc<Policy>,
    /// The method to begin with.
    pub from: usize,
    /// What the client showed.
    pub credentials: Box<Credentials>,
}

/// The answer to a [`Question`].
#[derive(Debug)]
pub struct Verdict {
    /// About which connection.
    pub connection: ConnectionId,
    /// What it is.
    pub outcome: Outcome,
}

impl Policy {
    /// Everybody may come in and do everything: a node without authentication that nobody else can reach, and tests.
    pub fn open() -> Self {
        Self {
            anonymous: Origins::Everywhere,
            methods: Box::default(),
            rules: None,
            unruled: Origins::Everywhere,
            stamps_senders: true,
            bans: Arc::new(Bans::new(0, 0)),
            web_origins: WebOrigins::default(),
        }
    }

    /// Whether a WebSocket client with this Origin and Host may connect. From this machine a page could come in as nobody in particular, and
    /// with a certificate as its holder, whatever site it is of.
    pub fn may_page_connect(
        &self,
        (origin, host): (Option<&str>, &str),
        peer: IpAddr,
        has_certificate: bool,
    ) -> bool {
        let is_here = Origins::Loopback.contain(peer) && self.anonymous.contain(peer);
        let borrowed = match has_certificate {
            _ if is_here => Borrowed::Place,
            true => Borrowed::Certificate(host),
            false => Borrowed::Nothing,
        };
        self.web_origins.admit(origin, borrowed)
    }

    /// Asks the methods from a number on, as far as they answer at once.
    pub fn ask(&self, from: usize, credentials: &Credentials, now_unix_ms: u64) -> Answer {
        for (number, method) in self.methods.iter().enumerate().skip(from) {
            let outcome = match method {
                Method::Certificate(name) => name.of(credentials),
                Method::Token(tokens) => match tokens.check_password(credentials, now_unix_ms) {
                    Some(Err(Refusal::Token(TokenError::NoKey(_)))) if tokens.fetched.is_some() => {
                        return Answer::Elsewhere(number); // The issuer may have a new key.
                    }
                    outcome => outcome,
                },
                Method::Password(_) if credentials.user_name.is_some() => {
                    return Answer::Elsewhere(number);
                }
                Method::CallOut if call_out::concerns(credentials) => {
                    return Answer::Elsewhere(number);
                }
                Method::Password(_) | Method::CallOut => None,
            };
            if let Some(outcome) = outcome {
                return Answer::Decided(outcome.map(|identity| Some(Arc::new(identity))));
            }
        }
        let showed_any = credentials.user_name.is_some() || credentials.password.is_some();
        Answer::Decided(self.without_proof(showed_any, credentials.peer.ip()))
    }

    /// The ban that keeps a client out, by its address, its client identifier or the user it proved to be.
    pub fn ban(
        &self,
        address: IpAddr,
        client: &str,
        user: Option<&str>,
        now_unix_ms: u64,
    ) -> Option<(Subject, &Term)> {
        let of_address = self.bans.of_address(address, now_unix_ms);
        let of_address = of_address.map(|(network, term)| (Subject::Network(network), term));
        of_address.or_else(|| {
            let (subject, term) = self.bans.of_client(client, user, now_unix_ms)?;
            Some((subject.clone(), term))
        })
    }

    /// What becomes of a client that no method knows, whether it showed a name or a password or neither.
    pub fn without_proof(&self, showed_any: bool, peer: IpAddr) -> Outcome {
        // Where nothing can be proved, a name and a password are what an SDK sends anyway.
        if showed_any && !self.methods.is_empty() {
            return Err(Refusal::Unknown);
        }
        if self.anonymous.contain(peer) {
            Ok(None)
        } else {
            Err(Refusal::Anonymous)
        }
    }

    /// What must be asked elsewhere about a token that names an unknown key while keys are fetched: the number of its method. One that
    /// would not be taken for a token there is not asked about: another method could take it for a password.
    pub fn elsewhere(&self, refusal: &Refusal, token: &[u8]) -> Option<usize> {
        let lacks_key = matches!(refusal, Refusal::Token(TokenError::NoKey(_)))
            && TokenMethod::is_likely_token(token);
        let fetches =
            |method: &Method| matches!(method, Method::Token(tokens) if tokens.fetched.is_some());
        self.methods
            .iter()
            .position(|method| lacks_key && fetches(method))
    }

    /// The tokens that are asked about, if any method is.
    pub fn tokens(&self) -> Option<&TokenMethod> {
        self.methods.iter().find_map(|method| match method {
            Method::Token(tokens) => Some(&**tokens),
            _ => None,
        })
    }

    /// The file with the secrets of SCRAM, if a method has one.
    pub fn scram(&self) -> Option<&PasswordFile> {
        self.methods.iter().find_map(|method| match method {
            Method::Password(file) => Some(&**file),
            _ => None,
        })
    }

    /// True when it allows the same as another one, so that nobody has to be judged anew.
    pub fn has_rules_of(&self, other: &Self) -> bool {
        let same_rules = match (&self.rules, &other.rules) {
            (Some(rules), Some(others)) => Arc::ptr_eq(rules, others) || rules == others,
            (None, None) => true,
            _ => false,
        };
        same_rules && self.unruled == other.unruled
    }

    /// True when a client may do everything, so that nothing of it is judged.
    pub fn is_open_to(&self, identity: Option<&Identity>, peer: IpAddr) -> bool {
        let brings_rules = identity.is_some_and(|identity| identity.rules.is_some());
        self.rules.is_none() && !brings_rules && self.unruled.contain(peer)
    }

    /// Whether a client may publish to a topic, a will included.
    ///
    /// # Errors
    /// Why it may not.
    pub fn may_publish(
        &self,
        (who, peer): (&Who<'_>, IpAddr),
        topic: TopicName<'_>,
        qos: QoS,
        retain: bool,
    ) -> Result<(), Denial> {
        let decision = match &self.rules {
            Some(rules) => rules.publish(who, topic, qos, retain),
            None => Rules::default().publish(who, topic, qos, retain),
        };
        match decision {
            Decision::Allowed { .. } => Ok(()),
            Decision::Denied(Denial::NoRule) if self.is_unruled(who, peer) => Ok(()),
            Decision::Denied(denial) => Err(denial),
        }
    }

    /// Whether a client may have a subscription, and the QoS that it is granted.
    ///
    /// # Errors
    /// Why it may not.
    pub fn may_subscribe(
        &self,
        (who, peer): (&Who<'_>, IpAddr),
        filter: &str,
        qos: QoS,
    ) -> Result<QoS, Denial> {
        let decision = match &self.rules {
            Some(rules) => rules.subscribe(who, filter, qos),
            None => Rules::default().subscribe(who, filter, qos),
        };
        match decision {
            Decision::Allowed { qos_max, .. } => Ok(qos_max),
            Decision::Denied(Denial::NoRule) if self.is_unruled(who, peer) => Ok(qos),
            Decision::Denied(denial) => Err(denial),
        }
    }

    /// True for a topic on whose messages the server writes who sent them.
    pub fn stamps(&self, topic: &str) -> bool {
        let is_inbox = || {
            let below = topic
                .strip_prefix("u/")
                .or_else(|| topic.strip_prefix("g/"));
            let name = below.and_then(|below| below.strip_suffix("/in"));
            name.is_some_and(|name| !name.is_empty() && !name.contains('/'))
        };
        self.stamps_senders && is_inbox()
    }

    fn is_unruled(&self, who: &Who<'_>, peer: IpAddr) -> bool {
        who.identity.rules.is_none() && self.unruled.contain(peer)
    }
}

/// What a change of rules, or of who a client is, means for its subscriptions.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Those that it may not have any more.
    pub cut: Vec<Box<str>>,
    /// Those of which the owners hear: the rules limit their QoS, or did.
    pub allowed: Vec<(Box<str>, QoS)>,
}

impl Changes {
    /// Judges the filters of a session; `limited` is what [`Changes::limits`] said the last time.
    pub fn of(
        filters: &[Box<str>],
        limited: bool,
        judge: impl Fn(&str) -> Result<QoS, Denial>,
    ) -> Self {
        let mut changes = Self::default();
        for filter in filters {
            match judge(filter) {
                Ok(QoS::ExactlyOnce) if !limited => {}
                Ok(qos_allowed) => changes.allowed.push((filter.clone(), qos_allowed)),
                Err(_) => changes.cut.push(filter.clone()),
            }
        }
        changes
    }

    /// True when the rules limit the QoS of one of them.
    pub fn limits(&self) -> bool {
        let mut allowed = self.allowed.iter();
        allowed.any(|(_, qos_allowed)| *qos_allowed < QoS::ExactlyOnce)
    }
}

impl Refusal {
    /// What CONNACK says.
    pub const fn reason(&self) -> ReasonCode {
        match self {
            Self::Anonymous => ReasonCode::NotAuthorized,
            Self::Unknown | Self::Credentials | Self::Token(_) | Self::NoName(_) => {
                ReasonCode::BadUserNameOrPassword
            }
            Self::Exchange(_) => ReasonCode::NotAuthorized,
            Self::Banned => ReasonCode::Banned,
            Self::Unavailable(_) => ReasonCode::ServerUnavailable,
            Self::Busy => ReasonCode::ServerBusy,
        }
    }
}

impl Origins {
    /// True when an address is among them.
    pub fn contain(self, address: IpAddr) -> bool {
        match self {
            Self::Nowhere => false,
            Self::Loopback => address.to_canonical().is_loopback(),
            Self::Everywhere => true,
        }
    }
}

impl CertificateName {
    /// The user that a certificate names; `None` without a certificate.
    fn of(self, credentials: &Credentials) -> Option<Result<Identity, Refusal>> {
        let certificate = credentials.certificate.as_deref()?;
        let name = match self {
            Self::CommonName => certificate.common_name.as_ref(),
            Self::DnsName => certificate.dns_names.first(),
            Self::Uri => certificate.uris.first(),
            Self::Email => certificate.emails.first(),
        };
        let name = name.filter(|name| !name.is_empty());
        Some(
            name.map(|name| Identity::of_user(name))
                .ok_or(Refusal::NoName(self)),
        )
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::CommonName => "common name",
            Self::DnsName => "DNS name",
            Self::Uri => "URI",
            Self::Email => "e-mail address",
        })
    }
}

impl TokenMethod {
    /// Checks a password that has the shape of a token; `None` for any other.
    pub fn check_password(
        &self,
        credentials: &Credentials,
        now_unix_ms: u64,
    ) -> Option<Result<Identity, Refusal>> {
        let password = credentials.password.as_deref()?;
        Self::is_likely_token(password).then(|| self.check(password, now_unix_ms))
    }

    /// True for the shape of a token.
    fn is_likely_token(password: &[u8]) -> bool {
        password.iter().filter(|byte| **byte == b'.').count() == 2 && password.starts_with(b"eyJ") // `{"` in base64url, as every header begins
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, token: &[u8], now_unix_ms: u64) -> Result<Identity, Refusal> {
        let verify = |keys| token::verify(token, keys, &self.policy, now_unix_ms);
        let outcome = match verify(&self.keys) {
            // A key in a file may be of another issuer than those that are fetched.
            Err(
                error @ (TokenError::NoKey(_)
                | TokenError::NotItsAlgorithm(_)
                | TokenError::Signature),
            ) => match &self.fetched {
                Some(fetched) => verify(fetched),
                None => Err(error),
            },
            outcome => outcome,
        };
        outcome.map_err(Refusal::Token)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("client", &self.client)
            .field("user_name", &self.user_name)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
