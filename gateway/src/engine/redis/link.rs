//! One connection to one server: whole pipelines out, replies in, nothing without a deadline.
//!
//! A link that met an error is thrown away: what it would still receive belongs to nobody.

use std::thread;
use std::time::{Duration, Instant};

use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    RedisConnectionInfo, RedisResult, TlsCertificates, Value, io::tcp::TcpSettings,
};

use crate::engine::redis::options::{Address, ConnectOptions};

/// Until when a call may go on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Instant);

impl Deadline {
    pub(super) fn after(timeout: Duration) -> Self {
        Self(clock() + timeout)
    }

    /// What is left of it, at least a millisecond: a timeout of zero would be none.
    pub(super) fn left(self) -> Duration {
        self.0
            .saturating_duration_since(clock())
            .max(Duration::from_millis(1))
    }

    pub(super) fn has_passed(self) -> bool {
        clock() >= self.0
    }

    /// Waits, but not beyond the deadline. Whoever unparks the thread cannot shorten it.
    pub(super) fn pause(self, pause: Duration) {
        let end = (clock() + pause).min(self.0);
        loop {
            let left = end.saturating_duration_since(clock());
            if left.is_zero() {
                return;
            }
            thread::park_timeout(left);
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a shell around sockets: its deadlines are in real time"
)]
fn clock() -> Instant {
    Instant::now()
}

pub(super) struct Link(redis::Connection);

impl Link {
    /// Connects and authenticates, within half of what is left: another server may have to be tried.
    pub(super) fn connect(
        options: &ConnectOptions,
        address: &Address,
        deadline: Deadline,
    ) -> RedisResult<Self> {
        let timeout = (deadline.left() / 2).min(options.timeout / 4);
        let info = connection_info(options, address)?;
        let client = match &options.tls {
            None => Client::open(info)?,
            Some(tls) => {
                // The library takes the provider of the process.
                let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
                let client_tls = tls.client_pem.as_ref().map(|(chain, key)| ClientTlsConfig {
                    client_cert: chain.clone(),
                    client_key: key.to_vec(),
                });
                let certificates = TlsCertificates {
                    client_tls,
                    root_cert: tls.roots_pem.clone(),
                };
                Client::build_with_tls(info, certificates)?
            }
        };
        client
            .get_connection_with_timeout(timeout.max(Duration::from_millis(1)))
            .map(Self)
    }

    /// Writes packed commands.
    pub(super) fn send(&mut self, packed: &[u8], deadline: Deadline) -> RedisResult<()> {
        self.0.set_write_timeout(Some(deadline.left()))?;
        self.0.send_packed_command(packed)
    }

    /// Reads so many replies. An error of the server is a reply.
    pub(super) fn receive(
        &mut self,
        count: usize,
        deadline: Deadline,
        mut each: impl FnMut(usize, Value),
    ) -> RedisResult<()> {
        self.0.set_read_timeout(Some(deadline.left()))?;
        for index in 0..count {
            if index > 0 && index % 64 == 0 {
                if deadline.has_passed() {
                    return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
                }
                self.0.set_read_timeout(Some(deadline.left()))?;
            }
            each(index, self.0.recv_response()?);
        }
        Ok(())
    }

    /// One command and its reply.
    pub(super) fn call(&mut self, packed: &[u8], deadline: Deadline) -> RedisResult<Value> {
        self.send(packed, deadline)?;
        let mut reply = Value::Nil;
        self.receive(1, deadline, |_, value| reply = value)?;
        Ok(reply)
    }
}

fn connection_info(options: &ConnectOptions, address: &Address) -> RedisResult<ConnectionInfo> {
    let (host, port) = (address.host.to_string(), address.port);
    let address = match options.tls {
        None => ConnectionAddr::Tcp(host, port),
        Some(_) => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            tls_params: None,
        },
    };
    let mut settings = RedisConnectionInfo::default()
        .set_db(options.database)
        .set_lib_name("roadstead", env!("CARGO_PKG_VERSION"));
    if let Some(username) = &options.username {
        settings = settings.set_username(username);
    }
    if let Some(password) = &options.password {
        settings = settings.set_password(password.as_str());
    }
    Ok(address
        .into_connection_info()?
        .set_redis_settings(settings)
        .set_tcp_settings(TcpSettings::default().set_nodelay(true)))
}
