//! The files of the TLS listeners: read at the start, and again when they change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use aws_lc_rs::{digest, rand};

use super::{AskError, Cores};
use crate::admin::AdminRequest;
use crate::config::{ClientCertificates, Config, Files, Protocol, TlsSection, TlsVersion};
use crate::event_loop::Quic;
use crate::quic::NodeKeys;
use crate::tls::{
    self, Acceptor, Certificate, ClientTrust, ClusterSecret, PemFile, ServerCertificate, Versions,
};

/// What may be wrong with the files.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Something in a file, or the file itself.
    #[error(transparent)]
    Settings(#[from] tls::SettingsError),
    /// A secret that anybody could guess.
    #[error(
        "{file}: a secret of {length} bytes; make one of at least 32, e.g. with `openssl rand -base64 48 > {file}`"
    )]
    ShortSecret {
        /// Which file.
        file: String,
        /// Its length.
        length: usize,
    },
    /// No random numbers.
    #[error("the system has no random numbers for a ticket secret")]
    NoRandomness,
}

/// Why the files were not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// Something in them; all listeners keep what they had.
    #[error("the TLS files are not taken: {0}; what was read before stays in use")]
    Files(#[from] CertificateError),
    /// A core did not take them.
    #[error("{0}; some cores may still use what was read before: reload again")]
    Core(#[from] AskError),
}

/// The TLS files of a node.
pub struct Certificates {
    tls: TlsSection,
    /// True exactly when a listener speaks TLS.
    used: bool,
    /// In use when no file has one; the same for the whole life of the process.
    random_secret: ClusterSecret,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When each file was last changed, as of the last time they were read.
    seen: Vec<(PathBuf, Option<SystemTime>)>,
    /// What is in use.
    current: Vec<ServerCertificate>,
}

impl Certificates {
    /// How often the files are looked at.
    const LOOK: Duration = Duration::from_secs(5);

    /// The place among the acceptors of what a protocol uses.
    pub(crate) const fn place(protocol: Protocol) -> Option<usize> {
        match protocol {
            Protocol::Tls => Some(0),
            Protocol::WebSocketTls => Some(1),
            Protocol::Quic => Some(Quic::ACCEPTOR),
            Protocol::Tcp | Protocol::WebSocket => None,
        }
    }

    /// The files that the configuration names; nothing is read yet.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn of(config: &Config) -> Result<Self, CertificateError> {
        let mut random = [0; 32];
        rand::fill(&mut random).map_err(|_| CertificateError::NoRandomness)?;
        Ok(Self {
            tls: config.tls.clone(),
            used: config.has_secure_listeners(),
            random_secret: ClusterSecret(random),
            state: Mutex::default(),
        })
    }

    /// The certificates in use.
    pub fn current(&self) -> Vec<ServerCertificate> {
        self.state().current.clone()
    }

    /// Reads the files and gives them to all cores: new connections get them, open ones stay as they are.
    ///
    /// # Errors
    /// See [`ReloadError`].
    pub async fn reload(&self, cores: &Cores) -> Result<(), ReloadError> {
        let acceptors = self.read()?;
        cores.ask_all(AdminRequest::ReloadTls(acceptors)).await?;
        tracing::info!(certificates = self.current().len(), "TLS files read again");
        Ok(())
    }

    /// Reloads whenever a file has changed, for ever.
    pub async fn watch(&self, cores: &Cores) {
        loop {
            tokio::time::sleep(Self::LOOK).await;
            if self.have_changed()
                && let Err(error) = self.reload(cores).await
            {
                tracing::error!("{error}");
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// Reads all files and makes the acceptors of them, by place. Without TLS listeners there are none.
    ///
    /// # Errors
    /// The first thing that is wrong with a file.
    pub fn read(&self) -> Result<Vec<Arc<Acceptor>>, CertificateError> {
        if !self.used {
            return Ok(Vec::new());
        }
        self.state().seen = self.changes(); // Before they are read, so that no change is missed.
        let tls = &self.tls;
        let certificates = tls.certificates.0.iter().zip(&tls.keys.0);
        let trust = || -> Result<ClientTrust, CertificateError> {
            Ok(ClientTrust {
                authorities: pem_files(&tls.client_authorities)?,
                revocation_lists: pem_files(&tls.revocation_lists)?,
            })
        };
        let mut settings = tls::Settings {
            certificates: certificates
                .map(|(chain, key)| {
                    Ok(Certificate {
                        chain: PemFile::read(&name(chain))?,
                        key: PemFile::read(&name(key))?,
                    })
                })
                .collect::<Result<_, CertificateError>>()?,
            client_certificates: match tls.client_certificates {
                ClientCertificates::None => tls::ClientCertificates::None,
                ClientCertificates::Optional => tls::ClientCertificates::Optional(trust()?),
                ClientCertificates::Required => tls::ClientCertificates::Required(trust()?),
            },
            application_protocols: vec![b"mqtt".to_vec()],
            versions: match tls.version_min {
                TlsVersion::V12 => Versions::From12,
                TlsVersion::V13 => Versions::Only13,
            },
            ticket_secrets: self.ticket_secrets()?,
            ticket_epoch_s: u32::try_from(tls.ticket_epoch.as_secs()).unwrap_or(u32::MAX),
        };
        let over_tcp = Acceptor::new(&settings)?;
        let over_quic = Acceptor::for_quic(&settings)?;
        settings.application_protocols = vec![b"http/1.1".to_vec()];
        let over_websocket = Acceptor::new(&settings)?;
        self.state().current = over_tcp.certificates().to_vec();
        let acceptors = [over_tcp, over_websocket, over_quic];
        Ok(acceptors.map(Arc::new).into())
    }

    /// Keys of QUIC, from the secret that seals tickets now and one that this node alone has. They stay for the life of the process.
    ///
    /// # Errors
    /// When the file of that secret cannot be used.
    pub fn quic_keys(&self, own: &[u8; 32]) -> Result<NodeKeys, CertificateError> {
        let secrets = self.ticket_secrets()?;
        Ok(match secrets.split_first() {
            Some((secret, before)) => NodeKeys::new(secret, own).after(before),
            None => NodeKeys::new(&self.random_secret, own),
        })
    }

    /// True when a file is another than the one that was read last.
    fn have_changed(&self) -> bool {
        self.used && self.changes() != self.state().seen
    }

    fn changes(&self) -> Vec<(PathBuf, Option<SystemTime>)> {
        let tls = &self.tls;
        let lists = [
            &tls.certificates,
            &tls.keys,
            &tls.client_authorities,
            &tls.revocation_lists,
            &tls.ticket_secrets,
        ];
        let changed = |path: &PathBuf| {
            let metadata = std::fs::metadata(path);
            (path.clone(), metadata.and_then(|it| it.modified()).ok())
        };
        lists
            .iter()
            .flat_map(|files| &files.0)
            .map(changed)
            .collect()
    }

    fn ticket_secrets(&self) -> Result<Vec<ClusterSecret>, CertificateError> {
        const LEAST_BYTES: usize = 32;
        let files = &self.tls.ticket_secrets.0;
        if files.is_empty() {
            return Ok(vec![self.random_secret.clone()]);
        }
        let secret = |path: &PathBuf| {
            let file = name(path);
            let text = PemFile::read(&file)?.text;
            let length = text.trim_ascii().len();
            if length < LEAST_BYTES {
                return Err(CertificateError::ShortSecret { file, length });
            }
            let digest = digest::digest(&digest::SHA256, text.trim_ascii());
            let mut secret = [0; 32];
            secret.copy_from_slice(digest.as_ref());
            Ok(ClusterSecret(secret))
        };
        files.iter().map(secret).collect()
    }
}

fn name(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn pem_files(files: &Files) -> Result<Vec<PemFile>, CertificateError> {
    let read = |path: &PathBuf| Ok(PemFile::read(&name(path))?);
    files.0.iter().map(read).collect()
}
