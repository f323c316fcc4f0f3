//! What routes do with JSON bodies.

use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::{self, OtherTypes};
use crate::config::shape::Size;
use crate::shape::body::JsonEdits;
use crate::shape::schema::Schema;
use crate::shape::template::{Names, Values, Variable};
use crate::types::Flaw;
use bytes::Bytes;
use std::sync::Arc;

/// Of a body that is looked at.
const BYTES_MAX: Size = Size(4 << 20);

/// How bodies of one direction are looked at and changed.
#[derive(Debug)]
pub struct BodyRule {
    schema: Option<Schema>,
    edits: Option<JsonEdits>,
    /// A body that is no JSON by its Content-Type is refused.
    pub refuses_others: bool,
    pub body_bytes_max: u64,
}

impl BodyRule {
    /// The outer `None` means that a problem was reported, the inner one that bodies pass as they are.
    pub fn of_request(
        raw: &raw::RequestBody,
        names: Names<'_>,
        is_there: bool,
        at: &At<'_>,
        problems: &Problems,
    ) -> Option<Option<BodyRule>> {
        let schema_at = at.key("schema");
        let schema = raw.schema.as_ref().map(|path| Schema::read(path, &schema_at, problems));
        let edits = edits(raw.json.as_ref(), names, at, problems);
        let refuses_others = match raw.other_types {
            Some(others) => others == OtherTypes::Refuse,
            // Whoever writes another type would get past the schema.
            None => raw.schema.is_some(),
        };
        let schema = schema.map_or(Some(None), |schema| schema.map(Some));
        BodyRule { schema: schema?, edits: edits?, refuses_others, body_bytes_max: raw.body_bytes_max.unwrap_or(BYTES_MAX).0 }
            .checked(is_there, at, problems)
    }

    /// Likewise.
    pub fn of_answer(
        raw: &raw::ResponseBody,
        names: Names<'_>,
        is_there: bool,
        at: &At<'_>,
        problems: &Problems,
    ) -> Option<Option<BodyRule>> {
        let edits = edits(raw.json.as_ref(), names, at, problems)?;
        let refuses_others = raw.other_types == OtherTypes::Refuse;
        BodyRule { schema: None, edits, refuses_others, body_bytes_max: raw.body_bytes_max.unwrap_or(BYTES_MAX).0 }
            .checked(is_there, at, problems)
    }

    fn checked(self, is_there: bool, at: &At<'_>, problems: &Problems) -> Option<Option<BodyRule>> {
        if !self.reads() && !self.refuses_others {
            return Some(None);
        }
        if !is_there {
            let key = if self.schema.is_some() {
                "schema"
            } else if self.edits.is_some() {
                "json"
            } else {
                "other_types"
            };
            let why = "no service gets or sends one";
            return problems.at(&at.key(key), "changes of a body that there is not", why, "remove them, or add `to:`");
        }
        Some(Some(self))
    }

    /// It is asked what stands in a body, not only what its type is.
    pub fn reads(&self) -> bool {
        self.schema.is_some() || self.edits.is_some()
    }

    /// There has to be a body, where a method is made to carry one.
    pub fn wants_one(&self) -> bool {
        self.schema.is_some()
    }

    /// What is put into a body.
    pub fn variables(&self) -> Vec<&Variable> {
        self.edits.as_ref().map_or_else(Vec::new, JsonEdits::variables)
    }

    /// What becomes of a whole body.
    ///
    /// # Errors
    /// What is wrong with it; nothing when it is not JSON, or none that can be changed.
    pub fn apply(&self, body: Bytes, values: &dyn Values) -> Result<Bytes, Arc<[Flaw]>> {
        if let Some(schema) = &self.schema {
            schema.check(&body)?;
        }
        match &self.edits {
            Some(edits) => edits.apply(&body, values).map(Bytes::from).map_err(|_| Arc::default()),
            None => Ok(body),
        }
    }
}

fn edits(raw: Option<&raw::JsonChanges>, names: Names<'_>, at: &At<'_>, problems: &Problems) -> Option<Option<JsonEdits>> {
    match raw {
        Some(raw) => JsonEdits::build(raw, names, &at.key("json"), problems).map(Some),
        None => Some(None),
    }
}
