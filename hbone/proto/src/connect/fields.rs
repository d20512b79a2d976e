// SPDX-License-Identifier: Apache-2.0
//! From a list of fields to a request or an answer (RFC 9113 sections 8.2, 8.3 and 8.5).

use super::{Authority, ConnectRequest, ConnectResponse, Forwarded};

/// Why a list of fields is no CONNECT that we serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The message breaks HTTP/2: the stream is reset.
    Malformed,
    /// Another method.
    NotConnect,
    /// `:authority` cannot be understood.
    BadAuthority,
}

/// Rules that requests and answers share.
#[derive(Debug, Default)]
struct Shape {
    regular: bool,
    malformed: bool,
}

impl Shape {
    /// Pseudo-fields first, names in lower case, nothing that belongs to HTTP/1 connections.
    fn see(&mut self, name: &[u8], value: &[u8]) {
        match name.split_first() {
            Some((b':', _)) => self.malformed |= self.regular,
            Some(_) => self.regular = true,
            None => self.malformed = true,
        }
        let bad_name = |b: &u8| b.is_ascii_uppercase() || *b <= b' ' || *b >= 0x7f;
        self.malformed |= name.iter().any(bad_name);
        self.malformed |= value.iter().any(|b| matches!(b, 0 | b'\r' | b'\n'));
        self.malformed |= matches!(
            name,
            b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding" | b"upgrade"
        );
    }

    fn once<T>(&mut self, slot: &mut Option<T>, value: T) {
        self.malformed |= slot.replace(value).is_some();
    }
}

/// Text we keep: visible ASCII and blanks. Anything else only informs, so it is left out.
fn text(value: &[u8]) -> Option<&str> {
    let plain = value.iter().all(|b| (b' '..=b'~').contains(b));
    std::str::from_utf8(value)
        .ok()
        .filter(|t| plain && !t.is_empty())
}

/// Several `baggage` fields are one list (W3C Baggage section 3.3).
fn join(slot: &mut Option<String>, value: &[u8]) {
    let Some(value) = text(value) else { return };
    match slot {
        Some(list) => {
            list.push(',');
            list.push_str(value);
        }
        None => *slot = Some(value.to_owned()),
    }
}

/// Collects a request.
#[derive(Debug, Default)]
pub(crate) struct RequestFields {
    shape: Shape,
    method: Option<bool>,
    authority: Option<Option<Authority>>,
    other_pseudo: bool,
    baggage: Option<String>,
    forwarded: Option<Forwarded>,
    traceparent: Option<super::TraceParent>,
}

impl RequestFields {
    pub fn field(&mut self, name: &[u8], value: &[u8]) {
        self.shape.see(name, value);
        match name {
            b":method" => self.shape.once(&mut self.method, value == b"CONNECT"),
            b":authority" => {
                let authority = text(value).and_then(|t| t.parse().ok());
                self.shape.once(&mut self.authority, authority);
            }
            b":scheme" | b":path" | b":protocol" => self.other_pseudo = true,
            [b':', ..] => self.shape.malformed = true,
            b"baggage" => join(&mut self.baggage, value),
            b"forwarded" if self.forwarded.is_none() => {
                self.forwarded = text(value).map(Forwarded::parse);
            }
            b"traceparent" => self.traceparent = text(value).and_then(|t| t.parse().ok()),
            _ => {}
        }
    }

    pub fn finish(self) -> Result<ConnectRequest, Refusal> {
        let is_connect = self.method.ok_or(Refusal::Malformed)?;
        if self.shape.malformed {
            return Err(Refusal::Malformed);
        }
        if !is_connect {
            return Err(Refusal::NotConnect);
        }
        if self.other_pseudo {
            // Extended CONNECT (RFC 8441) needs a setting that we do not send.
            return Err(Refusal::Malformed);
        }
        let authority = self
            .authority
            .ok_or(Refusal::Malformed)?
            .ok_or(Refusal::BadAuthority)?;
        Ok(ConnectRequest {
            authority,
            baggage: self.baggage.map(Into::into),
            forwarded: self.forwarded.unwrap_or_default(),
            traceparent: self.traceparent,
        })
    }
}

/// Collects an answer.
#[derive(Debug, Default)]
pub(crate) struct ResponseFields {
    shape: Shape,
    status: Option<u16>,
    baggage: Option<String>,
}

impl ResponseFields {
    pub fn field(&mut self, name: &[u8], value: &[u8]) {
        self.shape.see(name, value);
        match name {
            b":status" => {
                let status = match value {
                    [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => [a, b, c]
                        .iter()
                        .fold(0, |sum, d| sum * 10 + u16::from(**d - b'0')),
                    _ => 0,
                };
                self.shape.malformed |= status == 0;
                self.shape.once(&mut self.status, status);
            }
            [b':', ..] => self.shape.malformed = true,
            b"baggage" => join(&mut self.baggage, value),
            _ => {}
        }
    }

    pub fn finish(self) -> Result<ConnectResponse, Refusal> {
        match self.status {
            Some(status) if !self.shape.malformed => Ok(ConnectResponse {
                status,
                baggage: self.baggage.map(Into::into),
            }),
            _ => Err(Refusal::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&str, &str)]) -> Result<ConnectRequest, Refusal> {
        let mut collected = RequestFields::default();
        for (name, value) in fields {
            collected.field(name.as_bytes(), value.as_bytes());
        }
        collected.finish()
    }

    const CONNECT: (&str, &str) = (":method", "CONNECT");
    const WEB: (&str, &str) = (":authority", "10.1.2.3:80");

    #[test]
    fn a_whole_request() {
        let got = request(&[
            CONNECT,
            WEB,
            ("baggage", "a=b"),
            ("forwarded", "for=\"10.0.0.1:5\";host=web"),
            (
                "traceparent",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            ),
            ("baggage", "c=d"),
            ("x-unknown", "ignored"),
        ])
        .unwrap();
        assert_eq!(got.authority.to_string(), "10.1.2.3:80");
        assert_eq!(got.baggage.as_deref(), Some("a=b,c=d"));
        assert_eq!(got.forwarded.host.as_deref(), Some("web"));
        assert_eq!(got.traceparent.unwrap().flags, 0);
    }

    #[test]
    fn refusals() {
        let refused = |fields: &[(&str, &str)]| request(fields).unwrap_err();
        assert_eq!(refused(&[]), Refusal::Malformed);
        assert_eq!(refused(&[CONNECT]), Refusal::Malformed);
        assert_eq!(
            refused(&[CONNECT, (":authority", "web")]),
            Refusal::BadAuthority
        );
        let get = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/"),
            WEB,
        ];
        assert_eq!(refused(&get), Refusal::NotConnect);
        assert_eq!(refused(&[CONNECT, WEB, (":path", "/")]), Refusal::Malformed);
        assert_eq!(refused(&[CONNECT, WEB, WEB]), Refusal::Malformed);
        assert_eq!(
            refused(&[CONNECT, WEB, (":status", "200")]),
            Refusal::Malformed
        );
        assert_eq!(refused(&[CONNECT, ("a", "b"), WEB]), Refusal::Malformed);
        assert_eq!(refused(&[CONNECT, WEB, ("Upper", "b")]), Refusal::Malformed);
        assert_eq!(refused(&[CONNECT, WEB, ("", "b")]), Refusal::Malformed);
        assert_eq!(
            refused(&[CONNECT, WEB, ("a", "b\r\nc: d")]),
            Refusal::Malformed
        );
        assert_eq!(
            refused(&[CONNECT, WEB, ("connection", "close")]),
            Refusal::Malformed
        );
    }

    #[test]
    fn claims_that_are_no_text_are_left_out() {
        let got = request(&[CONNECT, WEB, ("baggage", "a=\u{7f}"), ("traceparent", "x")]).unwrap();
        assert_eq!((got.baggage, got.traceparent), (None, None));
    }

    #[test]
    fn answers() {
        let answer = |fields: &[(&str, &str)]| {
            let mut collected = ResponseFields::default();
            for (name, value) in fields {
                collected.field(name.as_bytes(), value.as_bytes());
            }
            collected.finish().map(|r| r.status)
        };
        assert_eq!(answer(&[(":status", "200"), ("baggage", "a=b")]), Ok(200));
        assert_eq!(answer(&[(":status", "503")]), Ok(503));
        for bad in ["", "20", "2000", "2x0", "012"] {
            assert_eq!(
                answer(&[(":status", bad)]),
                Err(Refusal::Malformed),
                "{bad}"
            );
        }
        assert_eq!(answer(&[("a", "b")]), Err(Refusal::Malformed));
    }
}
