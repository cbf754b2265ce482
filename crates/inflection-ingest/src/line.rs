//! The rules of `POST /v1/events` for one line of NDJSON, without a request: for those who check before they send.

use inflection_domain::{InstallationKey, MachineRules, Timestamp, WorkspaceId};

use crate::events::read_line;
use crate::fact::{Context, check};
use crate::input::Input;
use crate::priority::Priority;
use crate::request::Layout;

/// Most bytes of a request of lines, compressed and unpacked alike.
pub const LINES_BYTES_MAX: usize = Layout::Lines.bytes_max();
/// Most events of a request of lines.
pub const LINES_EVENTS_MAX: usize = Layout::Lines.events_max();

/// Why a line would be refused, in the words of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedLine {
    /// The code, as `docs/api.md` lists them.
    pub code: &'static str,
    /// What to change. Never what the sender wrote.
    pub message: String,
}

/// Checks lines as ingest would check them in a background request at a certain moment.
///
/// What needs an install is not seen: whose the key is, and whether one id comes twice with different content.
#[derive(Debug, Clone)]
pub struct LineCheck {
    workspace: WorkspaceId,
    key: InstallationKey,
    now: Timestamp,
    machine: MachineRules,
}

impl LineCheck {
    /// A check at `now`. Which workspace and key it is changes persons that are derived, and no verdict.
    #[must_use]
    pub fn new(workspace: WorkspaceId, now: Timestamp) -> Self {
        Self { workspace, key: InstallationKey::new([0; 32]), now, machine: MachineRules::default() }
    }

    /// The type of the event in a line.
    ///
    /// # Errors
    /// [`RefusedLine`] with the code and message that ingest would answer.
    pub fn check(&self, line: &[u8]) -> Result<&'static str, RefusedLine> {
        let context = Context { workspace: &self.workspace, key: &self.key, now: self.now, machine: &self.machine };
        let mut input = Input::default();
        let checked =
            read_line(line, &mut input).and_then(|()| check(&mut input, context, Priority::Background.age_max_ms()));
        match checked {
            Ok(fact) => Ok(fact.head.kind.name()),
            Err(why) => Err(RefusedLine { code: why.code.name(), message: why.message }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn verdict(line: &str, expected: Result<&'static str, &'static str>) {
        let now = Timestamp::parse("2026-11-23T10:00:00Z").unwrap();
        let check = LineCheck::new(WorkspaceId::new("any").unwrap(), now);
        assert_eq!(check.check(line.as_bytes()).map_err(|why| why.code), expected, "{line}");
    }

    #[test]
    fn lines_are_judged_as_in_a_request() {
        let opened = |at: &str| format!(r#"{{"type":"email_opened","timestamp":"{at}","person_id":"p"}}"#);
        verdict(&opened("2026-11-23T09:59:00Z"), Ok("email_opened"));
        verdict(&opened("2011-01-01T00:00:00+02:00"), Ok("email_opened"));
        verdict(&opened("2001-01-01T00:00:00Z"), Err("timestamp_out_of_range"));
        verdict(&opened("2026-11-23T10:06:00Z"), Err("timestamp_out_of_range"));
        verdict(&opened("yesterday"), Err("bad_timestamp"));
        verdict(r#"{"type":"email_opened","timestamp":"2026-11-23T09:59:00Z"}"#, Err("missing_identity"));
        verdict(r#"{"type":"email_opened""#, Err("bad_json"));
        verdict("[]", Err("not_an_object"));
        verdict(r#"{"a":1,"a":1}"#, Err("duplicate_key"));
    }
}
