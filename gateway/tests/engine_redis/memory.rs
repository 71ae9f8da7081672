//! What mailboxes cost a server.

use gateway::engine::redis::keys::Keys;
use gateway::message::SessionId;

use crate::servers::Server;
use crate::support::{Node, home, options, publish, put};

#[test]
fn a_mailbox_costs_little_more_than_its_messages() {
    let server = Server::start(&[]);
    let options = options(server.options(), 1);
    let keys = Keys::new(&options.prefix);
    let mut node = Node::open(options);
    let mut report = String::new();
    for (session, messages, payload_bytes, most) in [
        (1, 1, 32, 250),
        (2, 1, 200, 550),
        (3, 100, 32, 12_000),
        (4, 100, 200, 34_000),
        (5, 100, 1_000, 125_000),
    ] {
        let session = SessionId(session);
        node.claim(home(session), 1);
        node.one(put(session));
        let idle = usage(
            &server,
            &keys.key(home(session), &format!("s:{}", session.0)),
        );
        for number in 1..=messages {
            node.one(publish(number, &[session], payload_bytes));
        }
        let mailbox = usage(
            &server,
            &keys.key(home(session), &format!("m:{}", session.0)),
        );
        let known = usage(
            &server,
            &keys.key(home(session), &format!("k:{}", session.0)),
        );
        report += &format!(
            "{messages} of {payload_bytes} bytes: mailbox {mailbox}, ids {known}, session {idle}\n"
        );
        assert!(mailbox <= most, "{report}");
        assert!(idle <= 250, "{report}");
        assert!(known <= 2_400, "{report}");
    }
    println!("{report}");
}

fn usage(server: &Server, key: &str) -> u64 {
    let found = server.cli(&["MEMORY", "USAGE", key, "SAMPLES", "0"]);
    found.parse().unwrap_or_else(|_| panic!("{key}: {found}"))
}
