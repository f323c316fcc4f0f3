//! Bad configurations, and what `check` says of each: `tests/corpus/TOPIC/NAME.yaml` beside `NAME.txt`.
//!
//! `UPDATE_CORPUS=1` writes the texts anew; whoever does reads what has changed.

use crate::kit::{frontdesk, run};
use frontdesk::config::{load, problem::Problems, schema::schema, source::Sources};
use std::fs;
use std::path::{Path, PathBuf};

fn files(topic: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(topic);
    let mut files: Vec<PathBuf> = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

/// What `check` says of each file, and the exit code.
#[track_caller]
fn check(topic: &str, code: i32) {
    let mut wrong = Vec::new();
    for path in files(topic) {
        let (folder, name) = (path.parent().expect("a folder"), path.file_name().expect("a name"));
        let output = run(frontdesk().current_dir(folder).env_remove("FRONTDESK_NOT_SET").args(["check", "-c"]).arg(name));
        let said = String::from_utf8([output.stdout, output.stderr].concat()).expect("UTF-8");
        let expected = path.with_extension("txt");
        if std::env::var_os("UPDATE_CORPUS").is_some() {
            fs::write(&expected, &said).expect("to write");
        }
        if output.status.code() != Some(code) {
            wrong.push(format!("{}: exit code {:?}", path.display(), output.status.code()));
        }
        if fs::read_to_string(&expected).unwrap_or_default() != said {
            wrong.push(format!("{} is not what was said:\n{said}", expected.display()));
        }
        // None of the corpus's secrets is ever shown.
        assert!(!said.contains("hunter2") && !said.contains("other-secret"), "{said}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn yaml() {
    check("yaml", 1);
}

#[test]
fn shape() {
    check("shape", 1);
}

#[test]
fn meaning() {
    check("meaning", 1);
}

#[test]
fn include() {
    check("include", 1);
}

#[test]
fn many() {
    check("many", 1);
}

#[test]
fn warnings() {
    check("warnings", 0);
}

#[test]
fn there_are_enough() {
    let count: usize = ["yaml", "shape", "meaning", "include", "many"].iter().map(|topic| files(topic).len()).sum();
    assert!(count >= 100, "{count}");
}

/// The values of a file, as an editor would see them.
fn values(path: &Path) -> serde_json::Value {
    let mut sources = Sources::new(path.display().to_string(), fs::read_to_string(path).expect("a file"));
    let value = load::parse(&mut sources, &Problems::default()).expect("YAML");
    serde_json::to_value(value).expect("JSON")
}

#[test]
fn the_schema_takes_what_is_good_and_refuses_what_is_of_the_wrong_shape() {
    let schema = jsonschema::validator_for(&schema()).expect("a schema");
    let conf = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("conf")).expect("conf");
    let good = conf.map(|entry| entry.expect("an entry").path()).chain(files("warnings")).chain(files("meaning"));
    for path in good.filter(|path| !path.to_string_lossy().ends_with("-of-the-wrong-form.yaml")) {
        let problems: Vec<String> = schema.iter_errors(&values(&path)).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert_eq!(problems, [""; 0], "{}", path.display());
    }
    let missed: Vec<PathBuf> = files("shape").into_iter().filter(|path| schema.is_valid(&values(path))).collect();
    assert!(missed.is_empty(), "the schema takes {missed:?}");
}
