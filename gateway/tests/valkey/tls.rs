//! A Valkey behind TLS, by the authorities that the configuration names and no others.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gateway::cli::{EXIT_DONE, EXIT_FAILED};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::command::run;
use crate::servers::Server;

/// How long one direction is waited for before the other is looked at.
const STEP: Duration = Duration::from_millis(1);

/// An authority, and its certificate in a file.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: PathBuf,
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("it signs itself");
        let name = format!("roadstead-authority-{name}-{}.pem", std::process::id());
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, issuer.pem()).expect("it is written");
        Self { issuer, file }
    }

    /// A server of TLS for 127.0.0.1.
    fn server(&self) -> Arc<ServerConfig> {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
        let certificate = params.signed_by(&key, &self.issuer).expect("it signs");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a good certificate");
        Arc::new(config)
    }
}

/// Takes TLS off and passes everything on to a server, until the test ends.
fn in_front_of(server: &Server, config: Arc<ServerConfig>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let port = server.port;
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let config = Arc::clone(&config);
            std::thread::spawn(move || {
                let connection = ServerConnection::new(config).expect("a good configuration");
                let inner = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it serves");
                let _ = pass(StreamOwned::new(connection, stream), inner); // Who refuses the certificate closes.
            });
        }
    });
    address
}

fn pass(
    mut outer: StreamOwned<ServerConnection, TcpStream>,
    mut inner: TcpStream,
) -> io::Result<()> {
    outer.sock.set_read_timeout(Some(STEP))?;
    inner.set_read_timeout(Some(STEP))?;
    let mut buffer = [0; 16_384];
    loop {
        match outer.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => inner.write_all(&buffer[..count])?,
            Err(error) if is_later(&error) => {}
            Err(error) => return Err(error),
        }
        match inner.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => outer.write_all(&buffer[..count])?,
            Err(error) if is_later(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[test]
fn a_server_behind_tls_is_verified_by_the_authorities_that_are_named() {
    let server = Server::durable();
    let (authority, other) = (Authority::new("good"), Authority::new("other"));
    let address = in_front_of(&server, authority.server());
    let urls = format!("engine.urls=rediss://{address}");
    let check = |authority: &Authority| {
        let authorities = format!("engine.authorities={}", authority.file.display());
        run(
            &["engine", "check"],
            &["engine.kind=redis", &urls, &authorities],
        )
    };
    let (code, out, err) = check(&authority);
    assert_eq!(code, EXIT_DONE, "{out}{err}");
    assert!(out.contains("1 primary"), "{out}");
    let (code, out, _) = check(&other);
    assert_eq!(code, EXIT_FAILED);
    assert!(out.contains("certificate"), "{out}");
}
