//! What an operator may do about who connects: read the files again, ban, lift a ban.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Json;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ApiResult, json_body};
use crate::access::bans::{Subject, Term};
use crate::control::access::{BanFailure, BanKind, BanRecord};
use crate::control::answer::{ApiError, query, rows};
use crate::control::http::Admin;

/// Reads the files of the TLS listeners and those of access again; answers with what is in use from then on.
pub(super) async fn reload(State(admin): State<Arc<Admin>>) -> ApiResult {
    let (certificates, access) = (&admin.status.certificates, &admin.status.access);
    // Both are tried, so that a mistake in one does not hold the other back.
    let certificates_read = certificates.reload(&admin.cores).await;
    let access_read = access.reload(&admin.cores).await;
    let errors = [
        certificates_read.err().map(|error| error.to_string()),
        access_read.err().map(|error| error.to_string()),
    ];
    let errors: Vec<String> = errors.into_iter().flatten().collect();
    if !errors.is_empty() {
        let remedy =
            "mend the file and reload again; open connections and new ones go on as before";
        return Err(ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            errors.join("; "),
            remedy,
        ));
    }
    let certificates: Vec<Value> = certificates
        .current()
        .iter()
        .map(|certificate| {
            json!({
                "file": certificate.file,
                "names": certificate.names,
                "not_after_unix_s": certificate.not_after_unix_s,
            })
        })
        .collect();
    let report = access.report();
    Ok(Json(json!({
        "certificates": certificates,
        "access": {
            "generation": report.generation,
            "methods": report.methods,
            "users": report.users,
            "rules": report.rules,
            "token_keys": report.token_keys,
            "bans": report.bans,
        },
    })))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct BansQuery {
    limit: Option<usize>,
}

pub(super) async fn bans(State(admin): State<Arc<Admin>>, uri: Uri) -> ApiResult {
    let BansQuery { limit } = query(&uri)?;
    let limit = rows(limit)?;
    let mut bans = admin.status.access.bans();
    let more = bans.len() > limit;
    bans.truncate(limit);
    Ok(Json(json!({ "bans": bans, "more": more })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BanBody {
    kind: BanKind,
    name: String,
    for_s: Option<u64>,
    #[serde(default)]
    reason: String,
}

const BAN_EXAMPLE: &str = r#"send {"kind": "client", "user" or "network", "name": "192.0.2.0/24", "for_s": 3600, "reason": "spam"}; without "for_s" it holds until it is lifted"#;

pub(super) async fn ban(
    State(admin): State<Arc<Admin>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> ApiResult {
    let body: BanBody = json_body(&headers, body, "a ban", BAN_EXAMPLE)?;
    let subject = subject(body.kind, &body.name)?;
    let access = &admin.status.access;
    let end = |seconds: u64| {
        let now_unix_ms = access.now_unix_ms();
        now_unix_ms.saturating_add(seconds.saturating_mul(1_000))
    };
    let term = Term {
        until_unix_ms: body.for_s.map(end),
        reason: body.reason.into(),
    };
    let record = BanRecord::of(&subject, &term);
    access
        .ban(&admin.cores, subject, term)
        .await
        .map_err(failed)?;
    Ok(Json(json!({ "banned": record })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LiftQuery {
    kind: BanKind,
    name: String,
}

pub(super) async fn lift(State(admin): State<Arc<Admin>>, uri: Uri) -> ApiResult {
    let LiftQuery { kind, name } = query(&uri)?;
    let subject = subject(kind, &name)?;
    let lifted = admin.status.access.lift(&admin.cores, &subject).await;
    if !lifted.map_err(failed)? {
        let error = format!("no ban of {subject}");
        let remedy = "names are case-sensitive, and a network is written as it was banned; `roadstead ctl bans list` lists them";
        return Err(ApiError::new(StatusCode::NOT_FOUND, error, remedy));
    }
    Ok(Json(json!({ "lifted": { "kind": kind, "name": name } })))
}

fn subject(kind: BanKind, name: &str) -> Result<Subject, ApiError> {
    kind.subject(name)
        .map_err(|error| ApiError::bad(error, BAN_EXAMPLE))
}

fn failed(failure: BanFailure) -> ApiError {
    let (status, remedy) = match &failure {
        BanFailure::Ban(_) => (StatusCode::UNPROCESSABLE_ENTITY, BAN_EXAMPLE),
        BanFailure::Unstored(_) => (
            StatusCode::INSUFFICIENT_STORAGE,
            "see that engine.path has space and can be written to, then do the same again",
        ),
        BanFailure::Undelivered(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the node goes on trying; see /healthz for all cores",
        ),
    };
    ApiError::new(status, failure.to_string(), remedy)
}
