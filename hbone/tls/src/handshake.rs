// SPDX-License-Identifier: Apache-2.0
//! The handshake, by rustls, one record at a time.
//!
//! rustls must never see a record beyond the last of the handshake: it would decrypt it, and the
//! plaintext would be lost when the keys are taken over. So each record is cut off here first.

use std::fmt;
use std::net::Ipv4Addr;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{AlertDescription, CommonState};

use crate::config::{ALPN, Svid};
use crate::control::Kernel;
use crate::error::{HandshakeError, RecordError};
use crate::identity::{ExpectedPeers, SpiffeId, spiffe_id_in};
use crate::record::{HEADER_LEN, MAX_CIPHERTEXT};
use crate::session::Session;

/// How far a [`Handshake::step`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Drop so many bytes from the front of the input before the next step.
    pub consumed: usize,
    /// The handshake is done: call [`Handshake::finish`]. Input beyond `consumed` is for
    /// [`Session::open`].
    pub done: bool,
}

/// A handshake under way.
pub struct Handshake {
    state: State,
    /// Bytes at the front of the input that rustls has seen but still needs.
    presented: usize,
}

enum State {
    Client(Box<UnbufferedClientConnection>, ExpectedPeers),
    /// With our own trust domain.
    Server(Box<UnbufferedServerConnection>, SpiffeId),
    Done(Box<Session>),
    Failed(HandshakeError),
}

impl Handshake {
    /// Begins as a client; the first step, with empty input, yields the ClientHello.
    ///
    /// The server must prove one of `expected`: its chain must lead to our roots and its one URI name
    /// be one of them. This is judged before our certificate is sent.
    ///
    /// # Errors
    /// [`HandshakeError::Internal`] if there is no randomness.
    pub fn client(svid: &Svid, expected: &ExpectedPeers) -> Result<Self, HandshakeError> {
        // Never sent, as SNI is off, and never looked at: identities are URIs.
        let name = ServerName::from(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let connection = UnbufferedClientConnection::new(svid.client_config(expected), name)?;
        Ok(Self::new(State::Client(
            Box::new(connection),
            expected.clone(),
        )))
    }

    /// Begins as a server.
    ///
    /// The client must prove an identity of our own trust domain: its chain must lead to our roots,
    /// and its one URI name is who it is.
    ///
    /// # Errors
    /// [`HandshakeError::Internal`] if there is no randomness.
    pub fn server(svid: &Svid) -> Result<Self, HandshakeError> {
        let connection = UnbufferedServerConnection::new(svid.server_config())?;
        Ok(Self::new(State::Server(
            Box::new(connection),
            svid.id().clone(),
        )))
    }

    fn new(state: State) -> Self {
        Self {
            state,
            presented: 0,
        }
    }

    /// Goes as far as `input`, all that was received and not consumed yet, allows, and appends what
    /// must be sent to `out`. `input` may be decrypted in place: keep its bytes as they are left.
    ///
    /// The input buffer must be able to hold 64 KiB and a record; more than that is never needed.
    ///
    /// # Errors
    /// On any error the handshake is over; `out` then ends with the alert for the peer, if one is
    /// due, and should be sent before closing.
    pub fn step(&mut self, input: &mut [u8], out: &mut Vec<u8>) -> Result<Step, HandshakeError> {
        let mut consumed = 0;
        loop {
            let window = &mut input[consumed..consumed + self.presented];
            let pumped = match &mut self.state {
                State::Client(connection, _) => pump(&mut **connection, window, out),
                State::Server(connection, _) => pump(&mut **connection, window, out),
                State::Done(_) => {
                    return Ok(Step {
                        consumed,
                        done: true,
                    });
                }
                State::Failed(error) => return Err(error.clone()),
            };
            let pumped = match pumped {
                Ok(pumped) => pumped,
                Err(error) => return Err(self.fail(error)),
            };
            consumed += pumped.discard;
            self.presented -= pumped.discard;
            if pumped.done {
                self.presented = 0;
                self.establish(out)?;
                return Ok(Step {
                    consumed,
                    done: true,
                });
            }
            match next_record_len(&input[consumed + self.presented..]) {
                Some(len) => self.presented += len,
                None => {
                    return Ok(Step {
                        consumed,
                        done: false,
                    });
                }
            }
        }
    }

    /// The established session.
    ///
    /// # Errors
    /// [`HandshakeError::Internal`] if the handshake is not done.
    pub fn finish(self) -> Result<Session, HandshakeError> {
        match self.state {
            State::Done(session) => Ok(*session),
            State::Failed(error) => Err(error),
            _ => Err(HandshakeError::Internal("the handshake is not done".into())),
        }
    }

    fn fail(&mut self, error: HandshakeError) -> HandshakeError {
        // The caller may have dropped its input when it asks again.
        self.presented = 0;
        self.state = State::Failed(error.clone());
        error
    }

    /// Takes the keys over from rustls.
    fn establish(&mut self, out: &mut Vec<u8>) -> Result<(), HandshakeError> {
        let placeholder = State::Failed(HandshakeError::Internal("interrupted".into()));
        let result = match std::mem::replace(&mut self.state, placeholder) {
            State::Client(connection, expected) => {
                let agreed = agreed(&connection, |cert| Ok(expected.find(cert)?));
                agreed.and_then(|(peer, h2)| {
                    let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                    Ok((Session::new(secrets, Kernel::Client(kernel), peer)?, h2))
                })
            }
            State::Server(connection, own) => {
                let agreed = agreed(&connection, |cert| {
                    Ok(spiffe_id_in(own.trust_domain(), cert)?)
                });
                agreed.and_then(|(peer, h2)| {
                    let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                    Ok((Session::new(secrets, Kernel::Server(kernel), peer)?, h2))
                })
            }
            other => {
                self.state = other;
                return Ok(());
            }
        };
        let (mut session, h2) = result.map_err(|error| self.fail(error))?;
        if !h2 {
            // rustls lets a peer pass that speaks no ALPN at all; HBONE does not.
            session.abort(AlertDescription::NoApplicationProtocol);
            out.extend(session.pending_out().unwrap_or_default());
            return Err(self.fail(HandshakeError::NoAlpn));
        }
        self.state = State::Done(Box::new(session));
        Ok(())
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.state {
            State::Client(..) => "Handshake(client)",
            State::Server(..) => "Handshake(server)",
            State::Done(_) => "Handshake(done)",
            State::Failed(_) => "Handshake(failed)",
        })
    }
}

/// Who the peer is, and whether HTTP/2 was agreed on.
fn agreed(
    connection: &CommonState,
    identify: impl FnOnce(&CertificateDer<'_>) -> Result<SpiffeId, HandshakeError>,
) -> Result<(SpiffeId, bool), HandshakeError> {
    let leaf = connection.peer_certificates().and_then(<[_]>::first);
    let peer = identify(leaf.ok_or(HandshakeError::NoCertificate)?)?;
    Ok((peer, connection.alpn_protocol() == Some(ALPN)))
}

/// The length of the record at the front, if all of it is there.
///
/// What cannot be a record at all is handed over whole: rustls then says what is wrong with it.
fn next_record_len(input: &[u8]) -> Option<usize> {
    let header = input.first_chunk::<HEADER_LEN>()?;
    let body = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if !(20..=24).contains(&header[0]) || header[1] != 3 || body > MAX_CIPHERTEXT {
        return Some(input.len());
    }
    (input.len() >= HEADER_LEN + body).then_some(HEADER_LEN + body)
}

/// The two kinds of rustls connection, alike.
trait Drive {
    type Data;
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn is_established(&self) -> bool;
    fn wants_write(&self) -> bool;
}

impl Drive for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
    fn is_established(&self) -> bool {
        !self.is_handshaking()
    }
    fn wants_write(&self) -> bool {
        CommonState::wants_write(self)
    }
}

impl Drive for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
    fn is_established(&self) -> bool {
        !self.is_handshaking()
    }
    fn wants_write(&self) -> bool {
        CommonState::wants_write(self)
    }
}

struct Pumped {
    discard: usize,
    done: bool,
}

/// Runs rustls over `window` until it needs more, and collects what it sends, alerts included.
fn pump<C: Drive>(
    connection: &mut C,
    window: &mut [u8],
    out: &mut Vec<u8>,
) -> Result<Pumped, HandshakeError> {
    let mut discarded = 0;
    loop {
        let status = connection.process(&mut window[discarded..]);
        discarded += status.discard;
        let state = match status.state {
            Ok(state) => state,
            Err(error) => {
                collect_alert(connection, out);
                return Err(error.into());
            }
        };
        match state {
            ConnectionState::EncodeTlsData(mut data) => encode(&mut data, out)?,
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::BlockedHandshake => {
                return Ok(Pumped {
                    discard: discarded,
                    done: false,
                });
            }
            ConnectionState::WriteTraffic(_) => {
                let done = connection.is_established();
                return Ok(Pumped {
                    discard: discarded,
                    done,
                });
            }
            ConnectionState::PeerClosed | ConnectionState::Closed => {
                return Err(HandshakeError::Alert(AlertDescription::CloseNotify));
            }
            _ => {
                return Err(HandshakeError::Malformed(
                    "data before the handshake's end".into(),
                ));
            }
        }
    }
}

/// After an error rustls still has the alert for the peer. Asked once more than that it would look
/// at its input again, which it does not expect after an error.
fn collect_alert<C: Drive>(connection: &mut C, out: &mut Vec<u8>) {
    while connection.wants_write() {
        let Ok(ConnectionState::EncodeTlsData(mut data)) = connection.process(&mut []).state else {
            return;
        };
        if encode(&mut data, out).is_err() {
            return;
        }
    }
}

fn encode<D>(data: &mut EncodeTlsData<'_, D>, out: &mut Vec<u8>) -> Result<(), HandshakeError> {
    let start = out.len();
    if let Err(EncodeError::InsufficientSize(e)) = data.encode(&mut []) {
        out.resize(start + e.required_size, 0);
    }
    match data.encode(&mut out[start..]) {
        Ok(written) => out.truncate(start + written),
        Err(e) => {
            out.truncate(start);
            return Err(HandshakeError::Internal(e.to_string()));
        }
    }
    Ok(())
}

impl From<RecordError> for HandshakeError {
    fn from(error: RecordError) -> Self {
        Self::Internal(error.to_string())
    }
}
