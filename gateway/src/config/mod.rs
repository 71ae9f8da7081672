//! The configuration: TOML file, environment and flags → [`Config`], in which every value is good.
//!
//! `sections.rs` declares every key once; `raw.rs` gathers values with their origins; `check.rs` holds the values against
//! each other; `derived.rs` makes the structs that the cores, the drivers and the engine take; `print.rs` writes all of it
//! out again, as configuration, example file or table.

mod access_value;
mod check;
mod cluster_value;
mod define;
mod derived;
mod engine_value;
mod error;
mod origin;
mod print;
mod protocol;
mod raw;
mod sections;
mod value;

pub use access_value::{
    AccessMethod, CertificateName, ClaimName, Methods, OptionalFile, OptionalText, OptionalUrl,
    PageOrigins, Unruled,
};
pub use cluster_value::{Host, OptionalHost, OptionalUid, Seed, Seeds};
pub use define::{Key, Section};
pub use engine_value::{Durability, EngineKind, EngineMode, EngineUrls, KeyPrefix};
pub use error::{ConfigError, ConfigErrors};
pub use origin::Origin;
pub use print::{example, markdown_table};
pub use protocol::Protocol;
pub use raw::{FlagValue, Sources};
pub use sections::*;
pub use value::{
    Anonymous, ByteSize, ClientCertificates, CoreCount, Files, HttpPath, IoBackend, LogFormat,
    LogLevel, MailboxWhenFull, Networks, NodeName, OptionalAddress, RootDepths, Setting,
    SlowConsumerPolicy, TlsVersion,
};

impl Config {
    /// Reads the sources, the later ones winning: file, environment, flags.
    ///
    /// # Errors
    /// Everything that is wrong, together.
    pub fn load(sources: &Sources) -> Result<Self, ConfigErrors> {
        let mut errors = Vec::new();
        let raw = raw::RawConfig::gather(sources, &mut errors);
        let config = Self::from_raw(&raw, &mut errors);
        if errors.is_empty() {
            config.check(&mut errors);
        }
        if errors.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors(errors))
        }
    }

    /// Where the value of a key (`section.name`) came from.
    pub fn origin(&self, path: &str) -> &Origin {
        self.origins.of(path)
    }
}
