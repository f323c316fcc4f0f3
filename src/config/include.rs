//! `include:`: more files with services, routes and other named parts, which become one configuration with the main one.

use super::place::{At, Step};
use super::problem::{Place, Problem, Problems};
use super::shape::{kind, remedy};
use super::source::{File, Sources};
use super::substitute::Values;
use super::{load, raw, yaml};
use serde_yaml::{Mapping, Value};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Sections of which an included file may have parts: maps by name.
const NAMED: [&str; 4] = ["services", "auth", "rate_limits", "caches"];
const ROUTES: &str = "routes";
/// Above this, a pattern is not what was meant.
const FILES_MAX: usize = 10_000;

/// Adds to `into`, the main file's map, what the files have that it names.
pub(super) fn include(into: &mut Mapping, sources: &mut Sources, values: &mut Values<'_>) {
    let problems = values.problems;
    let root = At::root();
    let at = root.key("include");
    // What else may stand here, the walk reports.
    let patterns: Vec<(Option<usize>, String)> = match into.get("include") {
        Some(Value::String(pattern)) => vec![(None, pattern.clone())],
        Some(Value::Sequence(items)) => {
            let text = |(index, item): (usize, &Value)| Some((Some(index), item.as_str()?.to_string()));
            items.iter().enumerate().filter_map(text).collect()
        }
        _ => return,
    };
    let main = PathBuf::from(sources.name());
    let folder = main.parent().map(Path::to_path_buf).unwrap_or_default();
    let mut seen: HashSet<PathBuf> = main.canonicalize().into_iter().collect();
    for (index, pattern) in patterns {
        let at = index.map_or(at, |index| at.index(index));
        for path in find(&pattern, &folder, &at, problems) {
            // One that two patterns find is included once.
            if !seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())) {
                continue;
            }
            if seen.len() > FILES_MAX {
                problems.at::<()>(&at, format!("more than {FILES_MAX} files"), "no configuration is as large as that", "name fewer");
                return;
            }
            match load::read_file(&path) {
                Ok(file) => one(into, file, sources, values),
                Err(e) => lost(&at, format!("can't read `{}`: {e}", path.display()), problems),
            }
        }
    }
}

/// A problem with a file, for which what it has is not known.
fn lost(at: &At<'_>, what: String, problems: &Problems) {
    problems.at::<()>(at, what, "what is in it would be missing", "correct the path, or let this user read it");
    excuse(problems);
}

fn excuse(problems: &Problems) {
    let root = At::root();
    NAMED.iter().chain(&[ROUTES]).for_each(|section| problems.excuse(&root.key(section)));
}

/// The files that a pattern means, in order of their names.
fn find(pattern: &str, folder: &Path, at: &At<'_>, problems: &Problems) -> Vec<PathBuf> {
    let path = folder.join(pattern);
    if !pattern.contains(['*', '?', '[']) {
        return vec![path];
    }
    // What the folder is called is no part of the pattern.
    let whole = Path::new(&glob::Pattern::escape(&folder.display().to_string())).join(pattern);
    match glob::glob(&whole.display().to_string()) {
        Ok(found) => {
            let mut files: Vec<PathBuf> = found.take(FILES_MAX + 1).filter_map(Result::ok).filter(|path| path.is_file()).collect();
            files.sort();
            if files.is_empty() {
                problems.warn(at, format!("no file matches `{pattern}`"), "nothing is included", "correct the pattern, or remove it");
            }
            files
        }
        Err(e) => {
            problems.at::<()>(
                at,
                format!("`{pattern}` is not a pattern: {}", e.msg),
                "no file can match it",
                "write one such as `routes.d/*.yaml`",
            );
            Vec::new()
        }
    }
}

/// Adds what one file has.
fn one(into: &mut Mapping, file: File, sources: &mut Sources, values: &mut Values<'_>) {
    let problems = values.problems;
    let folder = Path::new(&file.name).parent().map(Path::to_path_buf).unwrap_or_default();
    let number = sources.add(file);
    let (value, marks) = yaml::read(&sources.files()[number].text, number, problems);
    let place = |steps: &[Step], of_key: bool| match marks.find(steps, of_key) {
        Some(span) => Place::Exact(number, span),
        None => Place::File(number),
    };
    let mut file = Included { number, folder: &folder, place: &place, sources, values };
    match value {
        None => excuse(problems),
        Some(Value::Null) => {}
        Some(Value::Mapping(sections)) => sections.into_iter().for_each(|(key, value)| file.section(into, &key, value)),
        Some(other) => {
            let what = format!("an included file must be a map, not {}", kind(&other));
            problems.add(Problem::new(place(&[], false), what, "it adds services and routes", "write `routes:` or `services:` in it"));
            excuse(problems);
        }
    }
    sources.set_marks(number, marks);
}

/// A file whose parts are added.
struct Included<'a, 'b> {
    number: usize,
    folder: &'a Path,
    place: &'a dyn Fn(&[Step], bool) -> Place,
    sources: &'a mut Sources,
    values: &'a mut Values<'b>,
}

impl Included<'_, '_> {
    fn problem(&self, place: Place, what: String, why: &str, fix: String) {
        self.values.problems.add(Problem::new(place, what, why, fix));
    }

    fn section(&mut self, into: &mut Mapping, key: &Value, value: Value) {
        let name = key.as_str().unwrap_or_default();
        let steps = [Step::Key(name.to_string())];
        let known = [&NAMED[..], &[ROUTES]].concat();
        if raw::is_free(name) {
            return;
        }
        if !known.contains(&name) {
            let place = (self.place)(&steps, true);
            if name == "include" {
                let what = "an included file includes others".to_string();
                return self.problem(
                    place,
                    what,
                    "only the main file says which files there are",
                    format!("include them in `{}`", self.sources.name()),
                );
            }
            let what = format!("`{name}` can't stand in an included file");
            let fix = match raw::is_section(name) {
                true => format!("move it to `{}`", self.sources.name()),
                false => remedy(name, &known),
            };
            return self.problem(place, what, "included files add services, routes and what they use", fix);
        }
        let is_list = name == ROUTES;
        if value.is_null() {
            return;
        }
        if is_list != value.is_sequence() || is_list == value.is_mapping() {
            let wanted = if is_list { "a list" } else { "a map" };
            let what = format!("`{name}` must be {wanted}, not {}", kind(&value));
            self.problem((self.place)(&steps, false), what, "a value of another kind can't be understood", format!("write {wanted}"));
            return self.values.problems.excuse(&At::root().key(name));
        }
        let whole = into.entry(key.clone()).or_insert_with(|| {
            self.sources.is_in(steps.to_vec(), self.number);
            if is_list { Value::Sequence(Vec::new()) } else { Value::Mapping(Mapping::new()) }
        });
        match (whole, value) {
            (Value::Sequence(all), Value::Sequence(items)) => self.routes(all, items),
            (Value::Mapping(all), Value::Mapping(parts)) => self.parts(name, all, parts),
            // The main file's is neither, which the walk reports.
            _ => {}
        }
    }

    fn routes(&mut self, all: &mut Vec<Value>, items: Vec<Value>) {
        self.sources.routes_from(all.len(), self.number);
        let root = At::root();
        let at = root.key(ROUTES);
        for mut item in items {
            self.values.put_in(&mut item, &at.index(all.len()), self.folder);
            all.push(item);
        }
    }

    fn parts(&mut self, section: &str, all: &mut Mapping, parts: Mapping) {
        let root = At::root();
        let at = root.key(section);
        for (key, mut part) in parts {
            let name = key.as_str().unwrap_or_default().to_string();
            let at = at.key(&name);
            if all.contains_key(&key) {
                let place = (self.place)(&[Step::Key(section.to_string()), Step::Key(name.clone())], true);
                let problem =
                    Problem::new(place, format!("`{name}` is there twice"), "only one of them could count", "rename one of the two");
                self.values.problems.add(problem.and(Place::Key(at.path())));
                continue;
            }
            self.sources.is_in(at.path(), self.number);
            self.values.put_in(&mut part, &at, self.folder);
            all.insert(key, part);
        }
    }
}
