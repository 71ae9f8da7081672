//! Writes the certificates of the conversations over TLS into a folder: `certificates FOLDER`. All of them are made anew each
//! time, and are worth nothing anywhere else.
//!
//! | file | what it is |
//! |---|---|
//! | `authority.pem` | who signs everything that is not said to be strange |
//! | `stranger.pem` | another authority, which the node does not know |
//! | `server.pem`, `.key` | the node, as `localhost` |
//! | `rsa-server.pem`, `.key` | the same with an RSA key |
//! | `expired-server.pem`, `.key` | the node as `127.0.0.1`, until 2020 |
//! | `client.pem`, `.key` | a client |
//! | `expired-client.pem`, `.key` | one until 2020 |
//! | `revoked-client.pem`, `.key` | one that is on the revocation list |
//! | `strange-client.pem`, `.key` | one that the stranger signed |
//! | `revoked.pem` | the authority's revocation list |

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    CrlDistributionPoint, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PKCS_RSA_SHA256, RevokedCertParams, SerialNumber, date_time_ymd,
};
use time::{Duration, OffsetDateTime};

type Authority = CertifiedIssuer<'static, KeyPair>;

/// Serial number of the certificate that is revoked.
const REVOKED: u64 = 4_711;

/// Who a certificate is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Server,
    Client,
}

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1);
    let folder = PathBuf::from(folder.context("usage: certificates FOLDER")?);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let authority = new_authority("Roadstead test authority")?;
    let stranger = new_authority("An authority that nobody knows")?;
    write(&folder, "authority.pem", &authority.pem())?;
    write(&folder, "stranger.pem", &stranger.pem())?;
    write(&folder, "revoked.pem", &revocation_list(&authority)?)?;

    let server = params("localhost", End::Server)?;
    sign(&folder, "server", &server, &authority)?;
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256)?;
    sign_for(&folder, "rsa-server", &server, &key, &authority)?;
    let server = expired(params("127.0.0.1", End::Server)?);
    sign(&folder, "expired-server", &server, &authority)?;

    let client = params("client", End::Client)?;
    sign(&folder, "client", &client, &authority)?;
    let client = expired(params("expired-client", End::Client)?);
    sign(&folder, "expired-client", &client, &authority)?;
    let mut client = params("revoked-client", End::Client)?;
    client.serial_number = Some(SerialNumber::from(REVOKED));
    sign(&folder, "revoked-client", &client, &authority)?;
    let client = params("strange-client", End::Client)?;
    sign(&folder, "strange-client", &client, &stranger)
}

fn new_authority(name: &str) -> Result<Authority> {
    let mut params = CertificateParams::new(vec![])?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

fn params(name: &str, end: End) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, name);
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::days(1);
    params.not_after = now + Duration::days(90);
    // Nobody fetches it; testssl.sh wants a certificate to say where it could be looked up.
    params.crl_distribution_points = vec![CrlDistributionPoint {
        uris: vec!["http://revoked.example/list".to_owned()],
    }];
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match end {
        End::Server => ExtendedKeyUsagePurpose::ServerAuth,
        End::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    Ok(params)
}

fn expired(mut params: CertificateParams) -> CertificateParams {
    params.not_before = date_time_ymd(2019, 1, 1);
    params.not_after = date_time_ymd(2020, 1, 1);
    params
}

fn sign(folder: &Path, name: &str, params: &CertificateParams, by: &Authority) -> Result<()> {
    sign_for(folder, name, params, &KeyPair::generate()?, by)
}

fn sign_for(
    folder: &Path,
    name: &str,
    params: &CertificateParams,
    key: &KeyPair,
    by: &Authority,
) -> Result<()> {
    let certificate = params.signed_by(key, by)?;
    write(folder, &format!("{name}.pem"), &certificate.pem())?;
    write(folder, &format!("{name}.key"), &key.serialize_pem())
}

fn revocation_list(authority: &Authority) -> Result<String> {
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from(REVOKED),
        revocation_time: date_time_ymd(2026, 2, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        next_update: date_time_ymd(2046, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(list.signed_by(authority)?.pem()?)
}

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
