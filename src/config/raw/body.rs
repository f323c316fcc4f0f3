//! `body` of `request` and `response`.

use super::{FilePath, Json};
use crate::config::schema::{self, Parts};
use crate::config::shape::{Named, Node, Shape, Size, choice, record};
use serde_json::Value as Schema;

record! {
    /// What becomes of a request's JSON body.
    #[derive(Default)]
    pub struct RequestBody {
        /// A file with a JSON Schema; what the client sends is refused (422) where it does not match.
        schema: Option<FilePath> = None,
        json: Option<JsonChanges> = None,
        /// What becomes of a body of another type; refused when absent beside a `schema`, else passed.
        other_types: Option<OtherTypes> = None,
        /// Of a body that is looked at: a larger one is refused.
        body_bytes_max: Option<Size> = None,
    }
}

record! {
    /// What becomes of an answer's JSON body.
    #[derive(Default)]
    pub struct ResponseBody {
        json: Option<JsonChanges> = None,
        /// What becomes of an answer of another type.
        other_types: OtherTypes = OtherTypes::Pass,
        /// Of a body that is changed: a larger one is refused.
        body_bytes_max: Option<Size> = None,
    }
}

choice! {
    /// What becomes of a body that is no JSON by its Content-Type.
    #[derive(Default)]
    pub enum OtherTypes {
        #[default]
        "pass" => Pass,
        "refuse" => Refuse,
    }
}

/// Applied in this order: keep, remove, rename, move, set. Paths are names with dots between them, and go through lists.
#[derive(Clone, Debug, Default)]
pub struct JsonChanges {
    /// All else is left out.
    pub keep: Option<Vec<String>>,
    pub remove: Vec<String>,
    /// New names, by path.
    pub rename: Named<String>,
    /// New paths, by path.
    pub moved: Named<String>,
    /// Values, by path.
    pub set: Named<Json>,
}

impl Shape for JsonChanges {
    fn read(node: &Node<'_>) -> Option<Self> {
        let map = node.map()?;
        let changes = JsonChanges {
            keep: map.read("keep").flatten(),
            remove: map.optional("remove", Vec::new),
            rename: map.optional("rename", Named::default),
            moved: map.optional("move", Named::default),
            set: map.optional("set", Named::default),
        };
        map.finish();
        Some(changes)
    }

    fn schema(parts: &mut Parts) -> Schema {
        let doc = ["Applied in this order: keep, remove, rename, move, set. Paths are names with dots between them."];
        schema::record(parts, "JsonChanges", &doc, |parts, fields| {
            fields.add::<Option<Vec<String>>>(parts, "keep", &["Paths; all else is left out."], Some(None));
            fields.add::<Vec<String>>(parts, "remove", &["Paths."], Some(Vec::new()));
            fields.add::<Named<String>>(parts, "rename", &["New names, by path."], Some(Named::default()));
            fields.add::<Named<String>>(parts, "move", &["New paths, by path."], Some(Named::default()));
            fields.add::<Named<Json>>(parts, "set", &["Values, by path."], Some(Named::default()));
        })
    }
}
