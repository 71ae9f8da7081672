//! A session after its handshake: two keys and what little else a peer may do with them.
//!
//! ```text
//!  open ──close_notify of the peer──▶ peer closed ──close()──▶ both closed
//!    └───────────close()────────▶ closed here ──close_notify──▶ both closed
//!  any of them ──a Failure──▶ gone: an alert is sent, nothing is read or sealed any more
//! ```
//!
//! A buffer exists only while a record is incomplete. The rules and their tolerances are those of rustls (32 empty records in a
//! row, 32 key updates without data between them, 4 warnings, one renegotiation), so that a peer that works with it works here.

use super::failure::{Alert, Failure, Reason};
use super::record::{
    ALERT, APPLICATION_DATA, Cipher, Direction, HANDSHAKE, HEADER_BYTES, Opened, PLAIN_BYTES_MAX,
    Version, length,
};
use super::secrets;

const KEY_UPDATE: u8 = 24;
const CLIENT_HELLO: u8 = 1;
/// Type, length of 24 bits, one byte.
const KEY_UPDATE_BYTES: usize = 5;
const WARNING: u8 = 1;
const FATAL: u8 = 2;

const EMPTY_RECORDS_MAX: u8 = 32;
const KEY_UPDATES_MAX: u8 = 32;
const WARNINGS_MAX: u8 = 4;

/// A session after its handshake.
pub(super) struct Live {
    pub(super) generation: u32,
    cipher: Cipher,
    tx: Direction,
    rx: Direction,
    /// The start of a record whose rest has not come.
    #[expect(
        clippy::box_collection,
        reason = "it is rare: a pointer is what all the others pay"
    )]
    partial: Option<Box<Vec<u8>>>,
    /// The start of a key update that was split over records; `fragment_bytes` of it.
    fragment: [u8; KEY_UPDATE_BYTES],
    fragment_bytes: u8,
    /// In a row.
    empty_records: u8,
    /// Since the last data.
    key_updates: u8,
    warnings: u8,
    /// True exactly when a key update was answered since data was sealed last.
    answered: bool,
    /// True exactly when another one is to be answered, which waits for the next data (RFC 8446 §4.6.3): a peer that reads nothing
    /// cannot make answers pile up.
    owes_answer: bool,
    /// True exactly when TLS 1.2 was asked once for another handshake.
    renegotiation_refused: bool,
    /// True exactly when the peer's close_notify came.
    peer_closed: bool,
    /// True exactly when close_notify was sent.
    closed: bool,
}

const _: () = assert!(
    size_of::<Live>() <= 248,
    "an idle session costs one allocation of 256 bytes"
);

impl Live {
    pub(super) fn new(generation: u32, cipher: Cipher, tx: Direction, rx: Direction) -> Self {
        Self {
            generation,
            cipher,
            tx,
            rx,
            partial: None,
            fragment: [0; KEY_UPDATE_BYTES],
            fragment_bytes: 0,
            empty_records: 0,
            key_updates: 0,
            warnings: 0,
            answered: false,
            owes_answer: false,
            renegotiation_refused: false,
            peer_closed: false,
            closed: false,
        }
    }

    /// Bytes kept of an incomplete record.
    pub(super) fn partial_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.len())
    }

    /// Opens what came, in place, and hands the plaintext to `data`. What has to be sent for it is appended to `out`.
    /// True exactly when the peer's close_notify came with these bytes; what follows it is ignored.
    pub(super) fn received(
        &mut self,
        mut bytes: &mut [u8],
        out: &mut Vec<u8>,
        data: &mut impl FnMut(&mut [u8]),
    ) -> Result<bool, Failure> {
        if self.peer_closed {
            return Ok(false);
        }
        if let Some(mut partial) = self.partial.take() {
            if !self.fill(&mut partial, &mut bytes)? {
                self.partial = Some(partial);
                return Ok(false);
            }
            if self.record(&mut partial, out, data)? {
                return Ok(true);
            }
        }
        loop {
            match length(bytes, self.cipher.version)? {
                Some(record_bytes) if record_bytes <= bytes.len() => {
                    let (record, rest) = bytes.split_at_mut(record_bytes);
                    bytes = rest;
                    if self.record(record, out, data)? {
                        return Ok(true);
                    }
                }
                _ if bytes.is_empty() => return Ok(false),
                _ => {
                    self.partial = Some(Box::new(bytes.to_vec()));
                    return Ok(false);
                }
            }
        }
    }

    /// Completes the record that `partial` begins. True when it is whole, and no byte of the next one is in it.
    fn fill(&self, partial: &mut Vec<u8>, bytes: &mut &mut [u8]) -> Result<bool, Failure> {
        loop {
            let known = length(partial, self.cipher.version)?;
            if known == Some(partial.len()) {
                return Ok(true);
            }
            if bytes.is_empty() {
                return Ok(false);
            }
            let wanted = known.unwrap_or(HEADER_BYTES) - partial.len();
            let taken = wanted.min(bytes.len());
            let (taken, rest) = std::mem::take(bytes).split_at_mut(taken);
            partial.extend_from_slice(taken);
            *bytes = rest;
        }
    }

    /// One whole record. True exactly when it was the peer's close_notify.
    fn record(
        &mut self,
        record: &mut [u8],
        out: &mut Vec<u8>,
        data: &mut impl FnMut(&mut [u8]),
    ) -> Result<bool, Failure> {
        let Opened {
            content_type,
            payload,
        } = self.cipher.open(&mut self.rx, record)?;
        if self.fragment_bytes > 0 && content_type != HANDSHAKE {
            let detail = "a record of another type within a handshake message";
            return Err(Failure::violation(Alert::UNEXPECTED_MESSAGE, detail));
        }
        match content_type {
            APPLICATION_DATA => self.data(payload, data).map(|()| false),
            ALERT => self.alert(payload),
            HANDSHAKE if self.cipher.version == Version::Tls13 => {
                self.handshake_13(payload, out).map(|()| false)
            }
            HANDSHAKE => self.handshake_12(payload, out).map(|()| false),
            _ => {
                let detail = format!("a record with type {content_type} inside");
                Err(Failure::violation(Alert::UNEXPECTED_MESSAGE, detail))
            }
        }
    }

    fn data(
        &mut self,
        payload: &mut [u8],
        data: &mut impl FnMut(&mut [u8]),
    ) -> Result<(), Failure> {
        if payload.is_empty() {
            // Legal, as padding; without end it would be work for nothing.
            self.empty_records += 1;
            if self.empty_records > EMPTY_RECORDS_MAX {
                let detail = "too many empty records in a row";
                return Err(Failure::violation(Alert::UNEXPECTED_MESSAGE, detail));
            }
            return Ok(());
        }
        self.empty_records = 0;
        self.key_updates = 0;
        data(payload);
        Ok(())
    }

    /// RFC 8446 §6, RFC 5246 §7.2. True exactly when it is close_notify.
    fn alert(&mut self, payload: &[u8]) -> Result<bool, Failure> {
        let [level, description] = *payload else {
            let detail = "an alert that is not two bytes long";
            return Err(Failure::violation(Alert::DECODE_ERROR, detail));
        };
        let description = Alert(description);
        if level != WARNING && level != FATAL {
            let detail = format!("an alert of level {level}");
            return Err(Failure::violation(Alert::ILLEGAL_PARAMETER, detail));
        }
        if description == Alert::CLOSE_NOTIFY {
            self.peer_closed = true;
            return Ok(true);
        }
        if level == FATAL {
            let detail = format!("the peer sent alert {}", description.0);
            return Err(Failure::new(Reason::PeerAlert, None, detail));
        }
        self.warnings += 1;
        if self.warnings > WARNINGS_MAX {
            let detail = "too many warnings";
            return Err(Failure::violation(Alert::UNEXPECTED_MESSAGE, detail));
        }
        if self.cipher.version == Version::Tls13 && description != Alert::USER_CANCELED {
            let detail = format!("alert {} as a warning", description.0);
            return Err(Failure::violation(Alert::DECODE_ERROR, detail));
        }
        Ok(false)
    }

    /// A client may send one handshake message after the handshake: KeyUpdate (RFC 8446 §4.6.3).
    fn handshake_13(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        let unexpected = |detail| Err(Failure::violation(Alert::UNEXPECTED_MESSAGE, detail));
        let had = usize::from(self.fragment_bytes);
        let taken = payload.len().min(KEY_UPDATE_BYTES - had);
        if taken == 0 {
            return unexpected("an empty handshake record");
        }
        self.fragment[had..had + taken].copy_from_slice(&payload[..taken]);
        self.fragment_bytes += taken as u8;
        if self.fragment[0] != KEY_UPDATE {
            return unexpected("a handshake message that is not KeyUpdate");
        }
        if had + taken < KEY_UPDATE_BYTES {
            return Ok(());
        }
        if taken < payload.len() {
            return unexpected("a message behind KeyUpdate, under the key that it ends");
        }
        self.fragment_bytes = 0;
        let [_, 0, 0, 1, request] = self.fragment else {
            let detail = "a KeyUpdate of a wrong length";
            return Err(Failure::violation(Alert::DECODE_ERROR, detail));
        };
        if request > 1 {
            let detail = format!("a KeyUpdate with request {request}");
            return Err(Failure::violation(Alert::ILLEGAL_PARAMETER, detail));
        }
        self.key_updates += 1;
        if self.key_updates > KEY_UPDATES_MAX {
            return unexpected("too many key updates without data between them");
        }
        if request == 1 && !self.closed {
            if self.answered {
                self.owes_answer = true;
            } else {
                self.answered = true;
                self.update_tx(out)?;
            }
        }
        secrets::update(self.cipher.aead, &mut self.rx)
    }

    /// A client may ask for another handshake, which is refused: with a warning, and the second time for good.
    fn handshake_12(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        let is_client_hello = match payload {
            [CLIENT_HELLO, high, middle, low, body @ ..] => {
                u32::from_be_bytes([0, *high, *middle, *low]) as usize == body.len()
            }
            _ => false,
        };
        if !is_client_hello || self.renegotiation_refused {
            let detail = "a handshake message after the handshake";
            return Err(Failure::violation(Alert::UNEXPECTED_MESSAGE, detail));
        }
        self.renegotiation_refused = true;
        let warning = [WARNING, Alert::NO_RENEGOTIATION.0];
        self.cipher.seal(&mut self.tx, ALERT, &warning, out)
    }

    /// Tells the peer, under the old key, and goes on to the next one.
    fn update_tx(&mut self, out: &mut Vec<u8>) -> Result<(), Failure> {
        let update = [KEY_UPDATE, 0, 0, 1, 0];
        self.cipher.seal(&mut self.tx, HANDSHAKE, &update, out)?;
        secrets::update(self.cipher.aead, &mut self.tx)
    }

    /// Seals plaintext into as many records as it takes. After `close` it seals nothing.
    ///
    /// # Errors
    /// TLS 1.2, when the key has protected as many records as it may; TLS 1.3 takes the next key.
    pub(super) fn seal(
        &mut self,
        plain: &[u8],
        records_per_key_max: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        if self.closed {
            return Ok(());
        }
        if std::mem::take(&mut self.owes_answer) {
            self.update_tx(out)?;
        }
        self.answered = false;
        let records_max = records_per_key_max.min(self.cipher.aead.records_per_key_max());
        for fragment in plain.chunks(PLAIN_BYTES_MAX) {
            // The last record of a key is the KeyUpdate, or an alert.
            if self.tx.sequence >= records_max.saturating_sub(1) {
                match self.cipher.version {
                    Version::Tls13 => self.update_tx(out)?,
                    Version::Tls12 => {
                        let detail = format!("{records_max} records were sent with one key");
                        let alert = Some(Alert::CLOSE_NOTIFY);
                        return Err(Failure::new(Reason::KeysExhausted, alert, detail));
                    }
                }
            }
            self.cipher
                .seal(&mut self.tx, APPLICATION_DATA, fragment, out)?;
        }
        Ok(())
    }

    /// Sends close_notify, once.
    pub(super) fn close(&mut self, out: &mut Vec<u8>) {
        self.send_alert(Alert::CLOSE_NOTIFY, out);
    }

    /// The last thing that is sent: nothing is sealed after it.
    pub(super) fn send_alert(&mut self, alert: Alert, out: &mut Vec<u8>) {
        if self.closed {
            return;
        }
        self.closed = true;
        let level = if alert == Alert::CLOSE_NOTIFY {
            WARNING
        } else {
            FATAL
        };
        // Whoever cannot be told is closed all the same.
        let _unsealed = self
            .cipher
            .seal(&mut self.tx, ALERT, &[level, alert.0], out);
    }
}
