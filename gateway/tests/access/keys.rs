//! The keys of tokens from a URL: fetched, fetched again, out of reach, over TLS.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gateway::access::policy::{Credentials, Refusal};
use gateway::access::token::TokenError;
use gateway::control::access::{Asked, Said};
use gateway::event_loop::Clock;
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;

use crate::server::{Behaviour, Server};
use crate::world::{Folder, World, config, run, shown, until};

fn secret(id: &str) -> Vec<u8> {
    format!("{id:x>32}").into_bytes()
}

/// A set with these keys.
fn set(ids: &[&str]) -> String {
    let key = |id: &&str| json!({"kty": "oct", "kid": id, "alg": "HS256", "k": URL_SAFE_NO_PAD.encode(secret(id))});
    json!({ "keys": ids.iter().map(key).collect::<Vec<_>>() }).to_string()
}

/// A token of alice's that the key signed.
fn token(id: &str) -> Credentials {
    let end = Clock::start().now().unix_ms / 1_000 + 60;
    let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let header = part(json!({"alg": "HS256", "kid": id}));
    let message = format!("{header}.{}", part(json!({"sub": "alice", "exp": end})));
    let tag = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, &secret(id)),
        message.as_bytes(),
    );
    shown("", format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag)))
}

fn text(url: &str, more: &str) -> String {
    format!("[access]\nmethods = [\"token\"]\n{more}\n[token]\njwks_url = {url:?}\n")
}

fn no_key(id: &str) -> Refusal {
    Refusal::Token(TokenError::NoKey(Some(id.into())))
}

#[test]
fn keys_are_fetched_at_the_start_and_judge_on_the_cores() {
    run(async {
        let (folder, server) = (Folder::new(), Server::answering(&set(&["a", "b"])).await);
        let mut world = World::start(&config(&folder.0, &text(&server.url(), "")));
        until(|| world.access.report().token_keys == 2).await;
        assert!(
            world.put(&token("b")).is_err_and(|outcome| outcome.is_ok()),
            "nobody is asked"
        );
        assert!(server.seen()[0].head.starts_with("GET /ask HTTP/1.1"));
        assert!(world.access.report().token_keys_age_ms.is_some());
        assert_eq!(
            world.policies.lock().expect("no panic").len(),
            1,
            "the cores were told once"
        );
    });
}

#[test]
fn a_token_that_comes_before_the_keys_waits_for_them() {
    run(async {
        let (folder, server) = (Folder::new(), Server::answering(&set(&["a"])).await);
        let mut world = World::start(&config(&folder.0, &text(&server.url(), "")));
        assert_eq!(world.user(&token("a")).await.as_deref(), Some("alice"));
        assert_eq!(server.count(), 1);
        assert_eq!(world.access.stats().answers(Asked::Token, Said::Allowed), 1);
    });
}

#[test]
fn an_unknown_key_is_fetched_once_and_not_again_within_ten_seconds() {
    run(async {
        let (folder, server) = (Folder::new(), Server::answering(&set(&["a"])).await);
        let world = World::start(&config(&folder.0, &text(&server.url(), "")));
        until(|| world.access.report().token_keys == 1).await;
        let mut world = world;
        server.answer(&set(&["a", "b"]));
        for _ in 0..3 {
            assert_eq!(world.ask(&token("b")).await, Err(no_key("b")));
        }
        assert_eq!(server.count(), 1, "the fetch of the start was a moment ago");
        tokio::time::pause();
        tokio::time::advance(std::time::Duration::from_secs(10)).await;
        tokio::time::resume();
        assert_eq!(world.user(&token("b")).await.as_deref(), Some("alice"));
        assert_eq!(world.ask(&token("c")).await, Err(no_key("c")));
        assert_eq!(server.count(), 2);
        assert_eq!(world.user(&token("a")).await.as_deref(), Some("alice"));
    });
}

#[test]
fn while_keys_cannot_be_fetched_tokens_are_refused_and_it_is_tried_again() {
    run(async {
        let (folder, server) = (Folder::new(), Server::start(Behaviour::Closes).await);
        let mut world = World::start(&config(&folder.0, &text(&server.url(), "")));
        let problem = match world.ask(&token("a")).await {
            Err(Refusal::Unavailable(problem)) => problem,
            other => panic!("nobody comes in: {other:?}"),
        };
        assert!(
            problem.contains("cannot be fetched: it cannot be reached"),
            "{problem}"
        );
        server.answer("{\"keys\": []}");
        until(|| server.count() >= 2).await;
        server.answer(&set(&["a"]));
        until(|| world.access.report().token_keys == 1).await;
        assert_eq!(world.user(&token("a")).await.as_deref(), Some("alice"));
        assert!(server.count() >= 3);
    });
}

#[test]
fn keys_that_were_fetched_outlive_their_issuer() {
    run(async {
        let (folder, server) = (Folder::new(), Server::answering(&set(&["a"])).await);
        let mut world = World::start(&config(&folder.0, &text(&server.url(), "")));
        until(|| world.access.report().token_keys == 1).await;
        server.set(Behaviour::Answers(500, String::new()));
        let cores = world.cores.clone();
        world.access.reload(&cores).await.expect("good files");
        until(|| server.count() == 2).await;
        assert_eq!(world.user(&token("a")).await.as_deref(), Some("alice"));
    });
}

#[test]
fn keys_of_files_and_of_a_url_are_both_good() {
    run(async {
        let (folder, server) = (Folder::new(), Server::answering(&set(&["a"])).await);
        let file = folder.write("secret", [secret("f"), b"\n".to_vec()].concat());
        let text = text(&server.url(), "") + &format!("secrets = [{file:?}]\n");
        let mut world = World::start(&config(&folder.0, &text));
        assert_eq!(world.user(&token("f")).await.as_deref(), Some("alice"));
        assert_eq!(world.user(&token("a")).await.as_deref(), Some("alice"));
        assert_eq!(world.access.report().token_keys, 2);
    });
}

/// A server with a certificate of its own that answers once.
fn secure_server(body: String) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("it signs itself");
    let tls = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the defaults work")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
        )
        .expect("they belong together");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let tls = Arc::new(tls);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let connection = ServerConnection::new(Arc::clone(&tls)).expect("a server");
            let mut stream = StreamOwned::new(connection, stream);
            let mut request = [0; 4096];
            if stream.read(&mut request).is_ok_and(|count| count > 0) {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                let _ = stream.write_all((head + &body).as_bytes());
            }
        }
    });
    (format!("https://localhost:{port}/keys"), certificate.pem())
}

#[test]
fn a_server_is_verified_with_the_authorities_that_are_named() {
    let (url, certificate) = secure_server(set(&["a"]));
    run(async {
        let folder = Folder::new();
        let file = folder.write("authority.pem", certificate);
        let named = text(&url, &format!("authorities = [{file:?}]"));
        let mut world = World::start(&config(&folder.0, &named));
        assert_eq!(world.user(&token("a")).await.as_deref(), Some("alice"));
    });
    let other = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let other = other
        .self_signed(&KeyPair::generate().expect("a key"))
        .expect("signed");
    run(async {
        let folder = Folder::new();
        let file = folder.write("authority.pem", other.pem());
        let named = text(&url, &format!("authorities = [{file:?}]"));
        let mut world = World::start(&config(&folder.0, &named));
        let outcome = world.ask(&token("a")).await;
        let Err(Refusal::Unavailable(problem)) = outcome else {
            panic!("nobody comes in: {outcome:?}");
        };
        assert!(problem.contains("certificate"), "{problem}");
    });
}
