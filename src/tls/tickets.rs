//! Session tickets that a session outlives its process by, and its gateway: their keys are derived from a secret that is known to both.
//!
//! Each listener has keys of its own, for what it trusts: a ticket that crossed to a listener with other rules for clients'
//! certificates would carry its trust along, and rustls would not mind. Keys change twice a day; those of the time before open,
//! and seal no more.

use crate::config::raw::Secret;
use crate::config::shape::OneOrMany;
use crate::types::Carried;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::server::ProducesTickets;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

/// How long a key seals, and how much longer it opens.
const PERIOD_SECONDS: u64 = 12 * 3600;
const TAG_BYTES: usize = 16;

/// A secret of this process alone, for where none is configured. It goes along into the process that takes its place.
#[derive(Default)]
pub struct TicketSecret(OnceLock<[u8; 32]>);

impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketSecret(***)")
    }
}

impl TicketSecret {
    fn get(&self) -> [u8; 32] {
        *self.0.get_or_init(|| {
            let mut secret = [0; 32];
            // Without random numbers no handshake would succeed either.
            let _ = SystemRandom::new().fill(&mut secret);
            secret
        })
    }

    /// What keys are derived from: what is configured, the first of which seals, or else this secret.
    pub fn roots(&self, configured: Option<&OneOrMany<Secret>>) -> Roots {
        let salt = Salt::new(HKDF_SHA256, b"frontdesk session tickets 1");
        let extract = |secret: &[u8]| salt.extract(secret);
        Roots(match configured {
            Some(secrets) => secrets.0.iter().map(|secret| extract(secret.0.as_bytes())).collect(),
            None => [extract(&self.get())].into(),
        })
    }
}

impl Carried for TicketSecret {
    fn name(&self) -> &'static str {
        "tickets"
    }
    fn version(&self) -> u32 {
        1
    }
    fn give(&self) -> Vec<u8> {
        self.get().to_vec()
    }
    fn take(&self, bytes: &[u8]) {
        // One that is in use already stays.
        let _ = <[u8; 32]>::try_from(bytes).map(|secret| self.0.set(secret));
    }
}

/// What keys are derived from.
#[derive(Clone)]
pub struct Roots(Arc<[Prk]>);

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Roots(***)")
    }
}

/// The tickets of one listener, for as long as it trusts the same.
pub struct Tickets {
    roots: Roots,
    /// A hash of everything that a session's trust rests on.
    trust: [u8; 32],
    /// In Unix time.
    now: fn() -> u64,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

impl Tickets {
    pub fn new(roots: Roots, trust: [u8; 32]) -> Tickets {
        Tickets { roots, trust, now: || SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs()) }
    }

    fn key(&self, root: &Prk, period: [u8; 4]) -> Option<LessSafeKey> {
        let info = [&self.trust[..], &period];
        let key: UnboundKey = root.expand(&info, &AES_256_GCM).ok()?.into();
        Some(LessSafeKey::new(key))
    }

    fn period(&self) -> u32 {
        u32::try_from((self.now)() / PERIOD_SECONDS).unwrap_or(u32::MAX)
    }
}

/// A ticket is the number of its key's period (4 bytes), a nonce, and what is sealed.
impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        PERIOD_SECONDS as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let period = self.period().to_be_bytes();
        let key = self.key(self.roots.0.first()?, period)?;
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(period.len() + NONCE_LEN + plain.len() + TAG_BYTES);
        ticket.extend_from_slice(&period);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let sealed = &mut ticket[period.len() + NONCE_LEN..];
        let tag = key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(period), sealed).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (period, rest) = ticket.split_first_chunk::<4>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let (now, then) = (self.period(), u32::from_be_bytes(*period));
        // The clock of another gateway may be a little ahead.
        if then > now.saturating_add(1) || now.saturating_sub(then) > 1 {
            return None;
        }
        self.roots.0.iter().find_map(|root| {
            let mut opened = sealed.to_vec();
            let key = self.key(root, *period)?;
            let plain = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(*period), &mut opened).ok()?;
            let length = plain.len();
            opened.truncate(length);
            Some(opened)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots(secrets: &[&str]) -> Roots {
        let secrets = OneOrMany(secrets.iter().map(|secret| Secret((*secret).to_string())).collect());
        TicketSecret::default().roots(Some(&secrets))
    }

    fn tickets(secrets: &[&str], trust: u8, now: fn() -> u64) -> Tickets {
        Tickets { now, ..Tickets::new(roots(secrets), [trust; 32]) }
    }

    const DAY: u64 = 86_400;

    #[test]
    fn who_knows_the_secret_and_trusts_the_same_opens() {
        let ticket = tickets(&["new", "old"], 1, || DAY).encrypt(b"session").expect("a ticket");
        let opens = |secrets: &[&str], trust, now| tickets(secrets, trust, now).decrypt(&ticket).is_some_and(|plain| plain == b"session");
        assert!(opens(&["new"], 1, || DAY) && opens(&["newer", "new"], 1, || DAY));
        assert!(!opens(&["old"], 1, || DAY) && !opens(&["new"], 2, || DAY));
        // In its own period and the next, and where the clock is behind by less than one.
        assert!(opens(&["new"], 1, || DAY + PERIOD_SECONDS) && opens(&["new"], 1, || DAY - 1));
        assert!(!opens(&["new"], 1, || DAY + 2 * PERIOD_SECONDS) && !opens(&["new"], 1, || DAY - PERIOD_SECONDS - 1));
    }

    #[test]
    fn what_was_changed_or_cut_does_not_open() {
        let tickets = tickets(&["a"], 1, || DAY);
        let ticket = tickets.encrypt(b"session").expect("a ticket");
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(tickets.decrypt(&changed), None, "{at}");
            assert_eq!(tickets.decrypt(&ticket[..at]), None, "{at}");
        }
        assert_ne!(tickets.encrypt(b"session"), tickets.encrypt(b"session"));
    }

    #[test]
    fn the_own_secret_goes_along() {
        let (old, new) = (TicketSecret::default(), TicketSecret::default());
        let ticket = Tickets::new(old.roots(None), [1; 32]).encrypt(b"session").expect("a ticket");
        new.take(b"short");
        new.take(&old.give());
        assert_eq!(Tickets::new(new.roots(None), [1; 32]).decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        let stranger = TicketSecret::default();
        stranger.give();
        stranger.take(&old.give());
        assert_eq!(Tickets::new(stranger.roots(None), [1; 32]).decrypt(&ticket), None);
    }
}
