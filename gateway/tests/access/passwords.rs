//! The password file, asked outside the cores, alone and with a method behind it.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use gateway::access::policy::Refusal;
use gateway::control::access::{Asked, Said};

use crate::server::Server;
use crate::world::{Folder, World, config, run, shown, until};

/// A line of a file, hashed with so little effort that a test of many takes no time.
pub(crate) fn line(user: &str, password: &str) -> String {
    let parameters = Params::new(64, 2, 1, Some(32)).expect("allowed");
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters);
    let (salt, mut hash) = ([7; 16], [0; 32]);
    let hashed = argon2.hash_password_into(password.as_bytes(), &salt, &mut hash);
    hashed.expect("there is memory");
    let [salt, hash] = [&salt[..], &hash].map(|bytes| STANDARD_NO_PAD.encode(bytes));
    format!("{user}:$argon2id$v=19$m=64,t=2,p=1${salt}${hash}:staff\n")
}

#[test]
fn users_come_in_with_their_passwords_and_nobody_else() {
    run(async {
        let folder = Folder::new();
        let file = folder.write("users", line("alice", "secret") + &line("bob", "hunter2"));
        let text = format!(
            "[access]\nmethods = [\"password\"]\npassword_file = {file:?}\npassword_threads = 1\n"
        );
        let mut world = World::start(&config(&folder.0, &text));
        let identity = world.ask(&shown("alice", "secret")).await;
        let identity = identity.expect("let in").expect("proved");
        assert_eq!(identity.user.as_deref(), Some("alice"));
        assert_eq!(*identity.groups, [Box::<str>::from("staff")]);
        for (user, password) in [
            ("alice", "hunter2"),
            ("eve", "secret"),
            ("", ""),
            ("alice", ""),
        ] {
            let outcome = world.ask(&shown(user, password)).await;
            assert_eq!(outcome, Err(Refusal::Credentials), "{user}");
        }
        let mut without = shown("alice", "");
        without.password = None;
        assert_eq!(world.ask(&without).await, Err(Refusal::Credentials));
        let said = |said| world.access.stats().answers(Asked::Password, said);
        assert_eq!((said(Said::Allowed), said(Said::Denied)), (1, 5));
    });
}

#[test]
fn many_at_once_are_all_answered_each_with_its_own_verdict() {
    run(async {
        let folder = Folder::new();
        let file = folder.write("users", line("alice", "secret"));
        let text = format!("[access]\nmethods = [\"password\"]\npassword_file = {file:?}\n");
        let mut world = World::start(&config(&folder.0, &text));
        // More than the inbox of the core holds.
        let asked: Vec<(u32, bool)> = (0..12)
            .map(|number| {
                let right = number % 3 == 0;
                let password = if right { "secret" } else { "wrong" };
                (world.put(&shown("alice", password)).expect("asked"), right)
            })
            .collect();
        let mut answers = Vec::new();
        for _ in &asked {
            let (number, outcome) = world.verdict().await;
            answers.push((number, outcome.is_ok()));
        }
        answers.sort_unstable();
        assert_eq!(answers, asked);
        until(|| world.access.report().waiting == 0).await;
    });
}

#[test]
fn one_address_does_not_take_all_the_room_of_those_who_wait() {
    run(async {
        let folder = Folder::new();
        let file = folder.write("users", line("alice", "secret"));
        let text = format!(
            "[access]\nmethods = [\"password\"]\npassword_file = {file:?}\nquestions_max = 80\n[admission]\nexempt = [\"198.51.100.0/24\"]\n"
        );
        let mut world = World::start(&config(&folder.0, &text));
        let mut taken = |address: &str, count: usize| {
            let mut shown = shown("alice", "wrong");
            shown.peer.set_ip(address.parse().expect("an address"));
            let asked = (0..count).map(|_| world.put(&shown));
            let refused = |it: &Result<_, _>| *it == Err(Err(Refusal::Busy));
            count - asked.filter(refused).count()
        };
        assert_eq!(taken("192.0.2.7", 40), 20, "a quarter");
        assert_eq!(taken("192.0.2.8", 5), 5, "others have theirs");
        assert_eq!(taken("2001:db8::1", 15), 15);
        assert_eq!(taken("2001:db8::2", 15), 5, "of the same /64");
        assert_eq!(taken("198.51.100.1", 60), 35, "no bound but that of all");
        for _ in 0..80 {
            let (_, outcome) = world.verdict().await;
            assert_eq!(outcome, Err(Refusal::Credentials));
        }
        until(|| world.access.report().waiting == 0).await;
        let again = (0..21).map(|_| world.put(&shown("alice", "secret")));
        assert_eq!(again.filter(Result::is_ok).count(), 20);
    });
}

#[test]
fn a_name_that_is_not_in_the_file_is_asked_of_the_service_behind_it() {
    run(async {
        let folder = Folder::new();
        let server = Server::answering(r#"{"result": "allow"}"#).await;
        let file = folder.write("users", line("alice", "secret"));
        let text = format!(
            "[access]\nmethods = [\"password\", \"http\"]\npassword_file = {file:?}\n[http]\nurl = {:?}\n",
            server.url()
        );
        let mut world = World::start(&config(&folder.0, &text));
        assert_eq!(
            world.ask(&shown("alice", "wrong")).await,
            Err(Refusal::Credentials)
        );
        assert_eq!(server.count(), 0, "her password is the file's to judge");
        assert_eq!(world.user(&shown("bob", "x")).await.as_deref(), Some("bob"));
        assert_eq!(server.count(), 1);
    });
}
