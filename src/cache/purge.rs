//! What is to be forgotten.

use super::entry::Entry;

/// Which answers are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purge {
    /// All answers to a URL: its page under each rule.
    Pages(Vec<u128>),
    /// URLs that begin so; a path that begins so, on any host, when it begins with a slash.
    Prefix(Box<str>),
    /// Answers that the service gave this tag.
    Tag(Box<str>),
    All,
}

/// How it is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// As if it had never come.
    Hard,
    /// It is stale from now on, and may still serve while or until the service is asked.
    Soft,
}

impl Purge {
    pub fn matches(&self, entry: &Entry) -> bool {
        self.matches_parts(entry.key.page, entry.head.url(), entry.tags())
    }

    pub fn matches_parts(&self, page: u128, url: &str, tags: &[Box<str>]) -> bool {
        match self {
            Purge::Pages(pages) => pages.contains(&page),
            Purge::Prefix(prefix) if prefix.starts_with('/') => path_of(url).starts_with(&**prefix),
            Purge::Prefix(prefix) => url.starts_with(&**prefix),
            Purge::Tag(tag) => tags.iter().any(|known| known == tag),
            Purge::All => true,
        }
    }
}

fn path_of(url: &str) -> &str {
    let behind = url.split_once("://").map_or(url, |(_, rest)| rest);
    behind.find('/').map_or("", |slash| &behind[slash..])
}

/// The tags that a field's values name: split at spaces and commas, as is the custom.
pub fn tags(text: &str) -> impl Iterator<Item = Box<str>> + '_ {
    text.split([' ', ',', '\t']).filter(|tag| !tag.is_empty()).map(Box::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant() {
        let tags: Vec<Box<str>> = tags("a,b  c, ").collect();
        let matches = |purge: &Purge| purge.matches_parts(7, "https://h:1/menus/1?x=/z", &tags);
        for (purge, expected) in [
            (Purge::All, true),
            (Purge::Pages(vec![1, 7]), true),
            (Purge::Pages(vec![1]), false),
            (Purge::Prefix("https://h:1/menus/".into()), true),
            (Purge::Prefix("https://h/menus/".into()), false),
            (Purge::Prefix("/menus".into()), true),
            (Purge::Prefix("/z".into()), false),
            (Purge::Tag("c".into()), true),
            (Purge::Tag("".into()), false),
        ] {
            assert_eq!(matches(&purge), expected, "{purge:?}");
        }
    }
}
