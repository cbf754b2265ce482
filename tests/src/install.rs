//! One install, standalone or fleet: the same scenario runs over both.

use std::net::SocketAddr;

use crate::admin::{self, Admin, DeadLetter, Ledger};
use crate::binary::ask;
use crate::checker::History;
use crate::config::Workspace;
use crate::fleet::{Fleet, Stage};
use crate::segment::Segment;
use crate::standalone::Standalone;
use crate::wait::{DRAINED, SOON, eventually, holds, within};

/// How processes are stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// SIGTERM: finish what is in hand.
    Terminate,
    /// SIGKILL: no goodbye.
    Kill,
}

/// Which kind to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One process on the embedded bus.
    Standalone,
    /// Three processes on NATS.
    Fleet,
}

/// A running install.
#[derive(Debug)]
pub enum Install {
    /// One process on the embedded bus.
    Standalone(Box<Standalone>),
    /// Three processes on NATS.
    Fleet(Box<Fleet>),
}

impl Install {
    /// Starts an install of that kind for these workspaces.
    pub fn start(kind: Kind, segment: &Segment, workspaces: &[Workspace]) -> Self {
        Self::start_with(kind, segment, workspaces, &[])
    }

    /// Starts an install of that kind; the process that delivers gets further arguments.
    pub fn start_with(kind: Kind, segment: &Segment, workspaces: &[Workspace], delivery: &[&str]) -> Self {
        match kind {
            Kind::Standalone => {
                Self::Standalone(Box::new(Standalone::start_with_arguments(segment, workspaces, delivery)))
            }
            Kind::Fleet => Self::Fleet(Box::new(Fleet::start_with(segment, workspaces, delivery))),
        }
    }

    /// Stops every process of ours (not the server they talk to).
    #[track_caller]
    pub fn stop(&mut self, how: Stop) {
        match (self, how) {
            (Self::Standalone(one), Stop::Kill) => one.kill(),
            (Self::Standalone(one), Stop::Terminate) => {
                let status = one.terminate();
                assert!(status.success(), "standalone ended with {status} after SIGTERM\n{}", one.log_text());
            }
            (Self::Fleet(fleet), Stop::Kill) => Stage::ALL.into_iter().for_each(|stage| fleet.kill(stage)),
            (Self::Fleet(fleet), Stop::Terminate) => Stage::ALL.into_iter().for_each(|stage| fleet.terminate(stage)),
        }
    }

    /// Starts them again; returns when all are ready.
    #[track_caller]
    pub fn start_again(&mut self) {
        match self {
            Self::Standalone(one) => one.start_again(),
            Self::Fleet(fleet) => Stage::ALL.into_iter().for_each(|stage| fleet.start_again(stage)),
        }
    }

    /// The public listener.
    pub fn ingest(&self) -> SocketAddr {
        match self {
            Self::Standalone(one) => one.ingest(),
            Self::Fleet(fleet) => fleet.ingest(),
        }
    }

    /// The admin listener that knows about deliveries.
    pub fn admin(&self) -> Admin {
        match self {
            Self::Standalone(one) => one.admin(),
            Self::Fleet(fleet) => fleet.admin(Stage::Delivery),
        }
    }

    /// The books of the whole install.
    ///
    /// # Errors
    ///
    /// What was wrong with an answer.
    pub fn ledger(&self) -> Result<Ledger, String> {
        match self {
            Self::Standalone(one) => one.admin().ledger(),
            Self::Fleet(fleet) => fleet.ledger(),
        }
    }

    /// Waits until nothing is pending and the books balance.
    #[track_caller]
    pub fn settle(&self) -> Ledger {
        admin::settle(|| self.ledger())
    }

    /// Waits for rest and completes a history with what came out.
    #[track_caller]
    pub fn complete(&self, mut history: History, segment: &Segment) -> History {
        let ledger = self.settle();
        history.balanced = ledger.balanced;
        history.pending = ledger.pending;
        history.dead = self.dead_letters();
        // The ledger of a stage may be at rest a moment before the stage ahead of it has passed everything on. If
        // something stays away, the checker says what.
        within(DRAINED, || {
            history.arrivals = segment.calls();
            let missing = history.missing().len();
            holds(missing == 0, || format!("{missing} missing"))
        })
        .ok();
        history
    }

    /// Every way to identity's state leads to the same one. Ends a standalone install: its store is read by one process.
    #[track_caller]
    pub fn assert_state_is_sound(&mut self) {
        match self {
            Self::Standalone(one) => {
                one.terminate();
                ask(&["state", "check", "--data-dir", &one.data_dir().display().to_string()]);
            }
            Self::Fleet(fleet) => drop(ask(&["state", "check", "--nats-url", &fleet.nats_url()])),
        }
    }

    /// All dead letters. Their stream may still be electing a leader when others have one.
    #[track_caller]
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        eventually("the dead letters are told", SOON, || self.admin().dead_letters())
    }

    /// All it has logged, over all its lives.
    pub fn log_text(&self) -> String {
        match self {
            Self::Standalone(one) => one.log_text(),
            Self::Fleet(fleet) => fleet.log_text(),
        }
    }
}
