//! Settings that cannot work say which file is wrong, why, and what to do.

use gateway::tls::{
    Acceptor, ClientCertificates, ClientTrust, ClusterSecret, PemFile, Settings, SettingsError,
};

use crate::world::Authority;

fn error(settings: &Settings) -> String {
    Acceptor::new(settings)
        .expect_err("the settings are wrong")
        .to_string()
}

fn file(name: &str, text: &str) -> PemFile {
    PemFile {
        name: name.to_owned(),
        text: text.as_bytes().to_vec(),
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = PemFile::read("/nonexistent/server.pem").expect_err("there is none");
    assert!(matches!(error, SettingsError::Unreadable { .. }));
    assert!(error.to_string().starts_with("/nonexistent/server.pem: "));
}

#[test]
fn what_is_wrong_with_a_certificate_or_key_is_told_with_its_file() {
    let authority = Authority::new("root");
    let good = authority.settings();
    let with = |chain: Option<PemFile>, key: Option<PemFile>| {
        let mut settings = good.clone();
        let certificate = &mut settings.certificates[0];
        certificate.chain = chain.unwrap_or_else(|| certificate.chain.clone());
        certificate.key = key.unwrap_or_else(|| certificate.key.clone());
        error(&settings)
    };
    let none = with(Some(file("chain.pem", "")), None);
    assert!(
        none.starts_with("chain.pem: no certificate in it"),
        "{none}"
    );
    let swapped = with(Some(good.certificates[0].key.clone()), None);
    assert!(
        swapped.contains("localhost.key: no certificate"),
        "{swapped}"
    );
    let cut = with(
        Some(file("cut.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n")),
        None,
    );
    assert!(cut.starts_with("cut.pem: not valid PEM"), "{cut}");
    let noise = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    let noise = with(Some(file("noise.pem", noise)), None);
    assert!(
        noise.starts_with("noise.pem: unusable certificate"),
        "{noise}"
    );
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let encrypted = with(None, Some(file("locked.key", encrypted)));
    assert!(
        encrypted.starts_with("locked.key: no private key in it"),
        "{encrypted}"
    );
    assert!(encrypted.contains("openssl pkey"), "{encrypted}");
    let noise = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n";
    let noise = with(None, Some(file("noise.key", noise)));
    assert!(
        noise.starts_with("noise.key: unusable private key"),
        "{noise}"
    );
    let other = authority.server(&["other.example"]).key;
    let other = with(None, Some(other));
    assert!(
        other.starts_with("other.example.key: not the key of the certificate in localhost.pem"),
        "{other}"
    );
}

#[test]
fn a_listener_has_a_certificate_and_client_certificates_an_authority() {
    let good = Authority::new("root").settings();
    let none = Settings {
        certificates: vec![],
        ..good.clone()
    };
    assert_eq!(error(&none), SettingsError::NoCertificate.to_string());
    let nobody = ClientTrust {
        authorities: vec![],
        revocation_lists: vec![],
    };
    let nobody = Settings {
        client_certificates: ClientCertificates::Required(nobody),
        ..good
    };
    assert_eq!(error(&nobody), SettingsError::NoAuthority.to_string());
}

#[test]
fn a_revocation_list_that_is_none_is_told() {
    let authority = Authority::new("root");
    let with = |text: &str| {
        let trust = authority.trust(vec![file("list.pem", text)]);
        error(&Settings {
            client_certificates: ClientCertificates::Required(trust),
            ..authority.settings()
        })
    };
    let none = with("");
    assert!(
        none.starts_with("list.pem: no revocation list in it"),
        "{none}"
    );
    let noise = with("-----BEGIN X509 CRL-----\nMIIB\n-----END X509 CRL-----\n");
    assert!(
        noise.starts_with("list.pem: unusable revocation list"),
        "{noise}"
    );
}

#[test]
fn names_and_end_of_a_certificate_are_told() {
    let authority = Authority::new("root");
    let acceptor = Acceptor::new(&authority.settings()).expect("the settings are good");
    let [certificate] = acceptor.certificates() else {
        panic!("there is one certificate");
    };
    assert_eq!(certificate.file, "localhost.pem");
    assert_eq!(certificate.names, ["localhost"]);
    assert!(certificate.not_after_unix_s > 1_800_000_000);
}

#[test]
fn secrets_are_not_printed() {
    let authority = Authority::new("root");
    let settings = Settings {
        ticket_secrets: vec![ClusterSecret([0xAB; 32])],
        ..authority.settings()
    };
    let printed = format!("{settings:?} {:?}", Acceptor::new(&settings));
    assert!(printed.contains("localhost.key"));
    for secret in ["171", "abab", "BEGIN", "66, 69, 71"] {
        assert!(!printed.contains(secret), "{secret}");
    }
}
