//! Which certificate a client is shown: by the name it asks for, and by what it can verify.

use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The certificates of a listener by name.
#[derive(Debug, Default)]
pub(super) struct ByName {
    /// By lower-case name; `*.example.com` is kept as `.example.com`. Names come from the operator, not from clients, so that
    /// a seed is not needed.
    names: HashMap<String, Vec<Arc<CertifiedKey>>, FixedState>,
    /// All, in the order of the settings.
    all: Vec<Arc<CertifiedKey>>,
}

impl ByName {
    pub(super) fn insert(&mut self, names: &[String], key: &Arc<CertifiedKey>) {
        for name in names {
            let name = name.to_ascii_lowercase();
            let name = name.strip_prefix('*').map_or(name.as_str(), |rest| rest);
            let keys = self.names.entry(name.to_owned()).or_default();
            keys.push(key.clone());
        }
        self.all.push(key.clone());
    }

    /// Those for a name: its own, then those for all names beside it, then those of the first certificate.
    fn candidates(&self, name: Option<&str>) -> impl Iterator<Item = &Arc<CertifiedKey>> {
        let name = name.map(str::to_ascii_lowercase);
        let exact = name.as_deref().and_then(|name| self.names.get(name));
        let wildcard = name.as_deref().and_then(|name| {
            let (_, parent) = name.split_at(name.find('.')?);
            self.names.get(parent)
        });
        let named = exact.into_iter().chain(wildcard).flatten();
        named.chain(&self.all)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        self.candidates(hello.server_name())
            .find(|key| key.key.choose_scheme(schemes).is_some())
            .cloned()
    }
}
