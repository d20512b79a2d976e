// SPDX-License-Identifier: Apache-2.0
//! Flow keys and records byte for byte: pure, so an interpreter such as Miri can run it as well.

use hbone_sys::flow::{FLOW_POISONED, FlowKey, FlowRecord, encode_address};
use std::net::{IpAddr, SocketAddr};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn a_key_has_no_byte_that_was_not_set() {
    let key = FlowKey::new(
        0x0102_0304_0506_0708,
        at("10.1.2.3:4660"),
        at("10.9.9.9:15001"),
    );
    assert_eq!(key.netns_cookie, 0x0102_0304_0506_0708);
    assert_eq!(key.source, *b"\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\x01\x02\x03");
    assert_eq!(
        (key.source_port, key.capture_port),
        ([0x12, 0x34], [0x3a, 0x99])
    );
    assert_eq!((key.family, key.pad), (4, [0; 3]));
    // The fields fill the struct: padding of the compiler's would be bytes of chance in a map's key.
    assert_eq!(size_of::<FlowKey>(), 8 + 16 + 2 + 2 + 1 + 3);
    assert_eq!(size_of::<FlowRecord>(), 2 * 16 + 2 * 2 + 4 + 5 * 4 + 4);
}

#[test]
fn a_mapped_address_is_the_same_key_as_the_plain_one() {
    let plain = FlowKey::new(1, at("10.1.2.3:5"), at("10.0.0.1:6"));
    assert_eq!(
        plain,
        FlowKey::new(1, at("[::ffff:10.1.2.3]:5"), at("[::ffff:10.0.0.1]:6"))
    );
    let six = FlowKey::new(1, at("[2001:db8::3]:5"), at("[2001:db8::1]:6"));
    assert_eq!((six.family, six.source[0], six.source[15]), (6, 0x20, 3));
}

#[test]
fn a_record_says_where_to() {
    for (text, ip) in [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("fd00::9", "fd00::9"),
    ] {
        let record = FlowRecord {
            original: encode_address(text.parse().unwrap()),
            original_port: 443_u16.to_be_bytes(),
            upstream: encode_address("::1".parse().unwrap()),
            upstream_port: u16::MAX.to_be_bytes(),
            ..FlowRecord::default()
        };
        let ip: IpAddr = ip.parse().unwrap();
        assert_eq!(record.original(), SocketAddr::new(ip, 443));
        assert_eq!(record.upstream(), at("[::1]:65535"));
    }
}

#[test]
fn poison_is_one_bit() {
    for (flags, poisoned) in [
        (0, false),
        (FLOW_POISONED, true),
        (u32::MAX, true),
        (2, false),
    ] {
        let record = FlowRecord {
            flags,
            ..FlowRecord::default()
        };
        assert_eq!(record.is_poisoned(), poisoned);
    }
}
