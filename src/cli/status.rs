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
    Ok(if target.is_json() { format!("{answer:#}\n") } else { summary(&answer) })
}

/// A status for people.
fn summary(status: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
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
        list(&status["routes"]).len(),
    );
    for listener in list(&status["listeners"]) {
        let kind = if listener["tls"] == true { "TLS" } else { "plaintext" };
        let name = listener["name"].as_str().unwrap_or("unnamed");
        out.push_str(&format!("listener {name}: {} ({kind})\n", listener["address"].as_str().unwrap_or("closed")));
        for certificate in list(&listener["certificates"]) {
            out.push_str(&format!("  certificate {}: until {}\n", text(&certificate["name"]), text(&certificate["expires"])));
        }
    }
    for service in list(&status["services"]) {
        out.push_str(&format!("service {}\n", text(&service["name"])));
        for endpoint in list(&service["endpoints"]) {
            out.push_str(&format!(
                "  {}: weight {}, {} in flight\n",
                text(&endpoint["address"]),
                endpoint["weight"],
                endpoint["in_flight"]
            ));
        }
    }
    if let Some(name) = status["store"]["name"].as_str() {
        let state =
            if status["store"]["up"] == true { "up".to_string() } else { format!("away: {}", text(&status["store"]["last_error"])) };
        out.push_str(&format!("store {name}: {state}, {} keys, {} calls\n", status["store"]["leases"], status["store"]["questions"]));
    }
    for limit in list(&status["limits"]) {
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
    if let Some(error) = snapshot["last_error"].as_str() {
        out.push_str(&format!("the last reload failed:\n{error}\n"));
    }
    out
}
