//! One question to the first bytes of a client, before any cryptography: does it want to resume a session?
//! The answer decides who waits longer when many come at once, and nothing else.

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// RFC 5077: a ticket of TLS 1.2, when it is not empty.
const SESSION_TICKET: u16 = 35;
/// RFC 8446 §4.2.11.
const PRE_SHARED_KEY: u16 = 41;

/// Whether these bytes are a ClientHello with a ticket. One that is split over records, or malformed, is taken for one without.
pub(super) fn offers_resumption(record: &[u8]) -> bool {
    search(record).unwrap_or(false)
}

fn search(record: &[u8]) -> Option<bool> {
    let mut rest = record;
    let header = take(&mut rest, 5)?;
    let message = take(&mut rest, 4)?;
    if header[0] != HANDSHAKE || message[0] != CLIENT_HELLO {
        return None;
    }
    take(&mut rest, 2 + 32)?; // Version and random.
    let session_id = usize::from(take(&mut rest, 1)?[0]);
    take(&mut rest, session_id)?;
    let suites = length_16(&mut rest)?;
    take(&mut rest, suites)?;
    let compressions = usize::from(take(&mut rest, 1)?[0]);
    take(&mut rest, compressions)?;
    let extensions = length_16(&mut rest)?;
    let mut extensions = take(&mut rest, extensions)?;
    while !extensions.is_empty() {
        let kind = length_16(&mut extensions)?;
        let body = length_16(&mut extensions)?;
        let body = take(&mut extensions, body)?;
        if kind == usize::from(PRE_SHARED_KEY)
            || kind == usize::from(SESSION_TICKET) && !body.is_empty()
        {
            return Some(true);
        }
    }
    Some(false)
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (taken, behind) = rest.split_at_checked(bytes)?;
    *rest = behind;
    Some(taken)
}

fn length_16(rest: &mut &[u8]) -> Option<usize> {
    let bytes = take(rest, 2)?;
    Some(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello(extensions: &[u8]) -> Vec<u8> {
        let mut bytes = vec![HANDSHAKE, 3, 1, 0, 0, CLIENT_HELLO, 0, 0, 0, 3, 3];
        bytes.extend([0; 32]);
        bytes.extend([0, 0, 2, 0x13, 1, 1, 0]);
        bytes.extend((extensions.len() as u16).to_be_bytes());
        bytes.extend(extensions);
        bytes
    }

    #[test]
    fn a_ticket_is_found_behind_other_extensions() {
        assert!(!offers_resumption(&hello(&[])));
        assert!(!offers_resumption(&hello(&[0, 35, 0, 0])), "an empty one");
        assert!(offers_resumption(&hello(&[0, 35, 0, 1, 9])));
        assert!(offers_resumption(&hello(&[0, 0, 0, 2, 1, 1, 0, 41, 0, 0])));
        assert!(!offers_resumption(
            b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n"
        ));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            offers_resumption(&bytes);
            offers_resumption(&hello(&bytes));
        }
    }
}
