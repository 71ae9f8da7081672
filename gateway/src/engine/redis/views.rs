//! The views of a cluster in the store that its nodes share: one key, `{PREFIX:view}`.
//!
//! It is a hash of four fields: `view`, the bytes of [`View::encode`]; `epoch` and `hash`, its version as 16 hexadecimal digits each, which is
//! what is compared; and `beat`, how often it was refreshed. Reading and comparing are scripts, so each is one step.
//!
//! A write waits for what the policy wants. One that is stored and not confirmed is [`Written::Unknown`]: the coordinator reads again before it
//! does anything else.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster::coordinator::{Content, Stored, Written};
use cluster::partition::partition_of;
use cluster::view::{Version, View};
use redis::{Cmd, FromRedisValue, Value, from_redis_value};

use crate::engine::redis::options::{ConnectOptions, Policy};
use crate::engine::redis::server::{Request, Servers, ServersError};
use crate::engine::views::{ViewStore, ViewStoreError};

/// Longest time that a call takes.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(2);

/// A store that is full or lacks replicas goes on telling its view: what only reads says so, and a beat may take what memory there is.
///
/// Answers { epoch, hash, beat, view }: no view for the one that is known; nothing where nothing is stored.
/// KEYS: the view. ARGV: known epoch, known hash (both "" for none).
const READ: &str = r"#!lua flags=no-writes
local stored = redis.call('HMGET', KEYS[1], 'epoch', 'hash', 'beat')
if not stored[1] then return {} end
local beat = stored[3] or '0'
if stored[1] == ARGV[1] and stored[2] == ARGV[2] then return {stored[1], stored[2], beat} end
return {stored[1], stored[2], beat, redis.call('HGET', KEYS[1], 'view')}
";

/// The same, and refreshes the view that is known.
const BEAT: &str = r"#!lua flags=allow-oom
local stored = redis.call('HMGET', KEYS[1], 'epoch', 'hash', 'beat')
if not stored[1] then return {} end
if stored[1] == ARGV[1] and stored[2] == ARGV[2] then
  return {stored[1], stored[2], tostring(redis.call('HINCRBY', KEYS[1], 'beat', 1))}
end
return {stored[1], stored[2], stored[3] or '0', redis.call('HGET', KEYS[1], 'view')}
";

/// Answers 1 when the view is stored, now or before: a question whose answer was lost comes twice.
/// KEYS: the view. ARGV: expected epoch, expected hash (both "" for none), epoch, hash, view, 1 when it may have come before.
const WRITE: &str = r"#!lua flags=allow-oom
local stored = redis.call('HMGET', KEYS[1], 'epoch', 'hash')
if stored[1] == ARGV[3] and stored[2] == ARGV[4] then
  if ARGV[6] == '1' then redis.call('HSET', KEYS[1], 'epoch', ARGV[3]) end
  return 1
end
if (stored[1] or '') ~= ARGV[1] or (stored[2] or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'epoch', ARGV[3], 'hash', ARGV[4], 'view', ARGV[5])
return 1
";

/// Views in a Valkey or Redis, over connections of their own.
#[derive(Debug)]
pub struct RedisViews {
    servers: Mutex<Servers>,
    key: Box<str>,
    slot: u16,
    policy: Policy,
}

impl RedisViews {
    /// Connects to nothing yet. `prefix` and `policy` are those of the store; a call takes the timeout of the options, and
    /// [`TIMEOUT_MAX`] at most.
    pub fn new(options: &ConnectOptions, prefix: &str, policy: Policy) -> Self {
        let tag = format!("{prefix}:view");
        let options = ConnectOptions {
            timeout: options.timeout.min(TIMEOUT_MAX),
            ..options.clone()
        };
        Self {
            servers: Mutex::new(Servers::new(options, &[])),
            key: format!("{{{tag}}}").into(),
            slot: partition_of(&tag),
            policy,
        }
    }

    /// A script on the view.
    fn script(&self, script: &str, versions: &[Option<Version>]) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(1).arg(&*self.key);
        for version in versions {
            let [epoch, hash] = version.map_or_else(Default::default, shown);
            command.arg(epoch).arg(hash);
        }
        command
    }

    fn call<T: FromRedisValue>(
        &self,
        mut request: Request,
        policy: Policy,
    ) -> Result<T, ServersError> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut replies = servers.call_many(std::slice::from_mut(&mut request), policy)?;
        let reply = replies.pop().unwrap_or(Value::Nil);
        from_redis_value(reply).map_err(|error| ServersError::Reply {
            server: "the store of views".to_owned(),
            detail: error.to_string(),
        })
    }
}

/// Epoch and hash as they are stored.
fn shown(version: Version) -> [String; 2] {
    [version.epoch, version.hash].map(|number| format!("{number:016x}"))
}

/// What a reading script answered.
fn stored(key: &str, reply: Vec<Vec<u8>>) -> Result<Stored, ViewStoreError> {
    let bad = |detail: String| ViewStoreError(format!("the key {key} holds no view: {detail}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (beat, content) = match reply.as_slice() {
        [] => {
            return Ok(Stored {
                content: Content::Nothing,
                beat: 0,
            });
        }
        [_, _, beat] => (beat, Content::Known),
        [epoch, hash, beat, view] => {
            let view = View::decode(view).map_err(|error| bad(error.to_string()))?;
            let version = shown(view.version());
            if version != [text(epoch), text(hash)] {
                return Err(bad("it is not the one that its version names".to_owned()));
            }
            (beat, Content::View(Arc::new(view)))
        }
        _ => return Err(bad("it has other fields".to_owned())),
    };
    let beat = text(beat)
        .parse()
        .map_err(|_| bad("its beat is no number".to_owned()))?;
    Ok(Stored { content, beat })
}

impl ViewStore for RedisViews {
    fn read(&self, known: Option<Version>, beat: bool) -> Result<Stored, ViewStoreError> {
        let script = if beat && known.is_some() { BEAT } else { READ };
        let request = Request::new(self.slot, &self.script(script, &[known]));
        let reply = self.call(request, Policy::Memory);
        stored(
            &self.key,
            reply.map_err(|error| ViewStoreError(error.to_string()))?,
        )
    }

    fn compare_and_set(&self, expected: Option<Version>, view: &View, version: Version) -> Written {
        let mut command = self.script(WRITE, &[expected, Some(version)]);
        command.arg(view.encode()).arg(0);
        let mut request = Request::new(self.slot, &command);
        request.again = Some(request.packed.len() - b"0\r\n".len());
        match self.call(request, self.policy) {
            Ok(1) => Written::Done,
            Ok(0) => Written::Changed,
            Ok(_other) => Written::Unknown,
            Err(error) => {
                tracing::warn!(%error, epoch = version.epoch, "it is not known whether a view is stored");
                Written::Unknown
            }
        }
    }
}
