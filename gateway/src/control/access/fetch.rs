//! HTTP towards services that the node depends on: the call-out, and the keys of tokens. Bounded in time and in bytes; redirects are
//! not followed, and proxies not used.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::AccessError;

/// How long a connection that nobody uses stays open.
const IDLE: Duration = Duration::from_secs(30);

/// A service that was asked for something and did not give it.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// No connection, or it broke off.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// It took too long.
    #[error("it did not answer within {} ms", .0.as_millis())]
    Slow(Duration),
    /// Not what was asked for.
    #[error("it answered with HTTP status {0}")]
    Status(StatusCode),
    /// More than is read.
    #[error("its answer has more than {0} bytes")]
    TooLong(usize),
}

/// A client with its open connections.
#[derive(Clone, Debug)]
pub(super) struct HttpClient(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl HttpClient {
    /// A client that trusts the authorities in these files, or those of the operating system when there are none.
    ///
    /// # Errors
    /// A file cannot be read or has no certificate in it, or the system has no authorities.
    pub(super) fn new(
        authorities: &[PathBuf],
        idle_max: usize,
        secure: bool,
    ) -> Result<Self, AccessError> {
        let roots = match (secure, authorities) {
            (false, []) => RootCertStore::empty(), // Nothing will ask for them.
            (true, []) => of_the_system()?,
            (_, files) => of_files(files)?,
        };
        let tls = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(idle_max)
            .build(connector);
        Ok(Self(client))
    }

    /// Sends a request; the body of its answer, which must be 200.
    pub(super) async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        bytes_max: usize,
        timeout: Duration,
    ) -> Result<Bytes, FetchError> {
        let exchange = async {
            let response = self.0.request(request).await;
            let response = response.map_err(|error| FetchError::Unreachable(causes(&error)))?;
            if response.status() != StatusCode::OK {
                return Err(FetchError::Status(response.status()));
            }
            let body = Limited::new(response.into_body(), bytes_max)
                .collect()
                .await;
            body.map(|body| body.to_bytes()).map_err(|error| {
                if error.is::<LengthLimitError>() {
                    FetchError::TooLong(bytes_max)
                } else {
                    FetchError::Unreachable(causes(&*error))
                }
            })
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(FetchError::Slow(timeout)),
        }
    }
}

/// An error with what caused it: the outermost alone says little.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

fn of_the_system() -> Result<RootCertStore, AccessError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (taken, _) = roots.add_parsable_certificates(found.certs);
    if taken == 0 {
        return Err(AccessError::NoAuthorities);
    }
    Ok(roots)
}

fn of_files(files: &[PathBuf]) -> Result<RootCertStore, AccessError> {
    let mut roots = RootCertStore::empty();
    for file in files {
        let failed = |detail: String| AccessError::Authority {
            file: file.display().to_string(),
            detail,
        };
        let text = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
        let mut count = 0;
        for certificate in CertificateDer::pem_slice_iter(&text) {
            let certificate = certificate.map_err(|error| failed(error.to_string()))?;
            roots
                .add(certificate)
                .map_err(|error| failed(error.to_string()))?;
            count += 1;
        }
        if count == 0 {
            return Err(failed("no certificate in it".into()));
        }
    }
    Ok(roots)
}
