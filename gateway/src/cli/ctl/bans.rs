//! `roadstead ctl bans`: who is kept out.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::CommandError;
use super::super::arguments::{BanAdd, BansCommand};
use super::super::client::Client;
use super::super::table::printable;
use super::{listing, plain, time};

pub(super) fn run(client: &Client, command: BansCommand) -> Result<(Value, String), CommandError> {
    match command {
        BansCommand::List { limit } => {
            let answer = client.get("/v1/bans", &[("limit", &limit.to_string())])?;
            let head = [
                ("KIND", "kind"),
                ("NAME", "name"),
                ("UNTIL", "until_unix_ms"),
                ("REASON", "reason"),
            ];
            let text = listing(&answer, "bans", &head, answer["more"] == true);
            Ok((answer, text))
        }
        BansCommand::Add(add) => {
            let answer = client.post("/v1/bans", &body(&add))?;
            let ban = &answer["banned"];
            let end = if ban["until_unix_ms"].is_null() {
                "lifted".to_owned()
            } else {
                time(&ban["until_unix_ms"])
            };
            let (kind, name) = (plain(&ban["kind"]), plain(&ban["name"]));
            let text = format!("{kind} {} is banned until {end}\n", printable(&name));
            Ok((answer, text))
        }
        BansCommand::Lift { kind, name } => {
            let kind = plain(&json!(kind));
            let answer = client.delete("/v1/bans", &[("kind", &kind), ("name", &name)])?;
            let text = format!("{kind} {} may come in again\n", printable(&name));
            Ok((answer, text))
        }
    }
}

fn body(add: &BanAdd) -> Value {
    let seconds = |time: Duration| time.as_secs().max(1);
    json!({
        "kind": add.kind,
        "name": add.name,
        "for_s": add.time.map(seconds),
        "reason": add.reason,
    })
}
