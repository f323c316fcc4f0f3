//! What the store is asked: one script, which charges any number of keys.

use super::lease::Terms;
use redis::RedisResult;
use redis::aio::MultiplexedConnection;

#[derive(Debug)]
pub struct Script(redis::Script);

/// What is asked of one key.
#[derive(Clone, Copy, Debug)]
pub struct Want<'a> {
    pub name: &'a str,
    pub terms: Terms,
    pub wanted: u32,
    /// Requests that were granted and not needed.
    pub back: u32,
    /// Nothing is charged unless this one has what is wanted.
    pub must: bool,
}

/// What it says of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charged {
    pub granted: u32,
    /// Microseconds until the bucket is full.
    pub owed_us: u64,
}

impl Script {
    pub fn new() -> Script {
        Script(redis::Script::new(include_str!("shared.lua")))
    }

    /// # Errors
    /// The store can't be reached, or does not do it.
    pub async fn run(&self, mut connection: MultiplexedConnection, wants: &[Want<'_>]) -> RedisResult<Vec<Charged>> {
        let mut call = self.0.prepare_invoke();
        for want in wants {
            call.key(want.name).arg(want.terms.each_us).arg(want.terms.room_us).arg(want.wanted).arg(want.back).arg(u8::from(want.must));
        }
        let answer: Vec<u64> = call.invoke_async(&mut connection).await?;
        let charged = |pair: &[u64]| Charged { granted: u32::try_from(pair[0]).unwrap_or(u32::MAX), owed_us: pair[1] };
        let charged: Vec<Charged> = answer.chunks_exact(2).map(charged).collect();
        match charged.len() == wants.len() {
            true => Ok(charged),
            false => Err((redis::ErrorKind::UnexpectedReturnType, "an answer of another length").into()),
        }
    }
}
