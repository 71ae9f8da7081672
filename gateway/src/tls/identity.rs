//! Who a client certificate says its holder is. The chain was verified before: rustls accepts no other.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// The names in a client certificate that was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// CN of the subject, the first one.
    pub common_name: Option<String>,
    /// Subject alternative names of type DNS.
    pub dns_names: Vec<String>,
    /// Subject alternative names of type URI (SPIFFE ids are such).
    pub uris: Vec<String>,
    /// Subject alternative names of type e-mail.
    pub emails: Vec<String>,
    /// Serial number in hexadecimal, as revocation lists and `openssl x509 -serial` show it.
    pub serial: String,
}

/// A certificate that was verified and whose names cannot be read all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the names in the certificate cannot be read ({0}); have it issued again")]
pub struct IdentityError(String);

impl Identity {
    /// Reads the names of a certificate in DER.
    ///
    /// # Errors
    /// When it is no certificate, or its subject alternative names are malformed.
    pub fn from_der(certificate: &[u8]) -> Result<Self, IdentityError> {
        let failed = |error: &dyn std::fmt::Display| IdentityError(error.to_string());
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|error| failed(&error))?;
        let common_name = certificate.subject().iter_common_name().next();
        let mut identity = Self {
            common_name: common_name.and_then(|name| Some(name.as_str().ok()?.to_owned())),
            serial: certificate.raw_serial_as_string().replace(':', ""),
            ..Self::default()
        };
        let names = certificate
            .subject_alternative_name()
            .map_err(|error| failed(&error))?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::DNSName(name) => identity.dns_names.push((*name).to_owned()),
                GeneralName::URI(name) => identity.uris.push((*name).to_owned()),
                GeneralName::RFC822Name(name) => identity.emails.push((*name).to_owned()),
                _ => {}
            }
        }
        Ok(identity)
    }
}
