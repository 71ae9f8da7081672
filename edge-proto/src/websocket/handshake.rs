//! The opening handshake (RFC 6455 §4, MQTT §6), both sides.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// The longest request or response head in bytes. What is longer is refused.
pub const HEAD_LENGTH_MAX: usize = 8 * 1024;

const HEADERS_MAX: usize = 64;

/// What the key is hashed with (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A valid request to upgrade to MQTT over WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upgrade<'a> {
    /// Request target: the path, with the query if there is one.
    pub path: &'a str,
    /// Host header.
    pub host: &'a str,
    /// Origin header: the web page that the client runs in. The caller decides which it lets in.
    pub origin: Option<&'a str>,
    /// Sec-WebSocket-Key: 16 bytes in base64.
    pub key: &'a str,
    /// Length of the request head in bytes. What follows are frames.
    pub length: usize,
}

/// Why a request was not upgraded, or why a response does not accept the upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// Not HTTP/1.1, or a header that RFC 6455 §4.2.1 asks for is missing or wrong: 400.
    #[error("bad request: {0}")]
    BadRequest(&'static str),
    /// The path is not the one of this listener (the caller's to find): 404.
    #[error("unknown path")]
    UnknownPath,
    /// The page that the client runs in is not let in (the caller's to find): 403.
    #[error("origin not allowed")]
    OriginNotAllowed,
    /// The method is not GET: 405.
    #[error("method not allowed")]
    MethodNotAllowed,
    /// Plain HTTP, or a WebSocket version other than 13: 426.
    #[error("upgrade required")]
    UpgradeRequired,
    /// The head is longer than [`HEAD_LENGTH_MAX`] or has more than 64 headers: 431.
    #[error("request header fields too large")]
    TooLarge,
    /// Client side: the server answered, but did not accept.
    #[error("upgrade refused: {0}")]
    Refused(&'static str),
}

/// Reads an upgrade request; `None` when more bytes are needed.
///
/// # Errors
///
/// Why the request cannot be upgraded; answer with [`UpgradeError::write_response`] and close.
pub fn parse_upgrade(bytes: &[u8]) -> Result<Option<Upgrade<'_>>, UpgradeError> {
    let mut storage = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut storage);
    let bounded = &bytes[..bytes.len().min(HEAD_LENGTH_MAX)];
    let length = match request.parse(bounded) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() >= HEAD_LENGTH_MAX => {
            return Err(UpgradeError::TooLarge);
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(UpgradeError::TooLarge),
        Err(_) => return Err(UpgradeError::BadRequest("not HTTP")),
    };
    if request.method != Some("GET") {
        return Err(UpgradeError::MethodNotAllowed);
    }
    let headers = Headers(request.headers);
    let http_1_1 = request.version == Some(1);
    if !headers.has_token("upgrade", "websocket") {
        return Err(UpgradeError::UpgradeRequired);
    }
    if !http_1_1 || !headers.has_token("connection", "upgrade") {
        return Err(UpgradeError::BadRequest(
            "not a WebSocket upgrade of HTTP/1.1",
        ));
    }
    if headers.one("sec-websocket-version")? != Some("13") {
        return Err(UpgradeError::UpgradeRequired);
    }
    if headers.values("content-length").any(|value| value != "0")
        || headers.values("transfer-encoding").next().is_some()
    {
        return Err(UpgradeError::BadRequest("an upgrade request has a body"));
    }
    let key = headers.one("sec-websocket-key")?.unwrap_or_default();
    if !BASE64_STANDARD.decode(key).is_ok_and(|key| key.len() == 16) {
        return Err(UpgradeError::BadRequest(
            "Sec-WebSocket-Key is not 16 bytes in base64",
        ));
    }
    // MQTT-6.0.0-3. Names of subprotocols are compared as they are (RFC 6455 §4.2.2).
    if !headers
        .tokens("sec-websocket-protocol")
        .any(|token| token == "mqtt")
    {
        return Err(UpgradeError::BadRequest(
            "Sec-WebSocket-Protocol does not offer mqtt",
        ));
    }
    let host = headers
        .one("host")?
        .ok_or(UpgradeError::BadRequest("no Host"))?;
    let path = request.path.unwrap_or_default();
    Ok(Some(Upgrade {
        path,
        host,
        origin: headers.one("origin")?,
        key,
        length,
    }))
}

/// Writes the response that accepts an upgrade.
pub fn write_response(upgrade: &Upgrade<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    out.extend_from_slice(accept(upgrade.key).as_bytes());
    out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n");
}

/// Sec-WebSocket-Accept for a Sec-WebSocket-Key.
fn accept(key: &str) -> String {
    let mut hash = sha1_smol::Sha1::new();
    hash.update(key.as_bytes());
    hash.update(GUID);
    BASE64_STANDARD.encode(hash.digest().bytes())
}

impl UpgradeError {
    /// Writes the response that refuses an upgrade, after which the connection is closed.
    pub fn write_response(&self, out: &mut Vec<u8>) {
        let (status, header) = match self {
            Self::BadRequest(_) | Self::Refused(_) => ("400 Bad Request", ""),
            Self::OriginNotAllowed => ("403 Forbidden", ""),
            Self::UnknownPath => ("404 Not Found", ""),
            Self::MethodNotAllowed => ("405 Method Not Allowed", "Allow: GET\r\n"),
            Self::UpgradeRequired => (
                "426 Upgrade Required",
                "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n",
            ),
            Self::TooLarge => ("431 Request Header Fields Too Large", ""),
        };
        for part in [
            "HTTP/1.1 ",
            status,
            "\r\n",
            header,
            "Connection: close\r\nContent-Length: 0\r\n\r\n",
        ] {
            out.extend_from_slice(part.as_bytes());
        }
    }
}

/// Client side: writes the request to upgrade. `key` ought to be random (RFC 6455 §4.1).
pub fn client_handshake(out: &mut Vec<u8>, host: &str, path: &str, key: [u8; 16]) {
    for part in [
        "GET ",
        path,
        " HTTP/1.1\r\nHost: ",
        host,
        "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ",
        &BASE64_STANDARD.encode(key),
        "\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
    ] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Client side: reads the response to [`client_handshake`] with the same key: the length of its head in bytes, behind
/// which frames follow, or `None` when more bytes are needed.
///
/// # Errors
///
/// Why the connection cannot be used.
pub fn parse_upgrade_response(bytes: &[u8], key: [u8; 16]) -> Result<Option<usize>, UpgradeError> {
    let mut storage = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut storage);
    let length = match response.parse(&bytes[..bytes.len().min(HEAD_LENGTH_MAX)]) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() >= HEAD_LENGTH_MAX => {
            return Err(UpgradeError::TooLarge);
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(UpgradeError::TooLarge),
        Err(_) => return Err(UpgradeError::Refused("not HTTP")),
    };
    if response.code != Some(101) {
        return Err(UpgradeError::Refused("the status is not 101"));
    }
    let headers = Headers(response.headers);
    if !headers.has_token("upgrade", "websocket") || !headers.has_token("connection", "upgrade") {
        return Err(UpgradeError::Refused("not upgraded to WebSocket"));
    }
    if headers.one("sec-websocket-accept")? != Some(&accept(&BASE64_STANDARD.encode(key))) {
        return Err(UpgradeError::Refused(
            "Sec-WebSocket-Accept does not fit the key",
        ));
    }
    if headers.one("sec-websocket-protocol")? != Some("mqtt") {
        return Err(UpgradeError::Refused("Sec-WebSocket-Protocol is not mqtt"));
    }
    if headers.values("sec-websocket-extensions").next().is_some() {
        return Err(UpgradeError::Refused("an extension that was not asked for"));
    }
    Ok(Some(length))
}

/// The headers of a parsed head; names in any case (RFC 9110 §5.1).
struct Headers<'h, 'a>(&'h [httparse::Header<'a>]);

impl<'a> Headers<'_, 'a> {
    /// The values of all headers of this name. A value that is not UTF-8 counts as empty.
    fn values(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| {
                str::from_utf8(header.value)
                    .unwrap_or_default()
                    .trim_ascii()
            })
    }

    /// The value of a header that may stand only once.
    fn one(&self, name: &str) -> Result<Option<&'a str>, UpgradeError> {
        let mut values = self.values(name);
        let first = values.next();
        if values.next().is_some() {
            return Err(UpgradeError::BadRequest(
                "a header that may stand once is there twice",
            ));
        }
        Ok(first)
    }

    /// The comma-separated tokens of all headers of this name.
    fn tokens(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.values(name)
            .flat_map(|value| value.split(','))
            .map(str::trim_ascii)
    }

    fn has_token(&self, name: &str, wanted: &str) -> bool {
        self.tokens(name)
            .any(|token| token.eq_ignore_ascii_case(wanted))
    }
}
