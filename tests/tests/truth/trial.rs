//! One row of a table, played by persons of its own.

use std::net::SocketAddr;

use inflection_tests::arrived::Arrived;
use inflection_tests::fact::Fact;
use inflection_tests::sender::Sender;

/// Milliseconds between two facts of a row.
pub(crate) const STEP_MS: i64 = 60_000;

/// Turns the calls of a trial into what the table says of them, or says what is wrong with them.
pub(crate) type Read = Box<dyn Fn(&[Arrived]) -> Result<Vec<Vec<String>>, String>>;

/// A row about to be played.
pub(crate) struct Trial {
    pub(crate) name: String,
    pub(crate) ingest_key: String,
    pub(crate) facts: Vec<Fact>,
    pub(crate) read: Read,
    /// What must come out, fact by fact.
    pub(crate) expected: Vec<Vec<String>>,
}

impl Trial {
    pub(crate) fn post_first_half(&self, ingest: SocketAddr) {
        self.post(ingest, &self.facts[..self.facts.len() / 2]);
    }

    pub(crate) fn post_second_half(&self, ingest: SocketAddr) {
        self.post(ingest, &self.facts[self.facts.len() / 2..]);
    }

    /// In order, each awaited.
    fn post(&self, ingest: SocketAddr, facts: &[Fact]) {
        let mut sender = Sender::new(ingest, &self.ingest_key);
        facts.iter().for_each(|fact| sender.take(std::slice::from_ref(fact)));
    }

    pub(crate) fn judge(&self, calls: &[Arrived]) -> Result<(), String> {
        let came = (self.read)(calls).map_err(|complaint| format!("{}: {complaint}", self.name))?;
        if came == self.expected {
            return Ok(());
        }
        Err(format!("{}\n    expected {:?}\n    came     {came:?}", self.name, self.expected))
    }
}
