//! The types of values about who may connect and what they may do.

use std::path::PathBuf;

use hyper::Uri;
use toml::Value;

use super::value::{Setting, choices};
use crate::access::web_origin::WebOrigins;

choices! {
    /// A way to prove who one is.
    AccessMethod {
        /// A name in the client's certificate.
        Certificate = "certificate",
        /// A JSON Web Token as the password.
        Token = "token",
        /// User name and password, against a file.
        Password = "password",
        /// Whatever the client shows, asked of an HTTP service.
        Http = "http",
    }

    /// Which name of a certificate is the user.
    CertificateName {
        /// CN of the subject.
        CommonName = "common-name",
        /// The first subject alternative name of type DNS.
        Dns = "dns",
        /// The first subject alternative name of type URI.
        Uri = "uri",
        /// The first subject alternative name of type e-mail.
        Email = "email",
    }

    /// Where clients come from for whom everything is allowed that no rule decides.
    Unruled {
        /// Follows from the other keys.
        Auto = "auto",
        /// From nowhere.
        Nowhere = "nowhere",
        /// From this machine.
        Loopback = "loopback",
        /// From everywhere.
        Everywhere = "everywhere",
    }
}

/// Ways to prove who one is, in the order in which they are asked; none of them twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Methods(pub Vec<AccessMethod>);

impl Methods {
    /// True when a method is among them.
    pub fn have(&self, method: AccessMethod) -> bool {
        self.0.contains(&method)
    }
}

impl Setting for Methods {
    fn parse(value: &Value) -> Result<Self, String> {
        let hint =
            r#"not a list of methods; write e.g. ["certificate", "token", "password", "http"]"#;
        let words: Vec<&str> = match value {
            Value::String(text) if text.trim().is_empty() => Vec::new(),
            Value::String(text) => text.split(',').map(str::trim).collect(),
            Value::Array(items) => {
                let words: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
                words.ok_or(hint)?
            }
            _ => return Err(hint.to_owned()),
        };
        let mut methods = Vec::new();
        for word in words {
            let method = AccessMethod::parse(&Value::String(word.to_owned()))
                .map_err(|_| format!("\"{word}\" is no method; write \"certificate\", \"token\", \"password\" or \"http\""))?;
            if methods.contains(&method) {
                return Err(format!("\"{word}\" is there twice; take one out"));
            }
            methods.push(method);
        }
        Ok(Self(methods))
    }

    fn to_value(&self) -> Value {
        Value::Array(self.0.iter().map(AccessMethod::to_value).collect())
    }
}

/// A file, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct OptionalFile(pub Option<PathBuf>);

impl Setting for OptionalFile {
    fn parse(value: &Value) -> Result<Self, String> {
        match value.as_str() {
            Some("") => Ok(Self(None)),
            _ => PathBuf::parse(value)
                .map(|path| Self(Some(path)))
                .map_err(|_| {
                    r#"not a file; write e.g. "/etc/roadstead/users", or "" for none"#.to_owned()
                }),
        }
    }

    fn to_value(&self) -> Value {
        self.0
            .as_ref()
            .map_or_else(|| Value::String(String::new()), PathBuf::to_value)
    }
}

/// A text, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct OptionalText(pub Option<String>);

impl Setting for OptionalText {
    fn parse(value: &Value) -> Result<Self, String> {
        let text = value
            .as_str()
            .ok_or(r#"not a text; write it in quotes, or "" for none"#)?;
        Ok(Self((!text.is_empty()).then(|| text.to_owned())))
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.clone().unwrap_or_default())
    }
}

/// The name of a claim of a token.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClaimName(pub String);

impl Setting for ClaimName {
    fn parse(value: &Value) -> Result<Self, String> {
        let name = value.as_str().filter(|name| !name.is_empty());
        name.map(|name| Self(name.to_owned())).ok_or_else(|| {
            r#"not the name of a claim; write e.g. "sub" or "realm_access.roles""#.into()
        })
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.clone())
    }
}

/// The address of an HTTP service, or none. It has no user and password in it, since it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct OptionalUrl(pub Option<String>);

impl OptionalUrl {
    /// The address in its parts.
    pub fn uri(&self) -> Option<Uri> {
        self.0.as_ref().and_then(|text| text.parse().ok())
    }

    /// True for an address whose answers anybody on the way could read and change.
    pub fn is_exposed(&self) -> bool {
        self.uri().is_some_and(|uri| {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            let address = host.parse::<std::net::IpAddr>();
            let here =
                host == "localhost" || address.is_ok_and(|it| it.to_canonical().is_loopback());
            uri.scheme_str() == Some("http") && !here
        })
    }
}

impl Setting for OptionalUrl {
    fn parse(value: &Value) -> Result<Self, String> {
        let hint = r#"not an address of an HTTP service; write e.g. "https://auth.example.com/mqtt", or "" for none"#;
        let text = value.as_str().ok_or(hint)?;
        if text.is_empty() {
            return Ok(Self(None));
        }
        let uri: Uri = text.parse().map_err(|_| hint)?;
        let authority = uri.authority().ok_or(hint)?;
        if authority.as_str().contains('@') {
            return Err("user and password in an address are shown wherever it is; take them out, and give a header with the secret in \
                        http.headers_file"
                .into());
        }
        let good =
            matches!(uri.scheme_str(), Some("http" | "https")) && !authority.host().is_empty();
        if good {
            Ok(Self(Some(text.to_owned())))
        } else {
            Err(hint.into())
        }
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.clone().unwrap_or_default())
    }
}

/// Origins of web pages, as browsers write them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageOrigins(pub Vec<String>);

impl PageOrigins {
    /// As the policy asks them.
    pub fn to_web_origins(&self) -> WebOrigins {
        WebOrigins::new(self.0.iter().map(|origin| origin.as_str().into()))
    }
}

impl Setting for PageOrigins {
    fn parse(value: &Value) -> Result<Self, String> {
        const HINT: &str = r#"write e.g. "https://app.example.com", with the port unless it is 443 or 80, and nothing behind it"#;
        let words: Option<Vec<&str>> = match value {
            Value::String(text) if text.trim().is_empty() => Some(Vec::new()),
            Value::String(text) => Some(text.split(',').map(str::trim).collect()),
            Value::Array(items) => items.iter().map(Value::as_str).collect(),
            _ => None,
        };
        let words = words.ok_or_else(|| format!("not a list of origins; {HINT}"))?;
        let is_origin = |word: &str| {
            let rest = word
                .strip_prefix("https://")
                .or_else(|| word.strip_prefix("http://"));
            let plain = |byte: u8| {
                byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']')
            };
            rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(plain))
        };
        match words.iter().find(|word| !is_origin(word)) {
            Some(word) => Err(format!("\"{word}\" is no origin; {HINT}")),
            None => Ok(Self(words.into_iter().map(str::to_owned).collect())),
        }
    }

    fn to_value(&self) -> Value {
        Value::Array(self.0.iter().cloned().map(Value::String).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::String(text.into())
    }

    #[test]
    fn methods_are_a_list_or_a_text_and_none_is_there_twice() {
        let list = Value::Array(vec![text("token"), text("password")]);
        let expected = Methods(vec![AccessMethod::Token, AccessMethod::Password]);
        assert_eq!(Methods::parse(&list), Ok(expected.clone()));
        assert_eq!(
            Methods::parse(&text("token, password")),
            Ok(expected.clone())
        );
        assert_eq!(Methods::parse(&expected.to_value()), Ok(expected));
        assert_eq!(Methods::parse(&text("")), Ok(Methods::default()));
        assert!(
            Methods::parse(&text("token,ldap"))
                .is_err_and(|error| error.contains("\"ldap\" is no method"))
        );
        assert!(Methods::parse(&text("token,token")).is_err_and(|error| error.contains("twice")));
        assert!(Methods::parse(&Value::Array(vec![Value::Integer(1)])).is_err());
    }

    #[test]
    fn addresses_are_of_http_and_without_secrets() {
        let parsed = |url: &str| OptionalUrl::parse(&text(url));
        for good in [
            "https://a.example/x?y=z",
            "http://127.0.0.1:8080/",
            "http://[::1]:80/",
            "",
        ] {
            let url = parsed(good).expect(good);
            assert_eq!(url.to_value(), text(good));
        }
        for bad in [
            "a.example",
            "/x",
            "ftp://a.example",
            "http://",
            "https:///x",
            "http://a b/",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
        assert!(
            parsed("https://user:secret@a.example/")
                .is_err_and(|error| error.contains("http.headers_file"))
        );
    }

    #[test]
    fn an_address_is_exposed_when_it_leaves_the_machine_in_the_clear() {
        for (url, exposed) in [
            ("http://a.example/", true),
            ("http://192.0.2.1/", true),
            ("https://a.example/", false),
            ("http://localhost:1/", false),
            ("http://127.0.0.1/", false),
            ("http://[::1]/", false),
            ("", false),
        ] {
            let parsed = OptionalUrl::parse(&text(url)).expect(url);
            assert_eq!(parsed.is_exposed(), exposed, "{url}");
        }
    }

    #[test]
    fn origins_are_written_as_browsers_write_them() {
        for good in [
            "https://app.example.com",
            "http://localhost:5173",
            "http://[::1]:3000",
        ] {
            let parsed = PageOrigins::parse(&text(good)).expect(good);
            assert_eq!(parsed.0, [good]);
            assert_eq!(PageOrigins::parse(&parsed.to_value()), Ok(parsed));
        }
        let two = PageOrigins::parse(&text("https://a.example, https://b.example"));
        assert_eq!(two.expect("two").0.len(), 2);
        assert_eq!(PageOrigins::parse(&text("")), Ok(PageOrigins::default()));
        for bad in [
            "app.example.com",
            "https://",
            "https://a.example/",
            "https://*",
            "null",
            "wss://a.example",
        ] {
            assert!(PageOrigins::parse(&text(bad)).is_err(), "{bad}");
        }
    }
}
