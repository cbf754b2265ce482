//! One message into a stream, through elections and reconnects.
//!
//! While a stream elects a leader nobody answers, or the old leader has taken what it cannot commit any more. Every try is
//! the same message under the same id, which the server knows for its duplicate window: so it is stored once at most, and a
//! try too many does no harm. What is given up is given up in time for its sender to be told.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::context::{self, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use tokio::time::{Instant, timeout_at};

use super::Client;
use super::backoff::Backoff;
use crate::Sequence;

/// How long the first try waits for its answer, and each that gets none twice as long as the one before. A leader that steps
/// down drops what it has not committed, without a word; one on a slow disk must not be asked ever more.
const FIRST_ANSWER_WAIT: Duration = Duration::from_secs(1);
/// How long a message is tried before it is given up: longer than most elections take (a new leader is sought 4 to 9 s after
/// the old one's last sign), shorter than most senders wait for their answer.
const DEADLINE: Duration = Duration::from_secs(9);
/// How long at least, when the stream has been silent for long already: whoever waits need not wait long to hear so again.
const DEADLINE_MIN: Duration = Duration::from_secs(1);
/// Shortest and longest wait between two tries.
const RETRY_WAIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// Why a message was not stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unpublished {
    /// The subject's last sequence is not the expected one.
    Sequence,
    /// It is larger than the server takes.
    TooLarge,
    /// The stream or disk is full.
    Full(String),
    /// No answer in time. It may or may not have been stored.
    Unavailable(String),
}

impl Client {
    /// Publishes a message until it is stored or refused, or until it is too late. The message must expect nothing of its
    /// stream but what holds for a repeat under its id as well: the server looks at the id first.
    pub(super) async fn publish(
        &self,
        stream: &str,
        subject: &str,
        message: PublishMessage,
    ) -> Result<Sequence, Unpublished> {
        let message = message.message_id(self.ids.next());
        let started = Instant::now();
        let (mut backoff, mut answer_wait) = (Backoff::new(RETRY_WAIT.0, RETRY_WAIT.1), FIRST_ANSWER_WAIT);
        loop {
            let answer_by = deadline(started, self.availability.silent_since(stream)).min(Instant::now() + answer_wait);
            let why = match timeout_at(answer_by, self.try_to_publish(subject, message.clone())).await {
                Ok(Ok(sequence)) => {
                    self.availability.answers(stream);
                    return Ok(sequence);
                }
                Ok(Err(error)) => match verdict(&error) {
                    Verdict::Refused(refused) => {
                        self.availability.answers(stream);
                        return Err(refused);
                    }
                    Verdict::Again(why) => why,
                },
                Err(_elapsed) => {
                    answer_wait *= 2;
                    "its leader does not answer".to_owned()
                }
            };
            let since = self.availability.fell_silent(stream);
            if Instant::now() + backoff.next() >= deadline(started, Some(since)) {
                self.availability.gave_up(stream, &why);
                return Err(Unpublished::Unavailable(format!("stream {stream}: {why}")));
            }
            tracing::debug!(why, subject, "publishing again");
            backoff.pause().await;
        }
    }

    async fn try_to_publish(&self, subject: &str, message: PublishMessage) -> Result<Sequence, context::PublishError> {
        let ack = self.context.send_publish(subject.to_owned(), message).await?.await?;
        Ok(ack.sequence)
    }
}

/// When a message that came at `started` is given up. The time counts from when the stream fell silent, not from when the
/// message came: what comes late in an election waits no longer than what came first.
fn deadline(started: Instant, silent_since: Option<Instant>) -> Instant {
    let since = silent_since.map_or(started, |since| since.min(started));
    (since + DEADLINE).max(started + DEADLINE_MIN)
}

/// What an error means for the message.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is not stored, and a repeat would not be.
    Refused(Unpublished),
    /// Anything else, since a repeat does no harm.
    Again(String),
}

fn verdict(error: &context::PublishError) -> Verdict {
    use std::error::Error as _;
    let server = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
    match (error.kind(), server) {
        (PublishErrorKind::WrongLastSequence, _) => Verdict::Refused(Unpublished::Sequence),
        (PublishErrorKind::MaxPayloadExceeded, _) => Verdict::Refused(Unpublished::TooLarge),
        (_, Some(refused)) => judge(refused.error_code().0, &refused.to_string()),
        (PublishErrorKind::StreamNotFound, None) => Verdict::Again("it has no leader now".to_owned()),
        (_, None) => Verdict::Again(error.to_string()),
    }
}

/// A server's refusal, by its code. Only "full" is final. All others pass, or may: no quorum (10008), the same message is
/// still being stored (10158), another one under this subject is (10163, 10164: a replicated stream cannot tell yet what
/// will be the last), the stream is not there yet (10118), too much at once (10167).
fn judge(code: u64, text: &str) -> Verdict {
    if FULL_CODES.contains(&code) && !text.contains(STORE_CLOSED) {
        Verdict::Refused(Unpublished::Full(text.to_owned()))
    } else {
        Verdict::Again(text.to_owned())
    }
}

/// Account resources, insufficient resources, insufficient storage, stream store failed (maximum messages or bytes
/// exceeded).
const FULL_CODES: [u64; 4] = [10002, 10023, 10047, 10077];

/// "Stream store failed" has one code for all that can be wrong with a store; this one is a server that is going down.
const STORE_CLOSED: &str = "store is closed";

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: u64, text: &str, expected: &Verdict) {
        assert_eq!(judge(code, text), *expected, "{code} {text}");
    }

    #[test]
    fn what_an_election_answers_is_tried_again() {
        for (code, text) in [
            (10008, "JetStream system temporarily unavailable"),
            (10077, "store is closed"),
            (10118, "stream is offline"),
            (10158, "duplicate message id is in process"),
            (10163, "expected last sequence per subject temporarily unavailable"),
            (10164, "wrong last sequence"),
            (10167, "too many requests"),
        ] {
            check(code, text, &Verdict::Again(text.to_owned()));
        }
    }

    #[test]
    fn what_comes_late_in_an_election_waits_no_longer_than_what_came_first() {
        let fell_silent = Instant::now();
        let after = |seconds| fell_silent + Duration::from_secs(seconds);
        assert_eq!(deadline(after(3), None), after(3) + DEADLINE);
        assert_eq!(deadline(after(3), Some(after(0))), after(0) + DEADLINE);
        assert_eq!(deadline(after(100), Some(after(0))), after(100) + DEADLINE_MIN);
        // It fell silent, or fell silent anew, after the message came: that gives it no more time.
        assert_eq!(deadline(after(0), Some(after(3))), after(0) + DEADLINE);
    }

    #[test]
    fn full_is_full_at_once() {
        for (code, text) in [
            (10002, "resource limits exceeded for account"),
            (10023, "insufficient resources"),
            (10047, "insufficient storage resources available"),
            (10077, "maximum bytes exceeded"),
            (10077, "maximum messages exceeded"),
        ] {
            check(code, text, &Verdict::Refused(Unpublished::Full(text.to_owned())));
        }
    }
}
