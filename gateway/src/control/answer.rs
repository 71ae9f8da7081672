//! What the handlers of the admin interface share: failures that say what to do, parameters, and the rows of all cores.

use axum::extract::Query;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Json, Response};
use edge_proto::topic::TopicFilter;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{AskError, Cores};
use crate::admin::{AdminReply, AdminRequest};

/// Rows of a listing when the request names no limit, and at most.
const ROWS: usize = 100;
const ROWS_MAX: usize = 1_000;

/// A failure as the asker sees it.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    error: String,
    remedy: String,
}

impl ApiError {
    pub(super) fn new(
        status: StatusCode,
        error: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            status,
            error: error.into(),
            remedy: remedy.into(),
        }
    }

    pub(super) fn bad(error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, remedy)
    }

    /// A reply of another kind than the request: a bug of the node, which the asker cannot mend.
    pub(super) fn mismatch() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "a core gave an answer of the wrong kind",
            "please report this",
        )
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (
            self.status,
            Json(json!({ "error": self.error, "remedy": self.remedy })),
        )
            .into_response()
    }
}

impl From<AskError> for ApiError {
    fn from(error: AskError) -> Self {
        let remedy = "see /healthz for all cores; try again, and if it stays so, restart the node: nothing stored is lost";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string(), remedy)
    }
}

/// The rows of all cores together.
pub(super) async fn gather<T>(
    cores: &Cores,
    request: AdminRequest,
    rows_of: impl Fn(AdminReply) -> Option<Vec<T>>,
) -> Result<Vec<T>, ApiError> {
    let mut all = Vec::new();
    for reply in cores.ask_all(request).await? {
        all.extend(rows_of(reply).ok_or_else(ApiError::mismatch)?);
    }
    Ok(all)
}

pub(super) fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    let parsed = Query::try_from_uri(uri).map(|Query(parsed)| parsed);
    parsed.map_err(|error| {
        ApiError::bad(
            error.body_text(),
            "docs/OPERATIONS.md lists the parameters of each path",
        )
    })
}

pub(super) fn rows(limit: Option<usize>) -> Result<usize, ApiError> {
    match limit.unwrap_or(ROWS) {
        limit @ 1..=ROWS_MAX => Ok(limit),
        limit => Err(ApiError::bad(
            format!("limit {limit} is out of range"),
            format!("write 1 to {ROWS_MAX}, and page"),
        )),
    }
}

pub(super) fn filter(text: String) -> Result<String, ApiError> {
    match TopicFilter::parse(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(ApiError::bad(
            format!("\"{text}\" is not a topic filter: {error}"),
            "write e.g. sensors/# or +/state",
        )),
    }
}
