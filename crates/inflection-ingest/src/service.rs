//! Routes, and the way of one request.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, Response};
use bytes::Bytes;
use futures_util::future::join_all;
use inflection_bus::Bus;
use inflection_control::Workspace;
use inflection_domain::{Fact, InstallationKey, PartitionCount, WorkspaceId};
use inflection_telemetry::TraceContext;
use inflection_wire::{EventChunk, encode_traced_event};
use tokio::time::timeout;

use crate::aliases::Aliases;
use crate::answer::{Code, Refusal, json_answer};
use crate::answers::Answers;
use crate::fact::Context;
use crate::framing::Ambiguity;
use crate::limits::{Limit, Over, Sender};
use crate::metrics::IngestMetrics;
use crate::priority::Priority;
use crate::rejected::Rejected;
use crate::room::{NoRoom, Room};
use crate::segment::Endpoint;
use crate::senders::Senders;
use crate::trace::RequestTrace;
use crate::webhooks::{Amazon, SignatureClock, Tokens};
use crate::writer::{CHUNK_BYTES, InHand, Writers, now};
use crate::{auth, body, events, request};

/// Bytes of bodies in hand at once, over all requests: what the memory of this stage is bounded by.
const BODY_BYTES_IN_HAND_MAX: usize = 64 * 1024 * 1024;
/// The same for requests in the background: compressed ones of three workspaces at once. A compressed one takes what it may unpack
/// to, 8 MiB.
const BACKGROUND_BYTES_IN_HAND_MAX: usize = BODY_BYTES_IN_HAND_MAX / 2;
/// The same for providers' webhooks.
pub(crate) const WEBHOOK_BYTES_IN_HAND_MAX: usize = 32 * 1024 * 1024;
/// Bytes of a usual fact when it is encoded, rather more than less: to guess how much memory a request's facts take.
const USUAL_FACT_BYTES: usize = 640;
/// How long a request waits for its facts to be stored. An append has its own time, shorter than this or equal; but a fact may
/// wait behind another one's. Most senders wait 10 seconds for an answer.
pub(crate) const STORE_WAIT: Duration = Duration::from_secs(9);
/// Seconds after which a sender may try again when we are full or the bus is away.
const RETRY_SECONDS: u64 = 2;

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) bus: Bus,
    senders: RwLock<Arc<Senders>>,
    pub(crate) installation: InstallationKey,
    pub(crate) metrics: IngestMetrics,
    pub(crate) answers: Answers,
    pub(crate) rejected: Rejected,
    partitions: PartitionCount,
    writers: Writers,
    aliases: Aliases,
    in_hand: Arc<Room>,
    webhooks_in_hand: Arc<Room>,
    background_in_hand: Arc<Room>,
    /// Facts of live requests that wait to be stored.
    live_facts_waiting: AtomicUsize,
    pub(crate) signature_clock: SignatureClock,
    /// Tokens that have vouched for a webhook's content.
    pub(crate) tokens: Tokens,
    pub(crate) amazon: Amazon,
    /// The clock of rates begins here.
    started: Instant,
    pub(crate) draining: AtomicBool,
    request_ids: AtomicU64,
    request_seed: u64,
}

impl Service {
    pub(crate) fn new(
        bus: Bus,
        workspaces: &[Workspace],
        installation: InstallationKey,
        partitions: PartitionCount,
        writers: Writers,
        metrics: IngestMetrics,
    ) -> Self {
        use std::hash::{BuildHasher as _, RandomState};
        let started = Instant::now();
        Self {
            aliases: Aliases::new(bus.clone(), metrics.clone()),
            bus,
            senders: RwLock::new(Arc::new(Senders::of(workspaces, None, started.elapsed()))),
            installation,
            answers: Answers::new(metrics.requests.clone()),
            metrics,
            rejected: Rejected::default(),
            partitions,
            writers,
            started,
            in_hand: Room::new(BODY_BYTES_IN_HAND_MAX),
            webhooks_in_hand: Room::new(WEBHOOK_BYTES_IN_HAND_MAX),
            background_in_hand: Room::new(BACKGROUND_BYTES_IN_HAND_MAX),
            live_facts_waiting: AtomicUsize::new(0),
            signature_clock: SignatureClock::default(),
            tokens: Tokens::default(),
            amazon: Amazon::default(),
            draining: AtomicBool::new(false),
            request_ids: AtomicU64::new(0),
            request_seed: RandomState::new().hash_one("request ids"),
        }
    }

    /// Who may send now. A request keeps to what it began with.
    pub(crate) fn senders(&self) -> Arc<Senders> {
        Arc::clone(&self.senders.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over a changed configuration.
    pub(crate) fn configure(&self, workspaces: &[Workspace]) {
        let senders = Senders::of(workspaces, Some(&self.senders()), self.started.elapsed());
        *self.senders.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(senders);
    }

    fn request_id(&self) -> String {
        format!("req_{:016x}", self.request_seed.wrapping_add(self.request_ids.fetch_add(1, Ordering::Relaxed)))
    }

    /// Answers one request.
    pub(crate) async fn call(&self, request: Request<Body>, ambiguity: Option<Ambiguity>) -> Response<Body> {
        let mut trace = RequestTrace::begin(&self.metrics.tracer, &request);
        let response = self.answer(request, ambiguity, &mut trace).await;
        trace.end(response.status());
        response
    }

    async fn answer(
        &self,
        request: Request<Body>,
        ambiguity: Option<Ambiguity>,
        trace: &mut RequestTrace,
    ) -> Response<Body> {
        let id = self.request_id();
        let path = request.uri().path().to_owned();
        // Each door's callers read its own shape.
        let refuse = |refusal: Refusal| match Endpoint::of(&path) {
            Some(_) => self.refuse_calls(&refusal, &id),
            None if path.starts_with("/v1/webhooks/") => self.refuse_webhook(&refusal, &id),
            None => self.refuse(&refusal, &id),
        };
        if let Err(refusal) = request::check_head(request.headers(), ambiguity) {
            return refuse(refusal);
        }
        if self.draining.load(Ordering::Relaxed) {
            return refuse(Refusal::later(Code::ShuttingDown, "this server is shutting down", RETRY_SECONDS));
        }
        if path == "/v1/events" {
            if request.method() != Method::POST {
                return refuse(Refusal::new(Code::MethodNotAllowed, "events are posted"));
            }
            let senders = self.senders();
            let sender = match auth::sender(request.headers(), &senders.keys) {
                Ok(sender) => sender,
                Err(refusal) => return refuse(refusal),
            };
            return match self.events(request, &sender, &senders, trace).await {
                Ok(answer) => answer,
                Err(refusal) => {
                    self.rejected.add(&sender.workspace, refusal.events());
                    refuse(refusal)
                }
            };
        }
        if let Some(endpoint) = Endpoint::of(&path) {
            return self.segment(request, endpoint, &id, trace).await;
        }
        match path.strip_prefix("/v1/webhooks/").and_then(|rest| rest.split_once('/')) {
            Some((provider, token)) => self.webhook(request, (provider, token), &id, trace).await,
            None => refuse(Refusal::new(Code::NotFound, "there is nothing here; events are posted to /v1/events")),
        }
    }

    fn refuse(&self, refusal: &Refusal, id: &str) -> Response<Body> {
        self.count_refused(refusal);
        refusal.answer(id, None)
    }

    /// Counts what is refused as a whole, at whichever door.
    pub(crate) fn count_refused(&self, refusal: &Refusal) {
        self.metrics.reject(refusal.code, refusal.events().max(1));
    }

    async fn events(
        &self,
        request: Request<Body>,
        sender: &Sender,
        senders: &Senders,
        trace: &mut RequestTrace,
    ) -> Result<Response<Body>, Refusal> {
        let workspace = &sender.workspace;
        let (head, body) = request.into_parts();
        let body = self.admit_request(senders, sender, &head.headers, body).await?;
        let (layout, gzip) = (request::layout(&head.headers)?, request::is_gzip(&head.headers)?);
        let priority = Priority::of(&head.headers)?;
        let (room, body) = body::expected(&head.headers, body, gzip, layout.bytes_max()).await?;
        let in_hand = match self.make_room(priority, workspace, room) {
            Ok(in_hand) => in_hand,
            Err(refusal) => return Err(body::refuse(&head.headers, body, refusal).await),
        };
        let bytes = self.read(body, layout.bytes_max(), gzip).await?;
        let ours = |named: Option<&str>, connection: Option<&str>| {
            named.is_none_or(|named| named == workspace.as_str())
                && connection.is_none_or(|name| senders.has_connection(workspace, name))
        };
        let machine = senders.machine(workspace);
        let context = Context { workspace, key: &self.installation, now: now(), machine };
        let mut taken = events::take(&bytes, layout, priority, context, &ours)?;
        self.admit_events(senders, sender, taken.facts.len())?;
        self.store(&mut taken.facts, in_hand, trace, priority).await?;
        self.metrics.accepted.with(&[("workspace", workspace.as_str())]).add(taken.accepted as u64);
        self.rejected.add(workspace, taken.rejected.len());
        for (_, why) in &taken.rejected {
            self.metrics.reject(why.code, 1);
        }
        let (status, answer) = events::answer(&taken);
        Ok(json_answer(status, &answer))
    }

    pub(crate) async fn read(&self, body: Body, bytes_max: usize, gzip: bool) -> Result<Bytes, Refusal> {
        let bytes = body::read(body, bytes_max).await?;
        if gzip { body::gunzip(&bytes, bytes_max) } else { Ok(bytes) }
    }

    /// Lets a request in by its sender's rate, before anything of its body is taken in; gives the body back.
    pub(crate) async fn admit_request(
        &self,
        senders: &Senders,
        sender: &Sender,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Body, Refusal> {
        match self.admit(senders, sender) {
            Ok(()) => Ok(body),
            Err(refusal) => Err(body::refuse(headers, body, refusal).await),
        }
    }

    /// Lets a request in by its sender's rate.
    pub(crate) fn admit(&self, senders: &Senders, sender: &Sender) -> Result<(), Refusal> {
        let admitted = senders.limits.admit_request(sender.source, self.started.elapsed());
        admitted.map_err(|over| self.limited(sender, over))
    }

    /// Lets the events of a request in by its sender's rates, all or none.
    pub(crate) fn admit_events(&self, senders: &Senders, sender: &Sender, events: usize) -> Result<(), Refusal> {
        let admitted = senders.limits.admit_events(sender, events, self.started.elapsed());
        admitted.map_err(|over| self.limited(sender, over))
    }

    fn limited(&self, sender: &Sender, over: Over) -> Refusal {
        self.metrics.limit(&sender.workspace, over.limit);
        over.refusal()
    }

    /// Room for a request of that priority, if it is its turn.
    fn make_room(&self, priority: Priority, workspace: &WorkspaceId, bytes: usize) -> Result<InHand, Refusal> {
        priority.admit(self.live_facts_waiting.load(Ordering::Relaxed))?;
        match priority {
            Priority::Live => self.reserve_events(workspace, bytes),
            Priority::Background => self.reserve(&self.background_in_hand, Some(workspace), bytes),
        }
    }

    /// Room for a request of a sender with a key.
    pub(crate) fn reserve_events(&self, workspace: &WorkspaceId, bytes: usize) -> Result<InHand, Refusal> {
        self.reserve(&self.in_hand, Some(workspace), bytes)
    }

    /// Room for a provider's request. Providers have a share of their own: before a signature is checked, anybody may
    /// send, and must not take the room of those who have a key.
    pub(crate) fn reserve_webhook(&self, holder: Option<&WorkspaceId>, bytes: usize) -> Result<InHand, Refusal> {
        self.reserve(&self.webhooks_in_hand, holder, bytes)
    }

    fn reserve(&self, room: &Arc<Room>, holder: Option<&WorkspaceId>, bytes: usize) -> Result<InHand, Refusal> {
        room.take(holder.cloned(), bytes).map(Arc::new).map_err(|why| self.no_room(holder, why))
    }

    /// More room for a request of which nothing is stored yet, of the share that it has its own from.
    #[expect(clippy::expect_used, reason = "chunks share it, and there are none before facts are stored")]
    pub(crate) fn reserve_more(
        &self,
        in_hand: &mut InHand,
        workspace: &WorkspaceId,
        bytes: usize,
    ) -> Result<(), Refusal> {
        let share = Arc::get_mut(in_hand).expect("only this request has it yet");
        share.grow(bytes).map_err(|why| self.no_room(Some(workspace), why))
    }

    fn no_room(&self, workspace: Option<&WorkspaceId>, why: NoRoom) -> Refusal {
        match (why, workspace) {
            (NoRoom::OverShare, Some(workspace)) => {
                self.metrics.limit(workspace, Limit::Share);
                Refusal::later(Code::Overloaded, "this workspace has too many requests in hand", RETRY_SECONDS)
            }
            (NoRoom::OverShare | NoRoom::Full, _) => {
                Refusal::later(Code::Overloaded, "too many requests are in hand", RETRY_SECONDS)
            }
        }
    }

    /// Stores facts, each in its person's partition, and returns once all are durable. When it fails, some may be: the sender
    /// sends all again, and the identity stage knows them by their ids.
    pub(crate) async fn store(
        &self,
        facts: &mut [Fact<'_>],
        in_hand: InHand,
        trace: &mut RequestTrace,
        priority: Priority,
    ) -> Result<(), Refusal> {
        let _until_stored = (priority == Priority::Live).then(|| Waiting::new(&self.live_facts_waiting, facts.len()));
        let store = async {
            if let Err(error) = self.aliases.route(facts, &self.installation, priority).await {
                tracing::warn!(%error, "aliases of addresses cannot be looked up or kept");
                return Err(unavailable());
            }
            let traced = trace.sample(facts, self.partitions);
            self.store_all(facts, &traced, in_hand).await
        };
        let stored = timeout(STORE_WAIT, store).await.unwrap_or_else(|_elapsed| Err(unavailable()));
        trace.stored(stored.is_ok());
        stored
    }

    /// `traced` has, in order, the numbers of the facts that are traced, and what is stored with them.
    async fn store_all(
        &self,
        facts: &[Fact<'_>],
        traced: &[(usize, [u8; TraceContext::BYTES])],
        in_hand: InHand,
    ) -> Result<(), Refusal> {
        let mut traced = traced.iter().peekable();
        let mut chunks: Vec<Option<EventChunk>> = vec![None; usize::from(self.partitions.get())];
        let mut stored = Vec::new();
        let expected = (facts.len() * USUAL_FACT_BYTES / chunks.len().max(1)).clamp(USUAL_FACT_BYTES, CHUNK_BYTES);
        for (number, fact) in facts.iter().enumerate() {
            let partition = self.partitions.of(&fact.head.workspace, &fact.body.person);
            let Some(slot) = chunks.get_mut(usize::from(partition.index())) else { continue };
            let chunk = slot.get_or_insert_with(|| EventChunk::with_capacity(expected));
            let trace = traced.next_if(|(traced, _)| *traced == number).map(|(_, trace)| trace);
            encode_traced_event(fact, trace, chunk);
            if chunk.entries.len() >= CHUNK_BYTES
                && let Some(full) = slot.take()
            {
                stored.push(self.writers.submit(partition, full, &in_hand).await.ok_or_else(unavailable)?);
            }
        }
        for (partition, chunk) in self.partitions.all().zip(chunks) {
            if let Some(chunk) = chunk {
                stored.push(self.writers.submit(partition, chunk, &in_hand).await.ok_or_else(unavailable)?);
            }
        }
        drop(in_hand);
        for outcome in join_all(stored).await {
            match outcome {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(unavailable()),
            }
        }
        Ok(())
    }
}

/// Facts that are counted while they wait.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    facts: usize,
}

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize, facts: usize) -> Self {
        count.fetch_add(facts, Ordering::Relaxed);
        Self { count, facts }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(self.facts, Ordering::Relaxed);
    }
}

fn unavailable() -> Refusal {
    Refusal::later(Code::StorageUnavailable, "events cannot be stored now; send them again", RETRY_SECONDS)
}

#[cfg(test)]
mod tests {
    use inflection_domain::Timestamp;

    use super::*;
    use crate::desk::{Desk, INGEST_KEY};
    use crate::request::Layout;

    /// Sends an event of that moment with that priority; gives status and `Retry-After`.
    async fn post(desk: &Desk, priority: &str, at: Timestamp) -> (u16, Option<String>) {
        let request = Request::post("/v1/events")
            .header("host", "ingest.example")
            .header("content-type", "application/x-ndjson")
            .header("authorization", format!("Bearer {INGEST_KEY}"))
            .header("inflection-priority", priority);
        let body = format!(r#"{{"type":"email_opened","timestamp":"{at}","person_id":"p"}}"#);
        let answer = Arc::clone(&desk.service).call(request.body(Body::from(body)).unwrap(), None).await;
        let retry_after = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        (answer.status().as_u16(), retry_after)
    }

    #[tokio::test]
    async fn history_waits_while_live_events_do() {
        let desk = Desk::open(Vec::new()).await;
        let waiting = &desk.service.live_facts_waiting;
        let (fresh, old) = (now(), Timestamp::from_ms(now().as_ms() - 10 * 366 * 86_400_000));
        assert_eq!(post(&desk, "background", old).await, (200, None));
        assert_eq!(post(&desk, "live", old).await, (422, None), "only history is old");
        assert_eq!(waiting.load(Ordering::Relaxed), 0, "what was stored waits no more");
        let others = Waiting::new(waiting, 10_000);
        assert_eq!(post(&desk, "background", old).await, (503, Some("1".to_owned())));
        assert_eq!(post(&desk, "live", fresh).await, (200, None));
        drop(others);
        assert_eq!(post(&desk, "background", old).await, (200, None));
        let room = &desk.service.background_in_hand;
        let others = (0..10).map(|number| {
            let other = WorkspaceId::new(&format!("other-{number}")).unwrap();
            room.take(Some(other), room.free() * 3 / 4).unwrap()
        });
        let others: Vec<_> = others.collect();
        assert_eq!(post(&desk, "background", old).await.0, 503, "history has room of its own");
        assert_eq!(post(&desk, "live", fresh).await.0, 200, "which live events do not need");
        drop(others);
        assert_eq!(post(&desk, "background", old).await, (200, None));
    }

    #[test]
    fn several_workspaces_import_at_once() {
        let room = Room::new(BACKGROUND_BYTES_IN_HAND_MAX);
        let requests = ["a", "b", "c"].map(|name| room.take(WorkspaceId::new(name).ok(), Layout::Lines.bytes_max()));
        assert!(requests.iter().all(Result::is_ok), "{requests:?}");
    }

    /// Closing on what is unread would reset the connection, and the sender may then never see the answer.
    #[tokio::test]
    async fn a_body_that_has_to_wait_is_read_before_it_is_refused() {
        let desk = Desk::open(Vec::new()).await;
        let waiting = Waiting::new(&desk.service.live_facts_waiting, 10_000);
        let room = |room: &Arc<Room>| {
            let others = (0..4).map(|number| WorkspaceId::new(&format!("other-{number}")).unwrap());
            others.map(|other| room.take(Some(other), room.free() * 3 / 4).unwrap()).collect::<Vec<_>>()
        };
        for (priority, taken) in [("background", None), ("live", Some(room(&desk.service.in_hand)))] {
            let read = Arc::new(AtomicBool::new(false));
            let body = futures_util::stream::once({
                let read = Arc::clone(&read);
                async move {
                    read.store(true, Ordering::Relaxed);
                    Ok::<_, std::convert::Infallible>(Bytes::from_static(b"{}"))
                }
            });
            let request = Request::post("/v1/events")
                .header("host", "ingest.example")
                .header("content-type", "application/x-ndjson")
                .header("authorization", format!("Bearer {INGEST_KEY}"))
                .header("inflection-priority", priority)
                .body(Body::from_stream(body))
                .unwrap();
            let answer = Arc::clone(&desk.service).call(request, None).await;
            assert_eq!((answer.status().as_u16(), read.load(Ordering::Relaxed)), (503, true), "{priority}");
            drop(taken);
        }
        drop(waiting);
    }
}
