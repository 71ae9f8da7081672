//! Answers as text that two stores can be compared by.

use gateway::engine::{Completion, Restored, Token};
use gateway::message::{Message, SessionId};

/// Answers as text, sequences by `number`. All that was loaded for one claim is one answer, its routes in order.
pub(crate) fn show(
    answers: &[(u16, Completion)],
    number: impl Fn(SessionId, u64) -> u64,
) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut loaded: Option<(u16, Token, Vec<Restored>)> = None;
    for (core, answer) in answers {
        let mut answer = answer.clone();
        let mut messages = String::new();
        let mut content = |message: &Message| {
            let add = |sum: u64, byte: &u8| sum.wrapping_mul(31).wrapping_add(u64::from(*byte));
            messages += &format!(" {:x}", message.content().iter().fold(7, add));
        };
        match &mut answer {
            Completion::Loaded { token, items } => {
                let (_, _, all) = loaded.get_or_insert_with(|| (*core, *token, Vec::new()));
                all.append(items);
                continue;
            }
            Completion::Appended {
                session,
                sequence,
                message,
                evicted,
                ..
            } => {
                content(message);
                *sequence = number(*session, *sequence);
                for old in evicted {
                    old.sequence = number(*session, old.sequence);
                }
            }
            Completion::MailboxPage {
                session, entries, ..
            } => {
                for entry in entries {
                    entry.sequence = number(*session, entry.sequence);
                    if let Some((message, _)) = &entry.content {
                        content(message);
                    }
                }
            }
            _ => {}
        }
        if let Some((core, token, mut items)) = loaded.take() {
            lines.push(format!(
                "{core} {token:?} {}",
                show_items(&mut items, &number)
            ));
        }
        lines.push(format!("{core} {answer:?}{messages}"));
    }
    assert!(loaded.is_none(), "what is loaded is followed by its claim");
    lines.join("\n")
}

fn show_items(items: &mut [Restored], number: impl Fn(SessionId, u64) -> u64) -> String {
    for item in items.iter_mut() {
        if let Restored::Session {
            session, mailbox, ..
        } = item
        {
            assert!(mailbox.next > mailbox.head, "{mailbox:?}");
            mailbox.next = 0;
            if mailbox.head > 0 {
                mailbox.head = number(*session, mailbox.head);
            }
        }
    }
    items.sort_by_key(|item| match item {
        Restored::Route {
            session, filter, ..
        } => (1, Some((*session, filter.clone()))),
        Restored::Session { .. } | Restored::Subscription { .. } => (0, None),
        Restored::Retained { .. } => (2, None),
    });
    format!("{items:#?}")
}
