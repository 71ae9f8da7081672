//! A store has what its kind needs, and nothing that is another kind's.

use crate::config::{Config, ConfigError, Durability, EngineKind, EngineMode, Origin};

impl Config {
    /// What the keys of the store say together.
    pub(super) fn check_engine(&self, errors: &mut Vec<ConfigError>) {
        let engine = &self.engine;
        if let Some(kind) = engine.durability.kind().filter(|kind| *kind != engine.kind) {
            let choices = match engine.kind {
                EngineKind::Embedded => {
                    [Durability::Auto, Durability::Sync, Durability::Relaxed].as_slice()
                }
                EngineKind::Redis => &[
                    Durability::Auto,
                    Durability::Memory,
                    Durability::Aof,
                    Durability::Replica,
                    Durability::ReplicaAof,
                ],
            };
            let choices: Vec<_> = choices
                .iter()
                .map(|choice| format!("\"{}\"", choice.word()))
                .collect();
            let problem = format!(
                "only engine.kind = \"{}\" knows it, and engine.kind is \"{}\"; write {}",
                kind.word(),
                engine.kind.word(),
                choices.join(" or "),
            );
            errors.push(self.contradiction("engine.durability", problem));
        }
        match engine.kind {
            EngineKind::Redis if engine.urls.0.is_empty() => {
                let problem = "engine.kind = \"redis\" and no server to go to; name its address, e.g. \
                               [\"redis://valkey.example.com:6379\"], or set engine.kind = \"embedded\"";
                errors.push(self.contradiction("engine.urls", problem.into()));
            }
            EngineKind::Redis => self.check_unread(&["engine.cache_bytes"], errors),
            EngineKind::Embedded => self.check_unread(
                &[
                    "engine.urls",
                    "engine.mode",
                    "engine.user",
                    "engine.password_file",
                    "engine.authorities",
                    "engine.prefix",
                    "engine.timeout",
                ],
                errors,
            ),
        }
        if !engine.authorities.0.is_empty() && !engine.urls.is_tls() && !engine.urls.0.is_empty() {
            let problem = "authorities, and nothing to verify: no address in engine.urls is rediss://; write them so, or take this out";
            errors.push(self.contradiction("engine.authorities", problem.into()));
        }
        if engine.user.0.is_some() && engine.password_file.0.is_none() {
            let problem = "a user without a password; name the file with the password in engine.password_file, or take the user out";
            errors.push(self.contradiction("engine.user", problem.into()));
        }
    }

    /// Whoever sets a key means that it is looked at.
    fn check_unread(&self, paths: &[&str], errors: &mut Vec<ConfigError>) {
        let defaults = Self::default();
        for path in paths {
            let value = |config: &Self| {
                let found = config
                    .values()
                    .into_iter()
                    .find(|(key, _)| key.path() == *path);
                found.map(|(_, value)| value)
            };
            // The output of `config print` sets every key, most of them to their defaults.
            if *self.origin(path) == Origin::Default || value(self) == value(&defaults) {
                continue;
            }
            let (own, other) = match self.engine.kind {
                EngineKind::Embedded => (EngineKind::Embedded, EngineKind::Redis),
                EngineKind::Redis => (EngineKind::Redis, EngineKind::Embedded),
            };
            let problem = format!(
                "engine.kind is \"{}\", which does not look at it; set engine.kind = \"{}\", or take this out",
                own.word(),
                other.word()
            );
            errors.push(self.contradiction(path, problem));
        }
    }

    /// What is allowed of the store and probably not meant, each with a way out.
    pub fn engine_warnings(&self) -> Vec<String> {
        let engine = &self.engine;
        let mut warnings = Vec::new();
        if engine.kind == EngineKind::Redis && engine.password_file.0.is_none() {
            warnings.push(
                "engine.password_file is not set: whoever reaches the Valkey or Redis can read and change everything that is stored; \
                 give it a password, and name the file with it here"
                    .into(),
            );
        }
        let addresses = engine.urls.addresses();
        let exposed = addresses.iter().find(|(host, _)| !is_here(host));
        if let Some((host, port)) = exposed.filter(|_| !engine.urls.is_tls()) {
            warnings.push(format!(
                "engine.urls: what is stored goes to {host}:{port} without TLS, the password too; use rediss://, unless the network \
                 between is yours"
            ));
        }
        if engine.kind == EngineKind::Redis
            && engine.mode == EngineMode::Single
            && addresses.len() > 1
        {
            warnings.push(
                "engine.urls has several addresses and engine.mode is \"single\": they must be of one primary and its replicas, \
                 and the one that is the primary is used"
                    .into(),
            );
        }
        warnings
    }
}

/// True for a name or address of this machine.
fn is_here(host: &str) -> bool {
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
}
