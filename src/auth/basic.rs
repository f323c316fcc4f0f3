//! Names and passwords (RFC 7617). Argon2 is slow by intent: it runs beside the threads that serve, few at a time, and what was
//! found right is remembered.

use super::credential::Place;
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
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::sync::Semaphore;

/// Passwords that are checked at once, each with a thread and its memory (19 MiB as `hash-password` makes them).
const AT_ONCE: usize = 2;
/// Those that wait for it; above that nobody is told anything.
const WAITING_MAX: usize = 64;
/// Of those that were found right.
const REMEMBERED_MAX: usize = 4_096;

#[derive(Debug)]
pub struct Basic {
    pub place: Place,
    pub realm: String,
    users: Listed<HashMap<String, User>>,
    remembered: Remembered<(Arc<str>, Arc<Identity>)>,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
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
            waiting: AtomicUsize::new(0),
        })
    }

    /// What is remembered of a credential, if the user's password is still the same.
    pub fn recall(&self, credential: &str) -> Option<Arc<Identity>> {
        let (hash, identity) = self.remembered.get(credential)?;
        self.users.load().get(&*identity.name).is_some_and(|user| user.hash == hash).then_some(identity)
    }

    /// Checks a password that is not remembered.
    ///
    /// # Errors
    /// `unauthenticated`, or `auth_unavailable` when too many are being checked.
    pub async fn check(&self, credential: &str) -> Result<Arc<Identity>, Refusal> {
        let text = STANDARD.decode(credential).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(Refusal::Unauthenticated)?;
        let (name, password) = text.split_once(':').ok_or(Refusal::Unauthenticated)?;
        let users = self.users.load_full();
        let known = users.get(name);
        // For a name that is not known there is work too, or the time would tell.
        let Some(hash) = known.or_else(|| users.values().next()).map(|user| user.hash.clone()) else {
            return Err(Refusal::Unauthenticated);
        };
        let _waiting = Waiting::enter(&self.waiting).ok_or(Refusal::AuthUnavailable)?;
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
                self.remembered.insert(credential, (hash, user.identity.clone()));
                Ok(user.identity.clone())
            }
            _ => Err(Refusal::Unauthenticated),
        }
    }
}

/// One that waits, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);
impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Option<Waiting<'a>> {
        let entered = Waiting(count);
        (count.fetch_add(1, Relaxed) < WAITING_MAX).then_some(entered)
    }
}
impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
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
