//! Errors as RFC 9457 has them.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use super::wire::{Code, Problem, Settled, Word};
use crate::manager::crew::ManagerError;
use crate::manager::handle::NotAsked;
use crate::manager::pattern::NoMatch;
use crate::model::chain;

/// An HTTP status in words.
pub(super) fn reason(status: u16) -> &'static str {
    StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error")
}

impl Problem {
    /// An error with what to say about it.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self::with_status(code.status(), code, detail.into())
    }

    fn with_status(status: u16, code: Code, detail: String) -> Self {
        Self { title: reason(status).to_owned(), status, code, detail, results: Vec::new(), problems: Vec::new() }
    }

    /// What `results` have failed in, if any of them has: in one way, or in several. The HTTP status is that of all of
    /// them, where it is one: conflicts of several kinds are no fault of the server.
    #[must_use]
    pub fn of(results: &[Settled]) -> Option<Self> {
        let failed: Vec<&Settled> = results.iter().filter(|settled| settled.outcome == Word::Failed).collect();
        let (first, others) = failed.split_first()?;
        let code_of = |settled: &Settled| settled.code.unwrap_or(Code::Failed);
        let one = code_of(first);
        let code = if others.iter().all(|s| code_of(s) == one) { one } else { Code::Failed };
        let alike = others.iter().all(|s| code_of(s).status() == one.status());
        let status = if alike { one } else { Code::Failed }.status();
        let detail = format!("worker {}: {}", first.worker, first.error.as_deref().unwrap_or("it failed"));
        let detail = match others.len() {
            0 => detail,
            n => format!("{detail}; and {n} more of {} have failed", results.len()),
        };
        Some(Self { results: results.to_vec(), ..Self::with_status(status, code, detail) })
    }
}

impl From<NoMatch> for Problem {
    fn from(error: NoMatch) -> Self {
        let code = match error {
            NoMatch::NotFound { .. } => Code::NotFound,
            NoMatch::TooMany { .. } => Code::BadRequest,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ManagerError> for Problem {
    fn from(error: ManagerError) -> Self {
        let code = match &error {
            ManagerError::NoMatch(_) | ManagerError::Gone { .. } => Code::NotFound,
            ManagerError::GoingDown => Code::GoingDown,
            ManagerError::Taken { .. } | ManagerError::Differs { .. } | ManagerError::Running { .. } => Code::Taken,
            ManagerError::NotScalable { .. } | ManagerError::Count { .. } | ManagerError::Name { .. } => {
                Code::BadRequest
            }
            ManagerError::Refused { why, .. } => Code::of(why),
            ManagerError::Fixed | ManagerError::NotRemembered { .. } => Code::Failed,
        };
        Self::new(code, chain(&error))
    }
}

impl From<NotAsked> for Problem {
    fn from(error: NotAsked) -> Self {
        match error {
            NotAsked::NoMatch(error) => error.into(),
            NotAsked::GoingDown => Self::new(Code::GoingDown, error.to_string()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self)).into_response();
        let media_type = header::HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, media_type);
        response
    }
}
