//! The limits of one route, and what they say to one request.

use super::key::{self, Caller};
use super::lease::{Found, Lease};
use super::named::{Limit, Policy, Sharing};
use super::pace::{Charge, Pace};
use super::script::{Charged, Want};
use super::shared::PATIENCE;
use super::store::{Key, Store};
use crate::config::raw::WhenDown;
use siphasher::sip::SipHasher13;
use smallvec::SmallVec;
use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// All that a route asks for; at least one.
#[derive(Debug)]
pub struct Set {
    limits: Box<[Arc<Limit>]>,
    route_name: Arc<str>,
    /// Stands for the route in keys, by its name: it is the same after a reload, and for gateways that share a limit.
    route: u64,
    store: Arc<Store>,
}

/// Where a caller stands with one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The limit's place in its set.
    pub place: u16,
    plan: u16,
    /// It does not let this request pass, or would not if it were not a shadow.
    pub is_refused: bool,
    /// Shared with others, but decided without them: their store is away or late.
    pub is_alone: bool,
    debt: u64,
}

/// What all of them say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The tightest first.
    pub standings: SmallVec<[Standing; 2]>,
    /// Seconds until another try makes sense, when it is a no.
    pub refused: Option<u64>,
}

/// One limit while a decision is made.
#[derive(Debug)]
struct Trial {
    key: Key,
    standing: Standing,
    held: Held,
    /// Of a limit that is shared.
    lease: Option<Arc<Lease>>,
}

/// What a request has been charged so far.
#[derive(Clone, Copy, Debug)]
enum Held {
    Nothing,
    OfBucket(Charge),
    OfLease,
}

/// A decision that needs the store that gateways share.
#[derive(Debug)]
pub struct Pending(Box<[Trial]>);

/// How far a decision has come.
enum Step {
    Done,
    /// Only the store knows what there is for this key.
    Ask(Arc<Lease>),
    /// All others let it pass and are charged; these have to be asked of the store now.
    Exact,
}

impl Set {
    /// `None` when there is no limit.
    pub fn new(limits: Vec<Arc<Limit>>, route: &Arc<str>, store: &Arc<Store>) -> Option<Set> {
        // Names of routes are the operator's: nobody looks for two that meet.
        let mut hasher = SipHasher13::new();
        hasher.write(route.as_bytes());
        let set = Set { limits: limits.into(), route_name: route.clone(), route: hasher.finish(), store: store.clone() };
        (!set.limits.is_empty()).then_some(set)
    }

    pub fn limits(&self) -> &[Arc<Limit>] {
        &self.limits
    }

    fn limit(&self, standing: &Standing) -> &Limit {
        &self.limits[usize::from(standing.place)]
    }

    pub fn policy(&self, standing: &Standing) -> &Policy {
        self.limit(standing).plan(standing.plan)
    }

    fn pace(&self, standing: &Standing) -> &Pace {
        let policy = self.policy(standing);
        if standing.is_alone { &policy.alone } else { &policy.pace }
    }

    /// Tokens that are left, seconds until all are, and seconds until one more request passes.
    pub fn told(&self, standing: &Standing) -> (u64, u64, u64) {
        let pace = self.pace(standing);
        if standing.is_alone && self.limit(standing).sharing.as_ref().is_some_and(|sharing| sharing.when_down == WhenDown::Refuse) {
            // Nobody knows: there is nothing until the store is back, which may be at once.
            return (0, 1, 1);
        }
        (pace.left(standing.debt), pace.until_full(standing.debt), pace.until_fits(standing.debt))
    }

    /// Charges all limits, or none: when one refuses, the others are as they would be without this request.
    ///
    /// # Errors
    /// The store that gateways share has to be asked: see [`Set::settle`].
    pub fn decide(&self, caller: &Caller<'_>) -> Result<Verdict, Pending> {
        self.decide_at(caller, self.store.now_ns())
    }

    fn decide_at(&self, caller: &Caller<'_>, now_ns: u64) -> Result<Verdict, Pending> {
        let mut trials = self.trials(caller);
        match self.step(&mut trials, now_ns, false) {
            Step::Done => Ok(self.verdict(&trials)),
            Step::Ask(_) | Step::Exact => {
                // It begins anew where it may wait.
                trials.iter_mut().for_each(|trial| self.give_back(trial, now_ns));
                Err(Pending(trials.into_iter().collect()))
            }
        }
    }

    /// The same without charging any, and without asking anybody.
    pub fn look(&self, caller: &Caller<'_>) -> Verdict {
        let now_ns = self.store.now_ns();
        let mut trials = self.trials(caller);
        trials.iter_mut().for_each(|trial| drop(self.try_one(trial, now_ns, false)));
        self.verdict(&trials)
    }

    /// Goes on with a decision that the store is needed for, for 20 ms at most; then it is made without.
    pub async fn settle(&self, pending: Pending) -> Verdict {
        let Pending(mut trials) = pending;
        let until = Instant::now() + PATIENCE;
        let mut is_late = false;
        loop {
            match self.step(&mut trials, self.store.now_ns(), is_late) {
                Step::Done => return self.verdict(&trials),
                Step::Ask(lease) => {
                    let of_lease = |trial: &&Trial| trial.lease.as_ref().is_some_and(|known| Arc::ptr_eq(known, &lease));
                    let sharing = trials.iter().find(of_lease).and_then(|trial| self.limit(&trial.standing).sharing.as_ref());
                    is_late = match sharing {
                        Some(sharing) => !sharing.shared.ask(&lease, until).await || Instant::now() >= until,
                        None => true,
                    };
                }
                Step::Exact => match self.ask_exactly(&mut trials, until).await {
                    true => return self.verdict(&trials),
                    false => is_late = true,
                },
            }
        }
    }

    /// Asks the store for all that is counted exactly, in one call; `false` when it does not answer in time. Nothing is held
    /// afterwards unless the request passes.
    async fn ask_exactly(&self, trials: &mut [Trial], until: Instant) -> bool {
        // Once: whether the store is there may change while it is asked.
        let exact = |(place, trial): (usize, &Trial)| Some((place, self.exact(trial)?.shared.clone(), trial.lease.clone()?));
        let asked: SmallVec<[_; 2]> = trials.iter().enumerate().filter_map(exact).collect();
        let wants: SmallVec<[Want<'_>; 2]> = asked
            .iter()
            .map(|(place, _, lease)| {
                let must = !self.is_shadow(&trials[*place]);
                Want { name: &lease.name, terms: lease.terms, wanted: 1, back: 0, must }
            })
            .collect();
        let charged = match asked.first() {
            Some((_, shared, _)) => shared.charge(&wants, until).await,
            None => None,
        };
        let (now_ns, is_answered) = (self.store.now_ns(), charged.is_some());
        for ((place, ..), Charged { granted, owed_us }) in asked.iter().zip(charged.unwrap_or_default()) {
            let standing = &mut trials[*place].standing;
            standing.is_refused = granted == 0;
            standing.debt = self.pace(standing).debt_of_ns(owed_us.saturating_mul(1_000));
        }
        if !is_answered || trials.iter().any(|trial| self.is_in_the_way(trial)) {
            trials.iter_mut().for_each(|trial| self.give_back(trial, now_ns));
        }
        is_answered
    }

    fn step(&self, trials: &mut [Trial], now_ns: u64, is_late: bool) -> Step {
        if let [_, _, ..] = trials {
            let mut unknown = None;
            for trial in trials.iter_mut() {
                unknown = self.try_one(trial, now_ns, is_late).or(unknown);
            }
            if trials.iter().any(|trial| self.is_in_the_way(trial)) {
                // What was only looked at is not owed.
                return Step::Done;
            }
            if let Some(lease) = unknown {
                return Step::Ask(lease);
            }
        }
        let mut is_exact = false;
        for place in 0..trials.len() {
            if !is_late && self.exact(&trials[place]).is_some() {
                is_exact = true;
                continue;
            }
            let unknown = self.charge_one(&mut trials[place], now_ns, is_late);
            if unknown.is_some() || self.is_in_the_way(&trials[place]) {
                // Others have taken the last of it since it was looked at.
                trials[..place].iter_mut().for_each(|trial| self.give_back(trial, now_ns));
                return unknown.map_or(Step::Done, Step::Ask);
            }
        }
        if is_exact { Step::Exact } else { Step::Done }
    }

    fn trials(&self, caller: &Caller<'_>) -> SmallVec<[Trial; 2]> {
        let trial = |(place, limit): (usize, &Arc<Limit>)| {
            let plan = limit.policy(caller);
            let place = u16::try_from(place).unwrap_or(u16::MAX);
            let standing = Standing { place, plan, is_refused: false, is_alone: false, debt: 0 };
            let key = limit.key(plan, self.route, caller);
            let lease = limit.sharing.as_ref().and_then(|sharing| limit.lease(sharing, plan, key, self.route, caller));
            Trial { key, standing, held: Held::Nothing, lease }
        };
        self.limits.iter().enumerate().map(trial).collect()
    }

    fn is_shadow(&self, trial: &Trial) -> bool {
        self.limit(&trial.standing).is_shadow
    }

    fn is_in_the_way(&self, trial: &Trial) -> bool {
        trial.standing.is_refused && !self.is_shadow(trial)
    }

    /// How a trial is shared, when its store can be asked.
    fn sharing(&self, trial: &Trial) -> Option<(&Sharing, Arc<Lease>)> {
        let sharing = self.limit(&trial.standing).sharing.as_ref().filter(|sharing| sharing.shared.is_up())?;
        Some((sharing, trial.lease.clone()?))
    }

    fn exact(&self, trial: &Trial) -> Option<&Sharing> {
        self.sharing(trial).map(|(sharing, _)| sharing).filter(|sharing| sharing.is_exact)
    }

    /// Looks at a limit. The answer is what has to be asked for before it can be said.
    fn try_one(&self, trial: &mut Trial, now_ns: u64, is_late: bool) -> Option<Arc<Lease>> {
        trial.standing.is_alone = false;
        if let Some((sharing, lease)) = self.sharing(trial).filter(|_| !is_late) {
            let found = if sharing.is_exact { Found::Token { is_low: false } } else { lease.look(now_ns) };
            trial.standing.is_refused = found == Found::Empty;
            trial.standing.debt = self.pace(&trial.standing).debt_of_ns(lease.owed_ns(now_ns));
            return (found == Found::Unknown).then_some(lease);
        }
        if let Some(is_refused) = self.without_counting(trial) {
            (trial.standing.is_refused, trial.standing.debt) = (is_refused, 0);
            return None;
        }
        let pace = self.pace(&trial.standing);
        // Whoever is refused again and again is not idle.
        let word = self.store.with(trial.key, now_ns, |word| word.load(Relaxed)).unwrap_or(0);
        let (is_err, debt) = (pace.look(word, now_ns).is_err(), pace.debt(word, now_ns));
        (trial.standing.is_refused, trial.standing.debt) = (is_err, debt);
        None
    }

    /// What becomes of a request of a shared limit whose store is away, unless it is counted here. Notes that it is.
    fn without_counting(&self, trial: &mut Trial) -> Option<bool> {
        let sharing = self.limit(&trial.standing).sharing.as_ref()?;
        trial.standing.is_alone = true;
        match sharing.when_down {
            WhenDown::Local => None,
            WhenDown::Allow => Some(false),
            WhenDown::Refuse => Some(true),
        }
    }

    fn charge_one(&self, trial: &mut Trial, now_ns: u64, is_late: bool) -> Option<Arc<Lease>> {
        trial.standing.is_alone = false;
        if let Some((sharing, lease)) = self.sharing(trial).filter(|_| !is_late) {
            let found = lease.take(now_ns);
            trial.standing.is_refused = found == Found::Empty;
            trial.standing.debt = self.pace(&trial.standing).debt_of_ns(lease.owed_ns(now_ns));
            if let Found::Token { is_low } = found {
                trial.held = Held::OfLease;
                if is_low {
                    sharing.shared.fetch(&lease);
                }
            }
            return (found == Found::Unknown).then_some(lease);
        }
        if let Some(is_refused) = self.without_counting(trial) {
            (trial.standing.is_refused, trial.standing.debt) = (is_refused, 0);
            return None;
        }
        let (pace, id) = (self.pace(&trial.standing), self.policy(&trial.standing).id());
        let charged = self.store.with_new(trial.key, id, now_ns, |word| pace.charge(word, now_ns));
        trial.held = charged.map_or(Held::Nothing, Held::OfBucket);
        trial.standing.is_refused = charged.is_err();
        trial.standing.debt = charged.map_or_else(|debt| debt, |charge| charge.debt);
        None
    }

    fn give_back(&self, trial: &mut Trial, now_ns: u64) {
        match std::mem::replace(&mut trial.held, Held::Nothing) {
            Held::Nothing => {}
            Held::OfLease => {
                if let Some(lease) = &trial.lease {
                    lease.put_back();
                    trial.standing.debt = self.pace(&trial.standing).debt_of_ns(lease.owed_ns(now_ns));
                }
            }
            Held::OfBucket(charge) => {
                let pace = self.pace(&trial.standing);
                let debt = self.store.with(trial.key, now_ns, |word| {
                    pace.undo(word, charge);
                    pace.debt(word.load(Relaxed), now_ns)
                });
                trial.standing.debt = debt.unwrap_or(0);
            }
        }
    }

    fn verdict(&self, trials: &[Trial]) -> Verdict {
        let wait = |trial: &Trial| self.is_in_the_way(trial).then(|| self.told(&trial.standing).2.max(1));
        let refused = trials.iter().filter_map(wait).max();
        let mut standings: SmallVec<[Standing; 2]> = trials.iter().map(|trial| trial.standing).collect();
        if standings.len() > 1 {
            standings.sort_by_key(|standing| {
                let (left, until_full, until_fits) = self.told(standing);
                (!standing.is_refused, std::cmp::Reverse(until_fits), left, std::cmp::Reverse(until_full))
            });
        }
        Verdict { standings, refused }
    }

    /// The key of a standing for people: its hash, and what it is of.
    pub fn shown(&self, standing: &Standing, caller: &Caller<'_>) -> (String, String) {
        let limit = self.limit(standing);
        (limit.key(standing.plan, self.route, caller).to_string(), key::shown(&limit.by, &self.route_name, caller))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::place::At;
    use crate::config::problem::Problems;
    use crate::config::shape::{Node, Shape};
    use crate::limit::store::SWEEPS;
    use crate::limit::{Fields, Limits};
    use proptest::prelude::*;
    use std::borrow::Cow;
    use std::net::IpAddr;
    use std::sync::atomic::AtomicU64;

    const SECOND: u64 = 1_000_000_000;

    fn limit(limits: &Limits, name: &str, yaml: &str) -> Arc<Limit> {
        let (value, problems) = (serde_yaml::from_str(yaml).expect("YAML"), Problems::default());
        let raw = Shape::read(&Node { value: &value, at: &At::root(), problems: &problems });
        let built = raw.and_then(|raw| limits.build(name, &raw, None, &At::root(), &problems));
        built.unwrap_or_else(|| panic!("{:?}", problems.into_parts()))
    }

    fn set(limits: &Limits, yaml: &[(&str, &str)]) -> Set {
        let all = yaml.iter().map(|(name, yaml)| limit(limits, name, yaml)).collect();
        Set::new(all, &"route".into(), &limits.store).expect("limits")
    }

    fn ask(set: &Set, who: u8, plan: Option<&'static str>, now_ns: u64) -> Verdict {
        let (headers, claim) = (http::HeaderMap::new(), |_: &str| plan.map(Cow::Borrowed));
        let caller = Caller { identity: None, claim: &claim, client_ip: IpAddr::from([10, 0, 0, who]), headers: &headers };
        set.decide_at(&caller, now_ns).expect("nothing is shared")
    }

    fn fields(set: &Set, verdict: &Verdict) -> Vec<String> {
        let mut headers = http::HeaderMap::new();
        Fields { set, verdict }.write(&mut headers);
        let mut shown: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect();
        shown.sort();
        shown
    }

    #[test]
    fn a_refusal_by_one_charges_none_of_the_others() {
        let limits = Limits::default();
        let set = set(&limits, &[("each", "{ rate: 5/h, by: client_ip }"), ("all", "{ rate: 3/h, by: global, burst: 3 }")]);
        let refused: Vec<_> = [1, 1, 2, 1, 2, 1].map(|who| ask(&set, who, None, 0).refused).into();
        assert_eq!(refused, [None, None, None, Some(1200), Some(1200), Some(1200)]);
        let verdict = ask(&set, 1, None, 0);
        assert_eq!(
            fields(&set, &verdict),
            ["ratelimit-policy: \"all\";q=3;w=3600, \"each\";q=5;w=3600", "ratelimit: \"all\";r=0;t=3600, \"each\";r=3;t=1440"]
        );
    }

    #[test]
    fn plans_have_their_own_rates() {
        let limits = Limits::default();
        let plans = "{ rate: { claim: plan, values: { gold: 10/m, free: 2/m }, otherwise: 1/m }, by: client_ip, legacy_headers: true }";
        let set = set(&limits, &[("plans", plans)]);
        let passed = |plan| (0..20).filter(|_| ask(&set, 1, plan, 0).refused.is_none()).count();
        assert_eq!([passed(Some("gold")), passed(Some("free")), passed(Some("other")), passed(None)], [10, 2, 1, 0]);
        let verdict = ask(&set, 2, Some("gold"), 0);
        let expected = [
            "ratelimit-policy: \"plans\";q=10;w=60",
            "ratelimit: \"plans\";r=9;t=6",
            "x-ratelimit-limit: 10",
            "x-ratelimit-remaining: 9",
            "x-ratelimit-reset: 6",
        ];
        assert_eq!(fields(&set, &verdict), expected);
    }

    #[test]
    fn a_shadow_lets_pass_and_is_not_told() {
        let limits = Limits::default();
        let set = set(&limits, &[("trial", "{ rate: 1/m, mode: shadow }"), ("real", "{ rate: 3/m }")]);
        let verdicts: Vec<_> = (0..4).map(|_| ask(&set, 1, None, 0)).collect();
        assert_eq!(verdicts.iter().map(|verdict| verdict.refused).collect::<Vec<_>>(), [None, None, None, Some(20)]);
        let marked = |verdict: &Verdict| verdict.standings.iter().any(|standing| standing.place == 0 && standing.is_refused);
        assert_eq!(verdicts.iter().map(marked).collect::<Vec<_>>(), [false, true, true, true]);
        assert_eq!(fields(&set, &verdicts[1]), ["ratelimit-policy: \"real\";q=3;w=60", "ratelimit: \"real\";r=1;t=40"]);
        let alone = Set::new(vec![limit(&limits, "trial", "{ rate: 1/m, mode: shadow }")], &"x".into(), &limits.store).expect("a limit");
        assert_eq!((ask(&alone, 1, None, 0).refused, fields(&alone, &ask(&alone, 1, None, 0)).len()), (None, 0));
    }

    #[test]
    fn an_unchanged_limit_goes_on_with_its_buckets() {
        let limits = Limits::default();
        let build = |rate: &str| set(&limits, &[("a", &format!("{{ rate: {rate}, by: [client_ip, route] }}"))]);
        let old = build("1/m");
        assert_eq!(ask(&old, 1, None, 0).refused, None);
        assert_eq!(ask(&build("1/m"), 1, None, 0).refused, Some(60));
        assert_eq!(ask(&build("2/m"), 1, None, 0).refused, None, "another rate begins anew");
        drop(old);
        assert_eq!(ask(&build("1/m"), 1, None, 0).refused, None, "it was gone in between");
    }

    /// Two limits under fire: of the one that every request meets first nothing is lost to requests that the other refuses.
    #[test]
    fn threads_lose_nothing_to_refusals() {
        for round in 0..20 {
            let limits = Limits::default();
            let set = set(&limits, &[("wide", "{ rate: 1000/h, by: global }"), ("narrow", "{ rate: 500/h, by: global }")]);
            let passed = AtomicU64::new(0);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for _ in 0..300 {
                            passed.fetch_add(u64::from(ask(&set, 1, None, 0).refused.is_none()), Relaxed);
                        }
                    });
                }
            });
            assert_eq!(passed.into_inner(), 500, "round {round}");
            let verdict = ask(&set, 1, None, 0);
            let wide = verdict.standings.iter().find(|standing| standing.place == 0).expect("the wide one");
            assert_eq!(set.told(wide).0, 500, "round {round}");
        }
    }

    proptest! {
        /// Two limits over three clients beside a plain model: the same answers, whole tokens at whole seconds.
        #[test]
        fn several_limits_do_what_a_plain_model_does(
            steps in prop::collection::vec((0u64..4, 0u8..3), 1..150), each in 1u64..6, all in 1u64..9, cost in 1u64..3,
        ) {
            let cost = cost.min(all);
            let limits = Limits::default();
            let set = set(&limits, &[
                ("each", &format!("{{ rate: 1/s, burst: {each} }}")),
                ("all", &format!("{{ rate: 2/s, burst: {all}, cost: {cost}, by: global }}")),
            ]);
            let (mut own, mut shared, mut now) = ([each; 3], all, 0);
            for (pause, who) in steps {
                now += pause;
                own.iter_mut().for_each(|left| *left = each.min(*left + pause));
                shared = all.min(shared + 2 * pause);
                let fits = own[usize::from(who)] >= 1 && shared >= cost;
                let verdict = ask(&set, who, None, now * SECOND);
                prop_assert_eq!(verdict.refused.is_none(), fits);
                if fits {
                    own[usize::from(who)] -= 1;
                    shared -= cost;
                }
                for standing in &verdict.standings {
                    let expected = if standing.place == 0 { own[usize::from(who)] } else { shared };
                    prop_assert_eq!(set.told(standing).0, expected);
                }
            }
        }
    }

    #[test]
    fn a_limit_that_is_not_shared_keeps_its_buckets_by_its_own_pace_whatever_its_nodes() {
        let limits = Limits::default();
        let [quick, slow] = ["{ rate: 1000/s, burst: 1, nodes: 3 }", "{ rate: 1/1h, nodes: 3 }"].map(|yaml| limit(&limits, yaml, yaml));
        let until = |ns: u64| {
            while limits.store.now_ns() < ns {
                std::thread::yield_now();
            }
        };
        // The clocks of two paces part with the time that the process runs.
        until(20_000_000);
        let charge = |limit: &Limit, key: u64| {
            let (policy, now_ns) = (limit.plan(0), limits.store.now_ns());
            assert_eq!(policy.alone, policy.pace);
            limits.store.with_new(Key([key, key]), policy.id(), now_ns, |word| policy.pace.charge(word, now_ns).is_ok())
        };
        assert!(charge(&quick, 1) && charge(&slow, 2));
        until(limits.store.now_ns() + 1_100_000);
        (0..SWEEPS).for_each(|_| limits.store.sweep());
        assert_eq!(limits.store.kept(), 1);
        assert!(!charge(&slow, 2), "it was forgotten");
    }
}
