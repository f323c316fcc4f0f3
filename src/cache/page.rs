//! All that is kept of one page.

use super::entry::Entry;
use crate::types::Pass;
use smallvec::{SmallVec, smallvec};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::slice;
use std::sync::Arc;

/// Variants of one answer; the oldest makes room.
const VARIANTS_MAX: usize = 64;

/// The variants of one answer, the newest first.
type Family = SmallVec<[Arc<Entry>; 1]>;

/// One answer mostly. Many where who asks tells answers apart, where they vary, and while one is fetched anew. A page is never empty.
#[derive(Debug)]
pub enum Page {
    One(Arc<Entry>),
    Many(Box<Families>),
}

#[derive(Debug)]
pub struct Families {
    page: u128,
    families: HashMap<u128, Family, BuildHasherDefault<Pass>>,
}

impl Page {
    /// Which page it is.
    pub fn id(&self) -> u128 {
        match self {
            Page::One(one) => one.key.page,
            Page::Many(many) => many.page,
        }
    }

    /// The variants of an answer, the newest first.
    pub fn family(&self, family: u128) -> &[Arc<Entry>] {
        match self {
            Page::One(one) if one.key.family == family => slice::from_ref(one),
            Page::One(_) => &[],
            Page::Many(many) => many.families.get(&family).map_or(&[], |family| &family[..]),
        }
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Entry>> {
        let (one, many) = match self {
            Page::One(one) => (Some(one), None),
            Page::Many(many) => (None, Some(many.families.values().flatten())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// Adds an answer. Answers with the one that made room for it.
    pub fn add(&mut self, entry: &Arc<Entry>) -> Option<Arc<Entry>> {
        if let Page::One(one) = self {
            let family: (u128, Family) = (one.key.family, smallvec![one.clone()]);
            *self = Page::Many(Box::new(Families { page: one.key.page, families: HashMap::from_iter([family]) }));
        }
        let Page::Many(many) = self else { return None };
        let family = many.families.entry(entry.key.family).or_default();
        family.insert(0, entry.clone());
        (family.len() > VARIANTS_MAX).then(|| family.pop()).flatten()
    }

    /// Takes out what is meant of an answer. Answers with that, and with the page unless nothing is left of it.
    pub fn without(self, family: u128, is_meant: impl Fn(&Entry) -> bool) -> (Option<Page>, SmallVec<[Arc<Entry>; 1]>) {
        let mut many = match self {
            Page::One(one) if one.key.family == family && is_meant(&one) => return (None, smallvec![one]),
            Page::One(_) => return (Some(self), SmallVec::new()),
            Page::Many(many) => many,
        };
        let mut gone = SmallVec::new();
        if let Some(variants) = many.families.get_mut(&family) {
            let (out, left): (SmallVec<_>, Family) = variants.drain(..).partition(|entry| is_meant(entry));
            gone = out;
            match left.is_empty() {
                true => drop(many.families.remove(&family)),
                false => *variants = left,
            }
        }
        let mut rest = many.families.values().flatten();
        let page = match (rest.next().cloned(), rest.next()) {
            (None, _) => None,
            (Some(one), None) => Some(Page::One(one)),
            _ => Some(Page::Many(many)),
        };
        (page, gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::entry::{Body, Told};
    use crate::cache::fresh::Terms;
    use crate::cache::key::Key;
    use pingora::http::ResponseHeader;
    use proptest::prelude::*;
    use std::time::{Duration, SystemTime};

    fn entry(family: u128) -> Arc<Entry> {
        let terms = Terms {
            received: SystemTime::now(),
            lifetime: Duration::ZERO,
            initial_age: Duration::ZERO,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            must_revalidate: false,
            withheld: Box::default(),
        };
        let told = Told { terms, url: Box::default(), vary: Box::default(), tags: Box::default(), body_bytes_max: 0, since: 0 };
        let head = ResponseHeader::build(200, None).expect("a head");
        Arc::new(Entry::new(Key { page: 1, family }, None, head, &told, Body::whole(vec![])))
    }

    proptest! {
        /// Beside a plain list, the newest first.
        #[test]
        fn what_is_added_is_found_until_it_is_taken_out(
            steps in prop::collection::vec((0u128..4, 0usize..6, prop::bool::weighted(0.6)), 1..200),
        ) {
            let first = entry(0);
            let (mut page, mut plain) = (Some(Page::One(first.clone())), vec![first]);
            for (family, at, adds) in steps {
                if adds {
                    let new = entry(family);
                    plain.insert(0, new.clone());
                    match &mut page {
                        Some(page) => prop_assert!(page.add(&new).is_none()),
                        None => page = Some(Page::One(new)),
                    }
                } else if let Some(before) = page.take() {
                    let meant = plain[at % plain.len()].clone();
                    let (left, gone) = before.without(family, |entry| std::ptr::eq(entry, &*meant));
                    prop_assert_eq!(gone.len(), usize::from(meant.key.family == family));
                    plain.retain(|entry| !gone.iter().any(|gone| Arc::ptr_eq(gone, entry)));
                    prop_assert!(gone.is_empty() || plain.len() > 1 || !matches!(left, Some(Page::Many(_))));
                    page = left;
                }
                prop_assert_eq!(page.as_ref().map_or(0, |page| page.all().count()), plain.len());
                for family in 0..4 {
                    let found = page.as_ref().map_or(&[][..], |page| page.family(family));
                    let wanted: Vec<_> = plain.iter().filter(|entry| entry.key.family == family).collect();
                    prop_assert!(found.iter().zip(&wanted).all(|(one, other)| Arc::ptr_eq(one, other)) && found.len() == wanted.len());
                }
            }
        }
    }

    #[test]
    fn the_oldest_variant_makes_room() {
        let all: Vec<_> = (0..=VARIANTS_MAX).map(|_| entry(7)).collect();
        let mut page = Page::One(all[0].clone());
        let driven: Vec<_> = all[1..].iter().filter_map(|one| page.add(one)).collect();
        assert!(driven.len() == 1 && Arc::ptr_eq(&driven[0], &all[0]) && page.family(7).len() == VARIANTS_MAX);
    }
}
