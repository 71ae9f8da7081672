//! HTTP towards the admin address of a node: one request on a connection of its own.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::net::TcpStream;

use super::CommandError;

/// Longer than the node takes to give up on a core.
const TIMEOUT: Duration = Duration::from_secs(40);
/// More than any page of a listing takes.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// One node.
pub(super) struct Client {
    address: SocketAddr,
}

impl Client {
    /// The node with this admin address. Nothing is sent yet.
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    pub(super) fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, CommandError> {
        self.ask(Method::GET, path, query, None)
    }

    pub(super) fn delete(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, CommandError> {
        self.ask(Method::DELETE, path, query, None)
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, CommandError> {
        self.ask(Method::POST, path, &[], Some(body))
    }

    fn ask(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value, CommandError> {
        let mut target = path.to_owned();
        for (index, (name, value)) in query.iter().enumerate() {
            let separator = if index == 0 { '?' } else { '&' };
            let _ = write!(target, "{separator}{name}={}", segment(value));
        }
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, self.address.to_string())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body.map(Value::to_string).unwrap_or_default()))
            .map_err(|error| CommandError::Usage(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let answered =
            runtime.block_on(async { tokio::time::timeout(TIMEOUT, self.exchange(request)).await });
        let (status, body) = answered.unwrap_or_else(|_| Err(self.silent()))?;
        self.answer(status, &body)
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), CommandError> {
        let stream = TcpStream::connect(self.address)
            .await
            .map_err(|error| self.unreachable(&error))?;
        let broken = |error: &dyn std::fmt::Display| self.broken(error);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        let exchange = async {
            let response = sender
                .send_request(request)
                .await
                .map_err(|error| broken(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
            let body = body.collect().await.map_err(|error| broken(&error))?;
            Ok((status, body.to_bytes()))
        };
        tokio::pin!(exchange, connection);
        tokio::select! {
            biased;
            answer = &mut exchange => answer,
            // The connection has done its part; what it read is still to be taken.
            _ = &mut connection => exchange.await,
        }
    }

    fn answer(&self, status: StatusCode, body: &[u8]) -> Result<Value, CommandError> {
        let value: Value = serde_json::from_slice(body).map_err(|_| {
            let error = format!(
                "what answers at {} is not a roadstead node (HTTP status {status})",
                self.address
            );
            CommandError::failed(error, "name its admin address with --address")
        })?;
        if status.is_success() {
            return Ok(value);
        }
        let field = |name: &str| value[name].as_str().map(str::to_owned);
        let error = field("error").unwrap_or_else(|| format!("HTTP status {status}"));
        Err(CommandError::Failed {
            error,
            remedy: field("remedy"),
        })
    }

    fn unreachable(&self, error: &io::Error) -> CommandError {
        let address = self.address;
        if error.kind() == io::ErrorKind::ConnectionRefused {
            let remedy = "start one with `roadstead`, or name its admin address with --address";
            return CommandError::failed(format!("no node answers at {address}"), remedy);
        }
        let remedy = "check the address; the admin interface listens on admin.address";
        CommandError::failed(
            format!("the node at {address} cannot be reached: {error}"),
            remedy,
        )
    }

    fn broken(&self, error: &dyn std::fmt::Display) -> CommandError {
        let error = format!("what answers at {} broke off: {error}", self.address);
        CommandError::failed(
            error,
            "is it the admin address of a node? Name it with --address",
        )
    }

    fn silent(&self) -> CommandError {
        let error = format!(
            "the node at {} did not answer within {} s",
            self.address,
            TIMEOUT.as_secs()
        );
        CommandError::failed(
            error,
            "it may be overloaded or stuck: see its log and /healthz",
        )
    }
}

/// A text as one segment of a path, or one value of a query.
pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
