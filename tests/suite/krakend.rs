//! What KrakenD documents of aggregation ("Endpoints", "Response manipulation", "Sequential proxy"), case by case.

use crate::kit::{Answer, Gateway, Origin, answer, dead_address};
use serde_json::json;

/// The service of the examples.
fn service() -> Origin {
    Origin::new(|request| {
        let json = |body: serde_json::Value| answer(200, &[("Content-Type", "application/json")], body.to_string().as_bytes());
        match request.target.as_str() {
            "/users/1" => json(json!({ "user": { "id": 1, "name": "Ada", "email": "ada@example.com" }, "password": "x" })),
            "/hotels/1" => json(json!({ "hotel_id": 7, "destination_id": 25, "city": "Paris" })),
            "/hotels/25" | "/destinations/25" => json(json!({ "destination_id": 25, "destinations": ["LHR", "CDG"] })),
            "/last_update" => json(json!({ "last_updated": "2018-11-15" })),
            "/posts" => json(json!([{ "id": 1, "title": "one" }, { "id": 2, "title": "two" }])),
            "/created" => answer(201, &[("Content-Type", "application/json")], br#"{"id":5}"#),
            "/html" => answer(200, &[("Content-Type", "text/html")], b"<p>"),
            "/fails" => answer(500, &[], b"oops"),
            _ => answer(404, &[], b""),
        }
    })
}

fn get(origin: &Origin, compose: &str) -> Answer {
    let compose = compose.replace("ORIGIN", &format!("http://{origin}")).replace("DEAD", &format!("http://{}", dead_address()));
    Gateway::start(&format!("listeners: [{{ bind: 127.0.0.1:0 }}]\nroutes: [{{ path: '/x/{{id}}', {compose} }}]")).get("/x/1")
}

fn complete(answer: &Answer) -> Option<&str> {
    answer.header("x-frontdesk-complete")
}

/// "The merge operation": three backends, one object. Theirs takes whichever comes last where two have a key; here that is told.
#[test]
fn merge() {
    let merged = get(
        &service(),
        "compose: { merge: [user, hotel, update], calls: {
            user: { to: ORIGIN, path: '/users/${id}' }, hotel: { to: ORIGIN, path: '/hotels/${id}' }, update: { to: ORIGIN, path: /last_update } } }",
    );
    assert_eq!(
        merged.json(),
        json!({
            "user": { "id": 1, "name": "Ada", "email": "ada@example.com" }, "password": "x",
            "hotel_id": 7, "destination_id": 25, "city": "Paris", "last_updated": "2018-11-15",
        })
    );
    assert_eq!((merged.status, complete(&merged)), (200, None));
}

/// "Merge example" with a backend that fails: 200 with the rest, and a header that says so (theirs is X-KrakenD-Completed: false).
#[test]
fn partial_failure() {
    for failing in ["/fails", "/nowhere", "/html"] {
        let partial = get(
            &service(),
            &format!(
                "compose: {{ merge: [user, bad], report: true, calls: {{ user: {{ to: ORIGIN, path: /users/1 }}, bad: {{ to: ORIGIN, path: {failing} }} }} }}"
            ),
        );
        assert_eq!((partial.status, complete(&partial), &partial.json()["user"]["id"]), (200, Some("false"), &json!(1)), "{failing}");
        assert_eq!(partial.json()["errors"][0]["name"], "bad");
    }
    let partial =
        get(&service(), "compose: { merge: [user, bad], calls: { user: { to: ORIGIN, path: /users/1 }, bad: { to: DEAD, path: / } } }");
    assert_eq!((partial.status, complete(&partial)), (200, Some("false")));
}

/// All of a success or nothing: there by a plugin, here by a word.
#[test]
fn a_backend_that_must_not_fail() {
    let failed = get(
        &service(),
        "compose: { merge: [user, bad], calls: { user: { to: ORIGIN, path: /users/1 }, bad: { to: ORIGIN, path: /nowhere, required: true } } }",
    );
    assert_eq!(failed.status, 404);
}

/// "Group": each backend below a key of its own.
#[test]
fn group() {
    let grouped = get(
        &service(),
        "compose: { body: { last: '${update.body}', place: '${hotel.body}' }, calls: { update: { to: ORIGIN, path: /last_update }, hotel: { to: ORIGIN, path: '/hotels/${id}' } } }",
    );
    assert_eq!(grouped.text(), r#"{"last":{"last_updated":"2018-11-15"},"place":{"city":"Paris","destination_id":25,"hotel_id":7}}"#);
}

/// "Collection": a backend that answers with a list. Theirs puts it under `collection`, unless another encoder is taken.
#[test]
fn collection() {
    let posts = json!([{ "id": 1, "title": "one" }, { "id": 2, "title": "two" }]);
    let wrapped = get(&service(), "compose: { body: { collection: '${posts.body}' }, calls: { posts: { to: ORIGIN, path: /posts } } }");
    assert_eq!(wrapped.json(), json!({ "collection": posts }));
    let merged = get(
        &service(),
        "compose: { merge: [posts, update], calls: { posts: { to: ORIGIN, path: /posts }, update: { to: ORIGIN, path: /last_update } } }",
    );
    assert_eq!(merged.json(), json!({ "posts": posts, "last_updated": "2018-11-15" }));
    let bare = get(&service(), "compose: { body: '${posts.body}', calls: { posts: { to: ORIGIN, path: /posts } } }");
    assert_eq!(bare.json(), posts, "and as the list that it is");
}

/// "Sequential proxy": the second call's path has a part of the first one's answer (theirs: `{resp0_destination_id}`).
#[test]
fn sequential() {
    let origin = service();
    let chained = get(
        &origin,
        "compose: { merge: [hotel, there], on_conflict: last, calls: {
            hotel: { to: ORIGIN, path: '/hotels/${id}', required: true }, there: { to: ORIGIN, path: '/destinations/${hotel.body.destination_id}' } } }",
    );
    assert_eq!(chained.json(), json!({ "hotel_id": 7, "destination_id": 25, "city": "Paris", "destinations": ["LHR", "CDG"] }));
    assert_eq!(origin.seen().iter().map(|request| request.target.clone()).collect::<Vec<_>>(), ["/hotels/1", "/destinations/25"]);
    // The chain ends where the first fails, with its status and not with a 500.
    let origin = service();
    let ended = get(
        &origin,
        "compose: { calls: { hotel: { to: ORIGIN, path: /nowhere, required: true }, there: { to: ORIGIN, path: '/destinations/${hotel.body.destination_id}' } } }",
    );
    assert_eq!((ended.status, origin.seen().len()), (404, 1));
}

/// "Filtering" (allow, deny), "mapping" and "target".
#[test]
fn filtering_mapping_and_target() {
    let calls = "compose: { merge: [user], calls: { user: { to: ORIGIN, path: '/users/${id}' } } }";
    let allowed = get(&service(), &format!("response: {{ body: {{ json: {{ keep: [user.id, user.name] }} }} }}, {calls}"));
    assert_eq!(allowed.json(), json!({ "user": { "id": 1, "name": "Ada" } }));
    let denied = get(&service(), &format!("response: {{ body: {{ json: {{ remove: [password, user.email] }} }} }}, {calls}"));
    assert_eq!(denied.json(), json!({ "user": { "id": 1, "name": "Ada" } }));
    let mapped = get(&service(), &format!("response: {{ body: {{ json: {{ keep: [user.id], rename: {{ user: person }} }} }} }}, {calls}"));
    assert_eq!(mapped.json(), json!({ "person": { "id": 1 } }));
    let target = get(&service(), "compose: { body: '${user.body.user}', calls: { user: { to: ORIGIN, path: '/users/${id}' } } }");
    assert_eq!(target.json(), json!({ "id": 1, "name": "Ada", "email": "ada@example.com" }));
}

/// "Flatmap": parts of the items of a list, and what is below moved up.
#[test]
fn flatmap() {
    let flat = get(
        &service(),
        "compose: { body: { titles: '${posts.body.title}', first: '${posts.body.0.title}' }, calls: { posts: { to: ORIGIN, path: /posts } } }",
    );
    assert_eq!(flat.json(), json!({ "titles": ["one", "two"], "first": "one" }));
    let moved = get(
        &service(),
        "compose: { body: { id: '${user.body.user.id}', name: '${user.body.user.name}' }, calls: { user: { to: ORIGIN, path: /users/1 } } }",
    );
    assert_eq!(moved.json(), json!({ "id": 1, "name": "Ada" }));
}

/// "Static data": what stands where a backend failed.
#[test]
fn static_data() {
    let with = |path: &str| {
        get(
            &service(),
            &format!(
                "compose: {{ body: {{ ads: '${{ads.body}}', by: gateway }}, calls: {{ ads: {{ to: ORIGIN, path: {path}, default: {{ ad: none }} }} }} }}"
            ),
        )
    };
    assert_eq!(with("/fails").json(), json!({ "ads": { "ad": "none" }, "by": "gateway" }));
    assert_eq!(with("/last_update").json(), json!({ "ads": { "last_updated": "2018-11-15" }, "by": "gateway" }));
}

/// "Status codes": theirs is 200 or 500 for several backends; here it may be one of theirs.
#[test]
fn status_codes() {
    let calls = "calls: { made: { to: ORIGIN, path: /created }, gone: { to: ORIGIN, path: /nowhere } }";
    let status = |status: &str| get(&service(), &format!("compose: {{ status: {status}, {calls} }}"));
    assert_eq!((status("202").status, status("'${made.status}'").status, status("'${gone.status}'").status), (202, 201, 404));
    let none = status("'${gone.body.status}'");
    assert_eq!((none.status, none.code()), (502, "compose_failed".to_string()));
    let empty = status("204");
    assert_eq!((empty.status, empty.body.len()), (204, 0));
}
