//! The bans of a node: kept in a file of its folder, so that they outlive it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::AccessError;
use super::{Access, ReloadError};
use crate::access::bans::{BanError, Bans, Subject, Term};
use crate::control::Cores;
use crate::durable_file;

/// Most bans of a node.
pub const BANS_MAX: usize = 100_000;

/// What a ban is about and for how long, as the file and the admin interface write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BanRecord {
    /// A client identifier, a user or a network.
    pub kind: BanKind,
    /// Which one.
    pub name: String,
    /// When it ends, in milliseconds of Unix time.
    #[serde(default)]
    pub until_unix_ms: Option<u64>,
    /// For the operator.
    #[serde(default)]
    pub reason: String,
}

/// What can be banned.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum BanKind {
    /// A client identifier.
    Client,
    /// An authenticated user.
    User,
    /// An address, or all addresses of a network.
    Network,
}

/// Why a ban was not taken, or not stored.
#[derive(Debug, thiserror::Error)]
pub enum BanFailure {
    /// It cannot be.
    #[error(transparent)]
    Ban(#[from] BanError),
    /// It holds until the next start only.
    #[error("it holds, and is lost with the next start: {0}")]
    Unstored(AccessError),
    /// A core did not take it yet.
    #[error("it is stored, and not all cores have it: {0}")]
    Undelivered(#[from] ReloadError),
}

impl BanKind {
    /// The subject with this name.
    ///
    /// # Errors
    /// What is wrong with it and what would be right.
    pub fn subject(self, name: &str) -> Result<Subject, String> {
        if name.is_empty() {
            return Err("an empty name; nobody is called so".into());
        }
        match self {
            Self::Client => Ok(Subject::Client(name.into())),
            Self::User => Ok(Subject::User(name.into())),
            Self::Network => name
                .parse()
                .map(Subject::Network)
                .map_err(|error: crate::access::bans::NetworkError| error.to_string()),
        }
    }
}

impl BanRecord {
    /// A ban as it is written.
    pub fn of(subject: &Subject, term: &Term) -> Self {
        let (kind, name) = match subject {
            Subject::Client(name) => (BanKind::Client, name.to_string()),
            Subject::User(name) => (BanKind::User, name.to_string()),
            Subject::Network(network) => (BanKind::Network, network.to_string()),
        };
        Self {
            kind,
            name,
            until_unix_ms: term.until_unix_ms,
            reason: term.reason.to_string(),
        }
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("bans.json")
}

/// Reads the bans that a folder has.
pub(super) fn load(folder: &Path, seed: u64, now_unix_ms: u64) -> Result<Bans, AccessError> {
    let path = path(folder);
    let failed = |detail: String| AccessError::Own {
        file: path.display().to_string(),
        detail,
        remedy: "mend it, or move it away to start without bans",
    };
    let mut bans = Bans::new(BANS_MAX, seed);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(bans),
        Err(error) => return Err(failed(error.to_string())),
    };
    let records: Vec<BanRecord> =
        serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
    for record in records {
        let subject = record.kind.subject(&record.name).map_err(&failed)?;
        let term = Term {
            until_unix_ms: record.until_unix_ms,
            reason: record.reason.into(),
        };
        bans.add(subject, term, now_unix_ms)
            .map_err(|error| failed(error.to_string()))?;
    }
    bans.drop_ended(now_unix_ms);
    Ok(bans)
}

/// Every ban in order.
pub(super) fn records(bans: &Bans) -> Vec<BanRecord> {
    let mut records: Vec<BanRecord> = bans
        .iter()
        .map(|(subject, term)| BanRecord::of(&subject, term))
        .collect();
    records.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    records
}

fn store(folder: &Path, bans: &Bans) -> Result<(), AccessError> {
    let path = path(folder);
    let failed = |detail: String| AccessError::Own {
        file: path.display().to_string(),
        detail,
        remedy: "see that the folder can be written to, then ban or lift again",
    };
    let text =
        serde_json::to_vec_pretty(&records(bans)).map_err(|error| failed(error.to_string()))?;
    durable_file::replace(&path, &text).map_err(|error| failed(error.to_string()))
}

impl Access {
    /// The bans that are not over, in order.
    pub fn bans(&self) -> Vec<BanRecord> {
        let mut bans = Bans::clone(&self.policy().bans);
        bans.drop_ended(self.clock.now().unix_ms);
        records(&bans)
    }

    /// Bans somebody from now on, on all cores; what is connected is ended by them.
    ///
    /// # Errors
    /// See [`BanFailure`].
    pub async fn ban(&self, cores: &Cores, subject: Subject, term: Term) -> Result<(), BanFailure> {
        let held = self.delivery.lock().await;
        let now_unix_ms = self.clock.now().unix_ms;
        let mut bans = Bans::clone(&self.policy().bans);
        bans.add(subject, term, now_unix_ms)?;
        self.take_bans(cores, bans, held).await
    }

    /// Lifts a ban. False when there was none.
    ///
    /// # Errors
    /// See [`BanFailure`].
    pub async fn lift(&self, cores: &Cores, subject: &Subject) -> Result<bool, BanFailure> {
        let held = self.delivery.lock().await;
        let mut bans = Bans::clone(&self.policy().bans);
        bans.drop_ended(self.clock.now().unix_ms);
        if !bans.lift(subject) {
            return Ok(false);
        }
        self.take_bans(cores, bans, held).await?;
        Ok(true)
    }

    /// Stores the bans and gives them to the cores. A disk that takes nothing does not keep anybody in who was banned.
    async fn take_bans(
        &self,
        cores: &Cores,
        bans: Bans,
        held: tokio::sync::MutexGuard<'_, ()>,
    ) -> Result<(), BanFailure> {
        let stored = store(&self.folder, &bans);
        let delivered = self
            .renew(cores, held, |state| state.bans = std::sync::Arc::new(bans))
            .await;
        stored.map_err(BanFailure::Unstored)?;
        Ok(delivered?)
    }
}
