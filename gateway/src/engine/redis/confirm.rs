//! Group commit on a server: one WAIT or WAITAOF behind the writes of a connection.

use std::time::Duration;

use redis::Value;

use crate::engine::redis::error::{ServersError, said};
use crate::engine::redis::options::{Address, Policy};

/// The command that waits until what its connection wrote is where the policy wants it. It gives up before the connection does.
pub(super) fn confirmation_command(policy: Policy, left: Duration) -> Vec<u8> {
    let timeout_ms = (left.as_millis() * 4 / 5).max(1) as u64;
    let command = match policy {
        Policy::Memory => redis::cmd("PING"),
        Policy::Replica(replicas) => {
            let mut command = redis::cmd("WAIT");
            command.arg(replicas).arg(timeout_ms);
            command
        }
        Policy::Aof | Policy::ReplicaAof(_) => {
            let mut command = redis::cmd("WAITAOF");
            command.arg(1).arg(replicas_of(policy)).arg(timeout_ms);
            command
        }
    };
    command.get_packed_command()
}

fn replicas_of(policy: Policy) -> u32 {
    match policy {
        Policy::Memory | Policy::Aof => 0,
        Policy::Replica(replicas) | Policy::ReplicaAof(replicas) => replicas,
    }
}

/// Whether the reply says that enough confirmed.
pub(super) fn check_confirmation(
    policy: Policy,
    reply: &Value,
    server: &Address,
) -> Result<(), ServersError> {
    let number = |value: &Value| match value {
        Value::Int(number) => u32::try_from(*number).ok(),
        _ => None,
    };
    let replicas = replicas_of(policy);
    // Files of the primary and replicas: wanted, and found as far as they are wanted.
    let (wanted, found) = match (policy, reply) {
        (_, Value::ServerError(error)) => return Err(said(server, error)),
        (Policy::Memory, _) => return Ok(()),
        (Policy::Replica(_), reply) => (replicas, number(reply).map(|n| n.min(replicas))),
        (Policy::Aof | Policy::ReplicaAof(_), Value::Array(parts)) => {
            let found = match parts.as_slice() {
                [local, others] => number(local)
                    .zip(number(others))
                    .map(|(local, others)| local.min(1) + others.min(replicas)),
                _ => None,
            };
            (1 + replicas, found)
        }
        _ => (1 + replicas, None),
    };
    match found {
        Some(found) if found >= wanted => Ok(()),
        Some(found) => Err(ServersError::Unconfirmed {
            server: server.to_string(),
            wanted,
            found,
        }),
        None => Err(ServersError::Reply {
            server: server.to_string(),
            detail: format!("{reply:?} to a wait for confirmations"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_must_confirm() {
        let server = Address {
            host: "a".into(),
            port: 1,
        };
        let check = |policy, reply: Value| check_confirmation(policy, &reply, &server).is_ok();
        let pair = |local, others| Value::Array(vec![Value::Int(local), Value::Int(others)]);
        assert!(check(Policy::Replica(1), Value::Int(2)));
        assert!(!check(Policy::Replica(2), Value::Int(1)));
        assert!(!check(Policy::Replica(1), Value::Nil));
        assert!(check(Policy::Aof, pair(1, 0)));
        assert!(!check(Policy::Aof, pair(0, 5)));
        assert!(check(Policy::ReplicaAof(1), pair(1, 1)));
        assert!(!check(Policy::ReplicaAof(2), pair(1, 1)));
        assert!(!check(Policy::ReplicaAof(1), pair(0, 2)));
    }
}
