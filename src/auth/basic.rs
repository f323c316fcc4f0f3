//! Names and passwords (RFC 7617). Argon2 is slow by intent: it runs beside the threads that serve, few at a time, and what was
//! found right is remembered.

use super::credential::Place;
use super::failures::group;
use super::flights::Flights;
use super::lists::{self, Listed};
use super::remembered::Remembered;
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::auth as raw;
use crate::types::{Identity, Refusal};
use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;

/// Passwords that are checked at once, each with a thread and its memory (19 MiB as `hash-password` makes them).
const AT_ONCE: usize = 2;
/// Those that wait for it; above that nobody is told anything.
const WAITING_MAX: usize = 64;
/// Of one client address: whoever guesses leaves places to others. Those who show the same credential share a place.
const WAITING_EACH_MAX: usize = 16;
/// Of those that were found right.
const REMEMBERED_MAX: usize = 4_096;

#[derive(Debug)]
pub struct Basic {
    pub place: Place,
    pub realm: String,
    users: Listed<HashMap<String, User>>,
    /// The user's name, and the hash that the password was right for. What else is known of the user is the list's to say.
    remembered: Remembered<(Arc<str>, Arc<str>)>,
    permits: Arc<Semaphore>,
    waiting: Queue,
    /// Credentials that are being checked.
    flights: Flights,
}

#[derive(Debug)]
struct User {
    hash: Arc<str>,
    identity: Arc<Identity>,
}

impl Basic {
    /// `None` means that a problem was reported.
    pub fn build(raw: &raw::Basic, name: &Arc<str>, at: &At<'_>, problems: &Problems) -> Option<Basic> {
        let realm = raw.realm.clone().unwrap_or_else(|| name.to_string());
        if realm.contains(['"', '\\']) || realm.chars().any(char::is_control) {
            let why = "it stands between quotes in a header field";
            return problems.at(&at.key("realm"), "the realm has a quote or a backslash", why, "write letters, digits and spaces");
        }
        let method = name.clone();
        let parse = move |text: &str| lists::entries(text).and_then(|users| index(&users, &method));
        let users = Listed::read(
            &raw.users.0,
            Box::new(parse),
            &at.key("users"),
            "write a list of entries as `frontdesk hash-password` prints them",
            problems,
        )?;
        Some(Basic {
            place: Place::Header(AUTHORIZATION, Some("Basic".into())),
            realm,
            users,
            remembered: Remembered::new(REMEMBERED_MAX),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Queue::default(),
            flights: Flights::default(),
        })
    }

    /// Who is remembered of a credential, as the list has the user now, if the password is still the same.
    pub fn recall(&self, credential: &str) -> Option<Arc<Identity>> {
        let (name, hash) = self.remembered.get(credential)?;
        self.users.load().get(&*name).filter(|user| user.hash == hash).map(|user| user.identity.clone())
    }

    /// Checks a password that is not remembered.
    ///
    /// # Errors
    /// `unauthenticated`, or `auth_unavailable` when too many are being checked, in all or of this client's.
    pub async fn check(&self, credential: &str, client: IpAddr) -> Result<Arc<Identity>, Refusal> {
        self.flights.found(credential, || self.recall(credential).map(Ok), self.check_now(credential, client)).await
    }

    async fn check_now(&self, credential: &str, client: IpAddr) -> Result<Arc<Identity>, Refusal> {
        let text = STANDARD.decode(credential).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(Refusal::Unauthenticated)?;
        let (name, password) = text.split_once(':').ok_or(Refusal::Unauthenticated)?;
        let users = self.users.load_full();
        let known = users.get(name);
        // For a name that is not known there is work too, or the time would tell.
        let Some(hash) = known.or_else(|| users.values().next()).map(|user| user.hash.clone()) else {
            return Err(Refusal::Unauthenticated);
        };
        let _waiting = self.waiting.enter(client).ok_or(Refusal::AuthUnavailable)?;
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| Refusal::AuthUnavailable)?;
        let password = password.to_string();
        let checking = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let is_right = is_right(&hash, &password);
            (hash, is_right)
        });
        let (hash, is_right) = checking.await.map_err(|_| Refusal::AuthUnavailable)?;
        match known {
            Some(user) if is_right => {
                self.remembered.insert(credential, (user.identity.name.clone(), hash));
                Ok(user.identity.clone())
            }
            _ => Err(Refusal::Unauthenticated),
        }
    }
}

/// How many wait, by client address. Nobody is in it who does not wait, so that it is short.
#[derive(Debug, Default)]
struct Queue(Mutex<HashMap<u128, usize>>);

impl Queue {
    /// `None` when it is full, or has enough of this client.
    fn enter(&self, client: IpAddr) -> Option<Waiting<'_>> {
        let client = group(client);
        let mut waiting = self.waiting();
        let own = waiting.get(&client).copied().unwrap_or(0);
        if own >= WAITING_EACH_MAX || waiting.values().sum::<usize>() >= WAITING_MAX {
            return None;
        }
        waiting.insert(client, own + 1);
        Some(Waiting { queue: self, client })
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u128, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One that waits, until it is dropped.
struct Waiting<'a> {
    queue: &'a Queue,
    client: u128,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.queue.waiting();
        match waiting.get_mut(&self.client) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                waiting.remove(&self.client);
            }
        }
    }
}

fn is_right(hash: &str, password: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

/// # Errors
/// The password is empty, or the system has no randomness.
pub fn hashed(password: &str) -> Result<String, String> {
    if password.is_empty() {
        return Err("an empty password".to_string());
    }
    let salt = SaltString::encode_b64(&lists::random::<16>()?).map_err(|e| e.to_string())?;
    Argon2::default().hash_password(password.as_bytes(), &salt).map(|hash| hash.to_string()).map_err(|e| e.to_string())
}

fn index(users: &[raw::User], method: &Arc<str>) -> Result<HashMap<String, User>, String> {
    let mut all = HashMap::new();
    for user in users {
        let name = &user.name;
        if name.is_empty() || name.contains(':') {
            return Err(format!("`{name}` can't be a user's name: it is empty or has a colon"));
        }
        if !PasswordHash::new(&user.hash).is_ok_and(|hash| hash.algorithm.as_str().starts_with("argon2")) {
            return Err(format!("the hash of `{name}` is not one of Argon2"));
        }
        let mut claims: Map<String, Value> =
            user.metadata.0.iter().map(|(name, text)| (name.clone(), Value::from(text.as_str()))).collect();
        claims.insert("sub".into(), name.as_str().into());
        claims.insert("scope".into(), user.scopes.clone().into());
        let identity = Arc::new(Identity { name: name.as_str().into(), method: method.clone(), claims });
        if all.insert(name.clone(), User { hash: user.hash.as_str().into(), identity }).is_some() {
            return Err(format!("two users are named `{name}`"));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_places_to_others() {
        let queue = Queue::default();
        let (guesser, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut held: Vec<_> = (0..WAITING_EACH_MAX).map(|_| queue.enter(guesser).expect("a place")).collect();
        assert!(queue.enter(guesser).is_none());
        drop(queue.enter(other).expect("a place"));
        held.pop();
        held.push(queue.enter(guesser).expect("a place"));
        assert!(queue.enter(guesser).is_none());
        // From many addresses it is full all the same.
        held.extend((3..).map_while(|n| queue.enter(IpAddr::from([10, 0, 0, n]))));
        assert_eq!(held.len(), WAITING_MAX);
        drop(held);
        assert!(queue.waiting().is_empty());
    }

    #[test]
    fn who_is_remembered_is_who_the_list_has_now() {
        let user = |scopes: &str, hash: &str| {
            let text = format!("- {{ name: ada, hash: '{hash}', scopes: [{scopes}] }}");
            index(&lists::entries(&text).expect("entries"), &"staff".into()).expect("users")
        };
        let (hash, other) = (hashed("correct horse").expect("a hash"), hashed("another").expect("a hash"));
        let basic = |users| Basic {
            place: Place::Header(AUTHORIZATION, Some("Basic".into())),
            realm: "staff".to_string(),
            users: Listed::fixed(users, std::path::Path::new("/nowhere")),
            remembered: Remembered::new(1),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Queue::default(),
            flights: Flights::default(),
        };
        let remembered = |users| {
            let basic = basic(users);
            basic.remembered.insert("a credential", ("ada".into(), hash.as_str().into()));
            basic.recall("a credential").map(|identity| identity.scopes().map(str::to_string).collect::<Vec<_>>())
        };
        assert_eq!(remembered(user("orders.write", &hash)), Some(vec!["orders.write".to_string()]));
        assert_eq!(remembered(user("", &hash)), Some(Vec::new()));
        assert_eq!(remembered(user("orders.write", &other)), None);
        assert_eq!(remembered(HashMap::new()), None);
    }
}
