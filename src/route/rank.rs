//! Which of two routes wins a request that both take: [`Rank`], in which the least comes first.
//!
//! The table is built so that its walk meets routes in this order; here it stands in one piece, for `routes` and `explain`, and
//! for the tests that hold the walk against it.

use super::host::HostPattern;
use super::pattern::Segment;
use super::rule::{PathRule, Rule};
use crate::types::RouteId;
use std::cmp::Reverse;

/// Compared field by field, from the first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    host: HostRank,
    path: PathRank,
    asks: Asks,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum HostRank {
    Exact,
    /// The longer one wins.
    Wildcard(Reverse<usize>),
    Any,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathRank {
    /// Segment by segment.
    Pattern(Vec<SegmentRank>),
    Expression,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SegmentRank {
    Literal,
    Capture,
    End,
    Rest,
}

/// The order among routes of one host and one path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Asks {
    any_method: bool,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    any_listener: bool,
    /// The order of the file.
    id: RouteId,
}

impl Rank {
    /// Where a rule stands with one of its hosts.
    pub fn new(host: &HostPattern, rule: &Rule) -> Rank {
        let host = match host {
            HostPattern::Exact(_) => HostRank::Exact,
            HostPattern::Wildcard(suffix) => HostRank::Wildcard(Reverse(suffix.len())),
            HostPattern::Any => HostRank::Any,
        };
        let path = match &rule.path {
            PathRule::Expression(_) => PathRank::Expression,
            PathRule::Pattern(pattern) => {
                let segments = pattern.segments.iter().map(|segment| match segment {
                    Segment::Literal(_) => SegmentRank::Literal,
                    Segment::Capture(_) => SegmentRank::Capture,
                    Segment::Rest => SegmentRank::Rest,
                });
                let end = (!pattern.has_rest()).then_some(SegmentRank::End);
                PathRank::Pattern(segments.chain(end).collect())
            }
        };
        Rank { host, path, asks: Asks::of(rule) }
    }
}

impl Asks {
    pub(super) fn of(rule: &Rule) -> Asks {
        Asks {
            any_method: rule.methods.is_empty(),
            headers: Reverse(rule.headers.len()),
            query: Reverse(rule.query.len()),
            any_listener: rule.listeners.is_empty(),
            id: rule.id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::rule;
    use super::*;

    fn rank(id: usize, line: &str) -> Rank {
        let rule = rule(id, line);
        Rank::new(&rule.hosts[0], &rule)
    }

    #[test]
    fn each_criterion_decides_where_those_before_it_are_equal() {
        // Of each pair the first wins, though all that comes later in the order speaks for the second.
        for (winner, loser) in [
            // the host
            ("a.b.example.com ~/.*", "*.b.example.com GET /x x-a=1 ?q=1 @0"),
            ("*.b.example.com ~/.*", "*.example.com GET /x x-a=1 ?q=1 @0"),
            ("*.com ~/.*", "* GET /x x-a=1 ?q=1 @0"),
            // the path, segment by segment
            ("* /a/b/c", "* GET /a/b/{c} x-a=1 ?q=1 @0"),
            ("* /a/*", "* GET /{a}/b/c x-a=1 ?q=1 @0"),
            ("* /a/{b}/{c}", "* GET /a/{b} x-a=1 ?q=1 @0"),
            ("* /a/{b}", "* GET /a/* x-a=1 ?q=1 @0"),
            ("* /a/{b}/*", "* GET /a/* x-a=1 ?q=1 @0"),
            ("* /a", "* GET /a/* x-a=1 ?q=1 @0"),
            // expressions
            ("* /*", "* GET ~/a/b x-a=1 ?q=1 @0"),
            // with a method
            ("* GET /a", "* /a x-a=1 x-b=1 ?q=1 @0"),
            // more header fields
            ("* /a x-a=1 x-b=1", "* /a x-a=1 ?q=1 ?r=1 @0"),
            ("* /a x-a=1", "* /a ?q=1 @0"),
            // more parameters
            ("* /a ?q=1 ?r=1", "* /a ?q=1 @0"),
            ("* /a ?q=1", "* /a @0"),
            // with a listener
            ("* /a @0", "* /a"),
        ] {
            assert!(rank(1, winner) < rank(0, loser), "{winner} before {loser}");
            assert!(rank(0, winner) < rank(1, loser), "{winner} before {loser}");
        }
    }

    #[test]
    fn all_else_being_equal_the_first_in_the_file_wins() {
        for (one, other) in [
            ("a.com /x", "b.com /y"),
            ("*.aa.com /x", "*.bb.com /x"),
            ("* /{a}/x", "* /{b}/y"),
            ("* ~/a", "* ~/bb"),
            ("* GET /x", "* POST,PUT /x"),
            ("* /x x-a=1", "* /x x-b=~.*"),
            ("* /x ?a=1", "* /x ?b"),
            ("* /x @0", "* /x @1,2"),
        ] {
            assert!(rank(0, one) < rank(1, other), "{one} before {other}");
            assert!(rank(0, other) < rank(1, one), "{other} before {one}");
        }
    }
}
