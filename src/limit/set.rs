//! The limits of one route, and what they say to one request.

use super::key::{self, Caller};
use super::named::{Limit, Policy};
use super::pace::Charge;
use super::store::{Key, Store};
use smallvec::SmallVec;
use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// All that a route asks for; at least one.
#[derive(Debug)]
pub struct Set {
    limits: Box<[Arc<Limit>]>,
    route_name: Arc<str>,
    /// Stands for the route in keys, by its name: it is the same after a reload.
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
struct Trial {
    key: Key,
    standing: Standing,
    charge: Option<Charge>,
}

impl Set {
    /// `None` when there is no limit.
    pub fn new(limits: Vec<Arc<Limit>>, route: &Arc<str>, store: &Arc<Store>) -> Option<Set> {
        let mut hasher = store.hasher();
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

    /// Tokens that are left, seconds until all are, and seconds until one more request passes.
    pub fn told(&self, standing: &Standing) -> (u64, u64, u64) {
        let pace = &self.policy(standing).pace;
        (pace.left(standing.debt), pace.until_full(standing.debt), pace.until_fits(standing.debt))
    }

    /// Charges all limits, or none: when one refuses, the others are as they would be without this request.
    pub fn decide(&self, caller: &Caller<'_>) -> Verdict {
        self.decide_at(caller, self.store.now_ns())
    }

    /// The same without charging any.
    pub fn look(&self, caller: &Caller<'_>) -> Verdict {
        let now_ns = self.store.now_ns();
        let mut trials = self.trials(caller);
        trials.iter_mut().for_each(|trial| self.try_one(trial, now_ns));
        self.verdict(&trials)
    }

    fn decide_at(&self, caller: &Caller<'_>, now_ns: u64) -> Verdict {
        let mut trials = self.trials(caller);
        if let [_, _, ..] = &trials[..] {
            trials.iter_mut().for_each(|trial| self.try_one(trial, now_ns));
            if trials.iter().any(|trial| self.is_in_the_way(trial)) {
                // What was only looked at is not owed.
                return self.verdict(&trials);
            }
        }
        for place in 0..trials.len() {
            self.charge_one(&mut trials[place], now_ns);
            if self.is_in_the_way(&trials[place]) {
                // Others have taken the last of it since it was looked at.
                trials[..place].iter_mut().for_each(|trial| self.give_back(trial, now_ns));
                break;
            }
        }
        self.verdict(&trials)
    }

    fn trials(&self, caller: &Caller<'_>) -> SmallVec<[Trial; 2]> {
        let trial = |(place, limit): (usize, &Arc<Limit>)| {
            let plan = limit.policy(caller);
            let place = u16::try_from(place).unwrap_or(u16::MAX);
            let standing = Standing { place, plan, is_refused: false, debt: 0 };
            Trial { key: limit.key(plan, self.route, caller), standing, charge: None }
        };
        self.limits.iter().enumerate().map(trial).collect()
    }

    fn is_in_the_way(&self, trial: &Trial) -> bool {
        trial.standing.is_refused && !self.limit(&trial.standing).is_shadow
    }

    fn try_one(&self, trial: &mut Trial, now_ns: u64) {
        let pace = &self.policy(&trial.standing).pace;
        // Whoever is refused again and again is not idle.
        let word = self.store.with(trial.key, now_ns, |word| word.load(Relaxed)).unwrap_or(0);
        trial.standing.is_refused = pace.look(word, now_ns).is_err();
        trial.standing.debt = pace.debt(word, now_ns);
    }

    fn charge_one(&self, trial: &mut Trial, now_ns: u64) {
        let policy = self.policy(&trial.standing);
        let id = self.limit(&trial.standing).id(trial.standing.plan);
        let charged = self.store.with_new(trial.key, id, now_ns, |word| policy.pace.charge(word, now_ns));
        trial.charge = charged.ok();
        trial.standing.is_refused = charged.is_err();
        trial.standing.debt = charged.map_or_else(|debt| debt, |charge| charge.debt);
    }

    fn give_back(&self, trial: &mut Trial, now_ns: u64) {
        let pace = &self.policy(&trial.standing).pace;
        if let Some(charge) = trial.charge.take() {
            let debt = self.store.with(trial.key, now_ns, |word| {
                pace.undo(word, charge);
                pace.debt(word.load(Relaxed), now_ns)
            });
            trial.standing.debt = debt.unwrap_or(0);
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
    use crate::limit::{Fields, Limits};
    use proptest::prelude::*;
    use std::borrow::Cow;
    use std::net::IpAddr;
    use std::sync::atomic::AtomicU64;

    const SECOND: u64 = 1_000_000_000;

    fn limit(limits: &Limits, name: &str, yaml: &str) -> Arc<Limit> {
        let (value, problems) = (serde_yaml::from_str(yaml).expect("YAML"), Problems::default());
        let raw = Shape::read(&Node { value: &value, at: &At::root(), problems: &problems });
        let built = raw.and_then(|raw| limits.build(name, &raw, &At::root(), &problems));
        built.unwrap_or_else(|| panic!("{:?}", problems.into_parts()))
    }

    fn set(limits: &Limits, yaml: &[(&str, &str)]) -> Set {
        let all = yaml.iter().map(|(name, yaml)| limit(limits, name, yaml)).collect();
        Set::new(all, &"route".into(), &limits.store).expect("limits")
    }

    fn ask(set: &Set, who: u8, plan: Option<&'static str>, now_ns: u64) -> Verdict {
        let (headers, claim) = (http::HeaderMap::new(), |_: &str| plan.map(Cow::Borrowed));
        set.decide_at(&Caller { identity: None, claim: &claim, client_ip: IpAddr::from([10, 0, 0, who]), headers: &headers }, now_ns)
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
}
