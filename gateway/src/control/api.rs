//! The paths of the admin interface. Every failure is JSON: what went wrong and what to do.

mod access;
mod cluster;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use edge_proto::topic::TopicName;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::answer::{ApiError, filter, gather, query, rows};
use super::http::{Admin, guard};
use super::metrics::{CoreSample, exposition};
use super::status::{EngineReport, VERSION};
use crate::admin::{AdminReply, AdminRequest, Payload, SubscriptionInfo, page_length};

/// How old the last turn of a healthy core may be.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a scrape waits for a core; shorter than the time Prometheus gives a scrape.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(2);
const PATHS: &str = "the paths are /healthz, /readyz, /metrics, /v1/status, /v1/sessions, /v1/sessions/{id}, /v1/publish, \
                     /v1/subscriptions, /v1/retained, /v1/bans, /v1/reload and /v1/cluster";

type ApiResult = Result<Json<Value>, ApiError>;

const MONITORING_PATHS: &str =
    "the paths are /healthz, /readyz and /metrics; all others are at admin.address";

/// The paths that change nothing and name no client, behind the guard.
pub(super) fn monitoring(admin: &Arc<Admin>) -> Router {
    let unknown =
        || async { ApiError::new(StatusCode::NOT_FOUND, "no such path here", MONITORING_PATHS) };
    let method = || async {
        ApiError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "this path has no such method",
            MONITORING_PATHS,
        )
    };
    Router::new()
        .route("/healthz", get(health))
        .route("/readyz", get(readiness))
        .route("/metrics", get(metrics))
        .fallback(unknown)
        .method_not_allowed_fallback(method)
        .layer(axum::middleware::from_fn_with_state(
            Arc::clone(admin),
            guard,
        ))
        .with_state(Arc::clone(admin))
}

/// Every path, behind the guard.
pub(super) fn router(admin: &Arc<Admin>, body_bytes_max: usize) -> Router {
    let unknown = || async { ApiError::new(StatusCode::NOT_FOUND, "no such path", PATHS) };
    let method = || async {
        ApiError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "this path has no such method",
            PATHS,
        )
    };
    Router::new()
        .route("/healthz", get(health))
        .route("/readyz", get(readiness))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(node_status))
        .route("/v1/sessions", get(sessions))
        .route("/v1/sessions/{id}", get(session).delete(kick))
        .route("/v1/publish", post(publish))
        .route("/v1/subscriptions", get(subscriptions))
        .route("/v1/retained", get(retained).delete(clear_retained))
        .route(
            "/v1/bans",
            get(access::bans).post(access::ban).delete(access::lift),
        )
        .route("/v1/reload", post(access::reload))
        .route("/v1/cluster", get(cluster::status))
        .route("/v1/cluster/view", get(cluster::view))
        .route("/v1/cluster/partitions", get(cluster::partitions))
        .route("/v1/cluster/drain", post(cluster::drain))
        .route("/v1/cluster/rebalance", post(cluster::rebalance))
        .fallback(unknown)
        .method_not_allowed_fallback(method)
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .layer(axum::middleware::from_fn_with_state(
            Arc::clone(admin),
            guard,
        ))
        .with_state(Arc::clone(admin))
}

async fn health(State(admin): State<Arc<Admin>>) -> ApiResult {
    let (_, failures) = admin.samples(HEALTH_TIMEOUT).await;
    if failures.is_empty() {
        return Ok(Json(
            json!({ "healthy": true, "cores": admin.cores.count() }),
        ));
    }
    let stuck: Vec<_> = failures.iter().map(ToString::to_string).collect();
    let remedy = "if it stays so, restart the node: nothing stored is lost";
    Err(ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        stuck.join("; "),
        remedy,
    ))
}

/// The engine's failure does not make the node unready: taking it away from its clients would help nobody.
async fn readiness(State(admin): State<Arc<Admin>>) -> Response {
    let ready = admin.status.is_ready();
    let code = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let mut body = json!({ "ready": ready, "engine": engine_json(&admin.status.engine()) });
    if !ready {
        body["error"] = "the node is starting or stopping".into();
        body["remedy"] = "wait; the log says what it does".into();
    }
    (code, Json(body)).into_response()
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let (samples, _) = admin.samples(SCRAPE_TIMEOUT).await;
    match exposition(&samples, &admin.status) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            error.to_string(),
            "please report this",
        )
        .into_response(),
    }
}

async fn node_status(State(admin): State<Arc<Admin>>) -> ApiResult {
    let (samples, failures) = admin.samples(SCRAPE_TIMEOUT).await;
    let status = &admin.status;
    let mut engine = engine_json(&status.engine());
    engine["kind"] = status.store.kind.word().into();
    engine["path"] = status.store.path.as_str().into();
    engine["servers"] = status.store.servers.clone().into();
    engine["durability"] = status.store.durability.word().into();
    Ok(Json(json!({
        "node": status.node,
        "version": VERSION,
        "started_at_unix_ms": status.started_at_unix_ms,
        "uptime_s": status.uptime_s(),
        "ready": status.is_ready(),
        "backend": { "name": status.backend, "reason": status.backend_reason },
        "listeners": status.listeners,
        "admin": status.admin,
        "monitoring": status.monitoring,
        "engine": engine,
        "cores": samples.iter().enumerate().map(|(core, sample)| core_json(core, sample)).collect::<Vec<_>>(),
        "failures": failures.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })))
}

fn engine_json(engine: &EngineReport) -> Value {
    json!({
        "state": engine.state_word(),
        "error": engine.current_error(),
        "disk_bytes": engine.counters.disk_bytes,
        "commits": engine.counters.commits,
        "failures": engine.counters.failures,
    })
}

fn core_json(core: usize, sample: &CoreSample) -> Value {
    let CoreSample { snapshot, answered } = sample;
    json!({
        "core": core,
        "answered": answered,
        "connections": snapshot.connections,
        "sessions_connected": snapshot.sessions_connected,
        "sessions": snapshot.sessions,
        "sessions_offline": snapshot.sessions_offline,
        "subscriptions": snapshot.subscriptions,
        "retained_messages": snapshot.retained_messages,
        "queued_bytes": snapshot.queued_bytes,
        "publishes_received": snapshot.counters.publishes_received,
        "deliveries_delivered": snapshot.counters.deliveries_delivered,
        "deliveries_dropped": snapshot.dropped.iter().sum::<u64>(),
    })
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SessionsQuery {
    prefix: String,
    after: String,
    limit: Option<usize>,
}

async fn sessions(State(admin): State<Arc<Admin>>, uri: Uri) -> ApiResult {
    let SessionsQuery {
        prefix,
        after,
        limit,
    } = query(&uri)?;
    let limit = rows(limit)?;
    // One row more than asked for tells whether there are more.
    let request = AdminRequest::Sessions {
        prefix,
        after,
        limit: limit + 1,
    };
    let mut rows = gather(&admin.cores, request, |reply| match reply {
        AdminReply::Sessions(rows) => Some(rows),
        _ => None,
    })
    .await?;
    rows.sort_by(|a, b| (&a.client_id, &a.user).cmp(&(&b.client_id, &b.user)));
    let page = page_length(&rows, limit, |session| &session.client_id);
    let more = rows.len() > page;
    rows.truncate(page);
    let next = rows
        .last()
        .filter(|_| more)
        .map(|session| session.client_id.clone());
    Ok(Json(json!({ "sessions": rows, "next": next })))
}

fn no_session(client_id: &str) -> ApiError {
    let remedy = "client identifiers are case-sensitive; `roadstead ctl sessions list --prefix …` lists them";
    ApiError::new(
        StatusCode::NOT_FOUND,
        format!("no session \"{client_id}\""),
        remedy,
    )
}

fn session_id(path: Result<Path<String>, PathRejection>) -> Result<String, ApiError> {
    let remedy = "write the client identifier percent-encoded, as UTF-8";
    path.map(|Path(id)| id)
        .map_err(|error| ApiError::bad(error.body_text(), remedy))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SessionQuery {
    user: Option<String>,
}

async fn session(
    State(admin): State<Arc<Admin>>,
    path: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> ApiResult {
    let client_id = session_id(path)?;
    let SessionQuery { user } = query(&uri)?;
    let request = AdminRequest::Session {
        user,
        client_id: client_id.clone(),
    };
    let found = gather(&admin.cores, request, |reply| match reply {
        AdminReply::Session(sessions) => Some(sessions),
        _ => None,
    })
    .await?;
    match &found[..] {
        [] => Err(no_session(&client_id)),
        [session] => Ok(Json(json!(session))),
        sessions => Err(ApiError::new(
            StatusCode::CONFLICT,
            format!("{} users have a client \"{client_id}\"", sessions.len()),
            "say whose with ?user=…; `roadstead ctl sessions list` shows them",
        )),
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct KickQuery {
    user: Option<String>,
    delete: bool,
}

async fn kick(
    State(admin): State<Arc<Admin>>,
    path: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> ApiResult {
    let client_id = session_id(path)?;
    let KickQuery { user, delete } = query(&uri)?;
    let request = AdminRequest::Kick {
        user,
        client_id: client_id.clone(),
        delete,
    };
    let mut kicked = false;
    for reply in admin.cores.ask_all(request).await? {
        match reply {
            AdminReply::Kicked(found) => kicked |= found,
            _ => return Err(ApiError::mismatch()),
        }
    }
    if kicked {
        Ok(Json(json!({ "kicked": client_id, "deleted": delete })))
    } else {
        Err(no_session(&client_id))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishBody {
    topic: String,
    payload: Option<String>,
    payload_base64: Option<String>,
    #[serde(default)]
    qos: u8,
    #[serde(default)]
    retain: bool,
}

impl PublishBody {
    const EXAMPLE: &str = r#"send {"topic": "a/b", "payload": "text", "qos": 1, "retain": false}, or "payload_base64" for bytes"#;

    fn request(self) -> Result<AdminRequest, ApiError> {
        TopicName::parse(&self.topic).map_err(|error| {
            ApiError::bad(
                format!("\"{}\" is not a topic name: {error}", self.topic),
                "name a topic without + and #",
            )
        })?;
        if self.qos > 2 {
            return Err(ApiError::bad(
                format!("qos {} does not exist", self.qos),
                "write 0, 1 or 2",
            ));
        }
        let payload = match (self.payload, self.payload_base64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(text)) => BASE64.decode(text).map_err(|error| {
                ApiError::bad(
                    format!("payload_base64 is not base64: {error}"),
                    Self::EXAMPLE,
                )
            })?,
            (None, None) => Vec::new(),
            (Some(_), Some(_)) => return Err(ApiError::bad("two payloads", Self::EXAMPLE)),
        };
        Ok(AdminRequest::Publish {
            topic: self.topic,
            payload: Payload(payload),
            qos: self.qos,
            retain: self.retain,
        })
    }
}

/// Reads a body of JSON.
fn json_body<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
    what: &str,
    example: &str,
) -> Result<T, ApiError> {
    // A form of a web page cannot send this type without asking first, and the answer would be no.
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if content_type
        .split(';')
        .next()
        .is_none_or(|kind| !kind.trim().eq_ignore_ascii_case("application/json"))
    {
        let remedy = "send JSON with Content-Type: application/json";
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body is not declared as JSON",
            remedy,
        ));
    }
    let body = body.map_err(|rejection| {
        let remedy = "send a smaller body, or raise admin.body_bytes_max";
        ApiError::new(rejection.status(), rejection.body_text(), remedy)
    })?;
    serde_json::from_slice(&body)
        .map_err(|error| ApiError::bad(format!("the body is not {what}: {error}"), example))
}

async fn publish(
    State(admin): State<Arc<Admin>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> ApiResult {
    let body: PublishBody = json_body(&headers, body, "a publish", PublishBody::EXAMPLE)?;
    match admin.cores.ask(0, body.request()?).await? {
        AdminReply::Published(Ok(recipients)) => Ok(Json(json!({ "recipients": recipients }))),
        AdminReply::Published(Err(reason)) => {
            let remedy = "see `roadstead ctl status` for the engine and the bounds of the node";
            Err(ApiError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                format!("the publish was refused: {reason}"),
                remedy,
            ))
        }
        _ => Err(ApiError::mismatch()),
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SubscriptionsQuery {
    prefix: String,
    limit: Option<usize>,
}

async fn subscriptions(State(admin): State<Arc<Admin>>, uri: Uri) -> ApiResult {
    let SubscriptionsQuery { prefix, limit } = query(&uri)?;
    let limit = rows(limit)?;
    let request = AdminRequest::Subscriptions {
        prefix,
        limit: limit + 1,
    };
    let found = gather(&admin.cores, request, |reply| match reply {
        AdminReply::Subscriptions(rows) => Some(rows),
        _ => None,
    })
    .await?;
    // A broad filter is on every core with all of its subscribers and a queue for each core, a rooted one on its owner alone.
    let mut merged = BTreeMap::<String, SubscriptionInfo>::new();
    for row in found {
        merged
            .entry(row.filter.clone())
            .and_modify(|known| {
                known.subscribers = known.subscribers.max(row.subscribers);
                known.queued += row.queued;
            })
            .or_insert(row);
    }
    let more = merged.len() > limit;
    let rows: Vec<_> = merged.into_values().take(limit).collect();
    Ok(Json(json!({ "subscriptions": rows, "more": more })))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RetainedQuery {
    filter: Option<String>,
    limit: Option<usize>,
}

async fn retained(State(admin): State<Arc<Admin>>, uri: Uri) -> ApiResult {
    let RetainedQuery {
        filter: text,
        limit,
    } = query(&uri)?;
    let limit = rows(limit)?;
    let request = AdminRequest::Retained {
        filter: filter(text.unwrap_or_else(|| "#".into()))?,
        limit: limit + 1,
    };
    let mut rows = gather(&admin.cores, request, |reply| match reply {
        AdminReply::Retained(rows) => Some(rows),
        _ => None,
    })
    .await?;
    rows.sort_by(|a, b| a.topic.cmp(&b.topic));
    let more = rows.len() > limit;
    rows.truncate(limit);
    Ok(Json(json!({ "retained": rows, "more": more })))
}

async fn clear_retained(State(admin): State<Arc<Admin>>, uri: Uri) -> ApiResult {
    let RetainedQuery {
        filter: text,
        limit: _,
    } = query(&uri)?;
    let Some(text) = text else {
        return Err(ApiError::bad(
            "no filter",
            "say which with ?filter=…; %23 (that is #) clears all",
        ));
    };
    let request = AdminRequest::ClearRetained {
        filter: filter(text)?,
    };
    let mut cleared = 0;
    for reply in admin.cores.ask_all(request).await? {
        match reply {
            AdminReply::Cleared(Ok(count)) => cleared += count,
            AdminReply::Cleared(Err(reason)) => {
                let error = format!("cleared {cleared}, then: {reason}");
                return Err(ApiError::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    error,
                    "try again; it clears what is left",
                ));
            }
            _ => return Err(ApiError::mismatch()),
        }
    }
    Ok(Json(json!({ "cleared": cleared })))
}
