//! Rendered calls of one message, in pages: memory of one size is used again and again, and a page leaves as soon as its
//! calls are sent. Pure.

use std::sync::Arc;

use bytes::Bytes;
use inflection_domain::Timestamp;

use crate::dispatcher::{Item, Ticket};
use crate::trace::CallTrace;
use crate::translate::Rendered;

/// Bytes of a page.
const PAGE_BYTES: usize = 64 * 1024;
/// With less room left than this a new page begins; a larger call makes its page larger.
const USUAL_CALL_BYTES: usize = 2 * 1024;

/// Calls that are being rendered.
#[derive(Debug)]
pub(crate) struct Pages {
    ticket: Ticket,
    received_at: Timestamp,
    page: Vec<u8>,
    on_page: Vec<(Rendered, Option<Arc<CallTrace>>)>,
    items: Vec<Item>,
    full_bytes: usize,
}

impl Pages {
    /// No calls yet; about `expected` bytes of them will come.
    pub(crate) fn new(ticket: Ticket, received_at: Timestamp, expected: usize) -> Self {
        let page = Vec::with_capacity(expected.min(PAGE_BYTES));
        Self { ticket, received_at, page, on_page: Vec::new(), items: Vec::new(), full_bytes: 0 }
    }

    /// Where the next call is rendered.
    pub(crate) fn page(&mut self) -> &mut Vec<u8> {
        &mut self.page
    }

    /// Takes a call that was rendered on the page.
    pub(crate) fn push(&mut self, call: Rendered, trace: Option<Arc<CallTrace>>) {
        self.on_page.push((call, trace));
        if self.page.len() + USUAL_CALL_BYTES > PAGE_BYTES {
            self.turn();
            self.page = Vec::with_capacity(PAGE_BYTES);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.on_page.is_empty()
    }

    /// What the calls take until they are sent.
    pub(crate) fn memory_bytes(&self) -> usize {
        let calls = self.items.len() + self.on_page.len();
        self.full_bytes + self.page.capacity() + calls * size_of::<Item>()
    }

    /// The calls, in order.
    pub(crate) fn into_items(mut self) -> Vec<Item> {
        self.turn();
        self.items
    }

    fn turn(&mut self) {
        self.full_bytes += self.page.capacity();
        let bytes = Bytes::from(std::mem::take(&mut self.page));
        let (ticket, received_at) = (self.ticket, self.received_at);
        self.items.extend(self.on_page.drain(..).map(|(at, trace)| Item {
            bytes: bytes.slice(at.start..at.end),
            split: at.item - at.start,
            ticket,
            received_at,
            id: at.id,
            person: Some(at.person),
            trace,
        }));
    }
}

#[cfg(test)]
mod tests {
    use inflection_domain::Hash128;

    use super::*;

    /// Calls of every size come out as they went in, and the memory is counted whole.
    #[test]
    fn calls_are_what_was_rendered() {
        let ticket = Ticket::Decision { partition: 3, sequence: 7 };
        let mut pages = Pages::new(ticket, Timestamp::from_ms(5), 1_000);
        assert!(pages.is_empty());
        let sizes = [1, 900, 32_000, 1_500, 30_000, 32_000, 70_000, 2, 61_000, 3_000, 5];
        for (number, size) in sizes.into_iter().enumerate() {
            let page = pages.page();
            let start = page.len();
            page.extend_from_slice(b"id");
            page.resize(page.len() + size, u8::try_from(number).unwrap());
            let (item, end) = (start + 2, page.len());
            pages.push(Rendered { start, item, end, id: number as u64, person: Hash128::default() }, None);
        }
        let total: usize = sizes.iter().map(|size| size + 2 + size_of::<Item>()).sum();
        assert!(pages.memory_bytes() >= total && pages.memory_bytes() < 2 * total, "{}", pages.memory_bytes());
        let items = pages.into_items();
        for ((number, size), item) in sizes.into_iter().enumerate().zip(&items) {
            assert_eq!((item.event_id(), item.id, item.ticket), ("id", number as u64, ticket));
            assert!(item.json().len() == size && item.json().iter().all(|byte| usize::from(*byte) == number));
        }
        assert_eq!(items.len(), sizes.len());
    }
}
