//! What Amazon's SNS makes us fetch: certificates, and confirmations of subscriptions.
//!
//! Addresses were judged before they come here: https on Amazon's own hosts. Redirects are not followed, answers are bounded.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use inflection_control::Certificate;
use reqwest::Url;
use reqwest::redirect::Policy;
use tokio::sync::Semaphore;

/// How long a fetch may take, from connecting to the last byte: providers wait little longer for our answer.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// Fetches under way at once. Who would have to wait is told to come again: it has not proved anything, and may be anybody.
const FETCHES_MAX: usize = 4;
/// An address where no certificate was is not fetched again for so long: a small part of the minute for which SNS tries.
const FAILED_FOR: Duration = Duration::from_secs(10);
/// Most addresses of which that is remembered; the oldest leave first.
const FAILED_MAX: usize = 1024;
/// A certificate is fetched anew after a day.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// Most certificates that are kept.
const KEPT_MAX: usize = 64;

/// Why nothing was fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The HTTP client could not be set up.
    #[error("the HTTP client could not be set up")]
    Setup(#[source] reqwest::Error),
    /// No whole answer came.
    #[error("amazon could not be reached")]
    Unreachable(#[source] reqwest::Error),
    /// Another answer than 200, or a longer one.
    #[error("amazon answered {0} or too much")]
    Answer(u16),
    /// The answer is no certificate.
    #[error("what amazon answered is no certificate")]
    NoCertificate,
    /// As many fetches are under way as may be.
    #[error("too many fetches are under way")]
    Busy,
    /// There was no certificate a moment ago.
    #[error("there was no certificate a moment ago")]
    FailedBefore,
}

impl FetchError {
    /// Whether something was fetched in vain. What was not even tried is no news: anybody can cause it with every request.
    pub(crate) fn is_news(&self) -> bool {
        !matches!(self, Self::Busy | Self::FailedBefore)
    }
}

type Fetched = Pin<Box<dyn Future<Output = Result<String, FetchError>> + Send>>;

/// Fetches one address. A function, so that tests need no network.
type Fetch = Box<dyn Fn(Url) -> Fetched + Send + Sync>;

/// Fetches from Amazon, and keeps certificates.
pub(crate) struct Amazon {
    fetch: Fetch,
    room: Semaphore,
    kept: Mutex<HashMap<String, (Instant, Arc<Certificate>)>>,
    /// When and where there was none, oldest first.
    failed: Mutex<VecDeque<(Instant, String)>>,
}

impl fmt::Debug for Amazon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Amazon").field("kept", &self.kept).finish_non_exhaustive()
    }
}

impl Default for Amazon {
    fn default() -> Self {
        Self::new(Box::new(|url| Box::pin(get(url))))
    }
}

impl Amazon {
    fn new(fetch: Fetch) -> Self {
        Self { fetch, room: Semaphore::new(FETCHES_MAX), kept: Mutex::default(), failed: Mutex::default() }
    }

    /// The certificate at an address.
    pub(crate) async fn certificate(&self, url: &Url) -> Result<Arc<Certificate>, FetchError> {
        let kept = |kept: &HashMap<String, (Instant, Arc<Certificate>)>| {
            let (since, certificate) = kept.get(url.as_str())?;
            (since.elapsed() < KEPT_FOR).then(|| Arc::clone(certificate))
        };
        if let Some(certificate) = kept(&self.kept.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(certificate);
        }
        let _place = self.room.try_acquire().map_err(|_none_is_free| FetchError::Busy)?;
        if self.has_failed(url) {
            return Err(FetchError::FailedBefore);
        }
        let fetched = (self.fetch)(url.clone()).await;
        let certificate = fetched.and_then(|text| Certificate::from_pem(&text).ok_or(FetchError::NoCertificate));
        let certificate = Arc::new(certificate.inspect_err(|_| self.remember_failure(url))?);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(url.as_str().to_owned(), (Instant::now(), Arc::clone(&certificate)));
        Ok(certificate)
    }

    /// Confirms a subscription.
    pub(crate) async fn confirm(&self, url: Url) -> Result<(), FetchError> {
        let _place = self.room.try_acquire().map_err(|_none_is_free| FetchError::Busy)?;
        (self.fetch)(url).await.map(drop)
    }

    fn has_failed(&self, url: &Url) -> bool {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        while failed.front().is_some_and(|(since, _)| since.elapsed() >= FAILED_FOR) {
            failed.pop_front();
        }
        failed.iter().any(|(_, where_to)| where_to == url.as_str())
    }

    fn remember_failure(&self, url: &Url) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.len() >= FAILED_MAX {
            failed.pop_front();
        }
        failed.push_back((Instant::now(), url.as_str().to_owned()));
    }
}

async fn get(url: Url) -> Result<String, FetchError> {
    // Made for each fetch: there is about one a day, and a client that is kept would hold a connection for it.
    let client = reqwest::Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .https_only(true)
        .http1_only()
        .timeout(TIMEOUT)
        .build()
        .map_err(FetchError::Setup)?;
    // The address of a confirmation has a token in it.
    let unreachable = |error: reqwest::Error| FetchError::Unreachable(error.without_url());
    let mut answer = client.get(url).send().await.map_err(unreachable)?;
    let (status, mut text) = (answer.status().as_u16(), Vec::new());
    while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
        text.extend_from_slice(&chunk);
        if text.len() > ANSWER_BYTES_MAX {
            return Err(FetchError::Answer(status));
        }
    }
    let text = String::from_utf8(text).ok().filter(|_| status == 200);
    text.ok_or(FetchError::Answer(status))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const CERTIFICATE: &str = include_str!("../../fixtures/ses/sns-2021.pem");

    fn answering(answer: &'static str) -> (Amazon, Arc<AtomicUsize>) {
        let fetches = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&fetches);
        let fetch = move |_: Url| -> Fetched {
            counter.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move { Ok(answer.to_owned()) })
        };
        (Amazon::new(Box::new(fetch)), fetches)
    }

    fn url(number: usize) -> Url {
        Url::parse(&format!("https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-{number:x}.pem")).unwrap()
    }

    #[tokio::test]
    async fn a_certificate_is_fetched_once() {
        let (amazon, fetches) = answering(CERTIFICATE);
        let first = amazon.certificate(&url(1)).await.unwrap();
        assert_eq!(amazon.certificate(&url(1)).await.unwrap(), first);
        assert_eq!(fetches.load(Ordering::Relaxed), 1);
        for number in 0..1000 {
            amazon.certificate(&url(number)).await.unwrap();
            assert!(amazon.kept.lock().unwrap().len() <= KEPT_MAX);
        }
    }

    #[tokio::test]
    async fn what_is_no_certificate_is_not_fetched_again_soon() {
        let (amazon, fetches) = answering("<html>");
        let error = amazon.certificate(&url(1)).await.unwrap_err();
        assert!(matches!(error, FetchError::NoCertificate) && error.is_news());
        let error = amazon.certificate(&url(1)).await.unwrap_err();
        assert!(matches!(error, FetchError::FailedBefore) && !error.is_news());
        assert_eq!(fetches.load(Ordering::Relaxed), 1);
        assert!(amazon.confirm(url(1)).await.is_ok());
        for number in 2..2 * FAILED_MAX {
            assert!(amazon.certificate(&url(number)).await.is_err());
            assert!(amazon.failed.lock().unwrap().len() <= FAILED_MAX);
        }
        // It is forgotten when it has grown old.
        let old = Instant::now().checked_sub(FAILED_FOR).unwrap();
        amazon.failed.lock().unwrap().iter_mut().for_each(|(since, _)| *since = old);
        let last = amazon.certificate(&url(2 * FAILED_MAX - 1)).await.unwrap_err();
        assert!(matches!(last, FetchError::NoCertificate));
        assert_eq!(amazon.failed.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn nobody_waits_for_a_fetch() {
        let (amazon, fetches) = answering(CERTIFICATE);
        let all = amazon.room.try_acquire_many(u32::try_from(FETCHES_MAX).unwrap()).unwrap();
        let error = amazon.certificate(&url(FETCHES_MAX)).await.unwrap_err();
        assert!(matches!(error, FetchError::Busy) && !error.is_news());
        assert!(matches!(amazon.confirm(url(0)).await, Err(FetchError::Busy)));
        assert_eq!(fetches.load(Ordering::Relaxed), 0);
        drop(all);
        assert!(amazon.certificate(&url(FETCHES_MAX)).await.is_ok());
    }
}
