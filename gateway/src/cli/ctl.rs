//! `roadstead ctl`: asks a running node and prints its answer, as tables or as the JSON it sent.

mod bans;
mod cluster;

use std::io::{self, IsTerminal as _, Read as _, Write};
use std::net::SocketAddr;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::arguments::{Ctl, CtlCommand, Publish, RetainedCommand, SessionsCommand};
use super::client::{Client, segment};
use super::table::{bytes, pairs, printable, seconds, table};
use super::{CommandError, EXIT_DONE};

const DEFAULT_ADDRESS: &str = "127.0.0.1:9883";
/// Rows of one page when all are wanted.
const PAGE: usize = 1_000;

/// Runs one command.
pub(super) fn run(
    ctl: Ctl,
    environment: &[(String, String)],
    out: &mut dyn Write,
) -> Result<u8, CommandError> {
    let address = match ctl.address {
        Some(address) => address,
        None => address_from(environment)?,
    };
    let client = Client::new(address);
    let (answer, text) = match ctl.command {
        CtlCommand::Status => {
            let answer = client.get("/v1/status", &[])?;
            let text = status_text(&answer);
            (answer, text)
        }
        CtlCommand::Sessions { command } => sessions(&client, command)?,
        CtlCommand::Publish(publish) => {
            let answer = client.post("/v1/publish", &publish_body(publish)?)?;
            let text = format!("published to {} recipients\n", plain(&answer["recipients"]));
            (answer, text)
        }
        CtlCommand::Subscriptions { prefix, limit } => {
            let answer = client.get(
                "/v1/subscriptions",
                &[("prefix", &prefix), ("limit", &limit.to_string())],
            )?;
            let head = [
                ("FILTER", "filter"),
                ("SUBSCRIBERS", "subscribers"),
                ("BROAD", "broad"),
                ("QUEUED", "queued"),
            ];
            let text = listing(&answer, "subscriptions", &head, answer["more"] == true);
            (answer, text)
        }
        CtlCommand::Retained { command } => retained(&client, command)?,
        CtlCommand::Bans { command } => bans::run(&client, command)?,
        CtlCommand::Cluster { command } => cluster::run(&client, command)?,
        CtlCommand::Reload => {
            let answer = client.post("/v1/reload", &serde_json::json!({}))?;
            let head = [
                ("FILE", "file"),
                ("NAMES", "names"),
                ("NOT AFTER (UNIX S)", "not_after_unix_s"),
            ];
            let text =
                listing(&answer, "certificates", &head, false) + &access_text(&answer["access"]);
            (answer, text)
        }
    };
    let text = if ctl.json {
        format!("{answer:#}\n")
    } else {
        text
    };
    out.write_all(text.as_bytes())?;
    Ok(EXIT_DONE)
}

fn address_from(environment: &[(String, String)]) -> Result<SocketAddr, CommandError> {
    let set = environment
        .iter()
        .find(|(name, _)| name == "ROADSTEAD_ADDRESS")
        .map(|(_, value)| value.as_str());
    let text = set.unwrap_or(DEFAULT_ADDRESS);
    text.parse().map_err(|_| {
        CommandError::Usage(format!("ROADSTEAD_ADDRESS = \"{text}\": not an IP address and port; write e.g. {DEFAULT_ADDRESS}"))
    })
}

fn sessions(client: &Client, command: SessionsCommand) -> Result<(Value, String), CommandError> {
    match command {
        SessionsCommand::List { prefix, limit, all } => {
            let answer = if all {
                all_sessions(client, &prefix)?
            } else {
                page(client, &prefix, "", limit)?
            };
            let head = [
                ("CLIENT", "client_id"),
                ("USER", "user"),
                ("CONNECTED", "connected"),
                ("PEER", "peer"),
                ("HOME", "home_core"),
                ("DURABLE", "durable"),
                ("WAITING", "mailbox_messages"),
                ("BYTES", "mailbox_bytes"),
            ];
            let text = listing(&answer, "sessions", &head, !answer["next"].is_null());
            Ok((answer, text))
        }
        SessionsCommand::Show { id, user } => {
            let user = user.as_deref().map(|user| ("user", user));
            let path = format!("/v1/sessions/{}", segment(&id));
            let answer = client.get(&path, user.as_slice())?;
            let text = session_text(&answer);
            Ok((answer, text))
        }
        SessionsCommand::Kick { id, user, delete } => {
            let path = format!("/v1/sessions/{}", segment(&id));
            let mut query = vec![("delete", if delete { "true" } else { "false" })];
            query.extend(user.as_deref().map(|user| ("user", user)));
            let answer = client.delete(&path, &query)?;
            let done = if delete {
                "disconnected, its session deleted"
            } else {
                "disconnected"
            };
            Ok((answer, format!("{}: {done}\n", printable(&id))))
        }
    }
}

fn page(client: &Client, prefix: &str, after: &str, limit: usize) -> Result<Value, CommandError> {
    client.get(
        "/v1/sessions",
        &[
            ("prefix", prefix),
            ("after", after),
            ("limit", &limit.to_string()),
        ],
    )
}

fn all_sessions(client: &Client, prefix: &str) -> Result<Value, CommandError> {
    let mut rows = Vec::new();
    let mut after = String::new();
    loop {
        let mut answer = page(client, prefix, &after, PAGE)?;
        if let Value::Array(more) = answer["sessions"].take() {
            rows.extend(more);
        }
        match answer["next"].as_str() {
            Some(next) if next > after.as_str() => after = next.to_owned(),
            _ => return Ok(json!({ "sessions": rows, "next": null })),
        }
    }
}

fn publish_body(publish: Publish) -> Result<Value, CommandError> {
    let Publish {
        topic,
        payload,
        file,
        qos,
        retain,
    } = publish;
    let mut body = json!({ "topic": topic, "qos": qos, "retain": retain });
    match (payload, file) {
        (_, Some(path)) => body["payload_base64"] = BASE64.encode(read_payload(&path)?).into(),
        (payload, None) => body["payload"] = payload.unwrap_or_default().into(),
    }
    Ok(body)
}

fn read_payload(path: &Path) -> Result<Vec<u8>, CommandError> {
    let content = if path == Path::new("-") {
        let mut content = Vec::new();
        io::stdin()
            .lock()
            .read_to_end(&mut content)
            .map(|_| content)
    } else {
        std::fs::read(path)
    };
    content.map_err(|error| {
        CommandError::failed(
            format!("{}: {error}", path.display()),
            "name a file that can be read",
        )
    })
}

fn retained(client: &Client, command: RetainedCommand) -> Result<(Value, String), CommandError> {
    match command {
        RetainedCommand::List { filter, limit } => {
            let answer = client.get(
                "/v1/retained",
                &[("filter", &filter), ("limit", &limit.to_string())],
            )?;
            let head = [
                ("TOPIC", "topic"),
                ("QOS", "qos"),
                ("BYTES", "payload_bytes"),
                ("EXPIRES", "expires_at_unix_ms"),
            ];
            let text = listing(&answer, "retained", &head, answer["more"] == true);
            Ok((answer, text))
        }
        RetainedCommand::Clear { filter, yes } => {
            if !yes {
                confirm(&filter)?;
            }
            let answer = client.delete("/v1/retained", &[("filter", &filter)])?;
            let text = format!("cleared {} retained messages\n", plain(&answer["cleared"]));
            Ok((answer, text))
        }
    }
}

fn confirm(filter: &str) -> Result<(), CommandError> {
    if !io::stdin().is_terminal() {
        return Err(CommandError::Usage(
            "retained clear asks first; where nobody can answer, say --yes".into(),
        ));
    }
    eprint!(
        "Clear the retained messages of all topics that match {}? [y/N] ",
        printable(filter)
    );
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(CommandError::Failed {
        error: "nothing was cleared".into(),
        remedy: None,
    })
}

/// A table of the rows under `name`, and how to see more of them.
fn listing(answer: &Value, name: &str, columns: &[(&str, &str)], more: bool) -> String {
    let rows: Vec<_> = answer[name]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| columns.iter().map(|(_, field)| cell(row, field)).collect())
        .collect();
    if rows.is_empty() {
        return "none\n".into();
    }
    let head: Vec<_> = columns.iter().map(|(head, _)| *head).collect();
    let text = table(&head, &rows);
    if more {
        text + "… and more: narrow it down, or raise --limit\n"
    } else {
        text
    }
}

fn status_text(answer: &Value) -> String {
    let engine = &answer["engine"];
    let listeners = answer["listeners"].as_array().into_iter().flatten();
    let listeners: Vec<_> = listeners
        .map(|row| format!("{} {}", plain(&row["kind"]), plain(&row["address"])))
        .collect();
    let servers = engine["servers"].as_array().into_iter().flatten();
    let servers: Vec<_> = servers.map(plain).collect();
    let place = if servers.is_empty() {
        plain(&engine["path"])
    } else {
        format!("{} at {}", plain(&engine["kind"]), servers.join(", "))
    };
    let mut engine_text = format!(
        "{}, {place}, {}",
        plain(&engine["state"]),
        bytes(engine["disk_bytes"].as_u64().unwrap_or(0))
    );
    if let Some(error) = engine["error"].as_str() {
        engine_text = format!("{engine_text}: {error}");
    }
    let mut text = pairs(&[
        (
            "node",
            format!(
                "{}, version {}",
                plain(&answer["node"]),
                plain(&answer["version"])
            ),
        ),
        ("up", seconds(answer["uptime_s"].as_u64().unwrap_or(0))),
        ("ready", yes_no(&answer["ready"]).into()),
        (
            "I/O",
            format!(
                "{}, since {}",
                plain(&answer["backend"]["name"]),
                plain(&answer["backend"]["reason"])
            ),
        ),
        ("listeners", listeners.join(", ")),
        (
            "engine",
            format!("{engine_text}, durability {}", plain(&engine["durability"])),
        ),
    ]);
    text.push('\n');
    let columns = [
        ("CORE", "core"),
        ("CONNECTIONS", "connections"),
        ("CONNECTED", "sessions_connected"),
        ("SESSIONS", "sessions"),
        ("SUBSCRIPTIONS", "subscriptions"),
        ("RETAINED", "retained_messages"),
        ("RECEIVED", "publishes_received"),
        ("DELIVERED", "deliveries_delivered"),
        ("DROPPED", "deliveries_dropped"),
        ("QUEUED BYTES", "queued_bytes"),
    ];
    text.push_str(&listing(answer, "cores", &columns, false));
    for failure in answer["failures"].as_array().into_iter().flatten() {
        text.push_str(&format!("{}: its numbers are old\n", plain(failure)));
    }
    text
}

/// What a node says of its access side after a reload.
fn access_text(access: &Value) -> String {
    let methods = access["methods"].as_array().into_iter().flatten();
    let methods: Vec<_> = methods.map(plain).collect();
    let methods = if methods.is_empty() {
        "none".to_owned()
    } else {
        methods.join(", ")
    };
    pairs(&[
        ("methods", methods),
        ("users", plain(&access["users"])),
        ("rules", plain(&access["rules"])),
        ("token keys", plain(&access["token_keys"])),
        ("bans", plain(&access["bans"])),
    ])
}

fn session_text(answer: &Value) -> String {
    let on_core = |core: &Value| {
        if core.is_null() {
            "-".into()
        } else {
            format!("core {}", plain(core))
        }
    };
    pairs(&[
        ("client", plain(&answer["client_id"])),
        ("user", plain(&answer["user"])),
        ("connected", yes_no(&answer["connected"]).into()),
        ("peer", plain(&answer["peer"])),
        ("edge", on_core(&answer["edge_core"])),
        ("home", on_core(&answer["home_core"])),
        ("expiry", expiry(&answer["expiry_s"])),
        ("durable", yes_no(&answer["durable"]).into()),
        (
            "waiting",
            format!(
                "{} messages, {}",
                plain(&answer["mailbox_messages"]),
                bytes(answer["mailbox_bytes"].as_u64().unwrap_or(0))
            ),
        ),
        ("disconnected at", time(&answer["disconnected_at_unix_ms"])),
    ])
}

/// A session expiry interval; the largest one means never.
fn expiry(value: &Value) -> String {
    match value.as_u64() {
        Some(count) if count == u64::from(u32::MAX) => "never".into(),
        count => seconds(count.unwrap_or(0)),
    }
}

/// Milliseconds of Unix time as a date and time.
fn time(value: &Value) -> String {
    let seconds = value
        .as_i64()
        .map(|milliseconds| milliseconds.div_euclid(1_000));
    let date = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    date.and_then(|date| date.format(&Rfc3339).ok())
        .unwrap_or_else(|| plain(value))
}

/// A cell of a listing.
fn cell(row: &Value, field: &str) -> String {
    if field.ends_with("_unix_ms") {
        time(&row[field])
    } else {
        plain(&row[field])
    }
}

/// A value without the marks of JSON.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        Value::Bool(_) => yes_no(value).into(),
        other => other.to_string(),
    }
}

fn yes_no(value: &Value) -> &'static str {
    if *value == true { "yes" } else { "no" }
}
