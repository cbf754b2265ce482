//! The body of a request: an envelope around items, or one call.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use inflection_domain::{Fact, Hash128};

use super::facts::{Arrival, Ignored, Mapped, map};
use super::item::{Call, Item};
use super::shared::{Shared, members_of};
use super::{BATCH_BYTES_MAX, Endpoint, ITEMS_MAX};
use crate::answer::{Code, Refusal};
use crate::events::describe;
use crate::fact::{Context, EVENT_BYTES_MAX, Rejection};
use crate::json::{Fault, Keys, Reader, Value};

/// Most bytes of what an envelope adds to all its items together: a little around many must not become much, in memory and
/// in work. As much again as a body may have.
pub(super) const SHARED_BYTES_MAX: usize = BATCH_BYTES_MAX;
/// How often what is added is in memory at once: in the facts, and in what is made of them for the bus.
const COPIES: usize = 2;

/// What stands around the items of a batch. Segment merges `context` and `integrations` into each of them.
#[derive(Debug, Default)]
pub(super) struct Envelope<'a> {
    pub(super) write_key: Option<Cow<'a, str>>,
    pub(super) sent_at: Option<Value<'a>>,
    pub(super) context: Shared<'a>,
    pub(super) integrations: Shared<'a>,
    content: Content<'a>,
}

#[derive(Debug, Default)]
enum Content<'a> {
    /// A batch without items.
    #[default]
    Nothing,
    /// The text of each item, and how many more there are than a batch may have.
    Items(Vec<&'a str>, usize),
    /// The one call, and which the path says that it is.
    Single(Call, Box<Item<'a>>),
}

impl<'a> Envelope<'a> {
    /// Reads all but the items of a batch, which stand each for itself.
    pub(super) fn read(body: &'a [u8], endpoint: Endpoint) -> Result<Self, Refusal> {
        let mut reader = Reader::new(body)?.with_negative_zeros();
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

    /// How many items there are, but for those that are too many.
    fn items(&self) -> usize {
        match &self.content {
            Content::Nothing => 0,
            Content::Single(..) => 1,
            Content::Items(items, _) => items.len(),
        }
    }

    /// What is added to each item.
    pub(super) fn shared_bytes(&self) -> usize {
        self.context.bytes() + self.integrations.bytes()
    }

    /// What is added to all items, which takes memory beside the body.
    pub(super) fn added_bytes(&self) -> usize {
        match &self.content {
            // An identify may become two facts, which both have the integrations.
            Content::Items(items, _) => items.len() * (self.shared_bytes() + self.integrations.bytes()) * COPIES,
            Content::Nothing | Content::Single(..) => 0,
        }
    }

    fn batch(reader: &mut Reader<'a>) -> Result<Self, Refusal> {
        let (mut envelope, mut keys) = (Self::default(), Keys::default());
        let (mut context, mut integrations) = ("", "");
        reader.object(|key, reader| -> Result<(), Refusal> {
            match &*key {
                "batch" if reader.peek() == Some(b'[') => envelope.content = items(reader)?,
                "batch" => return Err(Refusal::new(Code::BadType, "batch must be a list of objects")),
                "writeKey" => envelope.write_key = text(Some(reader.value(2)?)),
                "sentAt" => envelope.sent_at = Some(reader.value(2)?),
                "context" => context = members_of(&reader.value(2)?),
                "integrations" => integrations = members_of(&reader.value(2)?),
                _ => drop(reader.value(2)?),
            }
            Ok(keys.insert(key)?)
        })?;
        reader.end()?;
        if context.len() + integrations.len() > EVENT_BYTES_MAX {
            let message = "context and integrations around the items are more than an item may have";
            return Err(Refusal::new(Code::EventTooLarge, message));
        }
        (envelope.context, envelope.integrations) = (Shared::of(context), Shared::of(integrations));
        if envelope.added_bytes() > SHARED_BYTES_MAX * COPIES {
            let message = "context and integrations around the items are too large for so many of them";
            return Err(Refusal::new(Code::BodyTooLarge, message));
        }
        Ok(envelope)
    }
}

/// Finds the items by their brackets: what is wrong in one is its own fault, and is met when it is read.
fn items<'a>(reader: &mut Reader<'a>) -> Result<Content<'a>, Fault> {
    let (mut items, mut beyond) = (Vec::new(), 0);
    reader.array(|reader| -> Result<(), Fault> {
        let written = reader.skim()?;
        if items.len() < ITEMS_MAX {
            items.push(written);
        } else {
            beyond += 1;
        }
        Ok(())
    })?;
    Ok(Content::Items(items, beyond))
}

fn text(value: Option<Value<'_>>) -> Option<Cow<'_, str>> {
    let Some(Value::Text(text)) = value else { return None };
    Some(text)
}

/// The facts of a request, and what was not taken of it, by index.
#[derive(Debug, Default)]
pub(super) struct Taken<'a> {
    pub(super) facts: Vec<Fact<'a>>,
    /// How many items were taken.
    pub(super) accepted: usize,
    pub(super) rejected: Vec<(usize, Rejection)>,
    pub(super) ignored: Vec<(usize, Ignored)>,
    /// How many more are rejected than are named: all behind the first that is one too many.
    pub(super) unnamed: usize,
}

/// Reads and checks every item. What is wrong with one costs no other; when all are refused, so is the request.
pub(super) fn take<'a>(envelope: &Envelope<'a>, context: Context<'_>, request_id: &str) -> Result<Taken<'a>, Refusal> {
    let seen = HashMap::with_capacity(envelope.items());
    let mut collector = Collector { envelope, context, request_id, index: 0, taken: Taken::default(), seen };
    match &envelope.content {
        Content::Nothing => {}
        Content::Single(call, item) => collector.item(Ok(*call), item),
        Content::Items(items, beyond) => {
            items.iter().try_for_each(|written| collector.element(written))?;
            collector.beyond(*beyond);
        }
    }
    let (taken, count) = (collector.taken, collector.index);
    if count == 0 {
        return Err(Refusal::new(Code::EmptyBatch, "there is no call in the body"));
    }
    if taken.accepted == 0
        && taken.ignored.is_empty()
        && let Some(refusal) = Refusal::of_all(&taken.rejected)
    {
        return Err(Refusal { unnamed: taken.unnamed, ..refusal });
    }
    Ok(taken)
}

/// Reads what is no object.
fn no_item(written: &str) -> Result<(), Fault> {
    let mut reader = Reader::of(written).with_negative_zeros();
    reader.value(2)?;
    reader.end()
}

struct Collector<'c, 'a> {
    envelope: &'c Envelope<'a>,
    context: Context<'c>,
    request_id: &'c str,
    index: usize,
    taken: Taken<'a>,
    /// Where in the taken facts each event id of this request is.
    seen: HashMap<Hash128, usize>,
}

impl<'a> Collector<'_, 'a> {
    fn element(&mut self, written: &'a str) -> Result<(), Refusal> {
        let read =
            if written.starts_with('{') { Item::read(written).map(Some) } else { no_item(written).map(|()| None) };
        match read {
            Ok(Some(item)) => self.item(item.call(), &item),
            Ok(None) => self.reject(Rejection::new(Code::NotAnObject, "an item is an object")),
            // Then the body as a whole is no JSON.
            Err(Fault::Syntax) => return Err(Fault::Syntax.into()),
            Err(fault) => {
                let (code, message) = describe(fault);
                self.reject(Rejection::new(code, message.replace("the body", "the item")));
            }
        }
        Ok(())
    }

    /// Refuses the items that are too many, all under the index of the first: there may be a great many.
    fn beyond(&mut self, count: usize) {
        let Some(others) = count.checked_sub(1) else { return };
        let message = format!("a batch may have {ITEMS_MAX} items; this one and {others} after it are not taken");
        self.reject(Rejection::new(Code::TooManyEvents, message));
        self.taken.unnamed = others;
    }

    fn item(&mut self, call: Result<Call, Rejection>, item: &Item<'a>) {
        let Self { context, envelope, request_id, index, .. } = *self;
        let arrive = |call| map(item, Arrival { context, envelope, call, request_id, index });
        match call.and_then(arrive) {
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
