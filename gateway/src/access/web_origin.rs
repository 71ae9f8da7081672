//! Web pages that connect over WebSocket: which of them may, by the Origin that their browser writes on the request (RFC 6455 §10.2).
//!
//! A page of any site can open a WebSocket to whatever its visitor reaches, and is then what the visitor is without showing anything: a
//! client on this machine, or the holder of a certificate. A page that has a password or a token of its own needs no such help.

/// Origins of pages that may connect. None: those of any site, unless they would use what their visitor is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebOrigins(Box<[Box<str>]>);

/// What a page would use that it has not itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Borrowed<'a> {
    /// Nothing: what it shows is its own.
    Nothing,
    /// Its visitor's certificate, at this Host. TLS has verified that the name is the server's, so that a page of the same name is of the
    /// same site; libraries that are no browsers write such an origin, too.
    Certificate(&'a str),
    /// That its visitor is on this machine. Any name can be made to point here, so that only an address or `localhost` says anything.
    Place,
}

impl WebOrigins {
    /// These, as browsers write them (`https://app.example.com`, with the port unless it is the scheme's own).
    pub fn new(origins: impl IntoIterator<Item = Box<str>>) -> Self {
        Self(origins.into_iter().collect())
    }

    /// Whether a client with this Origin may connect; without one it is no page.
    pub fn admit(&self, origin: Option<&str>, borrowed: Borrowed<'_>) -> bool {
        let Some(origin) = origin else {
            return true;
        };
        if !self.0.is_empty() {
            let mut listed = self.0.iter();
            return listed.any(|listed| listed.eq_ignore_ascii_case(origin));
        }
        let name = name_of_origin(origin);
        match borrowed {
            Borrowed::Nothing => true,
            Borrowed::Place => name.is_some_and(is_of_this_machine),
            Borrowed::Certificate(host) => name.is_some_and(|name| {
                let same = name_of(host).is_some_and(|host| host.eq_ignore_ascii_case(name));
                same || is_of_this_machine(name)
            }),
        }
    }
}

/// The host of an origin; `None` for `null`, as pages of files and of sandboxes have it, which any site can make.
fn name_of_origin(origin: &str) -> Option<&str> {
    let mut schemes = ["http://", "https://"].into_iter();
    name_of(schemes.find_map(|scheme| origin.strip_prefix(scheme))?)
}

/// The host of a host with or without a port. An IPv6 address stands in brackets.
fn name_of(authority: &str) -> Option<&str> {
    let (name, port) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    let good = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    (good && !name.is_empty()).then_some(name)
}

/// True for a host that is the machine itself, whoever asks.
fn is_of_this_machine(name: &str) -> bool {
    let address = name.parse::<std::net::IpAddr>();
    name.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Borrowed<'_> = Borrowed::Place;
    const HOLDER: Borrowed<'_> = Borrowed::Certificate("gateway.example.com:8084");

    #[test]
    fn pages_of_other_sites_do_not_come_in_as_their_visitor() {
        let origins = WebOrigins::default();
        for foreign in [
            "https://evil.example",
            "http://localhost.evil.example",
            "http://127.0.0.1.evil.example:8083",
            "http://evil.example:8083",
            "http://192.0.2.1",
            "http://[2001:db8::1]",
            "http://localhost:8083/x",
            "http://localhost@evil.example",
            "http://[::1]evil.example",
            "http://[::1",
            "http://",
            "file://localhost",
            "null",
            "",
        ] {
            assert!(!origins.admit(Some(foreign), HERE), "{foreign}");
            assert!(!origins.admit(Some(foreign), HOLDER), "{foreign}");
            assert!(origins.admit(Some(foreign), Borrowed::Nothing), "{foreign}");
        }
        for own in [
            "http://localhost",
            "http://LOCALHOST:5173",
            "https://127.0.0.1:8443",
            "http://127.1.2.3",
            "http://[::1]:3000",
        ] {
            assert!(origins.admit(Some(own), HERE), "{own}");
            assert!(origins.admit(Some(own), HOLDER), "{own}");
        }
        assert!(origins.admit(None, HERE), "no browser");
    }

    #[test]
    fn a_page_of_the_servers_own_name_is_its_own_where_tls_has_verified_the_name() {
        let origins = WebOrigins::default();
        for own in [
            "https://gateway.example.com",
            "https://Gateway.example.com:8084",
        ] {
            assert!(origins.admit(Some(own), HOLDER), "{own}");
            assert!(!origins.admit(Some(own), HERE), "its name may point here");
        }
        for host in ["", "[", "other.example.com"] {
            let holder = Borrowed::Certificate(host);
            assert!(!origins.admit(Some("https://gateway.example.com"), holder));
            assert!(!origins.admit(Some("null"), holder));
        }
    }

    #[test]
    fn listed_origins_are_the_only_ones_wherever_their_visitor_is() {
        let origins = WebOrigins::new(["https://app.example.com".into()]);
        for borrowed in [HERE, HOLDER, Borrowed::Nothing] {
            assert!(origins.admit(Some("https://App.example.com"), borrowed));
            assert!(origins.admit(None, borrowed));
            for other in [
                "http://app.example.com",
                "https://app.example.com:444",
                "https://gateway.example.com",
                "http://localhost",
                "null",
                "",
            ] {
                assert!(!origins.admit(Some(other), borrowed), "{other}");
            }
        }
    }
}
