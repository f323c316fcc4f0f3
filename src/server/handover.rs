//! Listening sockets and state on their way from one process to the next, by way of a Unix socket.
//!
//! ```text
//! new -> old   connects
//! old -> new   a hello, what it has to say of its state, its listening sockets
//! new -> old   READY: its configuration is read, and each of its listeners has answered a probe; or FAILED, and why
//! old -> new   GO
//! new -> old   SERVING: it accepts. Only now the old one stops accepting.
//! old -> new   what has come since of its state, and UP_TO_DATE; the same again and again until it ends
//! ```
//!
//! Whatever goes wrong before the last word, the old one serves on. A frame is a tag, its length (32 bits, big-endian) and so many
//! bytes. Pingora's own transfer takes 32 descriptors, and ends the old process even where it failed.

use crate::config::scalar::Bind;
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde_json::{Value, json};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Of the frames themselves: another one is refused.
const PROTOCOL: u64 = 1;
/// The kernel takes 253 descriptors at a time (SCM_MAX_FD).
const BATCH: usize = 200;
/// More state than any gateway keeps.
const FRAME_BYTES_MAX: u32 = 1 << 30;
/// The environment variable that names the socket to a new process.
pub const VARIABLE: &str = "FRONTDESK_UPGRADE";

mod tag {
    pub const HELLO: u8 = b'H';
    pub const SECTION: u8 = b'S';
    pub const READY: u8 = b'R';
    pub const FAILED: u8 = b'X';
    pub const GO: u8 = b'G';
    pub const SERVING: u8 = b'A';
    pub const UP_TO_DATE: u8 = b'U';
}

/// Which socket of a gateway it is: the same for the same line of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    pub bind: Bind,
    /// Among those with the same text, such as `127.0.0.1:0`.
    pub nth: usize,
    pub is_admin: bool,
}

impl Slot {
    fn json(&self) -> Value {
        json!({ "bind": self.bind.to_string(), "nth": self.nth, "admin": self.is_admin })
    }

    fn parse(value: &Value) -> Option<Slot> {
        Some(Slot {
            bind: value["bind"].as_str()?.parse().ok()?,
            nth: usize::try_from(value["nth"].as_u64()?).ok()?,
            is_admin: value["admin"].as_bool()?,
        })
    }
}

/// Something of the old process's memory, in a form of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    pub name: String,
    /// Of the form. Another version than one's own can't be read, and is ignored.
    pub version: u32,
    pub bytes: Vec<u8>,
}

/// What the old process gives.
#[derive(Default)]
pub struct Offer {
    pub sockets: Vec<(Slot, OwnedFd)>,
    pub state: Vec<Section>,
}

fn broken(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_string())
}

fn write_frame(mut stream: impl Write, tag: u8, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= FRAME_BYTES_MAX);
    let length = length.ok_or_else(|| broken("too much to hand over"))?;
    let mut head = [tag, 0, 0, 0, 0];
    head[1..].copy_from_slice(&length.to_be_bytes());
    stream.write_all(&head)?;
    stream.write_all(bytes)
}

fn write_section(mut stream: impl Write, section: &Section) -> io::Result<()> {
    let head = json!([section.name, section.version]).to_string();
    write_frame(&mut stream, tag::SECTION, head.as_bytes())?;
    write_frame(stream, tag::SECTION, &section.bytes)
}

/// What the old side sends after the last word: sections, and that they are all there is up to now.
///
/// # Errors
/// A section is too large.
pub fn more(sections: &[Section]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    sections.iter().try_for_each(|section| write_section(&mut bytes, section))?;
    write_frame(&mut bytes, tag::UP_TO_DATE, b"")?;
    Ok(bytes)
}

fn read_frame(mut stream: &UnixStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let [tag, length @ ..] = head;
    let length = u32::from_be_bytes(length);
    let mut bytes = Vec::new();
    if length > FRAME_BYTES_MAX || stream.take(length.into()).read_to_end(&mut bytes)? != length as usize {
        return Err(broken("a frame is cut off"));
    }
    Ok((tag, bytes))
}

/// A section whose name has been read.
fn read_section(stream: &UnixStream, head: &[u8]) -> io::Result<Section> {
    let (name, version) = serde_json::from_slice(head).map_err(|_| broken("a section has no name"))?;
    Ok(Section { name, version, bytes: read_frame(stream)?.1 })
}

/// The old side: says everything, waits for the new one, lets it go, and waits for it to serve.
///
/// # Errors
/// Why the new process does not serve, ready to be shown. Then the old one has to go on.
pub fn offer(stream: &UnixStream, offer: Offer) -> Result<(), String> {
    let failed = |e: io::Error| match e.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "it was not ready in time".to_string(),
        _ => format!("it has gone: {e}"),
    };
    let slots: Vec<Value> = offer.sockets.iter().map(|(slot, _)| slot.json()).collect();
    let hello = json!({
        "protocol": PROTOCOL, "pid": std::process::id(), "version": env!("CARGO_PKG_VERSION"),
        "sockets": slots, "sections": offer.state.len(),
    });
    write_frame(stream, tag::HELLO, hello.to_string().as_bytes()).map_err(failed)?;
    for section in &offer.state {
        write_section(stream, section).map_err(failed)?;
    }
    let sockets: Vec<BorrowedFd<'_>> = offer.sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
    sockets.chunks(BATCH).try_for_each(|batch| send_sockets(stream, batch)).map_err(failed)?;
    expect(stream, tag::READY).map_err(failed)??;
    write_frame(stream, tag::GO, b"").map_err(failed)?;
    expect(stream, tag::SERVING).map_err(failed)?
}

/// The frame that should come, or what the other side says instead.
fn expect(stream: &UnixStream, wanted: u8) -> io::Result<Result<(), String>> {
    match read_frame(stream)? {
        (tag, _) if tag == wanted => Ok(Ok(())),
        (tag::FAILED, why) => Ok(Err(String::from_utf8_lossy(&why).into_owned())),
        _ => Err(broken("it does not speak as it should")),
    }
}

fn send_sockets(stream: &UnixStream, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(BATCH))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(sockets));
    sendmsg(stream, &[IoSlice::new(b"F")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_sockets(stream: &UnixStream, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut sockets = Vec::new();
    while sockets.len() < count {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(BATCH))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let before = sockets.len();
        recvmsg(stream, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                sockets.extend(received);
            }
        }
        if sockets.len() == before {
            return Err(broken("sockets are missing"));
        }
    }
    Ok(sockets)
}

/// The process whose place this one is to take.
pub struct Predecessor {
    stream: UnixStream,
    pub pid: u64,
}

impl Predecessor {
    /// Meets the process that has started this one, if one has, and takes what it gives.
    ///
    /// # Errors
    /// It is not there any more, or speaks another language.
    pub fn meet(patience: Duration) -> io::Result<Option<(Predecessor, Offer)>> {
        let Some(path) = std::env::var_os(VARIABLE) else { return Ok(None) };
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        receive(stream).map(Some)
    }

    /// To be called once everything is there but the clients; answers when they may be let in.
    ///
    /// # Errors
    /// The old process serves on, and this one has to go.
    pub fn ready(&self) -> io::Result<()> {
        write_frame(&self.stream, tag::READY, b"")?;
        match read_frame(&self.stream)? {
            (tag::GO, _) => Ok(()),
            _ => Err(broken("the old process does not speak as it should")),
        }
    }

    /// To be called once clients are let in: the old one stops.
    ///
    /// # Errors
    /// It has gone by itself.
    pub fn serving(&self) -> io::Result<()> {
        write_frame(&self.stream, tag::SERVING, b"")
    }

    /// Reads what the old one sends until it ends; `up_to_date` is called with each word that nothing is left out up to then.
    pub fn hear(&self, mut take: impl FnMut(Section), mut up_to_date: impl FnMut()) {
        // It may have nothing to say for long.
        let _ = self.stream.set_read_timeout(None);
        loop {
            let heard = read_frame(&self.stream).and_then(|(tag, bytes)| match tag {
                tag::SECTION => read_section(&self.stream, &bytes).map(&mut take),
                tag::UP_TO_DATE => {
                    up_to_date();
                    Ok(())
                }
                _ => Err(broken("the old process does not speak as it should")),
            });
            if heard.is_err() {
                return;
            }
        }
    }

    /// Says why this process can't take the place.
    pub fn failed(&self, why: &str) {
        // If it can't be told, it sees that this process has gone.
        let _ = write_frame(&self.stream, tag::FAILED, why.as_bytes());
    }
}

fn receive(stream: UnixStream) -> io::Result<(Predecessor, Offer)> {
    let (hello_tag, hello) = read_frame(&stream)?;
    let hello: Value = serde_json::from_slice(&hello).unwrap_or_default();
    if hello_tag != tag::HELLO || hello["protocol"] != PROTOCOL {
        return Err(broken("the old process speaks another language: stop it and start this one"));
    }
    let slots: Option<Vec<Slot>> = hello["sockets"].as_array().map(Vec::as_slice).unwrap_or_default().iter().map(Slot::parse).collect();
    let slots = slots.ok_or_else(|| broken("the old process names sockets that can't be read"))?;
    let mut state = Vec::new();
    for _ in 0..hello["sections"].as_u64().unwrap_or(0) {
        let (_, head) = read_frame(&stream)?;
        state.push(read_section(&stream, &head)?);
    }
    let sockets = receive_sockets(&stream, slots.len())?;
    let pid = hello["pid"].as_u64().unwrap_or(0);
    Ok((Predecessor { stream, pid }, Offer { sockets: slots.into_iter().zip(sockets).collect(), state }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn pair() -> (UnixStream, UnixStream) {
        let (a, b) = UnixStream::pair().expect("a pair");
        for stream in [&a, &b] {
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        }
        (a, b)
    }

    fn slot(nth: usize) -> Slot {
        Slot { bind: Bind::Tcp(([127, 0, 0, 1], 0).into()), nth, is_admin: nth == 0 }
    }

    /// Gives 450 sockets and a section, and answers what the new side makes of it beside what the old side hears.
    fn exchange(new: impl FnOnce(Predecessor, Offer) + Send) -> Result<(), String> {
        let (old, theirs) = pair();
        let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let sockets = (0..450).map(|nth| (slot(nth), OwnedFd::from(socket.try_clone().expect("a copy")))).collect();
        let state = vec![Section { name: "limits".into(), version: 3, bytes: vec![7; 100_000] }];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (predecessor, offer) = receive(theirs).expect("an offer");
                new(predecessor, offer);
            });
            offer(&old, Offer { sockets, state })
        })
    }

    #[test]
    fn everything_arrives_and_the_last_word_ends_it() {
        let outcome = exchange(|predecessor, offer| {
            assert_eq!(predecessor.pid, u64::from(std::process::id()));
            assert_eq!((offer.sockets.len(), &offer.sockets[449].0), (450, &slot(449)));
            assert_eq!((offer.state[0].name.as_str(), offer.state[0].version, offer.state[0].bytes.len()), ("limits", 3, 100_000));
            assert!(TcpListener::from(offer.sockets[3].1.try_clone().expect("a copy")).local_addr().is_ok());
            predecessor.ready().expect("to go");
            predecessor.serving().expect("to serve");
        });
        assert_eq!(outcome, Ok(()));
    }

    #[test]
    fn a_new_process_that_fails_or_goes_at_any_step_is_reported() {
        assert_eq!(exchange(|predecessor, _| predecessor.failed("no listener")), Err("no listener".to_string()));
        assert!(exchange(|_, _| {}).is_err_and(|why| why.contains("it has gone")));
        assert!(exchange(|predecessor, _| predecessor.ready().expect("to go")).is_err_and(|why| why.contains("it has gone")));
        let late = exchange(|predecessor, _| {
            predecessor.ready().expect("to go");
            predecessor.failed("late");
        });
        assert_eq!(late, Err("late".to_string()));
    }

    #[test]
    fn a_silent_one_is_given_up() {
        let (old, _new) = pair();
        old.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        assert_eq!(offer(&old, Offer::default()), Err("it was not ready in time".to_string()));
    }
}
