//! Purges reach every gateway that shares a store, at once or when it is back.

use crate::kit::{Gateway, Origin, Redis, answer, eventually, frontdesk, run};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Says how often it was asked, with two tags.
fn service() -> Origin {
    let asked = AtomicUsize::new(0);
    Origin::new(move |request| {
        let tag = request.target.trim_start_matches('/').to_string();
        answer(200, &[("Cache-Tag", &tag)], (asked.fetch_add(1, Relaxed) + 1).to_string().as_bytes())
    })
}

/// Two gateways before one service, which share this store.
fn two(redis: &Redis, service: &Origin) -> [Gateway; 2] {
    let gateways = [(); 2].map(|()| {
        Gateway::start(&format!(
            "listeners: [{{ bind: 127.0.0.1:0 }}]
redis: {{ url: \"{}\" }}
caches: {{ all: {{ ttl: 1h, tags: Cache-Tag }} }}
routes:
  - {{ name: r, path: /*, methods: GET, cache: all, to: 'http://{service}' }}
  - {{ name: w, path: /*, to: 'http://{service}' }}
",
            redis.url()
        ))
    });
    gateways.iter().for_each(wait_until_up);
    gateways
}

/// Waits until it hears what the others say.
fn wait_until_up(gateway: &Gateway) {
    eventually("the log of purges", || (gateway.ask("/status").json()["cache"]["gateways"]["up"] == true).then_some(()));
}

fn is_kept(gateway: &Gateway, target: &str) -> bool {
    gateway.get(target).header("cache-status").is_some_and(|told| told.contains("; hit"))
}

/// Has these kept by the gateway.
fn keep(gateway: &Gateway, targets: &[&str]) {
    for target in targets {
        gateway.get(target);
        assert!(is_kept(gateway, target), "{target}");
    }
}

#[track_caller]
fn purge(gateway: &Gateway, arguments: &[&str]) -> String {
    let output = run(frontdesk().arg("purge").args(arguments).args(["--admin", &format!("http://{}", gateway.admin())]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn heard(gateway: &Gateway) -> u64 {
    gateway.metric("frontdesk_purges_heard_total") as u64
}

#[test]
fn what_one_gateway_purges_all_forget() {
    let (redis, service) = (Redis::start(), service());
    let [a, b] = two(&redis, &service);
    let all = ["/a", "/b", "/c"];
    for (arguments, gone) in [
        (&["http://test/a"][..], &["/a"][..]),
        (&["--prefix", "/b"], &["/b"]),
        (&["--tag", "c"], &["/c"]),
        (&["--all"], &all),
        (&["http://test/a", "--soft"], &["/a"]),
    ] {
        keep(&b, &all);
        let before = heard(&b);
        assert_eq!(purge(&a, arguments), "purged 0 answers\nthe other gateways are told\n", "{arguments:?}");
        eventually("the purge at the other gateway", || (heard(&b) == before + 1).then_some(()));
        for target in all {
            assert_eq!(is_kept(&b, target), !gone.contains(&target), "{arguments:?} {target}");
        }
    }
    // A request that changes what is kept is heard of too; one that changes nothing that is kept is not.
    keep(&b, &all);
    assert_eq!(a.connect().request("POST", "/c", &[], b"").status, 200);
    eventually("the change at the other gateway", || (heard(&b) == 6).then_some(()));
    assert_eq!((is_kept(&b, "/c"), is_kept(&b, "/a")), (false, true));
    assert_eq!((heard(&a), a.metric("frontdesk_purges_sent_total"), b.metric("frontdesk_purges_missed_total")), (0, 6.0, 0.0));
}

#[test]
fn a_gateway_that_was_away_hears_afterwards_what_was_purged() {
    let mut redis = Redis::start();
    let service = service();
    let [a, b] = two(&redis, &service);
    keep(&b, &["/a", "/b"]);
    // Connections are cut, and a purge is written before `b` is back, or after.
    let of_b = |kind: &str| redis.ask(&format!("CLIENT KILL TYPE {kind}"));
    of_b("normal");
    let before = heard(&b);
    eventually("a purge that is told", || purge(&a, &["http://test/a"]).contains("are told").then_some(()));
    eventually("the purge", || (heard(&b) > before).then_some(()));
    wait_until_up(&b);
    assert_eq!((is_kept(&b, "/a"), is_kept(&b, "/b")), (false, true));
    assert_eq!(b.metric("frontdesk_purges_missed_total"), 0.0);
    // While there is no store, purges wait; it comes back empty, so that others may have been missed.
    keep(&b, &["/a", "/b"]);
    redis.kill();
    eventually("the loss", || (a.ask("/status").json()["cache"]["gateways"]["up"] == false).then_some(()));
    assert_eq!(purge(&a, &["http://test/a"]), "purged 0 answers\nthe other gateways will be told when the store that they share is back\n");
    assert!(is_kept(&b, "/b"), "it goes on with what it has");
    redis.restart();
    eventually("what was missed", || (b.metric("frontdesk_purges_missed_total") == 1.0).then_some(()));
    wait_until_up(&b);
    assert_eq!((is_kept(&b, "/a"), is_kept(&b, "/b")), (false, false));
    eventually("the purge that waited", || (a.metric("frontdesk_purges_sent_total") >= 2.0).then_some(()));
}

#[test]
fn a_log_that_is_lost_or_does_not_reach_back_means_all() {
    let (redis, service) = (Redis::start(), service());
    let [_, b] = two(&redis, &service);
    for (nth, what) in
        ["FLUSHALL", "XADD frontdesk:purges 77-0 log x by y what z", "XADD frontdesk:purges 99-0 odd 1"].into_iter().enumerate()
    {
        // That there is a log has to be known before it can be lost.
        let before = heard(&b);
        if nth == 0 {
            redis.ask("XADD frontdesk:purges 1-0 log first by other what '{\"tag\":\"none\"}'");
            eventually("the note", || (heard(&b) > before).then_some(()));
        }
        keep(&b, &["/a"]);
        redis.ask(what);
        eventually("all to be forgotten", || (b.metric("frontdesk_purges_missed_total") == (nth + 1) as f64).then_some(()));
        assert!(!is_kept(&b, "/a"), "{what}");
        wait_until_up(&b);
    }
    // What can't be understood may mean anything.
    keep(&b, &["/a"]);
    let before = heard(&b);
    redis.ask("DEL frontdesk:purges");
    eventually("all to be forgotten", || (b.metric("frontdesk_purges_missed_total") >= 4.0).then_some(()));
    keep(&b, &["/a"]);
    redis.ask("XADD frontdesk:purges 1-0 log next by other what '{\"colour\":\"red\"}'");
    eventually("the note", || (heard(&b) > before).then_some(()));
    assert!(!is_kept(&b, "/a"));
}
