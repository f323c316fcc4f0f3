//! A service's endpoints, the choice among them, and what their failures lead to.

use super::balance::{Balancer, Fits};
use super::clock::ms;
use super::endpoint::{Endpoint, EndpointState};
use super::names::literal;
use super::retry::Failure;
use super::source::{self, Member, Source};
use super::states::ServiceState;
use super::sticky::{Ids, Sticky};
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw;
use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

#[derive(Debug)]
pub struct Pool {
    set: ArcSwap<Set>,
    /// Those with an address of their own.
    fixed: Vec<Member>,
    /// Where others are asked for.
    sources: Vec<Source>,
    kind: raw::Balance,
    slow_start: u64,
    sticky: Option<Sticky>,
    ejection: Ejection,
    pub(super) state: Arc<ServiceState>,
}

/// The endpoints of one moment.
#[derive(Debug)]
pub struct Set {
    pub endpoints: Vec<Arc<Endpoint>>,
    balancer: Balancer,
    ids: Option<Ids>,
    /// Some stand in another zone than the gateway.
    has_far: bool,
    /// Some are picked only when no other is well.
    has_spare: bool,
}

/// What of a request decides where it goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// Where it has been already.
    pub tried: &'a [SocketAddr],
    /// The hash of what it has in common with others, where the service asks for that.
    pub key: Option<u64>,
    /// Its fields, where the service has a sticky cookie.
    pub cookies: Option<&'a HeaderMap>,
}

/// When an endpoint is left alone for a while.
#[derive(Clone, Copy, Debug)]
struct Ejection {
    failures: u32,
    base: Duration,
    percent_max: usize,
}

impl Pool {
    /// Sets up the endpoints, of which those that have to be asked for are known by now as far as they are. `None` means that
    /// a problem was reported.
    pub fn build(
        raw: &raw::Service,
        sticky: Option<Sticky>,
        zone: Option<&str>,
        at: &At<'_>,
        state: Arc<ServiceState>,
        problems: &Problems,
    ) -> Option<Pool> {
        let sources = Source::all(raw, zone);
        let endpoints_at = at.key("endpoints");
        let is_all = ["endpoints", "dns", "srv", "endpoints_file"].iter().all(|key| problems.is_sound(&at.key(key)));
        if raw.endpoints.is_empty() && sources.is_empty() && is_all {
            return problems.at(
                &endpoints_at,
                "a service without endpoints",
                "nothing can be sent to it",
                "name at least one, such as `10.0.0.11:8000`",
            );
        }
        let was_settled = state.is_settled();
        let fixed = fixed(raw, zone, &endpoints_at, &state, problems);
        let others = Source::others(raw, zone);
        let is_told = others.iter().filter(|source| !is_heard(source, &state, at, problems)).count() == 0;
        let ejection = Ejection {
            failures: u32::try_from(raw.ejection.consecutive_failures.0).unwrap_or(u32::MAX),
            base: raw.ejection.base,
            percent_max: raw.ejection.max_percent.usize(),
        };
        let set = ArcSwap::from_pointee(Set::new(Vec::new(), &raw.balance, None));
        let (kind, slow_start) = (raw.balance.clone(), raw.slow_start.map_or(0, ms));
        let pool = Pool { set, fixed: fixed?, sources, kind, slow_start, sticky, ejection, state };
        pool.replace(was_settled);
        is_told.then_some(pool)
    }

    /// Where endpoints are asked for.
    pub(super) fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Takes in what the sources say now. Answers whether that is new.
    pub(super) fn refresh(&self) -> bool {
        let set = self.set.load();
        let (wanted, is) = (self.members(), &set.endpoints);
        let is_new = wanted.len() != is.len() || wanted.iter().zip(is).any(|(member, endpoint)| !member.is(endpoint));
        if is_new {
            self.replace(!is.is_empty());
        }
        is_new
    }

    /// All that are known, each address once.
    fn members(&self) -> Vec<Member> {
        let found = self.sources.iter().flat_map(|source| {
            let heard = self.state.heard(source).members;
            heard.into_iter().map(|member| source.dressed(member))
        });
        let mut known = HashSet::new();
        self.fixed.iter().cloned().chain(found).filter(|member| known.insert(member.address)).collect()
    }

    /// Puts the endpoints in place. Those that stay keep what is known of them.
    fn replace(&self, is_beside_others: bool) {
        let old = self.set.load();
        let old: HashMap<SocketAddr, &Arc<Endpoint>> = old.endpoints.iter().map(|endpoint| (endpoint.address, endpoint)).collect();
        let endpoint = |member: Member| match old.get(&member.address) {
            Some(same) if member.is(same) => (*same).clone(),
            Some(_) | None => Arc::new(endpoint_of(member, self.slow_start, &self.state, is_beside_others)),
        };
        let endpoints = self.members().into_iter().map(endpoint).collect();
        self.set.store(Arc::new(Set::new(endpoints, &self.kind, self.sticky.as_ref())));
    }

    /// The endpoints as they are now.
    pub fn set(&self) -> Arc<Set> {
        self.set.load_full()
    }

    /// Picks an endpoint for a request of which nothing else matters.
    pub fn pick(&self, tried: &[SocketAddr]) -> Option<Picked> {
        self.pick_for(&Wanted { tried, ..Wanted::default() })
    }

    /// Picks an endpoint: the one that the client has been to, if it is well; else one that is not among the `tried` ones, or any that is well when all of those were; one of all but those
    /// that are drained when none is well. `None` when there is none at all. Counts it as in flight until the answer is dropped.
    pub fn pick_for(&self, wanted: &Wanted<'_>) -> Option<Picked> {
        let (set, tried) = (self.set.load(), wanted.tried);
        let is_new = |endpoint: &Endpoint| tried.is_empty() || !tried.contains(&endpoint.address);
        let pick = |fits: &Fits<'_>| set.balancer.pick(&set.endpoints, fits, wanted.key);
        let known = self.known(&set, wanted).filter(|index| set.endpoints[*index].is_usable() && is_new(&set.endpoints[*index]));
        let is_near_enough = set.is_near_enough();
        let priority = set.priority(is_new);
        // One throw for all, or one that warms up would be asked until it takes its turn.
        let warmth = fastrand::f64();
        let index = known
            .or_else(|| {
                pick(&|endpoint| {
                    (!is_near_enough || !endpoint.is_far)
                        && endpoint.priority <= priority
                        && endpoint.takes_its_turn(warmth)
                        && is_new(endpoint)
                })
            })
            .or_else(|| pick(&|endpoint| endpoint.priority <= priority && endpoint.is_usable() && is_new(endpoint)))
            .or_else(|| pick(&Endpoint::is_usable))
            .or_else(|| pick(&|endpoint| !endpoint.is_drained() && is_new(endpoint)))
            .or_else(|| pick(&|endpoint| !endpoint.is_drained()))?;
        let endpoint = set.endpoints[index].clone();
        endpoint.state.enter();
        Some(Picked { endpoint, is_known: known.is_some() })
    }

    /// The place of the endpoint that the client has been to.
    fn known(&self, set: &Set, wanted: &Wanted<'_>) -> Option<usize> {
        self.sticky.as_ref()?.place(wanted.cookies?, set.ids.as_ref()?)
    }

    pub fn is_sticky(&self) -> bool {
        self.sticky.is_some()
    }

    /// The field that brings a client back to where it was answered, unless it knows.
    pub fn cookie(&self, picked: &Picked, is_tls: bool) -> Option<HeaderValue> {
        self.sticky.as_ref().filter(|_| !picked.is_known)?.field(&picked.endpoint, is_tls)
    }

    /// An attempt was answered, as far as the endpoint is concerned in good health.
    pub fn succeeded(&self, endpoint: &Endpoint, took: Duration) {
        endpoint.state.succeeded();
        endpoint.state.took(took);
    }

    /// An attempt failed; whether the endpoint is left alone for that.
    pub fn failed(&self, endpoint: &Endpoint, failure: Failure) -> bool {
        failure.is_endpoints() && endpoint.state.failed() >= self.ejection.failures && self.eject(endpoint)
    }

    /// Leaves an endpoint alone for a while, if enough others are there.
    fn eject(&self, endpoint: &Endpoint) -> bool {
        let _one_at_a_time = self.state.deciding();
        let set = self.set.load();
        let is_other = |other: &&Arc<Endpoint>| other.address != endpoint.address;
        let away = set.endpoints.iter().filter(is_other).filter(|other| other.state.is_ejected()).count();
        let has_others = set.endpoints.iter().filter(is_other).any(|other| other.is_usable());
        let is_within = (away + 1) * 100 <= self.ejection.percent_max * set.endpoints.len();
        let is_let_alone = has_others && is_within && !endpoint.state.is_ejected();
        if is_let_alone {
            let ms = endpoint.eject(self.ejection.base);
            log::warn!("{} failed {} times in a row: it is left alone for {ms} ms", endpoint.label, self.ejection.failures);
        }
        is_let_alone
    }

    /// Takes an endpoint out, or back in. Answers whether there is one of this address.
    pub fn drain(&self, address: SocketAddr, is_drained: bool) -> bool {
        let set = self.set.load();
        let found = set.endpoints.iter().find(|endpoint| endpoint.address == address);
        if let Some(endpoint) = found {
            endpoint.state.set_drained(is_drained);
            if !is_drained {
                endpoint.warm_up();
            }
        }
        found.is_some()
    }
}

impl Set {
    fn new(endpoints: Vec<Arc<Endpoint>>, kind: &raw::Balance, sticky: Option<&Sticky>) -> Set {
        let ids = sticky.map(|sticky| sticky.ids(&endpoints));
        let has_far = endpoints.iter().any(|endpoint| endpoint.is_far);
        let has_spare = endpoints.windows(2).any(|pair| pair[0].priority != pair[1].priority);
        Set { balancer: Balancer::new(kind, &endpoints), endpoints, ids, has_far, has_spare }
    }

    /// Up to which priority endpoints are picked: the lowest of those that are well and `new` to a request.
    fn priority(&self, is_new: impl Fn(&Endpoint) -> bool) -> u16 {
        if !self.has_spare {
            return u16::MAX;
        }
        let well = self.endpoints.iter().filter(|endpoint| endpoint.is_usable() && is_new(endpoint));
        well.map(|endpoint| endpoint.priority).min().unwrap_or(u16::MAX)
    }

    /// Whether the gateway's own zone does for its requests: at least half of what is there is well.
    fn is_near_enough(&self) -> bool {
        if !self.has_far {
            return false;
        }
        let near = || self.endpoints.iter().filter(|endpoint| !endpoint.is_far);
        let well = near().filter(|endpoint| endpoint.is_usable()).count();
        well > 0 && 2 * well >= near().count()
    }
}

fn endpoint_of(member: Member, slow_start: u64, state: &ServiceState, is_beside_others: bool) -> Endpoint {
    let (state, is_new) = state.endpoint(member.address);
    let Member { address, host, weight, is_far, priority } = member;
    let (label, answered) = (address.to_string().into(), OnceLock::new());
    let endpoint = Endpoint { address, host, label, weight, is_far, priority, slow_start, state, answered };
    if is_new && is_beside_others {
        endpoint.warm_up();
    }
    endpoint
}

/// The endpoints that are written with an address. One that is named twice, by whatever name, is a problem.
fn fixed(raw: &raw::Service, zone: Option<&str>, at: &At<'_>, state: &ServiceState, problems: &Problems) -> Option<Vec<Member>> {
    let (mut fixed, mut known): (Vec<Member>, HashSet<SocketAddr>) = Default::default();
    let mut is_sound = true;
    for (index, endpoint) in raw.endpoints.iter().enumerate() {
        let Some(endpoint) = endpoint else {
            is_sound = false;
            continue;
        };
        let (weight, is_far) = (endpoint.weight, source::is_far(endpoint, zone));
        let host = endpoint.address.host.as_str().into();
        let own = literal(&endpoint.address).map(|address| Member { address, host, weight, is_far, priority: 0 });
        let found = match &own {
            Some(member) => vec![member.address],
            None => match resolved(endpoint, zone, &at.index(index), state, problems) {
                Some(found) => found,
                None => {
                    is_sound = false;
                    continue;
                }
            },
        };
        if let Some(address) = found.into_iter().find(|address| !known.insert(*address)) {
            let fix = "remove one, or give it a `weight`";
            return problems.at(&at.index(index), format!("{address} is named twice"), "it would get twice its share", fix);
        }
        fixed.extend(own);
    }
    is_sound.then_some(fixed)
}

/// The addresses of an endpoint with a name, which has to have some when it is configured.
fn resolved(
    endpoint: &raw::Endpoint,
    zone: Option<&str>,
    at: &At<'_>,
    state: &ServiceState,
    problems: &Problems,
) -> Option<Vec<SocketAddr>> {
    let heard = state.heard(&Source::of_endpoint(endpoint, zone));
    match heard.problem {
        Some(why) if heard.members.is_empty() => problems.at(
            at,
            format!("`{}` can't be resolved: {why}", endpoint.address.host),
            "requests would have nowhere to go",
            "correct the name, or write it as `dns:`, which may be resolved later",
        ),
        Some(_) | None => Some(heard.members.iter().map(|member| member.address).collect()),
    }
}

/// Whether it is known well enough what a source says.
fn is_heard(source: &Source, state: &ServiceState, at: &At<'_>, problems: &Problems) -> bool {
    let heard = state.heard(source);
    let Some(why) = &heard.problem else { return true };
    let key = match source {
        Source::File { path, .. } => {
            let (what, fix) = (format!("`{path}`: {why}"), "write a list in it, as `endpoints` has one");
            let told: Option<()> = problems.at(&at.key("endpoints_file"), what, "requests would have nowhere to go", fix);
            return told.is_some();
        }
        Source::Srv(_) => "srv",
        Source::Name { .. } => "dns",
    };
    if heard.members.is_empty() {
        problems.warn(
            &at.key(key),
            format!("{source}: {why}"),
            "requests are refused with 503",
            "correct the name, or wait: it is asked for again and again",
        );
    }
    true
}

/// An endpoint that one attempt uses.
#[derive(Debug)]
pub struct Picked {
    endpoint: Arc<Endpoint>,
    /// The client has been there.
    is_known: bool,
}

impl Picked {
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    pub fn state(&self) -> &EndpointState {
        &self.endpoint.state
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.endpoint.state.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, pool};
    use super::*;

    fn address(pool: &Pool, tried: &[SocketAddr]) -> Option<SocketAddr> {
        pool.pick(tried).map(|picked| picked.endpoint().address)
    }

    fn nth(pool: &Pool, n: usize) -> Arc<Endpoint> {
        pool.set().endpoints[n].clone()
    }

    fn fail(pool: &Pool, endpoint: &Endpoint, times: usize) {
        for _ in 0..times {
            pool.failed(endpoint, Failure::Reset);
        }
    }

    #[test]
    fn another_endpoint_for_the_second_try_while_there_is_one() {
        let pool = pool("{ endpoints: ['10.0.0.1:1', '10.0.0.2:1'] }");
        let first = address(&pool, &[]).expect("an endpoint");
        for _ in 0..50 {
            let second = address(&pool, &[first]).expect("an endpoint");
            assert_ne!(second, first);
            assert!(address(&pool, &[first, second]).is_some());
        }
    }

    #[test]
    fn counts_what_is_in_flight_across_snapshots() {
        let states = super::super::States::default();
        let old = testing::pool_of(&states, "{ endpoints: ['10.0.0.1:1'] }").expect("a pool");
        let held = old.pick(&[]);
        let new = testing::pool_of(&states, "{ endpoints: ['10.0.0.1:1', '10.0.0.2:1'] }").expect("a pool");
        assert_eq!(new.set().endpoints.iter().map(|e| e.state.in_flight()).collect::<Vec<_>>(), [1, 0]);
        drop(held);
        assert_eq!(nth(&new, 0).state.in_flight(), 0);
    }

    #[test]
    fn nothing_and_the_same_twice_are_problems() {
        let states = super::super::States::default();
        assert!(testing::pool_of(&states, "{ endpoints: [] }").is_none());
        assert!(testing::pool_of(&states, "{ endpoints: ['10.0.0.1:1', '10.0.0.1:1'] }").is_none());
    }

    #[test]
    fn one_that_fails_in_a_row_is_left_alone_for_longer_each_time() {
        let pool = pool("{ endpoints: ['10.0.0.1:1', '10.0.0.2:1'], ejection: { consecutive_failures: 3, base: 1h } }");
        let (bad, good) = (nth(&pool, 0), nth(&pool, 1));
        fail(&pool, &bad, 2);
        pool.succeeded(&bad, Duration::ZERO);
        fail(&pool, &bad, 2);
        assert!(bad.is_usable());
        fail(&pool, &bad, 1);
        assert!(!bad.is_usable() && bad.state.ejections() == 1);
        assert!((0..50).all(|_| address(&pool, &[]) == Some(good.address)));
        // Its own that were in flight change nothing.
        fail(&pool, &bad, 5);
        assert_eq!(bad.state.ejections(), 1);
        let hour = 3_600_000;
        assert_eq!([bad.eject(Duration::from_secs(3_600)), bad.eject(Duration::from_secs(3_600))], [2 * hour, 4 * hour]);
    }

    #[test]
    fn what_is_not_the_endpoints_fault_does_not_count() {
        let pool = pool("{ endpoints: ['10.0.0.1:1', '10.0.0.2:1'], ejection: { consecutive_failures: 1 } }");
        pool.failed(&nth(&pool, 0), Failure::Local);
        pool.failed(&nth(&pool, 0), Failure::Unprocessed);
        assert!(nth(&pool, 0).is_usable());
    }

    #[test]
    fn only_so_many_are_away_and_never_the_last() {
        for (percent, count, expected) in [(50, 3, 1), (50, 1, 0), (100, 3, 2), (0, 3, 0), (34, 3, 1), (33, 3, 0)] {
            let addresses: Vec<String> = (1..=count).map(|n| format!("'10.0.0.{n}:1'")).collect();
            let policy = format!("{{ consecutive_failures: 1, base: 1h, max_percent: {percent} }}");
            let pool = pool(&format!("{{ endpoints: [{}], ejection: {policy} }}", addresses.join(", ")));
            pool.set().endpoints.iter().for_each(|endpoint| fail(&pool, endpoint, 3));
            let away = pool.set().endpoints.iter().filter(|endpoint| !endpoint.is_usable()).count();
            assert_eq!(away, expected, "{percent} % of {count}");
        }
    }

    #[test]
    fn the_last_one_that_is_well_is_not_ejected_and_all_are_used_when_none_is() {
        let pool = pool("{ endpoints: ['10.0.0.1:1', '10.0.0.2:1'], ejection: { consecutive_failures: 1, base: 1h } }");
        let (ill, other) = (nth(&pool, 0), nth(&pool, 1));
        ill.state.set_ill(true);
        fail(&pool, &other, 3);
        assert!(other.is_usable());
        other.state.set_ill(true);
        let picked: HashSet<_> = (0..200).filter_map(|_| address(&pool, &[])).collect();
        assert_eq!(picked.len(), 2);
    }

    #[test]
    fn those_of_the_own_zone_go_first_while_half_of_them_are_well() {
        let near = "{ address: '10.0.0.1:1', zone: here }, { address: '10.0.0.2:1', zone: here }";
        let pool = pool(&format!("{{ endpoints: [{near}, {{ address: '10.0.1.1:1', zone: there }}] }}"));
        let picked = || (0..200).filter_map(|_| address(&pool, &[])).collect::<HashSet<_>>().len();
        assert_eq!(picked(), 2);
        nth(&pool, 0).state.set_ill(true);
        assert_eq!(picked(), 1);
        // Where it has been already, another zone is better than none.
        assert_eq!(address(&pool, &[nth(&pool, 1).address]), Some(nth(&pool, 2).address));
        nth(&pool, 1).state.set_ill(true);
        assert_eq!(picked(), 1);
        assert_eq!(address(&pool, &[]), Some(nth(&pool, 2).address));
    }

    #[test]
    fn the_operator_has_the_last_word() {
        let pool = pool("{ endpoints: ['10.0.0.1:1', '10.0.0.2:1'] }");
        let (a, b) = (nth(&pool, 0).address, nth(&pool, 1).address);
        assert!(pool.drain(a, true) && !pool.drain("10.0.0.9:1".parse().expect("an address"), true));
        assert!((0..50).all(|_| address(&pool, &[b]) == Some(b)));
        pool.drain(b, true);
        assert_eq!(address(&pool, &[]), None);
        pool.drain(a, false);
        assert_eq!(address(&pool, &[]), Some(a));
    }

    fn says(pool: &Pool, members: &[(&str, u32, u16)]) -> bool {
        let member = |(address, weight, priority): &(&str, u32, u16)| {
            let address = address.parse().expect("an address");
            Member { address, host: "s".into(), weight: *weight, is_far: false, priority: *priority }
        };
        pool.state.hear(&pool.sources()[0], |heard| heard.members = members.iter().map(member).collect());
        pool.refresh()
    }

    #[test]
    fn a_names_addresses_come_and_go_and_those_that_stay_are_known() {
        let pool = pool("{ endpoints: ['10.0.0.1:1'], dns: 's:1', slow_start: 1h }");
        let all = || pool.set().endpoints.iter().map(|endpoint| endpoint.label.to_string()).collect::<Vec<_>>();
        assert!(says(&pool, &[("10.0.0.2:1", 1, 0), ("10.0.0.3:1", 1, 0)]));
        assert!(!says(&pool, &[("10.0.0.2:1", 1, 0), ("10.0.0.3:1", 1, 0)]));
        assert_eq!(all(), ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]);
        nth(&pool, 1).state.set_ill(true);
        assert!(says(&pool, &[("10.0.0.2:1", 1, 0), ("10.0.0.1:1", 1, 0), ("10.0.0.4:1", 1, 0)]));
        assert_eq!(all(), ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.4:1"]);
        assert_eq!([0, 1, 2].map(|n| nth(&pool, n).standing().name()), ["up", "ill", "warming"]);
        assert!(says(&pool, &[]));
        assert_eq!(all(), ["10.0.0.1:1"]);
    }

    #[test]
    fn one_whose_weight_changes_keeps_what_is_known_of_it() {
        let pool = pool("{ srv: _http._tcp.s }");
        says(&pool, &[("10.0.0.1:1", 1, 0), ("10.0.0.2:1", 1, 0)]);
        nth(&pool, 0).state.set_ill(true);
        let kept = nth(&pool, 1);
        assert!(says(&pool, &[("10.0.0.1:1", 5, 0), ("10.0.0.2:1", 1, 0)]));
        assert_eq!((nth(&pool, 0).weight, nth(&pool, 0).standing().name()), (5, "ill"));
        assert!(Arc::ptr_eq(&kept, &nth(&pool, 1)));
    }

    #[test]
    fn those_of_a_higher_priority_are_spared_as_long_as_another_is_well() {
        let pool = pool("{ srv: _http._tcp.s }");
        says(&pool, &[("10.0.0.1:1", 1, 10), ("10.0.0.2:1", 1, 10), ("10.0.0.3:1", 9, 20)]);
        let picked = || (0..200).filter_map(|_| address(&pool, &[])).collect::<HashSet<_>>();
        let spare = nth(&pool, 2).address;
        assert!(picked().len() == 2 && !picked().contains(&spare));
        nth(&pool, 0).state.set_ill(true);
        assert_eq!(picked(), HashSet::from([nth(&pool, 1).address]));
        // Where it has been already, the spare one is better than none.
        assert_eq!(address(&pool, &[nth(&pool, 1).address]), Some(spare));
        nth(&pool, 1).state.set_ill(true);
        assert_eq!(picked(), HashSet::from([spare]));
    }

    #[test]
    fn one_that_is_new_gets_its_share_little_by_little() {
        let states = super::super::States::default();
        let old = testing::pool_of(&states, "{ endpoints: ['10.0.0.1:1'], slow_start: 1h }").expect("a pool");
        assert_eq!(nth(&old, 0).standing().name(), "up");
        let new = testing::pool_of(&states, "{ endpoints: ['10.0.0.1:1', '10.0.0.2:1'], slow_start: 1h }").expect("a pool");
        assert_eq!(nth(&new, 1).standing().name(), "warming");
        let fresh = nth(&new, 1).address;
        let share = (0..10_000).filter(|_| address(&new, &[]) == Some(fresh)).count();
        // A twentieth of its turns; the others stay with the other one.
        assert!((100..1_500).contains(&share), "{share}");
        assert_eq!(address(&new, &[nth(&new, 0).address]), Some(fresh));
    }
}
