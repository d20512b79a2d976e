// SPDX-License-Identifier: Apache-2.0
//! The key usage of a leaf, which rustls-webpki does not look at.
//!
//! RFC 8446 section 4.4.2.2: where the extension is there, `digitalSignature` must be set. X509-SVID
//! section 5.2: a leaf that may sign certificates or revocation lists must be refused.

/// RFC 5280 section 4.2.1.3, `2.5.29.15`.
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
/// Bits of `KeyUsage`, the first being the highest of the first byte.
const DIGITAL_SIGNATURE: u8 = 1 << 7;
const KEY_CERT_SIGN: u8 = 1 << 2;
const CRL_SIGN: u8 = 1 << 1;

const BOOLEAN: u8 = 0x01;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
/// `extensions [3] EXPLICIT` of `TBSCertificate`.
const EXTENSIONS: u8 = 0xa3;

/// Whether a certificate may prove who is at one end of a TLS connection. One that does not say what
/// it is for may; one whose saying cannot be read may not.
pub(crate) fn allows_tls(der: &[u8]) -> bool {
    match key_usage(der) {
        Ok(None) => true,
        Ok(Some(bits)) => bits & DIGITAL_SIGNATURE != 0 && bits & (KEY_CERT_SIGN | CRL_SIGN) == 0,
        Err(Unreadable) => false,
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Unreadable;

/// The first eight bits of the key usage, if the certificate has one.
fn key_usage(der: &[u8]) -> Result<Option<u8>, Unreadable> {
    let certificate = Der(der).expect(SEQUENCE)?;
    let mut fields = Der(Der(certificate).expect(SEQUENCE)?);
    while let Some((tag, content)) = fields.next()? {
        if tag == EXTENSIONS {
            return find_in(Der(Der(content).expect(SEQUENCE)?));
        }
    }
    Ok(None)
}

fn find_in(mut extensions: Der<'_>) -> Result<Option<u8>, Unreadable> {
    while let Some((tag, extension)) = extensions.next()? {
        if tag != SEQUENCE {
            return Err(Unreadable);
        }
        let mut extension = Der(extension);
        if extension.expect(OBJECT_IDENTIFIER)? != KEY_USAGE {
            continue;
        }
        let value = match extension.next()?.ok_or(Unreadable)? {
            (BOOLEAN, _critical) => extension.expect(OCTET_STRING)?,
            (OCTET_STRING, value) => value,
            _ => return Err(Unreadable),
        };
        // The count of unused bits, then the bits; none at all is a usage for nothing.
        return match Der(value).expect(BIT_STRING)? {
            [0..=7, bits @ ..] => Ok(Some(bits.first().copied().unwrap_or(0))),
            _ => Err(Unreadable),
        };
    }
    Ok(None)
}

/// Elements one after the other (ITU-T X.690, definite lengths only).
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, Unreadable> {
        let [tag, rest @ ..] = self.0 else {
            return Ok(None);
        };
        let (length, rest) = match rest {
            [short @ 0..=0x7f, rest @ ..] => (usize::from(*short), rest),
            [0x81, a, rest @ ..] => (usize::from(*a), rest),
            [0x82, a, b, rest @ ..] => (usize::from(u16::from_be_bytes([*a, *b])), rest),
            [0x83, a, b, c, rest @ ..] => (u32::from_be_bytes([0, *a, *b, *c]) as usize, rest),
            _ => return Err(Unreadable),
        };
        let (content, rest) = rest.split_at_checked(length).ok_or(Unreadable)?;
        self.0 = rest;
        Ok(Some((*tag, content)))
    }

    fn expect(&mut self, tag: u8) -> Result<&'a [u8], Unreadable> {
        match self.next()? {
            Some((found, content)) if found == tag => Ok(content),
            _ => Err(Unreadable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::{Ca, SERVER};
    use proptest::prelude::*;
    use rcgen::KeyUsagePurpose as Purpose;

    fn leaf(usages: &[Purpose]) -> Vec<u8> {
        let ca = Ca::new("cluster.local");
        ca.issue_with(&[SERVER], |p| p.key_usages = usages.to_vec())
            .chain
            .remove(0)
    }

    #[test]
    fn the_bits_are_those_that_were_written() {
        assert_eq!(key_usage(&leaf(&[])), Ok(None));
        let usual = [Purpose::DigitalSignature, Purpose::KeyEncipherment];
        assert_eq!(key_usage(&leaf(&usual)), Ok(Some(0b1010_0000)));
        let ca = [Purpose::KeyCertSign, Purpose::CrlSign];
        assert_eq!(key_usage(&leaf(&ca)), Ok(Some(0b0000_0110)));
    }

    #[test]
    fn a_leaf_signs_handshakes_and_nothing_else() {
        assert!(allows_tls(&leaf(&[])));
        assert!(allows_tls(&leaf(&[Purpose::DigitalSignature])));
        assert!(!allows_tls(&leaf(&[Purpose::KeyEncipherment])));
        for more in [Purpose::KeyCertSign, Purpose::CrlSign] {
            assert!(!allows_tls(&leaf(&[Purpose::DigitalSignature, more])));
        }
    }

    #[test]
    fn what_cannot_be_read_allows_nothing() {
        let good = leaf(&[Purpose::DigitalSignature]);
        for len in 0..good.len() {
            assert!(!allows_tls(&good[..len]), "{len}");
        }
    }

    proptest! {
        #[test]
        fn reading_anything_returns(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = allows_tls(&bytes);
        }
    }
}
