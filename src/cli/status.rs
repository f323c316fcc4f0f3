//! `status`: what the running gateway says of itself.

use super::failed::Failed;
use super::remote::{self, Target};
use serde_json::Value;

/// What it says, for people or as JSON.
///
/// # Errors
/// The gateway does not answer.
pub fn status(target: &Target) -> Result<String, Failed> {
    let answer = remote::read(target, "/status", &[])?;
    Ok(if target.is_json() { format!("{answer:#}\n") } else { told(&answer) })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn told(status: &Value) -> String {
    let snapshot = &status["snapshot"];
    let mut out = format!(
        "frontdesk {}, process {}, {}\nsnapshot {} ({}), loaded at {}\n{} connections, {} requests in flight, {} routes\n",
        text(&status["version"]),
        status["pid"],
        if status["ready"] == true { "ready" } else { "not ready" },
        snapshot["version"],
        text(&snapshot["hash"]),
        text(&snapshot["loaded_at"]),
        status["connections"],
        status["in_flight"],
        list(&status["routes"]).count(),
    );
    if status["overload"].is_object() {
        let overload = &status["overload"];
        out.push_str(&format!("overload: {} with services, of at most {}\n", overload["waiting"], overload["bound"]));
    }
    list(&status["listeners"]).for_each(|listener| listener_told(&mut out, listener));
    for route in list(&status["caps"]) {
        out.push_str(&format!("route {}: {}\n", text(&route["route"]), cap(&route["cap"])));
    }
    list(&status["services"]).for_each(|service| service_told(&mut out, service));
    for issuer in list(&status["issuers"]) {
        let keys = issuer["age_seconds"].as_u64().map_or("no keys yet".to_string(), |age| format!("keys {age} s old"));
        let error = issuer["error"].as_str().map(|error| format!(", {error}")).unwrap_or_default();
        out.push_str(&format!("issuer {}: {keys}{error}\n", text(&issuer["url"])));
    }
    if let Some(name) = status["store"]["name"].as_str() {
        let store = &status["store"];
        let state = if store["up"] == true { "up".to_string() } else { format!("away: {}", text(&store["last_error"])) };
        out.push_str(&format!("store {name}: {state}, {} keys, {} calls\n", store["leases"], store["questions"]));
    }
    list(&status["limits"]).for_each(|limit| limit_told(&mut out, limit));
    cache_told(&mut out, &status["cache"]);
    if let Some(error) = snapshot["last_error"].as_str() {
        out.push_str(&format!("the last reload failed:\n{error}\n"));
    }
    out
}

fn cap(cap: &Value) -> String {
    format!("{} in flight of at most {}, {} waiting", cap["in_flight"], cap["max"], cap["waiting"])
}

fn listener_told(out: &mut String, listener: &Value) {
    let kind = if listener["tls"] == true { "TLS" } else { "plaintext" };
    let name = listener["name"].as_str().unwrap_or("unnamed");
    out.push_str(&format!("listener {name}: {} ({kind})\n", listener["address"].as_str().unwrap_or("closed")));
    for certificate in list(&listener["certificates"]) {
        out.push_str(&format!("  certificate {}: until {}\n", text(&certificate["name"]), text(&certificate["expires"])));
    }
}

fn service_told(out: &mut String, service: &Value) {
    let breaker = service["breaker"].as_str().map(|state| format!(", breaker {state}")).unwrap_or_default();
    let held = if service["cap"].is_object() { format!(", {}", cap(&service["cap"])) } else { String::new() };
    out.push_str(&format!("service {}{breaker}{held}\n", text(&service["name"])));
    for endpoint in list(&service["endpoints"]) {
        let ejections = match endpoint["ejections"].as_u64() {
            None | Some(0) => String::new(),
            Some(times) => format!(", ejected {times} time{} so far", if times == 1 { "" } else { "s" }),
        };
        out.push_str(&format!(
            "  {}: {}, weight {}, {} in flight{ejections}\n",
            text(&endpoint["address"]),
            text(&endpoint["state"]),
            endpoint["weight"],
            endpoint["in_flight"]
        ));
    }
    for source in list(&service["sources"]) {
        let known = match source["age_seconds"].as_u64() {
            None => "nothing known yet".to_string(),
            Some(age) => format!("{} found {age} s ago", source["endpoints"]),
        };
        let problem = source["problem"].as_str().map(|problem| format!(", {problem}")).unwrap_or_default();
        out.push_str(&format!("  source {}: {known}{problem}\n", text(&source["source"])));
    }
}

fn limit_told(out: &mut String, limit: &Value) {
    out.push_str(&format!(
        "limit {}: {} by {}, {} keys, {} let through, {} refused{}\n",
        text(&limit["name"]),
        text(&limit["rate"]),
        text(&limit["by"]),
        limit["keys"],
        limit["allowed"],
        limit["refused"],
        if limit["mode"] == "shadow" { " (shadow)" } else { "" }
    ));
    let shared = &limit["shared"];
    if shared.is_object() {
        let how = if shared["exact"] == true { "exactly" } else { "by leases" };
        out.push_str(&format!("  shared {how}: {} held, {} decided without the store\n", shared["held"], shared["alone"]));
    }
    for near in list(&limit["nearest"]) {
        out.push_str(&format!("  {}: {} left, all of it in {} s\n", text(&near["key"]), near["left"], near["reset_seconds"]));
    }
}

/// Of a gateway where a route has a cache.
fn cache_told(out: &mut String, cache: &Value) {
    if list(&cache["routes"]).next().is_none() {
        return;
    }
    let (entries, bytes, max, evicted) = (&cache["entries"], &cache["bytes"], &cache["bytes_max"], &cache["evicted"]);
    out.push_str(&format!("cache: {entries} answers, {bytes} bytes of at most {max}, {evicted} evicted\n"));
    for route in list(&cache["routes"]) {
        let ratio =
            route["hit_ratio"].as_f64().map_or("nothing asked yet".to_string(), |ratio| format!("{:.1} percent hits", ratio * 100.0));
        out.push_str(&format!("  route {} by {}: {ratio}\n", text(&route["route"]), text(&route["cache"])));
    }
    let told = &cache["gateways"];
    if told.is_object() {
        let state = if told["up"] == true { "up" } else { "away" };
        let (sent, heard, missed) = (&told["purges_sent"], &told["purges_heard"], &told["missed"]);
        out.push_str(&format!("  other gateways: {state}, {sent} purges sent, {heard} heard, {missed} missed\n"));
    }
}
