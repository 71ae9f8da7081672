//! Changes on their way to a partition: packed as they are made, sent as one script.

use std::io::Write;

use crate::engine::redis::server::Request;

/// The changes of one script, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Script {
    /// Packed keys, and how many.
    keys: Vec<u8>,
    key_count: usize,
    /// Packed arguments, and how many.
    args: Vec<u8>,
    arg_count: usize,
}

impl Script {
    /// A command on a key. It must do no harm the second time.
    pub(super) fn change(&mut self, command: &str, key: &str, args: &[&[u8]]) {
        self.key(key);
        self.arg(command.as_bytes());
        self.number(args.len());
        for arg in args {
            self.arg(arg);
        }
    }

    /// Fields of a hash to read.
    pub(super) fn read<'a>(&mut self, key: &str, fields: impl ExactSizeIterator<Item = &'a str>) {
        self.key(key);
        self.number(fields.len());
        for field in fields {
            self.arg(field.as_bytes());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.key_count == 0
    }

    fn key(&mut self, key: &str) {
        bulk(&mut self.keys, key.as_bytes());
        self.key_count += 1;
    }

    fn arg(&mut self, arg: &[u8]) {
        bulk(&mut self.args, arg);
        self.arg_count += 1;
    }

    fn number(&mut self, number: usize) {
        self.arg(number.to_string().as_bytes());
    }

    /// The call that makes the changes if `writer` is the writer.
    pub(super) fn apply(&self, hash: &str, slot: u16, fence: &str, writer: &str) -> Request {
        let mut packed = self.head(hash, fence, writer, 1);
        // `$1\r\n0\r\n`: the flag stands before its line end.
        bulk(&mut packed, b"0");
        let again = Some(packed.len() - 3);
        packed.extend_from_slice(&self.args);
        Request {
            slot,
            packed,
            again,
        }
    }

    /// The call that reads if `writer` is the writer.
    pub(super) fn query(&self, hash: &str, slot: u16, fence: &str, writer: &str) -> Request {
        let mut packed = self.head(hash, fence, writer, 0);
        packed.extend_from_slice(&self.args);
        Request {
            slot,
            packed,
            again: None,
        }
    }

    fn head(&self, hash: &str, fence: &str, writer: &str, flags: usize) -> Vec<u8> {
        let mut packed = Vec::with_capacity(160 + self.keys.len() + self.args.len());
        let parts = 3 + 1 + self.key_count + 1 + flags + self.arg_count;
        let _ = write!(packed, "*{parts}\r\n");
        bulk(&mut packed, b"EVALSHA");
        bulk(&mut packed, hash.as_bytes());
        bulk(&mut packed, (1 + self.key_count).to_string().as_bytes());
        bulk(&mut packed, fence.as_bytes());
        packed.extend_from_slice(&self.keys);
        bulk(&mut packed, writer.as_bytes());
        packed
    }
}

fn bulk(packed: &mut Vec<u8>, bytes: &[u8]) {
    let _ = write!(packed, "${}\r\n", bytes.len());
    packed.extend_from_slice(bytes);
    packed.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_packed_as_the_library_packs_them() {
        let mut script = Script::default();
        script.change("HSET", "k1", &[b"field", b"value"]);
        script.change("DEL", "k2", &[]);
        let mut request = script.apply("hash", 7, "fence", "1:2");
        let mut expected = redis::cmd("EVALSHA");
        for part in [
            "hash", "3", "fence", "k1", "k2", "1:2", "0", "HSET", "2", "field", "value", "DEL", "0",
        ] {
            expected.arg(part);
        }
        assert_eq!(request.packed, expected.get_packed_command());
        crate::engine::redis::server::mark_all_again(std::slice::from_mut(&mut request));
        let text = String::from_utf8(request.packed).expect("text");
        assert!(text.contains("1:2\r\n$1\r\n1\r\n$4\r\nHSET"), "{text}");
    }
}
