//! Routes, and the way of one request.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Method, Request, Response};
use bytes::Bytes;
use futures_util::future::join_all;
use inflection_bus::Bus;
use inflection_control::Workspace;
use inflection_domain::{Fact, InstallationKey, PartitionCount, WorkspaceId};
use inflection_wire::{EventChunk, encode_event};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::answer::{Code, Refusal, json_answer};
use crate::fact::Context;
use crate::framing::Ambiguity;
use crate::metrics::IngestMetrics;
use crate::rejected::Rejected;
use crate::segment::Endpoint;
use crate::senders::Senders;
use crate::webhooks::{Amazon, SignatureClock, Tokens};
use crate::writer::{CHUNK_BYTES, InHand, Writers, now};
use crate::{auth, body, events, request};

/// Bytes of bodies in hand at once, over all requests: what the memory of this stage is bounded by.
const BODY_BYTES_IN_HAND_MAX: usize = 64 * 1024 * 1024;
/// The same for providers' webhooks.
pub(crate) const WEBHOOK_BYTES_IN_HAND_MAX: usize = 32 * 1024 * 1024;
/// Bytes of a usual fact when it is encoded, rather more than less: to guess how much memory a request's facts take.
const USUAL_FACT_BYTES: usize = 640;
/// The unit in which those bytes are counted.
const PERMIT_BYTES: usize = 1024;
/// How long a request waits for its facts to be stored. An append has its own time, shorter than this or equal; but a fact may
/// wait behind another one's. Most senders wait 10 seconds for an answer.
const STORE_WAIT: Duration = Duration::from_secs(9);
/// Seconds after which a sender may try again when we are full or the bus is away.
const RETRY_SECONDS: u64 = 2;

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) bus: Bus,
    senders: RwLock<Arc<Senders>>,
    pub(crate) installation: InstallationKey,
    pub(crate) metrics: IngestMetrics,
    pub(crate) rejected: Rejected,
    partitions: PartitionCount,
    writers: Writers,
    in_hand: Arc<Semaphore>,
    webhooks_in_hand: Arc<Semaphore>,
    pub(crate) signature_clock: SignatureClock,
    /// Tokens that have vouched for a webhook's content.
    pub(crate) tokens: Tokens,
    pub(crate) amazon: Amazon,
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
            bus,
            senders: RwLock::new(Arc::new(Senders::of(workspaces, None, started.elapsed()))),
            installation,
            metrics,
            rejected: Rejected::default(),
            partitions,
            writers,
            started,
            in_hand: Arc::new(Semaphore::new(BODY_BYTES_IN_HAND_MAX / PERMIT_BYTES)),
            webhooks_in_hand: Arc::new(Semaphore::new(WEBHOOK_BYTES_IN_HAND_MAX / PERMIT_BYTES)),
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
    pub(crate) async fn call(self: Arc<Self>, request: Request<Body>, ambiguity: Option<Ambiguity>) -> Response<Body> {
        let id = self.request_id();
        let path = request.uri().path().to_owned();
        // Each door's callers read its own shape.
        let refuse = |refusal: Refusal| match Endpoint::of(&path) {
            Some(_) => self.refuse_calls(&refusal, &id),
            None => self.refuse(&refusal, &id),
        };
        if let Err(refusal) = request::check_head(request.headers(), ambiguity) {
            return refuse(refusal);
        }
        if self.draining.load(Ordering::Relaxed) {
            let leaving = Refusal::later(Code::ShuttingDown, "this server is shutting down", RETRY_SECONDS);
            let is_webhook = path.starts_with("/v1/webhooks/");
            return if is_webhook { self.refuse_webhook(&leaving, &id) } else { refuse(leaving) };
        }
        if path == "/v1/events" {
            if request.method() != Method::POST {
                return refuse(Refusal::new(Code::MethodNotAllowed, "events are posted"));
            }
            let senders = self.senders();
            let workspace = match auth::workspace(request.headers(), &senders.keys) {
                Ok(workspace) => workspace,
                Err(refusal) => return refuse(refusal),
            };
            return match self.events(request, &workspace, &senders).await {
                Ok(answer) => answer,
                Err(refusal) => {
                    self.rejected.add(&workspace, refusal.events());
                    refuse(refusal)
                }
            };
        }
        if let Some(endpoint) = Endpoint::of(&path) {
            return self.segment(request, endpoint, &id).await;
        }
        match path.strip_prefix("/v1/webhooks/").and_then(|rest| rest.split_once('/')) {
            Some((provider, token)) => self.webhook(request, provider, token, &id).await,
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
        workspace: &WorkspaceId,
        senders: &Senders,
    ) -> Result<Response<Body>, Refusal> {
        let (head, body) = request.into_parts();
        let (layout, gzip) = (request::layout(&head.headers)?, request::is_gzip(&head.headers)?);
        let (room, body) = body::expected(&head.headers, body, gzip, layout.bytes_max()).await?;
        let in_hand = self.reserve_events(room)?;
        let bytes = self.read(body, layout.bytes_max(), gzip).await?;
        let ours = |named: Option<&str>, connection: Option<&str>| {
            named.is_none_or(|named| named == workspace.as_str())
                && connection.is_none_or(|name| senders.has_connection(workspace, name))
        };
        let context = Context { workspace, key: &self.installation, now: now() };
        let taken = events::take(&bytes, layout, context, &ours)?;
        senders.admit(workspace, taken.facts.len(), self.elapsed())?;
        self.store(&taken.facts, in_hand).await?;
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

    /// Room for a request of a sender with a key.
    pub(crate) fn reserve_events(&self, bytes: usize) -> Result<InHand, Refusal> {
        reserve(&self.in_hand, bytes)
    }

    /// How long this stage has run: the clock of rates.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Room for a provider's request. Providers have a share of their own: before a signature is checked, anybody may
    /// send, and must not take the room of those who have a key.
    pub(crate) fn reserve_webhook(&self, bytes: usize) -> Result<InHand, Refusal> {
        reserve(&self.webhooks_in_hand, bytes)
    }

    /// Stores facts, each in its partition, and returns once all are durable. When it fails, some may be: the sender
    /// sends all again, and the identity stage knows them by their ids.
    pub(crate) async fn store(&self, facts: &[Fact<'_>], in_hand: InHand) -> Result<(), Refusal> {
        timeout(STORE_WAIT, self.store_all(facts, in_hand)).await.unwrap_or_else(|_elapsed| Err(unavailable()))
    }

    async fn store_all(&self, facts: &[Fact<'_>], in_hand: InHand) -> Result<(), Refusal> {
        let mut chunks: Vec<Option<EventChunk>> = vec![None; usize::from(self.partitions.get())];
        let mut stored = Vec::new();
        let expected = (facts.len() * USUAL_FACT_BYTES / chunks.len().max(1)).clamp(USUAL_FACT_BYTES, CHUNK_BYTES);
        for fact in facts {
            let partition = self.partitions.of(&fact.head.workspace, &fact.body.person);
            let Some(slot) = chunks.get_mut(usize::from(partition.index())) else { continue };
            let chunk = slot.get_or_insert_with(|| EventChunk::with_capacity(expected));
            encode_event(fact, chunk);
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

fn unavailable() -> Refusal {
    Refusal::later(Code::StorageUnavailable, "events cannot be stored now; send them again", RETRY_SECONDS)
}

/// Room for a body, or a refusal: memory is bounded before it is used.
fn reserve(room: &Arc<Semaphore>, bytes: usize) -> Result<InHand, Refusal> {
    acquire(room, bytes.max(1)).map(Arc::new)
}

/// More room for a request of which nothing is stored yet, of the share that it has its own from.
#[expect(clippy::expect_used, reason = "chunks share it, and there are none before facts are stored")]
pub(crate) fn reserve_more(in_hand: &mut InHand, bytes: usize) -> Result<(), Refusal> {
    if bytes > 0 {
        let more = acquire(in_hand.semaphore(), bytes)?;
        Arc::get_mut(in_hand).expect("only this request has it yet").merge(more);
    }
    Ok(())
}

fn acquire(room: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
    let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
    let overloaded = |_| Refusal::later(Code::Overloaded, "too many requests are in hand", RETRY_SECONDS);
    Arc::clone(room).try_acquire_many_owned(permits).map_err(overloaded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_for_a_request_is_bounded_and_given_back() {
        let room = Arc::new(Semaphore::new(10));
        let mut in_hand = reserve(&room, 0).unwrap();
        assert_eq!(room.available_permits(), 9, "even an empty body takes some");
        reserve_more(&mut in_hand, 0).unwrap();
        assert_eq!(room.available_permits(), 9);
        reserve_more(&mut in_hand, 8 * PERMIT_BYTES + 1).unwrap();
        assert_eq!(room.available_permits(), 0);
        let refusal = reserve_more(&mut in_hand, 1).unwrap_err();
        assert_eq!((refusal.code, refusal.retry_after), (Code::Overloaded, Some(RETRY_SECONDS)));
        drop(in_hand);
        assert_eq!(room.available_permits(), 10);
    }
}
