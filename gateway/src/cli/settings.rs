//! From flags and environment to the sources of a configuration.

use std::path::Path;

use super::CommandError;
use super::arguments::Settings;
use crate::config::{Config, ConfigError, ConfigErrors, FlagValue, Sources};
use crate::control::access::Access;
use crate::control::certificates::Certificates;
use crate::control::engine::connect_options;

impl Settings {
    /// The configuration in effect.
    pub(super) fn load(&self, environment: &[(String, String)]) -> Result<Config, CommandError> {
        let variable = environment
            .iter()
            .find(|(name, _)| name == "ROADSTEAD_CONFIG")
            .map(|(_, value)| value.clone());
        let path = self.config.clone().or_else(|| variable.map(Into::into));
        let file = path.map(|path| read(&path)).transpose().map_err(report)?;
        let sources = Sources {
            file,
            environment: environment.to_vec(),
            flags: self.flags(),
        };
        Config::load(&sources).map_err(report)
    }

    /// Flags that set keys; `--set` comes last, as the most explicit.
    fn flags(&self) -> Vec<FlagValue> {
        let flag = |flag: &str, key: &str, value: &String| FlagValue {
            flag: flag.into(),
            key: key.into(),
            value: value.clone(),
        };
        let listen = (!self.listen.is_empty()).then(|| self.listen.join(","));
        let short = [
            ("--io", "io.backend", &self.io),
            ("--cores", "node.cores", &self.cores),
            ("--data", "engine.path", &self.data),
            ("--listen", "listeners.tcp", &listen),
        ];
        let short = short
            .into_iter()
            .filter_map(|(name, key, value)| Some(flag(name, key, value.as_ref()?)));
        short
            .chain(
                self.set
                    .iter()
                    .map(|(key, value)| flag("--set", key, value)),
            )
            .collect()
    }
}

/// Reads a file alone, without the environment.
pub(super) fn check_file(path: &Path) -> Result<Config, CommandError> {
    let file = Some(read(path).map_err(report)?);
    Config::load(&Sources {
        file,
        ..Sources::default()
    })
    .map_err(report)
}

/// What is wrong with the files that a configuration names, read as at the start of a node.
pub(super) fn file_errors(config: &Config) -> Vec<String> {
    let certificates = Certificates::of(config).and_then(|certificates| certificates.read());
    let certificates = certificates
        .map(drop)
        .map_err(|error| format!("TLS: {error}"));
    let access = Access::check(config).map_err(|error| error.to_string());
    let engine = connect_options(config).map(drop);
    let engine = engine.map_err(|error| error.to_string());
    [certificates, access, engine]
        .into_iter()
        .filter_map(Result::err)
        .collect()
}

fn read(path: &Path) -> Result<(String, String), ConfigErrors> {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((name, text)),
        Err(error) => Err(ConfigErrors(vec![ConfigError::Unreadable {
            path: name,
            detail: error.to_string(),
        }])),
    }
}

fn report(errors: ConfigErrors) -> CommandError {
    CommandError::Failed {
        error: errors.to_string().replace('\n', "\nerror: "),
        remedy: None,
    }
}
