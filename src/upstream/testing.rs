//! Pools for tests of this room.

use super::{Pool, States};
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw;
use crate::config::shape::{Node, Shape};

/// A pool of a service as it is typed.
pub fn pool(yaml: &str) -> Pool {
    pool_of(&States::default(), yaml).expect("a pool")
}

/// The same with states that are known.
pub fn pool_of(states: &States, yaml: &str) -> Option<Pool> {
    let raw: raw::Service = read(yaml);
    Pool::build(&raw, None, Some("here"), &At::root(), states.service("s"), &Problems::default())
}

/// A part of a configuration as it is typed.
pub fn read<T: Shape>(yaml: &str) -> T {
    let (value, problems) = (serde_yaml::from_str(yaml).expect("YAML"), Problems::default());
    let raw = T::read(&Node { value: &value, at: &At::root(), problems: &problems });
    assert!(problems.is_empty(), "{problems:?}");
    raw.expect("a part")
}
