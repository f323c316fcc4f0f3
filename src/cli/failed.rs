//! What a command that came to nothing says, to people and to machines, and its exit code.

use crate::server::Failure;
use serde_json::{Value, json};

pub struct Failed {
    /// Ready to be printed.
    pub text: String,
    pub json: Value,
    /// 1 refused or failed, 2 wrong use.
    pub code: u8,
}

impl Failed {
    /// Something else was to be typed.
    pub fn misuse(what: impl Into<String>) -> Failed {
        let what = what.into();
        Failed { text: format!("error: {what}\n"), json: json!({ "error": what }), code: 2 }
    }

    /// What has a form of its own for machines.
    pub fn told(text: String, json: Value) -> Failed {
        Failed { text, json, code: 1 }
    }
}

impl From<String> for Failed {
    fn from(text: String) -> Failed {
        let json = json!({ "error": text.trim_end() });
        Failed::told(text, json)
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Failed {
        Failed::told(format!("{failure}\n"), failure.json())
    }
}
