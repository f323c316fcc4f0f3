//! Why a request takes the route it takes, and all routes in their order: the walk that serves requests, told to go on.

use super::rank::Rank;
use super::rule::{Asked, Criterion, Query, Rule};
use super::table::{Outcome, Table, Walk};
use crate::types::RouteId;
use std::collections::HashSet;

/// Routes that lack only the host are named up to this number; more of them are only counted.
const OTHER_HOSTS_MAX: usize = 20;

/// What [`Table::find`] answers, and why.
#[derive(Debug)]
pub struct Explanation<'t> {
    pub outcome: Outcome,
    /// Routes whose path fits: those of the request's host in the order in which they win, then those that lack the host.
    pub candidates: Vec<Candidate<'t>>,
    /// The number of all other routes, whose path does not fit (or that lack the host like too many others).
    pub others: usize,
}

/// One route that could have taken a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'t> {
    pub id: RouteId,
    pub verdict: Verdict<'t>,
}

/// What became of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'t> {
    Won,
    /// It fits, but another one comes before it.
    Outranked,
    /// The first thing that did not fit.
    Failed(Criterion<'t>),
}

impl Table {
    /// What [`Table::find`] answers, with every route whose path fits and what became of it.
    pub fn explain<'t>(&'t self, query: &Query<'_>) -> Explanation<'t> {
        let outcome = self.find(query);
        let winner = match &outcome {
            Outcome::Found(found) => Some(found.id),
            Outcome::MethodNotAllowed(_) | Outcome::Nothing => None,
        };
        let asks: Vec<Asked> = query.asks().collect();
        let verdict = |rule: &'t Rule| match rule.id {
            id if Some(id) == winner => Verdict::Won,
            // A preflight asks twice, and what it lacks the second time is what was wrong.
            _ => match asks.iter().map(|asked| rule.miss(query, asked)).reduce(Option::and).flatten() {
                None => Verdict::Outranked,
                Some(criterion) => Verdict::Failed(criterion),
            },
        };
        // A route with several hosts counts where it is met first.
        let mut met = HashSet::new();
        let mut candidates = Vec::new();
        let here = |rule: &'t Rule| {
            if met.insert(rule.id) {
                candidates.push(Candidate { id: rule.id, verdict: verdict(rule) });
            }
            false
        };
        Walk::new(self, query.path, here).hosts(query.host);
        let mut elsewhere = Vec::new();
        for paths in self.all() {
            let there = |rule: &'t Rule| {
                if met.insert(rule.id) {
                    elsewhere.push((best(rule), rule.id));
                }
                false
            };
            Walk::new(self, query.path, there).paths(paths);
        }
        elsewhere.sort();
        let lacking = elsewhere.into_iter().take(OTHER_HOSTS_MAX);
        candidates.extend(lacking.map(|(_, id)| Candidate { id, verdict: Verdict::Failed(Criterion::Host) }));
        let others = self.rules.len() - candidates.len();
        Explanation { outcome, candidates, others }
    }

    /// All routes in the order in which they win. One with several hosts stands where it comes first.
    pub fn in_order(&self) -> Vec<RouteId> {
        let mut ranked: Vec<_> = self.rules.iter().map(|rule| (best(rule), rule.id)).collect();
        ranked.sort();
        ranked.into_iter().map(|(_, id)| id).collect()
    }
}

/// The rank of a rule with the host that ranks first.
fn best(rule: &Rule) -> Option<Rank> {
    rule.hosts.iter().map(|host| Rank::new(host, rule)).min()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Request, table};
    use super::*;

    #[track_caller]
    fn explained(lines: &[&str], request: &str) -> (String, usize) {
        let table = table(lines);
        let request = Request::parse(request);
        let explanation = table.explain(&request.query());
        assert_eq!(explanation.outcome, table.find(&request.query()));
        let shown = explanation.candidates.iter().map(|Candidate { id, verdict }| match verdict {
            Verdict::Won => format!("{} won", id.0),
            Verdict::Outranked => format!("{} outranked", id.0),
            Verdict::Failed(Criterion::Header(name)) => format!("{} {name}", id.0),
            Verdict::Failed(Criterion::Query(name)) => format!("{} ?{name}", id.0),
            Verdict::Failed(criterion) => format!("{} {criterion:?}", id.0).to_lowercase(),
        });
        (shown.collect::<Vec<_>>().join(", "), explanation.others)
    }

    #[test]
    fn each_candidate_says_what_became_of_it() {
        let lines = [
            "* /*",
            "a.com GET /x",
            "a.com /x x-beta=1",
            "a.com /x x-a ?q=1",
            "a.com /{id} @7",
            "a.com,b.com /x",
            "c.com /x",
            "* ~/x+",
            "a.com /y",
        ];
        assert_eq!(
            explained(&lines, "POST a.com /x x-a=1"),
            ("1 method, 3 ?q, 2 x-beta, 5 won, 4 listener, 0 outranked, 7 outranked, 6 host".to_string(), 1)
        );
        assert_eq!(explained(&lines, "GET b.com /x/y"), ("0 won".to_string(), 8));
        assert_eq!(explained(&["* GET /x"], "PUT h /x"), ("0 method".to_string(), 0));
    }

    #[test]
    fn a_preflight_is_explained_by_the_request_behind_it() {
        let preflight = "OPTIONS h /x origin=http://a access-control-request-method=PUT";
        assert_eq!(explained(&["* GET /x", "* PUT /x", "* /x"], preflight).0, "0 method, 1 won, 2 outranked");
        assert_eq!(explained(&["* PUT /x", "* OPTIONS /*"], preflight).0, "0 outranked, 1 won");
    }

    #[test]
    fn many_other_hosts_are_counted_only() {
        let lines: Vec<String> = (0..100).map(|n| format!("h{n}.com /*")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let (shown, others) = explained(&lines, "GET h50.com /");
        assert!(shown.starts_with("50 won, 0 host, 1 host,"), "{shown}");
        assert_eq!(others, 99 - OTHER_HOSTS_MAX);
    }

    #[test]
    fn the_order_of_all() {
        let lines = ["* /*", "* ~/a", "* /a", "*.b.com /*", "*.a.b.com,* /*", "x.b.com /{id}", "x.b.com /a", "* GET /a", "* /a ?q"];
        let order: Vec<u32> = table(&lines).in_order().iter().map(|id| id.0).collect();
        assert_eq!(order, [6, 5, 4, 3, 7, 8, 2, 0, 1]);
    }
}
