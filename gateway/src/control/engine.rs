//! What the configuration says of a Valkey or Redis, with the files that it names, made into what the engine takes.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use crate::config::{Config, EngineKind};
use crate::engine::redis::inspect::{Report, Wanted, ask};
use crate::engine::redis::options::{Address, ConnectOptions, TlsOptions};

/// Longest file with a password.
const PASSWORD_BYTES_MAX: u64 = 4_096;
/// Longest file with certificates.
const AUTHORITIES_BYTES_MAX: u64 = 4 << 20;

/// A file that a key of `[engine]` names and that is not good.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("engine.{key} = \"{file}\": {problem}")]
pub struct EngineFileError {
    key: &'static str,
    file: String,
    problem: String,
}

impl EngineFileError {
    fn new(key: &'static str, file: &Path, problem: impl Into<String>) -> Self {
        Self {
            key,
            file: file.display().to_string(),
            problem: problem.into(),
        }
    }
}

/// How to reach the servers; `None` for the embedded store. Reads the password and the authorities.
///
/// # Errors
/// A file cannot be read, or is not what it should be.
pub fn connect_options(config: &Config) -> Result<Option<ConnectOptions>, EngineFileError> {
    let engine = &config.engine;
    if engine.kind == EngineKind::Embedded {
        return Ok(None);
    }
    let seeds = engine.urls.addresses().into_iter();
    let seeds = seeds.map(|(host, port)| Address {
        host: host.into(),
        port,
    });
    let password = engine.password_file.0.as_deref().map(password);
    let tls = engine.urls.is_tls().then(|| {
        Ok(TlsOptions {
            roots_pem: authorities(config)?,
            client_pem: None,
        })
    });
    Ok(Some(ConnectOptions {
        seeds: seeds.collect(),
        tls: tls.transpose()?,
        username: engine.user.0.as_deref().map(Into::into),
        password: password.transpose()?,
        database: 0,
        timeout: engine.timeout,
    }))
}

/// What the servers are, held against the configuration. Blocks for up to the timeout for each server that does not answer.
pub fn inspect(config: &Config, options: &ConnectOptions) -> Report {
    let wanted = Wanted {
        mode: config.engine.mode,
        durability: config.engine.durability,
    };
    Report::of(ask(options), &wanted)
}

fn read(
    key: &'static str,
    path: &Path,
    bytes_max: u64,
) -> Result<Zeroizing<Vec<u8>>, EngineFileError> {
    let failed = |problem: String| EngineFileError::new(key, path, problem);
    let mut bytes = Zeroizing::new(Vec::new());
    let read = File::open(path).and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes));
    read.map_err(|error| failed(format!("{error}; name a file that the node may read")))?;
    if bytes.len() as u64 > bytes_max {
        return Err(failed(format!(
            "more than {bytes_max} bytes; is it the right file?"
        )));
    }
    Ok(bytes)
}

fn password(path: &Path) -> Result<Zeroizing<String>, EngineFileError> {
    const KEY: &str = "password_file";
    let bytes = read(KEY, path, PASSWORD_BYTES_MAX)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| {
        EngineFileError::new(KEY, path, "not text; write the password in it, in UTF-8")
    })?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(EngineFileError::new(
            KEY,
            path,
            "empty; write the password in it",
        ));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// All files one after another; `None` for those of the operating system.
fn authorities(config: &Config) -> Result<Option<Vec<u8>>, EngineFileError> {
    const KEY: &str = "authorities";
    let mut all = Vec::new();
    for path in &config.engine.authorities.0 {
        let bytes = read(KEY, path, AUTHORITIES_BYTES_MAX)?;
        let certificates = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
        if certificates.is_ok_and(|certificates| !certificates.is_empty()) {
            all.extend_from_slice(&bytes);
            all.push(b'\n');
        } else {
            let problem = "no certificates in it; name a PEM file with those of the authorities";
            return Err(EngineFileError::new(KEY, path, problem));
        }
    }
    Ok((!all.is_empty()).then_some(all))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn with_password(content: &[u8]) -> Result<Option<ConnectOptions>, EngineFileError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("roadstead-engine-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).expect("it is written");
        let options = connect_options(&config(&path));
        std::fs::remove_file(&path).expect("it was made");
        options
    }

    fn config(password_file: &Path) -> Config {
        let set = |key: &str, value: &str| crate::config::FlagValue {
            flag: "--set".into(),
            key: key.into(),
            value: value.into(),
        };
        let flags = vec![
            set("engine.kind", "redis"),
            set("engine.urls", "redis://a:1,redis://[::1]:2"),
            set("engine.password_file", &password_file.display().to_string()),
        ];
        Config::load(&crate::config::Sources {
            flags,
            ..Default::default()
        })
        .expect("a good configuration")
    }

    #[test]
    fn the_password_is_the_first_line_and_is_not_shown() {
        for content in [&b"hunter2"[..], b"hunter2\n", b"hunter2\r\n"] {
            let options = with_password(content).expect("good").expect("a Redis");
            assert_eq!(
                options.password.as_deref().map(String::as_str),
                Some("hunter2")
            );
            assert!(!format!("{options:?}").contains("hunter"));
            assert_eq!(options.seeds.len(), 2);
        }
    }

    #[test]
    fn a_password_file_that_is_none_is_told_with_its_key() {
        let error = |content: &[u8]| with_password(content).expect_err("bad").to_string();
        assert!(error(b"").ends_with("empty; write the password in it"));
        assert!(error(b"\n").contains("engine.password_file = \""));
        assert!(error(b"\xff").contains("not text"));
        assert!(error(&[b'x'; 5_000]).contains("more than 4096 bytes"));
        let missing = connect_options(&config(Path::new("/nonexistent/secret")));
        let missing = missing.expect_err("it is not there").to_string();
        assert!(
            missing.starts_with("engine.password_file = \"/nonexistent/secret\": No such file"),
            "{missing}"
        );
    }

    #[test]
    fn the_embedded_store_needs_no_servers() {
        assert!(matches!(connect_options(&Config::default()), Ok(None)));
    }
}
