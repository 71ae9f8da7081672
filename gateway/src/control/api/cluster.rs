//! What an operator may ask of the cluster, and have this node do in it.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Json;
use serde::Deserialize;
use serde_json::json;

use super::{ApiResult, json_body};
use crate::control::answer::ApiError;
use crate::control::cluster::status::ClusterStatus;
use crate::control::http::Admin;

fn cluster_of(admin: &Admin) -> Result<&Arc<ClusterStatus>, ApiError> {
    admin.status.cluster.as_ref().ok_or_else(|| {
        ApiError::new(
            StatusCode::NOT_FOUND,
            "this node is alone",
            "a node is in a cluster when cluster.name is set",
        )
    })
}

/// This node in its cluster.
pub(super) async fn status(State(admin): State<Arc<Admin>>) -> ApiResult {
    Ok(Json(json!(cluster_of(&admin)?.report())))
}

/// The view that holds.
pub(super) async fn view(State(admin): State<Arc<Admin>>) -> ApiResult {
    Ok(Json(json!(cluster_of(&admin)?.view())))
}

/// Who owns which partitions.
pub(super) async fn partitions(State(admin): State<Arc<Admin>>) -> ApiResult {
    let cores = cluster_of(&admin)?.partitions();
    Ok(Json(json!({ "cores": cores })))
}

/// Has this node leave; answers at once.
pub(super) async fn drain(State(admin): State<Arc<Admin>>) -> ApiResult {
    let cluster = cluster_of(&admin)?;
    if !cluster.drain() {
        return Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the node is busy or stopping",
            "look at /v1/cluster, and try again",
        ));
    }
    Ok(Json(json!({ "draining": true })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Share {
    node: String,
    weight: u32,
}

/// Gives a member another share of the partitions.
pub(super) async fn rebalance(
    State(admin): State<Arc<Admin>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> ApiResult {
    let Share { node, weight } = json_body(
        &headers,
        body,
        "a share of a member",
        r#"{"node": "00000000000000a1", "weight": 4}"#,
    )?;
    let cluster = cluster_of(&admin)?;
    let set = cluster.set_weight(&node, weight);
    set.map_err(|error| {
        ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            error,
            "see `roadstead ctl cluster view`",
        )
    })?;
    Ok(Json(json!({ "node": node, "weight": weight })))
}
