//! Values that are good alone and not together.

use std::collections::BTreeSet;
use std::net::SocketAddr;

mod access;
mod cluster;
mod engine;

use super::{Anonymous, ClientCertificates, Config, ConfigError, Protocol};

impl Config {
    /// Reports every contradiction.
    pub(super) fn check(&self, errors: &mut Vec<ConfigError>) {
        self.check_exposure(errors);
        self.check_addresses(errors);
        self.check_tls(errors);
        self.check_proxies(errors);
        self.check_access(errors);
        self.check_cluster(errors);
        self.check_engine(errors);
        self.check_sizes(errors);
    }

    fn contradiction(&self, path: &str, problem: String) -> ConfigError {
        let value = self
            .values()
            .into_iter()
            .find(|(key, _)| key.path() == path);
        let value = value
            .map(|(_, value)| value.to_string())
            .unwrap_or_default();
        ConfigError::Contradiction {
            origin: self.origin(path).clone(),
            key: path.into(),
            value,
            problem,
        }
    }

    /// Nothing without authentication is reachable from elsewhere unless the configuration says so in so many words.
    fn check_exposure(&self, errors: &mut Vec<ConfigError>) {
        // With methods, those who prove nothing are turned away one by one.
        if self.access.anonymous != Anonymous::Everywhere && self.access.methods.0.is_empty() {
            for protocol in Protocol::ALL {
                let path = protocol.key();
                let mut addresses = self.addresses(protocol).iter();
                let Some(address) = addresses.find(|address| !is_loopback(address)) else {
                    continue;
                };
                let problem = format!(
                    "{address} can be reached from other machines, and access.anonymous = \"{}\" lets only clients on \
                     this machine in; use a loopback address, name in access.methods how clients prove who they are, or set \
                     access.anonymous = \"{}\"",
                    self.access.anonymous.word(),
                    Anonymous::Everywhere.word()
                );
                errors.push(self.contradiction(path, problem));
            }
        }
        if let Some(address) = self
            .admin
            .address
            .0
            .filter(|address| !is_loopback(address) && !self.admin.allow_remote)
        {
            let problem = format!(
                "{address} can be reached from other machines, and the admin interface has no authentication; use a loopback \
                 address, or set admin.allow_remote = true"
            );
            errors.push(self.contradiction("admin.address", problem));
        }
    }

    fn check_addresses(&self, errors: &mut Vec<ConfigError>) {
        let mut seen = BTreeSet::new();
        let admin: Vec<_> = self.admin.address.0.into_iter().collect();
        let monitoring: Vec<_> = self.admin.monitoring_address.0.into_iter().collect();
        let listeners = Protocol::ALL.map(|protocol| {
            let is_datagrams = protocol.is_datagrams();
            (protocol.key(), is_datagrams, self.addresses(protocol))
        });
        let admin = [
            ("admin.address", false, &admin[..]),
            ("admin.monitoring_address", false, &monitoring[..]),
        ];
        for (path, is_datagrams, addresses) in listeners.into_iter().chain(admin) {
            for address in addresses {
                if address.port() != 0 && !seen.insert((is_datagrams, *address)) {
                    errors.push(self.contradiction(
                        path,
                        format!("{address} is used twice; give each listener its own port"),
                    ));
                }
            }
        }
        if Protocol::ALL
            .iter()
            .all(|protocol| self.addresses(*protocol).is_empty())
        {
            let problem = "no listener at all: no client could connect; name an address in listeners.tcp or another listener";
            errors.push(self.contradiction("listeners.tcp", problem.into()));
        }
    }

    /// TLS listeners have what they need.
    fn check_tls(&self, errors: &mut Vec<ConfigError>) {
        let tls = &self.tls;
        let (chains, keys) = (tls.certificates.0.len(), tls.keys.0.len());
        if self.has_secure_listeners() && chains == 0 {
            let problem = "a TLS listener without a certificate; name its file, and that of its key in tls.keys";
            errors.push(self.contradiction("tls.certificates", problem.into()));
        }
        if chains != keys {
            let problem = format!(
                "{keys} keys for {chains} certificates; name one for each of tls.certificates, in the same order"
            );
            errors.push(self.contradiction("tls.keys", problem));
        }
        let asks = tls.client_certificates != ClientCertificates::None;
        if asks && tls.client_authorities.0.is_empty() {
            let problem = format!(
                "nobody could be verified; name the files of the authorities in tls.client_authorities, or set \"{}\"",
                ClientCertificates::None.word()
            );
            errors.push(self.contradiction("tls.client_certificates", problem));
        }
    }

    /// Listeners behind a proxy are listeners, and there is a proxy.
    fn check_proxies(&self, errors: &mut Vec<ConfigError>) {
        let listeners = &self.listeners;
        let is_open = |address: &SocketAddr| {
            let mut protocols = Protocol::ALL.iter();
            protocols.any(|protocol| self.addresses(*protocol).contains(address))
        };
        if let Some(address) = listeners
            .proxy_protocol
            .iter()
            .find(|address| !is_open(address))
        {
            let problem = format!(
                "nothing listens on {address}; write an address of listeners.tcp or another listener, as it is written there"
            );
            errors.push(self.contradiction("listeners.proxy_protocol", problem));
        }
        if !listeners.proxy_protocol.is_empty() && listeners.proxy_trusted.0.is_empty() {
            let problem = "a listener behind a proxy, and nobody may be one, so that no client could connect; name the addresses or \
                           networks of the proxies";
            errors.push(self.contradiction("listeners.proxy_trusted", problem.into()));
        }
    }

    fn check_sizes(&self, errors: &mut Vec<ConfigError>) {
        let packet = self.mqtt.packet_bytes_max;
        let limits = self.to_limits();
        let holders = [
            (
                "queues.session_bytes_max",
                self.queues.session_bytes_max.0,
                "",
            ),
            ("mailboxes.bytes_max", self.mailboxes.bytes_max.0, ""),
            (
                "queues.pending_bytes_max",
                limits.pending_bytes_max as u64,
                " for each core",
            ),
            (
                "queues.partial_bytes_max",
                limits.partial_bytes_max as u64,
                " for each core",
            ),
            (
                "queues.total_bytes_max",
                limits.core_queue_bytes_max as u64,
                " for each core",
            ),
            (
                "retained.bytes_max",
                limits.retained_bytes_max as u64,
                " for each core",
            ),
        ];
        for (path, bytes, share) in holders {
            if bytes < packet.0 {
                let problem = format!(
                    "less than one packet of mqtt.packet_bytes_max = \"{packet}\"{share}, so the largest messages would never \
                     fit; raise it or lower mqtt.packet_bytes_max"
                );
                errors.push(self.contradiction(path, problem));
            }
        }
        let powers = [
            ("io.receive_buffers", u32::from(self.io.receive_buffers)),
            ("io.submission_entries", self.io.submission_entries),
            ("io.completion_entries", self.io.completion_entries),
        ];
        for (path, count) in powers {
            if !count.is_power_of_two() {
                let below = count.next_power_of_two() / 2;
                errors.push(self.contradiction(
                    path,
                    format!("not a power of two; write {below} or {}", below * 2),
                ));
            }
        }
        if self.io.completion_entries < self.io.submission_entries {
            let problem = format!(
                "less than io.submission_entries = {}; raise it",
                self.io.submission_entries
            );
            errors.push(self.contradiction("io.completion_entries", problem));
        }
    }
}

/// True for addresses that only this machine reaches, IPv4 written as IPv6 included.
fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}
