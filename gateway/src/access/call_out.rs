//! The call-out: what an HTTP service is asked about a client, what its answers mean, and which of them are kept.
//!
//! ```text
//! POST {"client_id": "phone-7", "user_name": "alice", "password": "…", "peer": "192.0.2.7:50123", "certificate": null}
//!  200 {"result": "allow", "user": "alice", "groups": ["staff"], "expires_at": 1798761600, "rules": [{"allow": ["publish"], "topics": ["u/%u/#"]}]}
//!  200 {"result": "deny"}       not this client
//!  200 {"result": "ignore"}     not mine: the next method is asked
//! ```
//!
//! **Anything else is no answer, and nobody comes in by it.** A password is in no key of the cache, only an HMAC of everything that
//! was asked.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Identity;
use super::policy::Credentials;
use super::rules::{RuleSource, Rules, RulesError};
use super::token::GROUPS_MAX;

/// What the service says about a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is this.
    Allowed(Arc<Identity>),
    /// It may not come in.
    Denied,
    /// The service does not know it; another method may.
    Ignored,
}

/// Why an answer is none. The service's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// Not a JSON object with the fields that are known, or a field of another type.
    #[error(
        "its answer is not understood: {0}; it is {{\"result\": \"allow\", \"deny\" or \"ignore\", …}}"
    )]
    Form(String),
    /// It allows a client that has no user name, and names no user either.
    #[error("it allows a client without saying which user that is; answer with \"user\"")]
    NoUser,
    /// More groups than rules are asked for.
    #[error("it puts the client into {0} groups, {GROUPS_MAX} at most")]
    Groups(usize),
    /// The end is over already.
    #[error(
        "it allows the client until a time that has passed; compare the clocks, expires_at is in seconds of Unix time"
    )]
    Over,
    /// Bad rules: a client without the rules it was given could do too much.
    #[error("the rules in its answer: {0}")]
    Rules(RulesError),
}

/// True for a client that shows something to ask about.
pub fn concerns(credentials: &Credentials) -> bool {
    credentials.user_name.is_some()
        || credentials.password.is_some()
        || credentials.certificate.is_some()
}

/// What is asked: the body of the request.
pub fn body(credentials: &Credentials) -> Vec<u8> {
    let mut body = json!({
        "client_id": credentials.client,
        "user_name": credentials.user_name,
        "password": null,
        "peer": credentials.peer.to_string(),
        "certificate": null,
    });
    match credentials.password.as_deref().map(std::str::from_utf8) {
        Some(Ok(password)) => body["password"] = password.into(),
        Some(Err(_)) => {
            let bytes = credentials.password.as_deref().unwrap_or_default();
            body["password_base64"] = BASE64.encode(bytes).into();
        }
        None => {}
    }
    if let Some(certificate) = &credentials.certificate {
        body["certificate"] = json!({
            "common_name": certificate.common_name,
            "dns_names": certificate.dns_names,
            "uris": certificate.uris,
            "emails": certificate.emails,
            "serial": certificate.serial,
        });
    }
    body.to_string().into_bytes()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReply {
    result: RawResult,
    user: Option<String>,
    #[serde(default)]
    groups: Vec<Box<str>>,
    expires_at: Option<u64>,
    rules: Option<Value>,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum RawResult {
    Allow,
    Deny,
    Ignore,
}

/// What an answer means for the client that was asked about.
///
/// # Errors
/// It means nothing.
pub fn reply(
    body: &[u8],
    credentials: &Credentials,
    now_unix_ms: u64,
) -> Result<Reply, ReplyError> {
    let raw: RawReply =
        serde_json::from_slice(body).map_err(|error| ReplyError::Form(error.to_string()))?;
    match raw.result {
        RawResult::Deny => return Ok(Reply::Denied),
        RawResult::Ignore => return Ok(Reply::Ignored),
        RawResult::Allow => {}
    }
    let user = raw.user.as_deref().or(credentials.user_name.as_deref());
    let user = user
        .filter(|user| !user.is_empty())
        .ok_or(ReplyError::NoUser)?;
    if raw.groups.len() > GROUPS_MAX {
        return Err(ReplyError::Groups(raw.groups.len()));
    }
    let expires_at_unix_ms = raw.expires_at.map(|seconds| seconds.saturating_mul(1_000));
    if expires_at_unix_ms.is_some_and(|end| end <= now_unix_ms) {
        return Err(ReplyError::Over);
    }
    let rules = raw
        .rules
        .map(|rules| Rules::from_json(&rules, RuleSource::CallOut));
    let rules = rules.transpose().map_err(ReplyError::Rules)?;
    Ok(Reply::Allowed(Arc::new(Identity {
        user: Some(user.into()),
        groups: raw.groups.into(),
        expires_at_unix_ms,
        rules: rules.map(Arc::new),
    })))
}

/// Stands for everything that a client showed, and tells nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CacheKey([u8; 32]);

/// Answers that still hold. Those about clients that were not let in have a half of their own, so that strangers cannot push the others out.
pub struct Cache {
    secret: hmac::Key,
    ttl_ms: u64,
    allowed: Shelf,
    others: Shelf,
}

/// Answers, the oldest given up first.
struct Shelf {
    entries: BTreeMap<CacheKey, (Reply, u64)>,
    order: VecDeque<CacheKey>,
    entries_max: usize,
}

impl Cache {
    /// An empty cache of so many entries, which hold for so long. `secret` must be random.
    pub fn new(entries_max: usize, ttl_ms: u64, secret: &[u8; 32]) -> Self {
        Self {
            secret: hmac::Key::new(hmac::HMAC_SHA256, secret),
            ttl_ms,
            allowed: Shelf::new(entries_max - entries_max / 2),
            others: Shelf::new(entries_max / 2),
        }
    }

    /// The key of what a client shows. The port of its address is not in it: it is another one each time.
    pub fn key(&self, credentials: &Credentials) -> CacheKey {
        let mut context = hmac::Context::with_key(&self.secret);
        let mut add = |part: Option<&[u8]>| {
            // The length before each part, so that no two lists of parts are the same bytes.
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            context.update(&length.to_le_bytes());
            context.update(part.unwrap_or_default());
        };
        add(Some(credentials.client.as_bytes()));
        add(credentials.user_name.as_deref().map(str::as_bytes));
        add(credentials.password.as_deref());
        add(Some(credentials.peer.ip().to_string().as_bytes()));
        let certificate = credentials.certificate.as_deref();
        add(certificate
            .map(|certificate| format!("{certificate:?}"))
            .as_deref()
            .map(str::as_bytes));
        let mut key = [0; 32];
        key.copy_from_slice(context.sign().as_ref());
        CacheKey(key)
    }

    /// The answer that still holds.
    pub fn find(&self, key: CacheKey, now_unix_ms: u64) -> Option<Reply> {
        let shelves = [&self.allowed, &self.others];
        let mut found = shelves
            .into_iter()
            .filter_map(|shelf| shelf.entries.get(&key));
        found
            .find(|(_, end)| *end > now_unix_ms)
            .map(|(reply, _)| reply.clone())
    }

    /// Keeps an answer, at most for as long as what it says.
    pub fn keep(&mut self, key: CacheKey, reply: &Reply, now_unix_ms: u64) {
        let mut end = now_unix_ms.saturating_add(self.ttl_ms);
        let (shelf, other) = match reply {
            Reply::Allowed(identity) => {
                end = end.min(identity.expires_at_unix_ms.unwrap_or(u64::MAX));
                (&mut self.allowed, &mut self.others)
            }
            Reply::Denied | Reply::Ignored => (&mut self.others, &mut self.allowed),
        };
        if let Some((_, end)) = other.entries.get_mut(&key) {
            *end = 0; // What was said before holds no longer.
        }
        if end > now_unix_ms {
            shelf.put(key, reply.clone(), end);
        }
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.allowed.entries.len() + self.others.entries.len();
        write!(formatter, "Cache({count} entries)")
    }
}

impl Shelf {
    fn new(entries_max: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            order: VecDeque::new(),
            entries_max,
        }
    }

    fn put(&mut self, key: CacheKey, reply: Reply, end_unix_ms: u64) {
        if self.entries.insert(key, (reply, end_unix_ms)).is_some() {
            return; // It keeps its place in the order.
        }
        self.order.push_back(key);
        while self.order.len() > self.entries_max {
            if let Some(oldest) = self.order.pop_front() {
                self.entries.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tls;

    const NOW: u64 = 1_000_000;

    fn credentials(user_name: Option<&str>, password: Option<&[u8]>) -> Credentials {
        Credentials {
            client: "phone-7".into(),
            user_name: user_name.map(Box::from),
            password: password.map(Box::from),
            peer: "192.0.2.7:50123".parse().expect("an address"),
            certificate: None,
        }
    }

    fn alice() -> Credentials {
        credentials(Some("alice"), Some(b"secret"))
    }

    fn allowed(user: &str, end: Option<u64>) -> Reply {
        Reply::Allowed(Arc::new(Identity {
            expires_at_unix_ms: end,
            ..Identity::of_user(user)
        }))
    }

    #[test]
    fn the_service_is_told_everything_that_the_client_shows() {
        let asked = |credentials: &Credentials| -> Value {
            serde_json::from_slice(&body(credentials)).expect("JSON")
        };
        assert_eq!(
            asked(&alice()),
            json!({"client_id": "phone-7", "user_name": "alice", "password": "secret", "peer": "192.0.2.7:50123", "certificate": null})
        );
        let mut bytes = credentials(None, Some(b"\xff\x00"));
        bytes.certificate = Some(Arc::new(tls::Identity {
            common_name: Some("panel".into()),
            serial: "0a".into(),
            ..tls::Identity::default()
        }));
        let json = asked(&bytes);
        assert_eq!(json["password_base64"], "/wA=");
        assert_eq!(
            (&json["user_name"], &json["password"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(json["certificate"]["common_name"], "panel");
        assert!(!concerns(&credentials(None, None)) && concerns(&bytes));
    }

    #[test]
    fn an_answer_gives_user_groups_end_and_rules() {
        let text =
            br#"{"result": "allow", "user": "Alice", "groups": ["staff"], "expires_at": 2000,
                        "rules": [{"allow": ["publish"], "topics": ["u/%u/#"]}]}"#;
        let Ok(Reply::Allowed(identity)) = reply(text, &alice(), NOW) else {
            panic!("it allows");
        };
        assert_eq!(identity.user.as_deref(), Some("Alice"));
        assert_eq!(&*identity.groups, [Box::<str>::from("staff")]);
        assert_eq!(identity.expires_at_unix_ms, Some(2_000_000));
        assert_eq!(identity.rules.as_ref().map(|rules| rules.len()), Some(1));
        let plain = reply(br#"{"result": "allow"}"#, &alice(), NOW);
        assert_eq!(plain, Ok(allowed("alice", None)));
        assert_eq!(
            reply(br#"{"result": "deny"}"#, &alice(), NOW),
            Ok(Reply::Denied)
        );
        assert_eq!(
            reply(br#"{"result": "ignore"}"#, &alice(), NOW),
            Ok(Reply::Ignored)
        );
    }

    #[test]
    fn what_is_not_understood_lets_nobody_in() {
        let error = |text: &str, credentials: &Credentials| {
            reply(text.as_bytes(), credentials, NOW).expect_err(text)
        };
        for text in [
            "",
            "{}",
            "[]",
            "true",
            r#"{"result": "Allow"}"#,
            r#"{"result": true}"#,
            r#"{"result": "allow"} x"#,
        ] {
            assert!(
                matches!(error(text, &alice()), ReplyError::Form(_)),
                "{text}"
            );
        }
        // Another server's word for rules must not be passed over.
        let acl = error(r#"{"result": "allow", "acl": []}"#, &alice());
        assert!(acl.to_string().contains("unknown field `acl`"), "{acl}");
        let nobody = credentials(None, Some(b"secret"));
        assert_eq!(error(r#"{"result": "allow"}"#, &nobody), ReplyError::NoUser);
        assert_eq!(
            error(r#"{"result": "allow", "user": ""}"#, &alice()),
            ReplyError::NoUser
        );
        assert_eq!(
            error(r#"{"result": "allow", "expires_at": 1000}"#, &alice()),
            ReplyError::Over
        );
        let groups = vec!["g"; GROUPS_MAX + 1];
        let many = json!({"result": "allow", "groups": groups}).to_string();
        assert_eq!(error(&many, &alice()), ReplyError::Groups(GROUPS_MAX + 1));
        let rules = error(
            r#"{"result": "allow", "rules": [{"topics": ["a"]}]}"#,
            &alice(),
        );
        assert!(
            rules
                .to_string()
                .contains("of the call-out: it neither allows nor denies"),
            "{rules}"
        );
    }

    #[test]
    fn an_answer_is_kept_for_its_time_and_no_longer_than_it_says() {
        let mut cache = Cache::new(4, 100, &[7; 32]);
        let key = cache.key(&alice());
        cache.keep(key, &allowed("alice", None), NOW);
        assert_eq!(cache.find(key, NOW + 99), Some(allowed("alice", None)));
        assert_eq!(cache.find(key, NOW + 100), None);
        cache.keep(key, &allowed("alice", Some(NOW + 150)), NOW + 100);
        assert!(cache.find(key, NOW + 149).is_some() && cache.find(key, NOW + 150).is_none());
        cache.keep(key, &allowed("alice", None), NOW + 150);
        cache.keep(key, &Reply::Denied, NOW + 160);
        assert_eq!(
            cache.find(key, NOW + 170),
            Some(Reply::Denied),
            "the last word holds"
        );
        cache.keep(key, &allowed("alice", None), NOW + 180);
        assert_eq!(cache.find(key, NOW + 190), Some(allowed("alice", None)));
        let mut off = Cache::new(4, 0, &[7; 32]);
        off.keep(key, &Reply::Denied, NOW);
        assert_eq!(off.find(key, NOW), None);
    }

    #[test]
    fn strangers_push_nobody_out_who_was_let_in() {
        let mut cache = Cache::new(4, 1_000, &[7; 32]);
        let known = cache.key(&alice());
        cache.keep(known, &allowed("alice", None), NOW);
        let stranger = |number: u32| credentials(Some("eve"), Some(&number.to_le_bytes()));
        for number in 0..100 {
            let key = cache.key(&stranger(number));
            cache.keep(key, &Reply::Denied, NOW);
        }
        assert!(cache.find(known, NOW).is_some());
        assert!(cache.find(cache.key(&stranger(99)), NOW).is_some());
        assert!(
            cache.find(cache.key(&stranger(97)), NOW).is_none(),
            "two at most"
        );
        assert_eq!(format!("{cache:?}"), "Cache(3 entries)");
    }

    #[test]
    fn everything_that_decides_is_in_the_key_and_the_port_is_not() {
        let cache = Cache::new(4, 100, &[7; 32]);
        let key = cache.key(&alice());
        let with = |change: fn(&mut Credentials)| {
            let mut changed = alice();
            change(&mut changed);
            cache.key(&changed)
        };
        assert_eq!(key, with(|it| it.peer.set_port(1)));
        for (what, other) in [
            ("client", with(|it| it.client = "phone-8".into())),
            ("user", with(|it| it.user_name = Some("bob".into()))),
            ("no user", with(|it| it.user_name = None)),
            (
                "password",
                with(|it| it.password = Some(Box::from(*b"Secret"))),
            ),
            ("no password", with(|it| it.password = None)),
            (
                "empty password",
                with(|it| it.password = Some(Box::default())),
            ),
            ("address", with(|it| it.peer.set_ip([192, 0, 2, 8].into()))),
            (
                "certificate",
                with(|it| it.certificate = Some(Arc::default())),
            ),
            (
                "moved border",
                with(|it| {
                    it.client = "phone-7a".into();
                    it.user_name = Some("lice".into());
                }),
            ),
        ] {
            assert_ne!(key, other, "{what}");
        }
        assert_ne!(
            key,
            Cache::new(4, 100, &[8; 32]).key(&alice()),
            "keys are secret"
        );
    }

    proptest! {
        #[test]
        fn no_answer_panics(text in "\\{?(\"result\": \"(allow|deny)\"|\"groups\": \\[|\"rules\": \\[\\{|\"expires_at\": [0-9]{1,25}|[,}\\]]|\\PC){0,10}") {
            let _ = reply(text.as_bytes(), &alice(), NOW);
        }
    }
}
