//! The store of answers by itself: `cargo bench --bench cache [-- SECONDS] [ratios|threads|bound|overhead]...`.
//!
//! How often answers are found beside LRU with the same bytes, what an entry takes, whether the bound is kept under random load (for
//! that many seconds), and hits by one and two threads. The figures stand in docs/cache.md.

use bytes::Bytes;
use frontdesk::cache::entry::Told;
use frontdesk::cache::fresh::Terms;
use frontdesk::cache::key::Key;
use frontdesk::cache::storage::meta;
use frontdesk::cache::{Cache, Store};
use futures_util::FutureExt;
use pingora::cache::storage::Storage;
use pingora::cache::trace::Span;
use pingora::http::ResponseHeader;
use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn main() {
    let seconds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(10);
    let bound = || bound(Duration::from_secs(seconds));
    let parts: [(&str, &dyn Fn()); 4] = [("ratios", &ratios), ("threads", &threads), ("bound", &bound), ("overhead", &overhead)];
    let named: Vec<String> = std::env::args().filter(|argument| parts.iter().any(|(name, _)| name == argument)).collect();
    for (name, part) in parts {
        if named.is_empty() || named.iter().any(|named| named == name) {
            part();
        }
    }
}

fn store(max: usize) -> &'static Store {
    let store = Cache::new().store;
    store.set_max(max);
    store
}

/// A key's 256 bits, spread as a hash's are.
fn key(n: u64) -> Key {
    let mixed = |salt: u64| (0..4).fold(n ^ salt, |x, _| (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(31));
    let wide = |salt| u128::from(mixed(salt)) << 64 | u128::from(mixed(salt + 1));
    Key { page: wide(0x9e37), family: wide(0x79b9) }
}

/// Keeps an answer as Pingora's cache would have it kept.
fn keep(store: &'static Store, n: u64, body: Bytes) {
    let now = SystemTime::now();
    let terms = Terms {
        received: now,
        lifetime: Duration::from_secs(3600),
        initial_age: Duration::ZERO,
        stale_while_revalidate: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        must_revalidate: false,
        withheld: Box::default(),
    };
    let url = format!("http://shop.example/menus/{n}").into();
    let told = Arc::new(Told { terms, url, vary: Box::default(), tags: Box::default(), body_bytes_max: MIB, since: store.purges() });
    let mut head = ResponseHeader::build(200, Some(4)).expect("a head");
    for (name, value) in [("content-type", "application/json"), ("cache-control", "max-age=3600"), ("etag", "\"0af7651916cd\"")] {
        head.insert_header(name, value).expect("a field");
    }
    let mut meta = meta(&told.terms, head, now + Duration::from_secs(3600));
    meta.extensions_mut().insert(told);
    let (key, span) = (key(n).to_pingora(), Span::inactive().handle());
    let kept = async {
        let mut handler = store.get_miss_handler(&key, &meta, &span).await?;
        handler.write_body(body, true).await?;
        handler.finish().await
    };
    kept.now_or_never().expect("nobody reads along").expect("an answer that is kept");
}

/// Numbers by a distribution of Zipf over so many: the share of the n-th is 1 / n^skew.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(count: usize, skew: f64) -> Zipf {
        let mut sum = 0.0;
        let sums = (1..=count).map(|n| {
            sum += (n as f64).powf(-skew);
            sum
        });
        Zipf(sums.collect())
    }

    fn draw(&self, random: &mut fastrand::Rng) -> u64 {
        let at = random.f64() * self.0.last().expect("some");
        self.0.partition_point(|sum| *sum < at) as u64
    }
}

/// The least recently used goes first.
struct Lru {
    order: BTreeMap<u64, u64>,
    known: HashMap<u64, u64>,
    clock: u64,
    max: usize,
}

impl Lru {
    fn ask(&mut self, n: u64) -> bool {
        self.clock += 1;
        let before = self.known.insert(n, self.clock);
        before.map(|at| self.order.remove(&at));
        self.order.insert(self.clock, n);
        if self.known.len() > self.max
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.known.remove(&oldest);
        }
        before.is_some()
    }
}

/// Traces of a million questions for answers of one size, of which a tenth or a hundredth fits.
fn ratios() {
    const QUESTIONS: u64 = 1_000_000;
    const ANSWERS: usize = 100_000;
    let body = Bytes::from(vec![b'x'; KIB]);
    let probe = store(MIB);
    keep(probe, 0, body.clone());
    let weight = probe.size().bytes;
    println!("found of a million questions for {ANSWERS} answers of 1 KiB, S3-FIFO beside LRU");
    for (name, skew, scans) in [("zipf 0.8", 0.8, false), ("zipf 1.0", 1.0, false), ("zipf 1.0 with scans", 1.0, true)] {
        let zipf = Zipf::new(ANSWERS, skew);
        for share in [100, 10] {
            let max = ANSWERS / share;
            let store = store(max * weight);
            let mut lru = Lru { order: BTreeMap::new(), known: HashMap::new(), clock: 0, max };
            let (mut random, mut ours, mut theirs, mut scanned) = (fastrand::Rng::with_seed(7), 0u64, 0u64, 1 << 40);
            for asked in 0..QUESTIONS {
                // A fifth of the time somebody walks through what nobody else wants.
                let n = if scans && asked / 20_000 % 5 == 0 {
                    scanned += 1;
                    scanned
                } else {
                    zipf.draw(&mut random)
                };
                match store.find(key(n), None) {
                    Some(_) => ours += 1,
                    None => keep(store, n, body.clone()),
                }
                theirs += u64::from(lru.ask(n));
            }
            let percent = |found: u64| found as f64 / QUESTIONS as f64 * 100.0;
            println!("  {name:20} 1/{share:<3} fits: {:.1} % beside {:.1} %", percent(ours), percent(theirs));
            store.set_max(0);
        }
    }
}

/// Hits by one thread and by two, on many keys and on one.
fn threads() {
    let store = store(256 * MIB);
    (0..10_000).for_each(|n| keep(store, n, Bytes::from(vec![b'x'; KIB])));
    for (name, keys) in [("10,000 keys", 10_000), ("one key", 1)] {
        let run = |threads: u64| {
            let until = Instant::now() + Duration::from_secs(2);
            let ask = |thread: u64| {
                let (mut random, mut hits) = (fastrand::Rng::with_seed(thread), 0u64);
                while Instant::now() < until {
                    for _ in 0..1_000 {
                        black_box(store.find(key(random.u64(..keys)), None).expect("it is kept"));
                    }
                    hits += 1_000;
                }
                hits
            };
            let hits: u64 = std::thread::scope(|scope| {
                let all: Vec<_> = (0..threads).map(|thread| scope.spawn(move || ask(thread))).collect();
                all.into_iter().map(|one| one.join().expect("a thread")).sum()
            });
            hits as f64 / 2.0
        };
        // Turn by turn, the best of each: the machine may have others on it.
        let (one, two) = (0..3).map(|_| (run(1), run(2))).fold((0.0, 0.0), |best: (f64, f64), now| (best.0.max(now.0), best.1.max(now.1)));
        println!("hits, {name}: {:.1} M/s by one thread, {:.1} M/s by two, {:.2} times", one / 1e6, two / 1e6, two / one);
    }
    store.set_max(0);
}

/// Answers of any size at random: how much the process takes above what it may.
fn bound(time: Duration) {
    let max = 256 * MIB;
    let base = resident();
    let store = store(max);
    let (mut random, started, mut most, mut kept) = (fastrand::Rng::with_seed(11), Instant::now(), 0, 0u64);
    while started.elapsed() < time {
        let length = 1usize << random.usize(..18);
        let length = length + random.usize(..length);
        keep(store, random.u64(..200_000), Bytes::from(vec![b'x'; length]));
        kept += 1;
        if kept.is_multiple_of(256) {
            // As fast as a gateway on two cores could fetch them.
            std::thread::sleep(Duration::from_secs_f64(kept as f64 / 20_000.0).saturating_sub(started.elapsed()));
            assert!(store.size().bytes <= max, "{:?}", store.size());
            most = most.max(resident().saturating_sub(base));
        }
    }
    let over = most as f64 / max as f64 * 100.0;
    println!(
        "random load of {time:?}: {kept} answers, {:?}; resident at most {} MiB of {} ({over:.1} %)",
        store.size(),
        most / MIB,
        max / MIB
    );
    store.set_max(0);
}

/// What a million answers take beyond their bodies, their fields' texts and their URLs.
fn overhead() {
    const ENTRIES: u64 = 1_000_000;
    let body = Bytes::from(vec![b'x'; 100]);
    let base = resident();
    let store = store(1 << 40);
    (0..ENTRIES).for_each(|n| keep(store, n, body.clone()));
    let (taken, told) = (resident() - base, store.size());
    let head = store.find(key(0), None).expect("it is kept").head.build(0);
    let fields: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let own = body.len() + fields + "http://shop.example/menus/500000".len();
    println!(
        "{ENTRIES} entries: {} bytes each, {own} of them body, fields and URL, so {} of overhead; counted as {}",
        taken / ENTRIES as usize,
        taken / ENTRIES as usize - own,
        told.bytes / told.entries
    );
}

/// What the process takes, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number") * 4096
}
