//! The body of a request: an envelope around items, or one call.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use inflection_domain::{Fact, Hash128};

use super::facts::{Arrival, Ignored, Mapped, map};
use super::item::{Call, Item};
use super::{Endpoint, ITEMS_MAX};
use crate::answer::{Code, Refusal};
use crate::events::{describe, rejected_list};
use crate::fact::{Context, Rejection};
use crate::json::{Fault, Keys, Member, Reader, Value, members};

/// Most bytes of what an envelope adds to all its items together: a little around many must not become much in memory.
const SHARED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What stands around the items of a batch. Segment merges `context` and `integrations` into each of them.
#[derive(Debug, Default)]
pub(super) struct Envelope<'a> {
    pub(super) write_key: Option<Cow<'a, str>>,
    pub(super) sent_at: Option<Value<'a>>,
    pub(super) context: Vec<Member<'a>>,
    pub(super) integrations: Vec<Member<'a>>,
    content: Content<'a>,
}

#[derive(Debug, Default)]
enum Content<'a> {
    /// A batch without items.
    #[default]
    Nothing,
    /// The text of the array of items.
    Items(&'a str),
    /// The one call, and which the path says that it is.
    Single(Call, Box<Item<'a>>),
}

impl<'a> Envelope<'a> {
    /// Reads all but the items of a batch, which stand each for itself.
    pub(super) fn read(body: &'a [u8], endpoint: Endpoint) -> Result<Self, Refusal> {
        let mut reader = Reader::new(body)?;
        if reader.peek() != Some(b'{') {
            // Sound JSON that is no object is another fault than no JSON.
            reader.value(1)?;
            reader.end()?;
            return Err(Refusal::new(Code::NotAnObject, "the body is an object"));
        }
        match endpoint {
            Endpoint::Batch => Self::batch(&mut reader),
            Endpoint::Single(call) => {
                let written = reader.skim()?;
                reader.end()?;
                let mut item = Item::read(written)?;
                let write_key = text(item.write_key.take());
                Ok(Self { write_key, content: Content::Single(call, Box::new(item)), ..Self::default() })
            }
        }
    }

    /// What is added to each item.
    pub(super) fn shared_bytes(&self) -> usize {
        self.context.iter().chain(&self.integrations).map(|member| member.written.len() + 1).sum()
    }

    fn batch(reader: &mut Reader<'a>) -> Result<Self, Refusal> {
        let (mut envelope, mut keys) = (Self::default(), Keys::default());
        reader.object(|key, reader| -> Result<(), Refusal> {
            match &*key {
                "batch" if reader.peek() == Some(b'[') => envelope.content = Content::Items(reader.skim()?),
                "batch" => return Err(Refusal::new(Code::BadType, "batch must be a list of objects")),
                "writeKey" => envelope.write_key = text(Some(reader.value(2)?)),
                "sentAt" => envelope.sent_at = Some(reader.value(2)?),
                "context" => envelope.context = shared(&reader.value(2)?)?,
                "integrations" => envelope.integrations = shared(&reader.value(2)?)?,
                _ => drop(reader.value(2)?),
            }
            Ok(keys.insert(key)?)
        })?;
        reader.end()?;
        Ok(envelope)
    }
}

fn text(value: Option<Value<'_>>) -> Option<Cow<'_, str>> {
    let Some(Value::Text(text)) = value else { return None };
    Some(text)
}

/// Members for every item; what is no object says nothing about them.
fn shared<'a>(value: &Value<'a>) -> Result<Vec<Member<'a>>, Fault> {
    let Value::Object { members: text, .. } = value else { return Ok(Vec::new()) };
    members(text)
}

/// The facts of a request, and what was not taken of it, by index.
#[derive(Debug, Default)]
pub(super) struct Taken<'a> {
    pub(super) facts: Vec<Fact<'a>>,
    /// How many items were taken.
    pub(super) accepted: usize,
    pub(super) rejected: Vec<(usize, Rejection)>,
    pub(super) ignored: Vec<(usize, Ignored)>,
}

/// Reads and checks every item. What is wrong with one costs no other; when all are refused, so is the request.
pub(super) fn take<'a>(envelope: &Envelope<'a>, context: Context<'_>, request_id: &str) -> Result<Taken<'a>, Refusal> {
    let mut collector = Collector {
        envelope,
        context,
        request_id,
        shared_bytes: envelope.shared_bytes(),
        index: 0,
        taken: Taken::default(),
        seen: HashMap::new(),
    };
    match &envelope.content {
        Content::Nothing => {}
        Content::Single(call, item) => collector.item(Ok(*call), item),
        Content::Items(text) => {
            let mut reader = Reader::of(text);
            reader.array(|reader| collector.element(reader))?;
        }
    }
    let (taken, count) = (collector.taken, collector.index);
    if count == 0 {
        return Err(Refusal::new(Code::EmptyBatch, "there is no call in the body"));
    }
    match taken.rejected.first() {
        Some((_, first)) if taken.accepted == 0 && taken.ignored.is_empty() => {
            let mut refusal = Refusal::new(first.code, first.message.clone());
            refusal.rejected = rejected_list(&taken.rejected);
            Err(refusal)
        }
        _ => Ok(taken),
    }
}

struct Collector<'c, 'a> {
    envelope: &'c Envelope<'a>,
    context: Context<'c>,
    request_id: &'c str,
    shared_bytes: usize,
    index: usize,
    taken: Taken<'a>,
    /// Where in the taken facts each event id of this request is.
    seen: HashMap<Hash128, usize>,
}

impl<'a> Collector<'_, 'a> {
    fn element(&mut self, reader: &mut Reader<'a>) -> Result<(), Refusal> {
        if self.index >= ITEMS_MAX {
            return Err(Refusal::new(Code::TooManyEvents, format!("a batch may have {ITEMS_MAX} items")));
        }
        if self.index * self.shared_bytes > SHARED_BYTES_MAX {
            let message = "context and integrations around the items are too large for so many of them";
            return Err(Refusal::new(Code::BodyTooLarge, message));
        }
        if reader.peek() != Some(b'{') {
            reader.value(2)?;
            self.reject(Rejection::new(Code::NotAnObject, "an item is an object"));
            return Ok(());
        }
        match Item::read(reader.skim()?) {
            Ok(item) => self.item(item.call(), &item),
            // Then the body as a whole is no JSON.
            Err(Fault::Syntax) => return Err(Fault::Syntax.into()),
            Err(fault) => {
                let (code, message) = describe(fault);
                self.reject(Rejection::new(code, message.replace("the body", "the item")));
            }
        }
        Ok(())
    }

    fn item(&mut self, call: Result<Call, Rejection>, item: &Item<'a>) {
        let fresh_id = format!("{}-{}", self.request_id, self.index);
        let arrival = Arrival { context: self.context, envelope: self.envelope, fresh_id: &fresh_id };
        match call.and_then(|call| map(call, item, arrival)) {
            Ok(Mapped::Facts(facts)) => self.accept(facts),
            Ok(Mapped::Ignored(why)) => {
                self.taken.ignored.push((self.index, why));
                self.index += 1;
            }
            Err(why) => self.reject(why),
        }
    }

    fn accept(&mut self, facts: Vec<Fact<'a>>) {
        let Some(fact) = facts.first() else { return };
        match self.seen.entry(fact.head.event) {
            Entry::Vacant(entry) => {
                entry.insert(self.taken.facts.len());
            }
            // An equal repeat is stored like any other: that it is a duplicate is for the identity stage to say and count.
            Entry::Occupied(entry) if self.taken.facts.get(*entry.get()) == Some(fact) => {}
            Entry::Occupied(_) => {
                let message = "an item before this one has the same messageId and different content";
                return self.reject(Rejection::new(Code::IdConflict, message));
            }
        }
        self.taken.facts.extend(facts);
        self.taken.accepted += 1;
        self.index += 1;
    }

    fn reject(&mut self, why: Rejection) {
        self.taken.rejected.push((self.index, why));
        self.index += 1;
    }
}
