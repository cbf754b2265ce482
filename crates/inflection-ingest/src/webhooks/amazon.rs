//! What Amazon's SNS makes us fetch: certificates, and confirmations of subscriptions.
//!
//! Addresses were judged before they come here: https on Amazon's own hosts. Redirects are not followed, answers are bounded.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;
use reqwest::redirect::Policy;
use tokio::sync::Semaphore;

use super::certificate::Certificate;

/// How long a fetch may take, from connecting to the last byte: providers wait little longer for our answer.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// Fetches under way at once; further ones wait.
const FETCHES_MAX: usize = 4;
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
}

type Fetched = Pin<Box<dyn Future<Output = Result<String, FetchError>> + Send>>;

/// Fetches one address. A function, so that tests need no network.
type Fetch = Box<dyn Fn(Url) -> Fetched + Send + Sync>;

/// Fetches from Amazon, and keeps certificates.
pub(crate) struct Amazon {
    fetch: Fetch,
    room: Semaphore,
    kept: Mutex<HashMap<String, (Instant, Arc<Certificate>)>>,
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
        Self { fetch, room: Semaphore::new(FETCHES_MAX), kept: Mutex::default() }
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
        let _place = self.room.acquire().await;
        // Whoever had the place before may have fetched the same.
        if let Some(certificate) = kept(&self.kept.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(certificate);
        }
        let text = (self.fetch)(url.clone()).await?;
        let certificate = Arc::new(Certificate::from_pem(&text).ok_or(FetchError::NoCertificate)?);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(url.as_str().to_owned(), (Instant::now(), Arc::clone(&certificate)));
        Ok(certificate)
    }

    /// Confirms a subscription.
    pub(crate) async fn confirm(&self, url: Url) -> Result<(), FetchError> {
        let _place = self.room.acquire().await;
        (self.fetch)(url).await.map(drop)
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
    async fn what_is_no_certificate_is_not_kept() {
        let (amazon, fetches) = answering("<html>");
        for _ in 0..2 {
            assert!(matches!(amazon.certificate(&url(1)).await, Err(FetchError::NoCertificate)));
        }
        assert_eq!(fetches.load(Ordering::Relaxed), 2);
        assert!(amazon.confirm(url(1)).await.is_ok());
    }
}
