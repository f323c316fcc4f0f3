//! Regular expressions that have to match a whole text. They take time in proportion to the text, whatever the expression is.

use super::pattern::is_name;
use super::table::Captures;
use regex_automata::meta::{BuildError, Config, Regex};
use regex_automata::util::primitives::NonMaxUsize;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, PatternID};
use regex_syntax::hir::literal::{Extractor, Literal};
use smallvec::{SmallVec, smallvec};
use std::hash::{Hash, Hasher};

/// What one expression may take once it is compiled: `(\w{100}){100}` would take gigabytes.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// An expression, compiled. Two are the same when they were written the same.
#[derive(Clone, Debug)]
pub struct Expression {
    text: Box<str>,
    regex: Regex,
    /// The named groups, in their order, with their numbers.
    groups: Vec<(Box<str>, usize)>,
}

impl Expression {
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Expression, String> {
        let wrong = |what: &str| format!("`{text}` is not a regular expression that can be used: {what}");
        // On its own first: `a)(b` would close the group that is put around it.
        syntax::parse(text).map_err(|e| wrong(reason(&e.to_string())))?;
        let config = Config::new().nfa_size_limit(Some(COMPILED_BYTES_MAX));
        let built = Regex::builder().configure(config).build(&format!("^(?:{text})$"));
        let regex = built.map_err(|e: BuildError| match (e.size_limit(), e.syntax_error()) {
            (Some(_), _) => wrong("it is too large when it is compiled"),
            (None, Some(e)) => wrong(reason(&e.to_string())),
            (None, None) => wrong(&e.to_string()),
        })?;
        let names = regex.group_info().pattern_names(PatternID::ZERO).enumerate();
        let groups: Vec<(Box<str>, usize)> = names.filter_map(|(number, name)| Some((name?.into(), number))).collect();
        match groups.iter().find(|(name, _)| !is_name(name)) {
            Some((name, _)) => Err(wrong(&format!("the group's name `{name}` is not one of small letters, digits and `_`"))),
            None => Ok(Expression { text: text.into(), regex, groups }),
        }
    }

    /// Whether it may match a path, as far as that can be told: what it begins with is no slash, nor is it the `*` of OPTIONS.
    pub fn may_be_a_path(&self) -> bool {
        let Ok(hir) = syntax::parse(&self.text) else { return true };
        let begins = Extractor::new().extract(&hir);
        let may_be = |begin: &Literal| begin.as_bytes().first().is_none_or(|first| matches!(first, b'/' | b'*'));
        begins.literals().is_none_or(|begins| begins.iter().any(may_be))
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The names of its groups, in their order.
    pub fn names(&self) -> Vec<&str> {
        self.groups.iter().map(|(name, _)| &**name).collect()
    }

    /// Whether it matches the whole text.
    pub fn is_match(&self, text: &[u8]) -> bool {
        self.regex.is_match(Input::new(text).anchored(Anchored::Yes))
    }

    /// Whether it matches the whole path; what its named groups took is put into `captures`. A group that took no part took
    /// nothing.
    pub fn capture(&self, path: &str, captures: &mut Captures) -> bool {
        let Some((_, last)) = self.groups.last() else { return self.is_match(path.as_bytes()) };
        let mut slots: SmallVec<[Option<NonMaxUsize>; 16]> = smallvec![None; 2 * (last + 1)];
        if self.regex.search_slots(&Input::new(path).anchored(Anchored::Yes), &mut slots).is_none() {
            return false;
        }
        let bound = |slot: usize| slots[slot].map_or(0, |at| at.get());
        captures.extend(self.groups.iter().map(|(_, number)| (bound(2 * number), bound(2 * number + 1))));
        true
    }
}

/// The last line of an error of several, which is the reason.
fn reason(error: &str) -> &str {
    let last = error.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last)
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
impl Eq for Expression {}
impl Hash for Expression {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_text_has_to_match() {
        let expression = Expression::parse("/a|/ab").expect("an expression");
        for (path, matches) in [("/a", true), ("/ab", true), ("/abc", false), ("x/a", false), ("/a\n", false)] {
            assert_eq!(expression.is_match(path.as_bytes()), matches, "{path}");
        }
    }

    #[test]
    fn what_begins_without_a_slash_is_no_path() {
        for (text, may_be) in [
            ("orders/.*", false),
            ("(?i)orders|x", false),
            ("^orders", false),
            ("/orders", true),
            ("^/orders", true),
            ("orders|/x", true),
            (".*", true),
            ("[^/]?/x", true),
            (r"\*", true),
            ("", true),
        ] {
            assert_eq!(Expression::parse(text).expect("an expression").may_be_a_path(), may_be, "{text}");
        }
    }

    #[test]
    fn named_groups_are_captured() {
        let expression = Expression::parse("/(?<kind>[a-z]+)/([0-9]+)(?:/(?<more>.*))?").expect("an expression");
        assert_eq!(expression.names(), ["kind", "more"]);
        for (path, taken) in [("/orders/7/a/b", &["orders", "a/b"][..]), ("/orders/7", &["orders", ""]), ("/orders", &[])] {
            let mut captures = Captures::new();
            assert_eq!(expression.capture(path, &mut captures), !taken.is_empty(), "{path}");
            assert_eq!(captures.iter().map(|(from, to)| &path[*from..*to]).collect::<Vec<_>>(), taken, "{path}");
        }
    }

    #[test]
    fn what_can_not_be_used_says_why() {
        for (text, why) in [
            ("/(a", "unclosed group"),
            ("/a)(b", "unopened group"),
            (r"/(\w{100}){100}", "too large"),
            ("/(?<Id>a)", "small letters"),
            (r"/(a)\1", "backreferences are not supported"),
        ] {
            let error = Expression::parse(text).expect_err(text);
            assert!(error.contains(why) && !error.contains('\n'), "{error}");
        }
    }
}
