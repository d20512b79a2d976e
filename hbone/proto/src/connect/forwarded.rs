// SPDX-License-Identifier: Apache-2.0
//! The `forwarded` field (RFC 7239): `for="10.1.2.3:4444";host=web.shop.svc.cluster.local`.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// What `forwarded` may tell: both parts are optional.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Forwarded {
    /// `for=`: the client's address (port 0 if none was given). A claim, never used for policy.
    pub source: Option<SocketAddr>,
    /// `host=`: the service that the client dialled. Visible ASCII.
    pub host: Option<Box<str>>,
}

impl Forwarded {
    /// Nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.source.is_none() && self.host.is_none()
    }

    /// Reads the first element, the one nearest to the client. What is not understood is left out:
    /// the field only informs.
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        let mut rest = text;
        while let Some((name, value, tail)) = pair(rest) {
            if name.eq_ignore_ascii_case("for") && found.source.is_none() {
                found.source = parse_node(&value);
            } else if name.eq_ignore_ascii_case("host") && found.host.is_none() && !value.is_empty()
            {
                found.host = Some(Box::from(&*value));
            }
            match tail.trim_start().strip_prefix(';') {
                Some(more) => rest = more,
                None => break,
            }
        }
        found
    }
}

/// `name=token` or `name="quoted"`, and what follows.
fn pair(text: &str) -> Option<(&str, Cow<'_, str>, &str)> {
    let (name, rest) = text.trim_start().split_once('=')?;
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find([';', ',']).unwrap_or(rest.len());
        return Some((name, rest[..end].trim_end().into(), &rest[end..]));
    };
    if let Some(end) = quoted.find(['"', '\\'])
        && quoted[end..].starts_with('"')
    {
        return Some((name, quoted[..end].into(), &quoted[end + 1..]));
    }
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((name, value.into(), &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            _ => value.push(c),
        }
    }
    None
}

/// RFC 7239 section 6: an address with or without a port, IPv6 in brackets.
fn parse_node(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 0))
}

impl fmt::Display for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = self.source {
            write!(f, "for=\"{source}\"")?;
        }
        if let Some(host) = &self.host {
            let separator = if self.source.is_some() { ";" } else { "" };
            write!(f, "{separator}host=")?;
            write_value(f, host)?;
        }
        Ok(())
    }
}

/// A token as it is, anything else quoted (RFC 7239 section 4): a host may not forge a `for`.
fn write_value(f: &mut fmt::Formatter<'_>, value: &str) -> fmt::Result {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if value.bytes().all(is_token) {
        return f.write_str(value);
    }
    f.write_str("\"")?;
    for c in value.chars() {
        if matches!(c, '"' | '\\') {
            f.write_str("\\")?;
        }
        write!(f, "{c}")?;
    }
    f.write_str("\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_survives() {
        for text in [
            "for=\"10.1.2.3:4444\";host=web.shop.svc.cluster.local",
            "for=\"[fd00::1]:4444\"",
            "host=web",
            "",
        ] {
            assert_eq!(Forwarded::parse(text).to_string(), text);
        }
    }

    #[test]
    fn a_host_that_is_no_token_is_quoted() {
        for host in [
            "a;for=10.0.0.1",
            "a, for=10.0.0.1",
            "a\"b\\",
            " a ",
            "web:80",
        ] {
            let forwarded = Forwarded {
                source: Some("10.1.2.3:4".parse().unwrap()),
                host: Some(host.into()),
            };
            assert_eq!(
                Forwarded::parse(&forwarded.to_string()),
                forwarded,
                "{host}"
            );
        }
    }

    #[test]
    fn what_others_write() {
        let source = |text: &str| Forwarded::parse(text).source.map(|a| a.to_string());
        assert_eq!(source("For=10.1.2.3"), Some("10.1.2.3:0".into()));
        assert_eq!(
            source("for=\"[fd00::1]\", for=10.0.0.1"),
            Some("[fd00::1]:0".into())
        );
        assert_eq!(
            source("by=1;for=\"10.1.2.3:1\" ; proto=http"),
            Some("10.1.2.3:1".into())
        );
        assert_eq!(source("for=_hidden"), None);
        assert_eq!(source("for=\"10.1.2.3:1"), None);
        assert_eq!(source("host=\"a;for=10.0.0.1\";"), None);
        assert_eq!(
            Forwarded::parse("host=\"a\\\"b\"").host.as_deref(),
            Some("a\"b")
        );
        assert_eq!(Forwarded::parse("=;=,;;\"\\"), Forwarded::default());
    }
}
