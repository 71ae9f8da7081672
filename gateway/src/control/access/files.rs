//! The files that say who may connect, and what they may do: read all together, and taken all together or not at all.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use hyper::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue,
    TRANSFER_ENCODING,
};

use super::fetch::HttpClient;
use crate::access::password::{FileError, PasswordFile};
use crate::access::rules::{Rules, RulesError};
use crate::access::token::{KeyError, KeySet};
use crate::config::{AccessMethod, Config};

/// The largest file of users, and of anything else.
const PASSWORDS_BYTES_MAX: u64 = 512 << 20;
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Most headers of the call-out.
const HEADERS_MAX: usize = 32;

/// What is wrong with what says who may connect. The operator's to mend. No message contains a secret.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The file is not there, or belongs to somebody else.
    #[error("{file} ({key}): {detail}; name an existing file that the node may read")]
    Unreadable {
        /// Which file.
        file: String,
        /// The key of the configuration that names it.
        key: &'static str,
        /// What the system said.
        detail: String,
    },
    /// A bad line in the file of users.
    #[error("{file} (access.password_file): {error}")]
    Passwords {
        /// Which file.
        file: String,
        /// What is wrong with it.
        error: FileError,
    },
    /// Bad rules.
    #[error("{file} (access.rules): {error}")]
    Rules {
        /// Which file.
        file: String,
        /// What is wrong with them.
        error: RulesError,
    },
    /// A file without a rule: somebody is writing it, more likely than not.
    #[error(
        "{file} (access.rules): there is no rule in it, which would deny everything to everybody; write at least one, e.g. one with \
         deny = [\"publish\", \"subscribe\"] and topics = [\"#\"]"
    )]
    NoRules {
        /// Which file.
        file: String,
    },
    /// A bad key.
    #[error("{file} ({key}): {error}")]
    Key {
        /// Which file.
        file: String,
        /// The key of the configuration that names it.
        key: &'static str,
        /// What is wrong with it.
        error: KeyError,
    },
    /// A line that is no header.
    #[error("{file}:{line} (http.headers_file): {problem}")]
    Header {
        /// Which file.
        file: String,
        /// Where, from 1.
        line: usize,
        /// What is wrong and what would be right.
        problem: &'static str,
    },
    /// A file of authorities that cannot be used.
    #[error(
        "{file} (access.authorities): {detail}; name a PEM file with the certificates of the authorities"
    )]
    Authority {
        /// Which file.
        file: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Nobody to verify an https server with.
    #[error(
        "this system has no certificates of authorities, so no https server could be verified; install its ca-certificates, or name \
         a PEM file in access.authorities"
    )]
    NoAuthorities,
    /// A file of the node itself, in its folder.
    #[error("{file}: {detail}; {remedy}")]
    Own {
        /// Which file.
        file: String,
        /// What is wrong with it.
        detail: String,
        /// What to do.
        remedy: &'static str,
    },
    /// No random numbers.
    #[error("the system has no random numbers")]
    NoRandomness,
}

/// What the files say.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) passwords: Option<Arc<PasswordFile>>,
    pub(super) keys: KeySet,
    pub(super) rules: Option<Arc<Rules>>,
    pub(super) headers: HeaderMap,
    /// What asks services; `None` when none is asked.
    pub(super) client: Option<HttpClient>,
}

/// A file as it was when it was looked at.
pub(super) type Seen = (PathBuf, Option<(SystemTime, u64)>);

/// Reads all files that the configuration makes use of.
pub(super) fn read(config: &Config, secret: &[u8; 32]) -> Result<Content, AccessError> {
    let (access, methods) = (&config.access, &config.access.methods);
    let mut content = Content::default();
    if let Some(path) = access.rules.0.as_deref() {
        let text = text(path, "access.rules", FILE_BYTES_MAX)?;
        let rules = Rules::from_toml(&text).map_err(|error| AccessError::Rules {
            file: name(path),
            error,
        })?;
        if rules.is_empty() {
            return Err(AccessError::NoRules { file: name(path) });
        }
        content.rules = Some(Arc::new(rules));
    }
    if let (true, Some(path)) = (
        methods.have(AccessMethod::Password),
        access.password_file.0.as_deref(),
    ) {
        let text = text(path, "access.password_file", PASSWORDS_BYTES_MAX)?;
        let file = PasswordFile::parse(&text, secret);
        content.passwords = Some(Arc::new(file.map_err(|error| AccessError::Passwords {
            file: name(path),
            error,
        })?));
    }
    if methods.have(AccessMethod::Token) {
        content.keys = keys(config)?;
    }
    if let (true, Some(path)) = (
        methods.have(AccessMethod::Http),
        config.http.headers_file.0.as_deref(),
    ) {
        content.headers = headers(path, &text(path, "http.headers_file", FILE_BYTES_MAX)?)?;
    }
    let urls = services(config);
    if !urls.is_empty() {
        let secure = urls.iter().any(|url| url.starts_with("https:"));
        let idle_max = config.http.requests_max as usize;
        content.client = Some(HttpClient::new(&access.authorities.0, idle_max, secure)?);
    }
    Ok(content)
}

/// The services that are asked.
fn services(config: &Config) -> Vec<&str> {
    let methods = &config.access.methods;
    let services = [
        (AccessMethod::Token, &config.token.jwks_url),
        (AccessMethod::Http, &config.http.url),
    ];
    let used = services
        .into_iter()
        .filter(|(method, _)| methods.have(*method));
    used.filter_map(|(_, url)| url.0.as_deref()).collect()
}

/// All files that [`read`] could read, as they are now.
pub(super) fn look(config: &Config) -> Vec<Seen> {
    let single = [
        &config.access.rules,
        &config.access.password_file,
        &config.http.headers_file,
    ];
    let lists = [
        &config.token.keys,
        &config.token.jwks,
        &config.token.secrets,
        &config.access.authorities,
    ];
    let single = single.into_iter().filter_map(|file| file.0.as_ref());
    let all = single.chain(lists.into_iter().flat_map(|files| &files.0));
    let look = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok();
        let seen = metadata.and_then(|it| Some((it.modified().ok()?, it.len())));
        (path.clone(), seen)
    };
    all.map(look).collect()
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

fn bytes(path: &Path, key: &'static str, bytes_max: u64) -> Result<Vec<u8>, AccessError> {
    let unreadable = |detail: String| AccessError::Unreadable {
        file: name(path),
        key,
        detail,
    };
    let length = std::fs::metadata(path).map(|metadata| metadata.len());
    match length {
        Ok(length) if length > bytes_max => Err(unreadable(format!(
            "a file of {length} bytes, {bytes_max} at most"
        ))),
        Ok(_) => std::fs::read(path).map_err(|error| unreadable(error.to_string())),
        Err(error) => Err(unreadable(error.to_string())),
    }
}

fn text(path: &Path, key: &'static str, bytes_max: u64) -> Result<String, AccessError> {
    String::from_utf8(bytes(path, key, bytes_max)?).map_err(|_| AccessError::Unreadable {
        file: name(path),
        key,
        detail: "it is not a text in UTF-8".into(),
    })
}

/// The keys of all files together.
fn keys(config: &Config) -> Result<KeySet, AccessError> {
    let mut all = KeySet::default();
    let mut add = |path: &Path, key, keys: Result<KeySet, KeyError>| {
        let joined = keys.and_then(|keys| std::mem::take(&mut all).joined(keys));
        all = joined.map_err(|error| AccessError::Key {
            file: name(path),
            key,
            error,
        })?;
        Ok(())
    };
    for path in &config.token.keys.0 {
        let text = text(path, "token.keys", FILE_BYTES_MAX)?;
        add(path, "token.keys", KeySet::from_pem(&text))?;
    }
    for path in &config.token.jwks.0 {
        let text = text(path, "token.jwks", FILE_BYTES_MAX)?;
        add(path, "token.jwks", KeySet::from_jwks(&text))?;
    }
    for path in &config.token.secrets.0 {
        let mut secret = bytes(path, "token.secrets", FILE_BYTES_MAX)?;
        // The line break that an editor or `openssl rand` puts at the end, and nothing else: a secret may be any bytes.
        if secret.last() == Some(&b'\n') {
            secret.pop();
            if secret.last() == Some(&b'\r') {
                secret.pop();
            }
        }
        add(path, "token.secrets", KeySet::from_secret(&secret))?;
    }
    Ok(all)
}

/// The headers of a file: `Name: value`, a line each; empty lines and those that begin with `#` are passed over.
fn headers(path: &Path, text: &str) -> Result<HeaderMap, AccessError> {
    let ours = [
        HOST,
        CONTENT_LENGTH,
        CONTENT_TYPE,
        TRANSFER_ENCODING,
        CONNECTION,
    ];
    let mut headers = HeaderMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let failed = |problem| AccessError::Header {
            file: name(path),
            line: index + 1,
            problem,
        };
        let (header, value) = line
            .split_once(':')
            .ok_or_else(|| failed("not a header; write Name: value"))?;
        let header = HeaderName::from_bytes(header.trim().as_bytes())
            .map_err(|_| failed("what stands before the : is no name of a header"))?;
        if ours.contains(&header) {
            return Err(failed("this header is set by the node; take the line out"));
        }
        let mut value = HeaderValue::from_str(value.trim())
            .map_err(|_| failed("the value has characters that no header can have"))?;
        value.set_sensitive(true);
        if headers.len() == HEADERS_MAX {
            return Err(failed("more than 32 headers; take some out"));
        }
        headers.append(header, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_never_shown() {
        let text = "# for the service\n\nAuthorization: Bearer abc:def\r\nX-Node: 1\n";
        let headers = headers(Path::new("h"), text).expect("good headers");
        assert_eq!(headers["authorization"], "Bearer abc:def");
        assert_eq!(headers["x-node"], "1");
        assert!(!format!("{headers:?}").contains("abc"));
    }

    #[test]
    fn a_line_that_is_no_header_is_named_without_its_content() {
        let error = |text: &str| {
            let error = headers(Path::new("h"), text).expect_err(text);
            error.to_string()
        };
        assert_eq!(
            error("\nsecret"),
            "h:2 (http.headers_file): not a header; write Name: value"
        );
        assert!(error("a b: secret").contains("no name of a header"));
        assert!(error("Host: x").contains("set by the node"));
        assert!(error("A: se\u{1}cret").contains("characters that no header can have"));
        let many = "A: 1\n".repeat(33);
        assert!(error(&many).starts_with("h:33 (http.headers_file): more than 32"));
    }
}
