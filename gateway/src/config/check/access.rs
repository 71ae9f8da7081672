//! What the methods of authentication need, and what would be let in by mistake.

use crate::config::{AccessMethod, Anonymous, ClientCertificates, Config, ConfigError, Unruled};

impl Config {
    /// Each method has what it needs.
    pub(super) fn check_access(&self, errors: &mut Vec<ConfigError>) {
        let methods = &self.access.methods;
        if methods.have(AccessMethod::Password) && self.access.password_file.0.is_none() {
            let problem = "the method \"password\" without a file; name it here (`roadstead passwd FILE USER` makes one), or take the \
                           method out of access.methods";
            errors.push(self.contradiction("access.password_file", problem.into()));
        }
        if methods.have(AccessMethod::Certificate) {
            self.check_certificate_method(errors);
        }
        let token = &self.token;
        let no_keys =
            token.keys.0.is_empty() && token.jwks.0.is_empty() && token.secrets.0.is_empty();
        if methods.have(AccessMethod::Token) && no_keys && token.jwks_url.0.is_none() {
            let problem = "the method \"token\" without a key to check tokens with; name token.keys, token.jwks, token.secrets or \
                           token.jwks_url, or take the method out of access.methods";
            errors.push(self.contradiction("token.keys", problem.into()));
        }
        if methods.have(AccessMethod::Http) && self.http.url.0.is_none() {
            let problem = "the method \"http\" without a service to ask; name its address here, or take the method out of access.methods";
            errors.push(self.contradiction("http.url", problem.into()));
        }
        self.check_unused(errors);
    }

    /// Whoever names a file of passwords means that they are asked for.
    fn check_unused(&self, errors: &mut Vec<ConfigError>) {
        let token = &self.token;
        let named = [
            (
                "access.password_file",
                self.access.password_file.0.is_some(),
                AccessMethod::Password,
            ),
            ("token.keys", !token.keys.0.is_empty(), AccessMethod::Token),
            ("token.jwks", !token.jwks.0.is_empty(), AccessMethod::Token),
            (
                "token.secrets",
                !token.secrets.0.is_empty(),
                AccessMethod::Token,
            ),
            (
                "token.jwks_url",
                token.jwks_url.0.is_some(),
                AccessMethod::Token,
            ),
            ("http.url", self.http.url.0.is_some(), AccessMethod::Http),
        ];
        for (path, is_named, method) in named {
            if is_named && !self.access.methods.have(method) {
                let problem = format!(
                    "nobody is asked for it, for access.methods has no \"{}\"; put it there, or take this out",
                    method.word()
                );
                errors.push(self.contradiction(path, problem));
            }
        }
    }

    fn check_certificate_method(&self, errors: &mut Vec<ConfigError>) {
        let problem = if !self.has_secure_listeners() {
            "the method \"certificate\" without a TLS listener, so that nobody shows one; open listeners.tls or \
             listeners.websocket_tls, or take the method out"
        } else if self.tls.client_certificates == ClientCertificates::None {
            "the method \"certificate\", and clients are not asked for one; set tls.client_certificates to \"optional\" or \
             \"required\", or take the method out"
        } else {
            return;
        };
        errors.push(self.contradiction("access.methods", problem.into()));
    }

    /// Where clients come from for whom everything is allowed that no rule decides; never `Auto`.
    pub fn unruled(&self) -> Unruled {
        let access = &self.access;
        match access.unruled {
            Unruled::Auto if access.rules.0.is_some() => Unruled::Nowhere,
            Unruled::Auto if access.anonymous == Anonymous::Everywhere => Unruled::Everywhere,
            Unruled::Auto => Unruled::Loopback,
            chosen => chosen,
        }
    }

    /// What is allowed and probably not meant, each with a way out.
    pub fn access_warnings(&self) -> Vec<String> {
        let (access, token) = (&self.access, &self.token);
        let by_token = access.methods.have(AccessMethod::Token);
        let by_http = access.methods.have(AccessMethod::Http);
        let by_any = !access.methods.0.is_empty();
        let unencrypted = self.listeners.tcp.iter().chain(&self.listeners.websocket);
        let mut unencrypted = unencrypted.filter(|address| !super::is_loopback(address));
        let warnings = [
            (
                by_any && access.rules.0.is_none() && self.unruled() != Unruled::Everywhere,
                "access.methods lets clients in, and without rules those from other machines may do nothing unless their token or the \
                 HTTP service brings rules; name a file in access.rules, or set access.unruled = \"everywhere\"",
            ),
            (
                by_any && unencrypted.next().is_some(),
                "passwords and tokens on listeners.tcp and listeners.websocket can be read on their way from other machines; use \
                 listeners.tls and listeners.websocket_tls, unless something in front of them speaks TLS",
            ),
            (
                by_token && token.jwks_url.0.is_some() && token.audience.0.is_none(),
                "token.audience is not set, so every token of the issuer is good here, those for other services included; set it to \
                 what the claim aud of your tokens says",
            ),
            (
                by_token && token.jwks_url.is_exposed(),
                "token.jwks_url is not https: whoever is on the way can put keys of their own there and be anybody; use https",
            ),
            (
                by_http && self.http.url.is_exposed(),
                "http.url is not https: whoever is on the way can read passwords and let themselves in; use https",
            ),
        ];
        let given = warnings.into_iter().filter(|(given, _)| *given);
        given.map(|(_, text)| text.to_owned()).collect()
    }
}
