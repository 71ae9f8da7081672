//! Web pages that connect over WebSocket: which of them may, by the Origin that their browser writes on the request (RFC 6455 §10.2).
//!
//! A page of any site can open a WebSocket to whatever its visitor reaches, and is then what the visitor is without showing anything: a
//! client on this machine, or the holder of a certificate. A page that has a password or a token of its own needs no such help.

/// Origins of pages that may connect. None: those of any site, unless they would use what their visitor is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebOrigins(Box<[Box<str>]>);

impl WebOrigins {
    /// These, as browsers write them (`https://app.example.com`, with the port unless it is the scheme's own).
    pub fn new(origins: impl IntoIterator<Item = Box<str>>) -> Self {
        Self(origins.into_iter().collect())
    }

    /// Whether a client with this Origin may connect; without one it is no page. `borrows` is true exactly when it would come in, or be
    /// somebody, by what its visitor is.
    pub fn admit(&self, origin: Option<&str>, borrows: bool) -> bool {
        let Some(origin) = origin else {
            return true;
        };
        if self.0.is_empty() {
            return !borrows || is_of_this_machine(origin);
        }
        let mut listed = self.0.iter();
        listed.any(|listed| listed.eq_ignore_ascii_case(origin))
    }
}

/// True for pages that a server on the machine of their visitor has sent.
fn is_of_this_machine(origin: &str) -> bool {
    let rest = ["http://", "https://"]
        .into_iter()
        .find_map(|scheme| origin.strip_prefix(scheme));
    let Some(rest) = rest else {
        return false; // `null`, as pages of files and of sandboxes have it, which any site can make.
    };
    // An IPv6 address stands in brackets, and a port may follow either kind.
    let (name, port) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']').unwrap_or((rest, "x")),
        None => rest.split_at(rest.find(':').unwrap_or(rest.len())),
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
        return false;
    }
    let address = name.parse::<std::net::IpAddr>();
    name.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

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
            "file://localhost",
            "null",
            "",
        ] {
            assert!(!origins.admit(Some(foreign), true), "{foreign}");
            assert!(origins.admit(Some(foreign), false), "{foreign}");
        }
        for own in [
            "http://localhost",
            "http://LOCALHOST:5173",
            "https://127.0.0.1:8443",
            "http://127.1.2.3",
            "http://[::1]:3000",
        ] {
            assert!(origins.admit(Some(own), true), "{own}");
        }
        assert!(origins.admit(None, true), "no browser");
    }

    #[test]
    fn listed_origins_are_the_only_ones_wherever_their_visitor_is() {
        let origins = WebOrigins::new(["https://app.example.com".into()]);
        for borrows in [true, false] {
            assert!(origins.admit(Some("https://App.example.com"), borrows));
            assert!(origins.admit(None, borrows));
            for other in [
                "http://app.example.com",
                "https://app.example.com:444",
                "http://localhost",
                "null",
                "",
            ] {
                assert!(!origins.admit(Some(other), borrows), "{other}");
            }
        }
    }
}
