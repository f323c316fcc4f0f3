//! A limit as it is configured, and what of all limits outlives a configuration.

use super::carried::Numbers;
use super::key::{self, Caller};
use super::lease::{Lease, Terms};
use super::pace::Pace;
use super::shared::Shared;
use super::store::{Key, Near, PolicyId, Store};
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::{By, LimitMode, RateLimit, Rates, Redis, WhenDown};
use crate::config::scalar::Rate;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The limits of a process: their buckets, and those that are configured.
#[derive(Debug, Default)]
pub struct Limits {
    pub store: Arc<Store>,
    /// By name and the text of their configuration: one that is unchanged goes on with its buckets.
    known: Mutex<HashMap<(String, String), Weak<Limit>>>,
    /// The numbers that policies had in the process whose place this one has taken.
    expected: Mutex<HashMap<(String, String), Vec<u32>>>,
    /// What gateways share, by the text of its configuration.
    shared: Mutex<Option<(Vec<u8>, Weak<Shared>)>>,
}

/// One name of `rate_limits`, however many routes use it.
#[derive(Debug)]
pub struct Limit {
    pub name: Arc<str>,
    pub by: Box<[By]>,
    /// It only counts what it would have refused.
    pub is_shadow: bool,
    pub has_legacy_fields: bool,
    /// The claim that chooses among the plans, if there are any.
    claim: Option<Box<str>>,
    /// By the claim's value, the one for all others last.
    plans: Box<[(Box<str>, Policy)]>,
    store: Arc<Store>,
    /// What it has in common with other gateways, if anything.
    pub sharing: Option<Sharing>,
}

/// How a limit is shared.
#[derive(Clone, Debug)]
pub struct Sharing {
    pub shared: Arc<Shared>,
    /// The store is asked for each request.
    pub is_exact: bool,
    pub when_down: WhenDown,
    nodes: u64,
}

/// One rate of a limit.
#[derive(Debug)]
pub struct Policy {
    id: PolicyId,
    pub pace: Pace,
    /// What this gateway keeps to while the store of a shared limit is away; otherwise the same.
    pub alone: Pace,
    pub terms: Terms,
    pub rate: Rate,
    /// `"name";q=20;w=12`, as RateLimit-Policy has it.
    pub field: Box<str>,
}

impl Policy {
    pub fn id(&self) -> PolicyId {
        self.id
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        self.plans.iter().for_each(|(_, policy)| self.store.remove_policy(policy.id));
    }
}

impl Limits {
    /// The store that gateways share, or goes on with it. It is to be started. `None` means that a problem was reported.
    pub fn shared(&self, raw: &Redis, at: &At<'_>, problems: &Problems) -> Option<Arc<Shared>> {
        let root_cert = match &raw.ca {
            None => None,
            Some(file) => {
                let read = std::fs::read(&file.0).map_err(|e| format!("can't read `{}`: {e}", file.0));
                let fix = "name a PEM file that this user may read";
                Some(problems.ok(read, &at.key("ca"), "the store's certificate could not be verified", fix)?)
            }
        };
        let key = [raw.url.0.as_bytes(), &[0], root_cert.as_deref().unwrap_or_default()].concat();
        let mut known = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = known.as_ref().filter(|(known, _)| *known == key).and_then(|(_, shared)| shared.upgrade()) {
            return Some(shared);
        }
        let built = Shared::build(raw, root_cert, self.store.began()).map_err(|what| format!("`url` can't be used: {what}"));
        let fix = "write `redis://`, `rediss://` or `unix:`, such as `redis://127.0.0.1:6379`";
        let shared = Arc::new(problems.ok(built, &at.key("url"), "limits could not be shared", fix)?);
        *known = Some((key, Arc::downgrade(&shared)));
        Some(shared)
    }

    /// Builds a limit, or goes on with it. `None` means that a problem was reported.
    pub fn build(&self, name: &str, raw: &RateLimit, shared: Option<&Arc<Shared>>, at: &At<'_>, problems: &Problems) -> Option<Arc<Limit>> {
        let shared = shared.filter(|_| raw.shared);
        let key = (name.to_string(), format!("{raw:?} {:?}", shared.map(Arc::as_ptr)));
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limit) = known().get(&key).and_then(Weak::upgrade) {
            return Some(limit);
        }
        let numbers = self.expected.lock().unwrap_or_else(PoisonError::into_inner).remove(&key).unwrap_or_default();
        let limit = Arc::new(self.fresh(name, raw, shared, &numbers, at, problems)?);
        let mut known = known();
        known.retain(|_, limit| limit.strong_count() > 0);
        known.insert(key, Arc::downgrade(&limit));
        Some(limit)
    }

    /// The numbers of all policies, for another process.
    pub fn numbers(&self) -> Numbers {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let alive = known.iter().filter_map(|(key, limit)| Some((key, limit.upgrade()?)));
        alive.map(|(key, limit)| (key.clone(), limit.plans.iter().map(|(_, policy)| policy.id.number()).collect())).collect()
    }

    /// Limits that are configured alike are to have these numbers.
    pub fn expect(&self, numbers: Numbers) {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).extend(numbers);
    }

    fn fresh(
        &self,
        name: &str,
        raw: &RateLimit,
        shared: Option<&Arc<Shared>>,
        numbers: &[u32],
        at: &At<'_>,
        problems: &Problems,
    ) -> Option<Limit> {
        let at_rate = at.key("rate");
        if let Some((nth, by)) = raw.by.0.iter().enumerate().find(|(nth, by)| raw.by.0[..*nth].contains(by)) {
            let fix = "remove one of the two";
            return problems.at(&at.key("by").index(nth), format!("`{}` is named twice", by.text()), "it would change nothing", fix);
        }
        // What a gateway counts for itself alone is never divided: its buckets are kept and forgotten by the pace that they are charged by.
        let nodes = if shared.is_some() { raw.nodes.0 } else { 1 };
        let pace =
            |rate: &Rate, at: &At<'_>| Some((pace(name, raw, *rate, 1, at, problems)?, pace(name, raw, *rate, nodes, at, problems)?));
        let (claim, plans) = match &raw.rate {
            Rates::One(rate) => (None, vec![pace(rate, &at_rate).map(|pace| (String::new(), *rate, pace))]),
            Rates::Plans(plans) => {
                let at_values = at_rate.key("values");
                let named = plans.values.0.iter().map(|(value, rate)| Some((value.clone(), *rate, pace(rate, &at_values.key(value))?)));
                let otherwise = pace(&plans.otherwise, &at_rate.key("otherwise"));
                let all = named.chain([otherwise.map(|pace| (String::new(), plans.otherwise, pace))]).collect();
                (Some(plans.claim.as_str().into()), all)
            }
        };
        let plans: Vec<(String, Rate, (Pace, Pace))> = plans.into_iter().collect::<Option<_>>()?;
        let policy = |(nth, (value, rate, (pace, alone))): (usize, (String, Rate, (Pace, Pace)))| {
            let field = format!("\"{name}\";q={};w={}", pace.burst(), pace.window()).into();
            let terms = Terms::new(rate.period, rate.count, pace.burst(), raw.cost.0, raw.nodes.0);
            (value.into(), Policy { id: self.store.add_policy(alone, numbers.get(nth).copied()), pace, alone, terms, rate, field })
        };
        let sharing = |shared: &Arc<Shared>| Sharing {
            shared: shared.clone(),
            is_exact: raw.exact,
            when_down: raw.when_store_is_down,
            nodes: raw.nodes.0,
        };
        Some(Limit {
            name: name.into(),
            by: raw.by.0.as_slice().into(),
            is_shadow: raw.mode == LimitMode::Shadow,
            has_legacy_fields: raw.legacy_headers,
            claim,
            plans: plans.into_iter().enumerate().map(policy).collect(),
            store: self.store.clone(),
            sharing: shared.map(sharing),
        })
    }
}

/// The pace of one of so many gateways, which has its part of the rate and of the burst, but never less than one request.
fn pace(name: &str, raw: &RateLimit, rate: Rate, nodes: u64, at: &At<'_>, problems: &Problems) -> Option<Pace> {
    let (burst, cost) = (raw.burst.map_or(rate.count, |burst| burst.0), raw.cost.0);
    if cost > burst {
        let what = format!("a request of `{name}` costs {cost}, and there are never more than {burst}");
        return problems.at(at, what, "every request would be refused", "lower `cost`, or raise `burst` to at least that");
    }
    let why = "a bucket that takes so long to fill can't be counted exactly";
    let part = Rate { count: rate.count, period: rate.period * u32::try_from(nodes).unwrap_or(u32::MAX) };
    problems.ok(Pace::new(part, (burst / nodes).max(cost), cost), at, why, "raise the rate, or lower `burst`")
}

impl Limit {
    /// The policy of a caller's plan.
    pub fn policy(&self, caller: &Caller<'_>) -> u16 {
        let last = self.plans.len() - 1;
        let value = self.claim.as_deref().and_then(|claim| (caller.claim)(claim));
        let named = value.and_then(|value| self.plans[..last].iter().position(|(known, _)| **known == *value));
        u16::try_from(named.unwrap_or(last)).unwrap_or(u16::MAX)
    }

    pub fn plan(&self, number: u16) -> &Policy {
        &self.plans[usize::from(number).min(self.plans.len() - 1)].1
    }

    pub fn key(&self, plan: u16, route: u64, caller: &Caller<'_>) -> Key {
        key::key(&self.store, self.plan(plan).id, &self.by, route, caller)
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The lease of a caller; `None` when it has to be decided without.
    pub fn lease(&self, sharing: &Sharing, plan: u16, key: Key, route: u64, caller: &Caller<'_>) -> Option<Arc<Lease>> {
        let (policy, value) = (self.plan(plan), &self.plans[usize::from(plan).min(self.plans.len() - 1)].0);
        let name = || {
            let alike = format!("{} {value} {} {:?}", self.name, policy.rate, policy.terms);
            key::shared_name(&alike, &self.by, route, caller)
        };
        sharing.shared.leases.of(key, policy.id, policy.terms, self.store.max(), name)
    }

    /// Requests that all gateways together may let through beyond burst and rate, in any time: those that they hold.
    pub fn overshoot(&self) -> Option<u64> {
        let sharing = self.sharing.as_ref().filter(|sharing| !sharing.is_exact)?;
        let held = self.plans.iter().map(|(_, policy)| u64::from(policy.terms.most)).max()?;
        Some(held * sharing.nodes)
    }

    /// What of it lets through more than before, for people; nothing when it is as strict.
    pub fn looser(&self, new: &Limit) -> Option<String> {
        if new.is_shadow && !self.is_shadow {
            return Some("only counts".to_string());
        }
        // Who counts by less counts more together; everybody is no part at all.
        if let Some(by) = new.by.iter().find(|by| **by != By::Global && !self.by.contains(by)) {
            return Some(format!("counts by {} too", by.text()));
        }
        if self.sharing.is_some() && new.sharing.is_none() {
            return Some("is not shared any more".to_string());
        }
        if self.claim.is_some() && new.claim.is_some() && self.claim != new.claim {
            return Some("has its plans by another claim".to_string());
        }
        let of = |limit: &'_ Limit, value: &str| {
            let last = limit.plans.len() - 1;
            limit.plans[..last].iter().position(|(known, _)| **known == *value).unwrap_or(last)
        };
        let values = self.plans.iter().chain(&new.plans).map(|(value, _)| value);
        values.into_iter().find_map(|value| {
            let (old, new) = (&self.plans[of(self, value)].1, &new.plans[of(new, value)].1);
            // Of a request with its cost: how soon the next one fits, and how many fit at once.
            let is_looser =
                new.terms.each_us < old.terms.each_us || new.terms.room_us / new.terms.each_us > old.terms.room_us / old.terms.each_us;
            let shown = |policy: &Policy| format!("{}, burst {}", policy.rate, policy.pace.burst());
            is_looser.then(|| format!("was {} and is {}", shown(old), shown(new)))
        })
    }

    /// Whoever asks can choose to be counted as somebody else each time.
    pub fn is_chosen_by_client(&self) -> bool {
        self.by.iter().any(|by| matches!(by, By::Header(_)))
            && self.by.iter().all(|by| matches!(by, By::Header(_) | By::Route | By::Global))
    }

    /// How many keys it has, and those with the least left. What is counted of requests that were decided without the store is
    /// not among them.
    pub fn nearest(&self, most: usize) -> (usize, Vec<Near>) {
        let Some(sharing) = &self.sharing else {
            let policies: Vec<_> = self.plans.iter().map(|(_, policy)| (policy.id, policy.pace)).collect();
            return self.store.nearest(&policies, most);
        };
        let (keys, _, near) = sharing.shared.leases.nearest(&self.ids(), most, self.store.now_ns());
        (keys, near)
    }

    /// Requests of a shared limit that this gateway holds.
    pub fn held(&self) -> u64 {
        self.sharing.as_ref().map_or(0, |sharing| sharing.shared.leases.nearest(&self.ids(), 0, self.store.now_ns()).1)
    }

    fn ids(&self) -> Vec<PolicyId> {
        self.plans.iter().map(|(_, policy)| policy.id).collect()
    }

    /// What it counts by, as it is configured.
    pub fn by_text(&self) -> String {
        self.by.iter().map(By::text).collect::<Vec<_>>().join(", ")
    }

    /// Its rates for people: `100/1m, burst 20`.
    pub fn rate_text(&self) -> String {
        let mut out = String::new();
        for (value, policy) in &self.plans {
            if !out.is_empty() {
                out.push_str("; ");
            }
            match (&self.claim, value.is_empty()) {
                (None, _) => {}
                (Some(claim), false) => drop(write!(out, "{claim} {value}: ")),
                (Some(_), true) => out.push_str("else: "),
            }
            let _ = write!(out, "{}, burst {}", policy.rate, policy.pace.burst());
        }
        out
    }
}
