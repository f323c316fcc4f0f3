//! Places within a JSON document.

use std::fmt;

/// Names, one within the other: `customer.name`. A dot that belongs to a name is written `\.`. The empty path is the whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(Box<[Box<str>]>);

impl Path {
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Path, String> {
        let (mut steps, mut step) = (Vec::new(), String::new());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '.' => steps.push(std::mem::take(&mut step)),
                '\\' => step.push(chars.next().ok_or_else(|| format!("`{text}` ends in a backslash"))?),
                c => step.push(c),
            }
        }
        steps.push(step);
        match steps.iter().any(String::is_empty) {
            true => Err(format!("the path `{text}` has an empty name")),
            false => Ok(Path(steps.into_iter().map(Into::into).collect())),
        }
    }

    pub fn steps(&self) -> &[Box<str>] {
        &self.0
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            let dot = if index > 0 { "." } else { "" };
            write!(f, "{dot}{}", step.replace('\\', "\\\\").replace('.', "\\."))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dots_part_names_unless_they_are_escaped() {
        let steps = |text: &str| Path::parse(text).map(|path| path.steps().iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(steps("a.b"), Ok(vec!["a".to_string(), "b".to_string()]));
        assert_eq!(steps(r"a\.b.c\\"), Ok(vec!["a.b".to_string(), r"c\".to_string()]));
        for bad in ["", ".", "a.", ".a", "a..b", r"a\"] {
            assert!(Path::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_as_the_same(text in r"[a-z.\\é]{0,12}") {
            if let Ok(path) = Path::parse(&text) {
                prop_assert_eq!(Path::parse(&path.to_string()), Ok(path));
            }
        }
    }
}
