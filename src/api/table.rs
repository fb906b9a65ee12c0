//! Every route, in one table: what is under which path, who may, what it takes, gives and refuses. The router, the document at
//! `/openapi.json` and the tests are made from it; there is no other list.

use axum::{
    Router,
    handler::Handler,
    http::Method,
    middleware,
    routing::{MethodFilter, MethodRouter, on},
};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::events::{self, events};
use super::guard::{Guard, guard};
use super::list::{self, list, one};
use super::logs::{self, logs};
use super::metrics::metrics;
use super::openapi::document;
use super::peer::Role;
use super::reexec::reexec;
use super::register::{Settling, deregister, register};
use super::routes::{self as at, Api};
use super::shutdown::shutdown;
use super::wire::{
    Ask, Code, Declaration, EventLine, Health, History, Inspection, Instances, LogLine, Plan, Reexec, Reloaded,
    Results, SetLimits, Shutdown, Why,
};
use super::wire::{Worker, Workers};

/// Writes down the shape of a type.
pub(super) type Shape = fn(&mut SchemaGenerator) -> Schema;

/// What asking workers for something can fail in.
const ASKED: &[Code] =
    &[Code::NotFound, Code::NotRunning, Code::NotNow, Code::Superseded, Code::Unkillable, Code::TimedOut, Code::Failed];

/// What asking workers for something that starts them can fail in, beside that.
const STARTED: &[Code] = &[Code::BreakerOpen, Code::StartFailed, Code::Ended, Code::GoingDown];

/// What changing what is configured can fail in.
const GOVERNED: &[Code] = &[Code::BadConfig, Code::Busy, Code::Taken, Code::NotNow, Code::GoingDown, Code::Failed];

/// What there is, in the order in which it is described.
pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/v1/workers", list, "Workers as they are now")
            .query::<list::List>()
            .gives::<Workers>()
            .may(&[Code::NotFound, Code::TooManyConnections]),
        post("/v1/workers", register, "Have one more worker, which no file declares")
            .only(Role::Admin)
            .query::<Settling>()
            .takes::<Declaration>()
            .needs(&["id"])
            .creates::<Workers>()
            .may(GOVERNED),
        get("/v1/workers/{name}", one, "One worker as it is now")
            .query::<list::One>()
            .gives::<Worker>()
            .may(&[Code::NotFound, Code::TooManyConnections]),
        delete("/v1/workers/{name}", deregister, "Stop a worker that was registered, and have it no longer")
            .only(Role::Admin)
            .query::<Settling>()
            .gives::<Results>()
            .may(ASKED)
            .may(&[Code::Declared]),
        get("/v1/workers/{name}/why", at::why, "Why a worker ended last, and what was decided")
            .gives::<Why>()
            .may(&[Code::NotFound]),
        get(
            "/v1/workers/{name}/inspect",
            at::inspect,
            "Every setting of a worker: what is written, what holds, and where it is from",
        )
        .gives::<Inspection>()
        .may(&[Code::NotFound, Code::GoingDown, Code::Failed]),
        get("/v1/workers/{name}/logs", logs, "What a worker wrote: as it was written, or line by line (`format=json`)")
            .query::<logs::Asked>()
            .streams(&[("application/octet-stream", None), ("application/x-ndjson", Some(shape::<LogLine>))])
            .may(&[Code::NotFound, Code::NoSuchRun, Code::Failed]),
        verb("/v1/workers/{pattern}/start", at::start, "Start workers").may(STARTED),
        verb("/v1/workers/{pattern}/stop", at::stop, "Stop workers"),
        verb("/v1/workers/{pattern}/restart", at::restart, "Give workers a new run").lacks(&["signal"]).may(STARTED),
        verb("/v1/workers/{pattern}/kill", at::kill, "End workers at once"),
        verb("/v1/workers/{pattern}/signal", at::signal, "Send a signal to main processes")
            .lacks(&["force"])
            .needs(&["signal"]),
        verb("/v1/workers/{pattern}/reset", at::reset, "Close restart breakers").may(STARTED),
        verb("/v1/workers/{pattern}/freeze", at::freeze, "Have every process of workers stand still"),
        verb("/v1/workers/{pattern}/thaw", at::thaw, "Have frozen workers go on"),
        put("/v1/workers/{name}/instances", at::scale, "Make it so many instances")
            .takes::<Instances>()
            .gives::<Results>()
            .may(ASKED)
            .may(STARTED)
            .may(GOVERNED),
        patch("/v1/workers/{name}/limits", at::set_limits, "Change the limits of a worker that runs")
            .takes::<SetLimits>()
            .gives::<Results>()
            .may(ASKED)
            .may(GOVERNED)
            .may(&[Code::LimitRefused]),
        get(
            "/v1/events",
            events,
            "What has happened, and what happens: server-sent events, or lines of JSON where they are asked for",
        )
        .query::<events::Known>()
        .header(
            "Last-Event-ID",
            "The `id` of the last server-sent event: the stream goes on behind it, whatever the query says.",
        )
        .streams(&[("text/event-stream", None), ("application/x-ndjson", Some(shape::<EventLine>))])
        .may(&[Code::NotFound]),
        get("/v1/history", at::history, "The runs of a worker that are remembered")
            .query::<at::Past>()
            .gives::<History>()
            .may(&[Code::NotFound, Code::Failed]),
        post("/v1/plan", at::plan, "What a reload would do").takes::<at::Nothing>().gives::<Plan>().may(GOVERNED),
        post("/v1/reload", at::reload, "Read the configuration anew, and bring everything in line with it")
            .takes::<at::Nothing>()
            .gives::<Reloaded>()
            .may(GOVERNED),
        post("/v1/reexec", reexec, "Replace the binary by the one in its place")
            .only(Role::Admin)
            .takes::<at::Nothing>()
            .gives::<Reexec>()
            .may(&[Code::NotNow, Code::GoingDown]),
        post("/v1/shutdown", shutdown, "Stop every worker, then end the supervisor")
            .only(Role::Admin)
            .takes::<Shutdown>()
            .gives::<Results>()
            .may(ASKED)
            .may(&[Code::GoingDown]),
        get("/v1/health", at::health, "How pinfold itself does").gives::<Health>(),
        get(
            "/metrics",
            metrics,
            "What a monitoring system reads: the text format of Prometheus, or OpenMetrics where it is asked for",
        )
        .streams(&[("text/plain", None), ("application/openmetrics-text", None)])
        .may(&[Code::TooManyConnections]),
        get("/openapi.json", document, "This document").streams(&[("application/json", None)]),
    ]
}

/// One of them.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) says: &'static str,
    /// Who may: an operator's route is an admin's, too.
    pub(super) role: Role,
    pub(super) query: Option<Shape>,
    pub(super) headers: Vec<(&'static str, &'static str)>,
    pub(super) body: Option<Shape>,
    /// What of the body's shape is not for this route.
    pub(super) lacks: &'static [&'static str],
    /// What of it must be there.
    pub(super) needs: &'static [&'static str],
    /// Whether it answers that something was made, and where it is.
    pub(super) creates: bool,
    /// What it answers: a media type, and the shape of the whole, or of each of a stream's lines.
    pub(super) answers: Vec<(&'static str, Option<Shape>)>,
    /// What it may answer instead, beside what every route may.
    pub(super) codes: Vec<Code>,
    service: MethodRouter<Api>,
}

fn get<H: Handler<T, Api>, T: 'static>(path: &'static str, handler: H, says: &'static str) -> Route {
    Route::new(Method::GET, MethodFilter::GET, path, handler, says)
}

fn post<H: Handler<T, Api>, T: 'static>(path: &'static str, handler: H, says: &'static str) -> Route {
    Route::new(Method::POST, MethodFilter::POST, path, handler, says)
}

/// What is asked of workers.
fn verb<H: Handler<T, Api>, T: 'static>(path: &'static str, handler: H, says: &'static str) -> Route {
    post(path, handler, says).takes::<Ask>().lacks(&["force", "signal"]).gives::<Results>().may(ASKED)
}

fn put<H: Handler<T, Api>, T: 'static>(path: &'static str, handler: H, says: &'static str) -> Route {
    Route::new(Method::PUT, MethodFilter::PUT, path, handler, says)
}

fn patch<H: Handler<T, Api>, T: 'static>(path: &'static str, handler: H, says: &'static str) -> Route {
    Route::new(Method::PATCH, MethodFilter::PATCH, path, handler, says)
}

fn delete<H: Handler<T, Api>, T: 'static>(path: &'static str, handler: H, says: &'static str) -> Route {
    Route::new(Method::DELETE, MethodFilter::DELETE, path, handler, says)
}

fn shape<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Schema {
    schemas.subschema_for::<T>()
}

impl Route {
    fn new<H: Handler<T, Api>, T: 'static>(
        method: Method,
        filter: MethodFilter,
        path: &'static str,
        handler: H,
        says: &'static str,
    ) -> Self {
        let (query, headers, body, answers, codes) = (None, Vec::new(), None, Vec::new(), Vec::new());
        let (lacks, needs): (&[_], &[_]) = (&[], &[]);
        let service = on(filter, handler);
        let (role, creates) = (Role::Operator, false);
        Self { method, path, says, role, query, headers, body, lacks, needs, creates, answers, codes, service }
    }

    const fn only(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    fn query<T: JsonSchema>(mut self) -> Self {
        // Not a reference: its properties become parameters.
        self.query = Some(|schemas| T::json_schema(schemas));
        self
    }

    fn header(mut self, name: &'static str, says: &'static str) -> Self {
        self.headers.push((name, says));
        self
    }

    fn takes<T: JsonSchema>(mut self) -> Self {
        self.body = Some(shape::<T>);
        self
    }

    const fn lacks(mut self, keys: &'static [&'static str]) -> Self {
        self.lacks = keys;
        self
    }

    const fn needs(mut self, keys: &'static [&'static str]) -> Self {
        self.needs = keys;
        self
    }

    fn gives<T: JsonSchema>(mut self) -> Self {
        self.answers.push(("application/json", Some(shape::<T>)));
        self
    }

    fn creates<T: JsonSchema>(self) -> Self {
        Self { creates: true, ..self.gives::<T>() }
    }

    fn streams(mut self, kinds: &[(&'static str, Option<Shape>)]) -> Self {
        self.answers.extend_from_slice(kinds);
        self
    }

    fn may(mut self, codes: &[Code]) -> Self {
        self.codes.extend_from_slice(codes);
        self
    }

    /// Whether it changes something: whoever asks for it again by the same key is answered, and nothing is done again.
    pub(super) fn is_mutation(&self) -> bool {
        self.method != Method::GET
    }
}

/// The router of `api`.
pub(super) fn router(api: &Api) -> Router<Api> {
    routes().into_iter().fold(Router::new(), |router, route| {
        let rule = Guard { role: route.role, once: route.is_mutation(), api: api.clone() };
        router.route(route.path, route.service.route_layer(middleware::from_fn_with_state(rule, guard)))
    })
}
