//! The store as Pingora's cache sees it.

use super::entry::{Body, Entry, Told};
use super::fill::{Broken, Fill, piece};
use super::fresh::Terms;
use super::key::Key;
use super::store::Store;
use crate::types::content_length;
use async_trait::async_trait;
use bytes::Bytes;
use pingora::cache::key::CacheHashKey;
use pingora::cache::storage::{
    HandleHit, HandleMiss, HitHandler, MissFinishType, MissHandler, PurgeOutcome, PurgeTarget, PurgeType, Storage,
};
use pingora::cache::trace::SpanHandle;
use pingora::cache::{CacheKey, CacheMeta};
use pingora::prelude::*;
use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

impl Key {
    /// The same for Pingora, which finds locks and what can't be kept by its hash.
    pub fn to_pingora(self) -> CacheKey {
        let mut key = CacheKey::new(self.page.to_ne_bytes(), "");
        key.set_primary_bin_override(self.family.to_ne_bytes());
        key
    }

    /// What [`Key::to_pingora`] was made of.
    pub fn of(key: &CacheKey) -> Key {
        let page = key.primary_key().first_chunk().copied().unwrap_or_default();
        Key { page: u128::from_ne_bytes(page), family: u128::from_ne_bytes(key.primary_bin()) }
    }
}

/// What Pingora is told of an answer. It gets no times of its own: all variants are of one moment, or it would take those that came
/// before the newest for purged. It counts windows in seconds: whether they are over is decided by the terms, so here a part of one is
/// a whole one.
pub fn meta(terms: &Terms, head: pingora::http::ResponseHeader, fresh_until: std::time::SystemTime) -> CacheMeta {
    let seconds = |window: Duration| u32::try_from(window.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX);
    CacheMeta::new(fresh_until, UNIX_EPOCH, seconds(terms.stale_while_revalidate), seconds(terms.stale_if_error), head)
}

#[async_trait]
impl Storage for Store {
    async fn lookup(&'static self, key: &CacheKey, _: &SpanHandle) -> Result<Option<(CacheMeta, HitHandler)>> {
        Ok(self.find(Key::of(key), key.variance_bin()).map(|entry| {
            let mut meta = meta(&entry.terms(), entry.head.build(0), entry.fresh_until());
            if let Some(variance) = entry.variance() {
                meta.set_variance_key(variance);
                meta.extensions_mut().insert(entry.clone());
            }
            (meta, Box::new(Reader::new(entry, false)) as HitHandler)
        }))
    }

    async fn lookup_streaming_write(
        &'static self,
        _: &CacheKey,
        tag: Option<&[u8]>,
        _: &SpanHandle,
    ) -> Result<Option<(CacheMeta, HitHandler)>> {
        let id = tag.and_then(|tag| tag.first_chunk().copied()).map(u64::from_ne_bytes);
        Ok(id.and_then(|id| self.coming(id)).map(|entry| {
            let meta = meta(&entry.terms(), entry.head.build(0), entry.fresh_until());
            (meta, Box::new(Reader::new(entry, true)) as HitHandler)
        }))
    }

    async fn get_miss_handler(&'static self, key: &CacheKey, meta: &CacheMeta, _: &SpanHandle) -> Result<MissHandler> {
        let Some(told) = meta.extensions().get::<Arc<Told>>() else {
            return Error::e_explain(ErrorType::InternalError, "an answer is to be kept of which nothing was told");
        };
        let fill = self.fill(told.body_bytes_max);
        let head = meta.response_header_copy();
        let announced = content_length(&head.headers).and_then(|length| length.try_into().ok());
        let entry = Arc::new(Entry::new(Key::of(key), meta.variance(), head, told, Body::Coming(fill.clone())));
        let id = self.begin(&entry, told.since);
        Ok(Box::new(Writer { store: self, entry, told: told.clone(), fill, announced, tag: id.to_ne_bytes(), is_finished: false }))
    }

    /// Not used: purges are the store's own.
    async fn purge(&'static self, _: PurgeTarget<'_>, _: PurgeType, _: &SpanHandle) -> Result<PurgeOutcome> {
        Ok(PurgeOutcome::NotFound)
    }

    /// The service says that an answer is still good.
    async fn update_meta(&'static self, key: &CacheKey, meta: &CacheMeta, _: &SpanHandle) -> Result<bool> {
        let (Some(old), Some(told)) = (self.find(Key::of(key), meta.variance()), meta.extensions().get::<Arc<Told>>()) else {
            return Ok(false);
        };
        // Of another body than the one that the service was asked about, it says nothing.
        let is_another = meta.extensions().get::<AskedAbout>().is_some_and(|AskedAbout(asked)| !Arc::ptr_eq(asked, &old));
        if is_another || !old.is_whole() {
            return Ok(false);
        }
        let new = Entry::new(old.key, old.variance(), meta.response_header_copy(), told, old.body.clone());
        self.renew(&old, new, told.since);
        Ok(true)
    }

    fn support_streaming_partial_write(&self) -> bool {
        true
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync + 'static) {
        self
    }
}

fn broken(what: Broken) -> Box<Error> {
    match what {
        Broken::Aborted => Error::explain(ErrorType::ReadError, "the answer that others wait for broke off").into_up(),
        Broken::LeftBehind => {
            Error::explain(ErrorType::WriteTimedout, "a client takes nothing of an answer that others wait for").into_down()
        }
        Broken::NobodyReads => Error::explain(ErrorType::WriteError, "nobody is left to read an answer too large to be kept").into_down(),
    }
}

/// What the service was asked about, with the answer that it is still good.
#[derive(Clone, Debug)]
pub struct AskedAbout(pub Arc<Entry>);

/// Reads an answer, whole or coming.
pub struct Reader {
    entry: Arc<Entry>,
    /// Its number among those that read what is coming.
    id: u64,
    position: usize,
    end: usize,
    /// The end was told, by an empty piece.
    is_ended: bool,
}

impl Reader {
    fn new(entry: Arc<Entry>, is_own: bool) -> Reader {
        let id = match &entry.body {
            Body::Coming(fill) => fill.join(is_own),
            _ => 0,
        };
        let end = entry.body.length().unwrap_or(usize::MAX);
        Reader { entry, id, position: 0, end, is_ended: false }
    }
}

/// The entry that a handler of ours reads.
pub fn entry_of(handler: &HitHandler) -> Option<Arc<Entry>> {
    handler.as_any().downcast_ref::<Reader>().map(|reader| reader.entry.clone())
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Body::Coming(fill) = &self.entry.body {
            fill.leave(self.id);
        }
    }
}

#[async_trait]
impl HandleHit for Reader {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        let piece = match &self.entry.body {
            _ if self.position >= self.end => None,
            Body::Coming(fill) => fill.read(self.id, &mut self.position, self.end).await.map_err(broken)?,
            whole => {
                let piece = piece(whole.chunks().unwrap_or_default().iter(), 0, self.position, self.end);
                self.position += piece.as_ref().map_or(0, Bytes::len);
                piece
            }
        };
        let is_first_end = piece.is_none() && !std::mem::replace(&mut self.is_ended, piece.is_none());
        Ok(if is_first_end { Some(Bytes::new()) } else { piece })
    }

    async fn finish(self: Box<Self>, _: &'static (dyn Storage + Sync), _: &CacheKey, _: &SpanHandle) -> Result<()> {
        Ok(())
    }

    fn can_seek(&self) -> bool {
        true
    }

    fn seek(&mut self, start: usize, end: Option<usize>) -> Result<()> {
        let length = self.entry.body.length().unwrap_or(usize::MAX);
        (self.position, self.end) = (start, end.unwrap_or(length).min(length));
        Ok(())
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn as_any_mut(&mut self) -> &mut (dyn Any + Send + Sync) {
        self
    }
}

/// Writes an answer that is coming.
struct Writer {
    store: &'static Store,
    entry: Arc<Entry>,
    told: Arc<Told>,
    fill: Arc<Fill>,
    announced: Option<usize>,
    tag: [u8; 8],
    is_finished: bool,
}

impl Writer {
    fn publish(&mut self) -> usize {
        self.is_finished = true;
        let entry = &self.entry;
        let whole = self.fill.finish(self.announced);
        let whole = whole.map(|chunks| Entry::new(entry.key, entry.variance(), entry.head.build(0), &self.told, Body::whole(chunks)));
        let length = whole.as_ref().and_then(|whole| whole.body.length()).unwrap_or(0);
        self.store.finish(u64::from_ne_bytes(self.tag), whole);
        length
    }
}

#[async_trait]
impl HandleMiss for Writer {
    async fn write_body(&mut self, data: Bytes, _: bool) -> Result<()> {
        match data.is_empty() {
            true => Ok(()),
            false => self.fill.write(data).await.map(drop).map_err(broken),
        }
    }

    async fn finish(mut self: Box<Self>) -> Result<MissFinishType> {
        Ok(MissFinishType::Created(self.publish()))
    }

    fn streaming_write_tag(&self) -> Option<&[u8]> {
        Some(&self.tag)
    }
}

/// Dropped before it was finished: the service broke off, or the exchange was given up.
impl Drop for Writer {
    fn drop(&mut self) {
        if !self.is_finished {
            self.fill.abort();
            self.store.finish(u64::from_ne_bytes(self.tag), None);
        }
    }
}
