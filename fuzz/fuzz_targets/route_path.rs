//! A normal form is its own normal form, has no dot segments, and no encoding that it could do without.
#![no_main]

use frontdesk::route::normalize::path;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(once) = path(text) else { return };
    assert_eq!(path(&once).as_deref(), Ok(&*once));
    assert!(once.starts_with('/') && !once.split('/').any(|segment| segment == "." || segment == ".."));
    for encoded in once.split('%').skip(1) {
        let byte = u8::from_str_radix(&encoded[..2], 16).expect("two digits");
        assert!(byte != 0 && !byte.is_ascii_alphanumeric() && !b"-._~".contains(&byte) && encoded[..2].to_uppercase() == encoded[..2]);
    }
});
