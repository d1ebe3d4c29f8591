//! Texts with a grammar, each checked in one place: here.
//!
//! A `Format` is what the schema names, what the structure check applies to every such text, and what an error message
//! explains. The types that carry one deserialise through the same check, so a document that passed cannot fail later.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use crate::spiffe::SpiffeId;
use crate::units::{ByteSize, Percent, Span, Window};

/// A grammar of texts.
pub(crate) struct Format {
    /// As the schema names it.
    pub(crate) name: &'static str,
    /// What can be written, to follow "is not".
    pub(crate) grammar: &'static str,
    /// For editors: nothing that fits is refused by it.
    pub(crate) pattern: Option<&'static str>,
    /// Whether a text fits.
    pub(crate) fits: fn(&str) -> bool,
}

/// The format with this name.
pub(crate) fn named(name: &str) -> Option<&'static Format> {
    FORMATS.iter().copied().find(|format| format.name == name)
}

const FORMATS: &[&Format] = &[
    &OBJECT_NAME,
    &LABEL,
    &SECTION_NAME,
    &HOSTNAME,
    &ADDRESS,
    &LISTEN,
    &PEER,
    &HOST_AND_PORT,
    &DURATION,
    &WINDOW,
    &BYTE_SIZE,
    &PERCENT,
    &SPIFFE,
    &HEADER_NAME,
    &HEADER_VALUE,
    &TIMESTAMP,
    &TRUST_DOMAIN,
    &ABSOLUTE_PATH,
    &REQUEST_PATH,
    &URI,
];

const OBJECT_NAME: Format = Format {
    name: "object-name",
    grammar: "an object name: a-z, 0-9, `-` and `.`, letter or digit at both ends, at most 253 characters",
    pattern: Some(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"),
    fits: |text| text.len() <= 253 && text.split('.').all(is_label),
};
const LABEL: Format = Format {
    name: "label",
    grammar: "a name of a-z, 0-9 and `-`, letter or digit at both ends, at most 63 characters",
    pattern: Some("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
    fits: |text| text.len() <= 63 && is_label(text),
};
const SECTION_NAME: Format = Format {
    name: "section-name",
    grammar: "a rule name: a-z, 0-9, `-` and `.`, letter or digit at both ends, at most 253 characters",
    pattern: OBJECT_NAME.pattern,
    fits: OBJECT_NAME.fits,
};
const HOSTNAME: Format = Format {
    name: "dns-name",
    grammar: "a host name: lower case, no port, no wildcard, such as `chat.example`",
    pattern: OBJECT_NAME.pattern,
    fits: |text| (OBJECT_NAME.fits)(text) && text.parse::<IpAddr>().is_err(),
};
const ADDRESS: Format = Format {
    name: "ip-address",
    grammar: "the IP address of one machine, such as `10.0.0.7` or `fd00::7`",
    pattern: Some("^[0-9a-fA-F:.]+$"),
    fits: |text| text.parse::<IpAddr>().is_ok_and(is_one_machine),
};
const LISTEN: Format = Format {
    name: "listen-address",
    grammar: "IP:PORT, such as `127.0.0.1:4740` or `[::]:4743`",
    pattern: Some(r"^[0-9a-fA-F:.\[\]]+:[0-9]{1,5}$"),
    fits: |text| text.parse::<SocketAddr>().is_ok(),
};
const PEER: Format = Format {
    name: "peer-address",
    grammar: "IP:PORT of one listener, such as `10.0.0.7:4743` or `[fd00::7]:4743`",
    pattern: LISTEN.pattern,
    fits: |text| text.parse::<SocketAddr>().is_ok_and(|at| at.port() != 0 && is_one_machine(at.ip())),
};
const HOST_AND_PORT: Format = Format {
    name: "host-and-port",
    grammar: "HOST:PORT, such as `penstock-controller.penstock.svc:8746` or `127.0.0.1:8746`",
    pattern: Some("^.+:[0-9]{1,5}$"),
    fits: |text| text.parse::<SocketAddr>().is_ok_and(|at| at.port() != 0) || is_dns_name_and_port(text),
};
const DURATION: Format = Format {
    name: "duration",
    grammar: "a duration: one to four of NUMBER(h|m|s|ms), such as `500ms`, `1m30s` or `0s`",
    pattern: Some("^([0-9]{1,5}(h|m|s|ms)){1,4}$"),
    fits: |text| text.parse::<Span>().is_ok(),
};
const WINDOW: Format = Format {
    name: "window",
    grammar: "a window of whole hours, days or weeks, such as `24h`, `30d` or `4w`",
    pattern: Some("^[1-9][0-9]{0,3}(h|d|w)$"),
    fits: |text| text.parse::<Window>().is_ok(),
};
const BYTE_SIZE: Format = Format {
    name: "byte-size",
    grammar: "a number of bytes as text, with `Ki`, `Mi` or `Gi` if wanted, such as `16Mi` or `\"512\"`",
    pattern: Some("^[0-9]+(Ki|Mi|Gi)?$"),
    fits: |text| text.parse::<ByteSize>().is_ok(),
};
const PERCENT: Format = Format {
    name: "percent",
    grammar: "a percentage from 0 to 100 as text, with at most four decimals, such as `\"99.5\"`",
    pattern: Some(r"^[0-9]{1,3}(\.[0-9]{1,4})?$"),
    fits: |text| text.parse::<Percent>().is_ok(),
};
const SPIFFE: Format = Format {
    name: "spiffe-id",
    grammar: "a SPIFFE ID, such as `spiffe://cluster.local/ns/default/sa/chat`",
    pattern: Some("^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)*$"),
    fits: |text| text.parse::<SpiffeId>().is_ok(),
};
const HEADER_NAME: Format = Format {
    name: "header-name",
    grammar: "a header name: letters, digits and !#$%&'*+-.^_`|~, at most 256 characters",
    pattern: Some("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"),
    fits: |text| (1..=256).contains(&text.len()) && text.bytes().all(is_token),
};
const HEADER_VALUE: Format = Format {
    name: "header-value",
    grammar: "a header value: visible characters, spaces and tabs between them, 1 to 4096 bytes",
    pattern: None,
    fits: |text| {
        (1..=4096).contains(&text.len())
            && text.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f))
            && !text.starts_with([' ', '\t'])
            && !text.ends_with([' ', '\t'])
    },
};
const TIMESTAMP: Format = Format {
    name: "timestamp",
    grammar: "a time such as `2026-01-31T08:00:00Z`",
    pattern: Some("^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}"),
    fits: |text| super::timestamp::seconds(text).is_some(),
};
const TRUST_DOMAIN: Format = Format {
    name: "trust-domain",
    grammar: "a trust domain: a-z, 0-9, `.`, `-` and `_`, such as `cluster.local`",
    pattern: Some("^[a-z0-9._-]+$"),
    fits: |text| format!("spiffe://{text}").parse::<SpiffeId>().is_ok_and(|id| id.trust_domain() == text),
};
const ABSOLUTE_PATH: Format = Format {
    name: "absolute-path",
    grammar: "the whole path of a file, such as `/etc/ssl/partner.pem`",
    pattern: Some("^/"),
    fits: |text| (2..=4096).contains(&text.len()) && text.starts_with('/') && !text.contains('\0'),
};
const REQUEST_PATH: Format = Format {
    name: "request-path",
    grammar: "a path as a request has it, such as `/health`, with a query if wanted",
    pattern: Some("^/[!-~]*$"),
    fits: |text| {
        text.len() <= 1024
            && text.starts_with('/')
            && text.bytes().all(|b| b.is_ascii_graphic() && !b"#\"<>\\^`{|}".contains(&b))
    },
};
const URI: Format = Format {
    name: "absolute-uri",
    grammar: "a URI with its scheme, such as `spiffe://partner.example/ns/chat/sa/engine`",
    pattern: Some("^[A-Za-z][A-Za-z0-9+.-]*:[!-~]+$"),
    fits: |text| {
        text.len() <= 2048
            && text.split_once(':').is_some_and(|(scheme, rest)| {
                scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                    && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+.-".contains(&b))
                    && !rest.is_empty()
                    && rest.bytes().all(|b| b.is_ascii_graphic())
            })
    },
};

fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Neither a wildcard nor a group: something a connection can be opened to.
fn is_one_machine(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || broadcast)
}

fn is_dns_name_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        (HOSTNAME.fits)(host)
            && (1..=5).contains(&port.len())
            && port.bytes().all(|b| b.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn schema_of(format: &Format) -> Schema {
    let mut schema = json_schema!({ "type": "string", "format": format.name });
    if let Some(pattern) = format.pattern {
        schema.insert("pattern".to_owned(), pattern.into());
    }
    schema
}

fn parse<'de, T: std::str::FromStr, D: Deserializer<'de>>(
    format: &Format,
    deserializer: D,
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    let refuse = || serde::de::Error::custom(format_args!("`{text}` is not {}", format.grammar));
    if (format.fits)(&text) { text.parse().map_err(|_| refuse()) } else { Err(refuse()) }
}

macro_rules! written {
    ($($(#[$doc:meta])* $name:ident($inner:ty) is $format:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                parse(&$format, deserializer).map(Self)
            }
        }

        schema!($name is $format);
    )*};
}

macro_rules! schema {
    ($name:ident is $format:ident) => {
        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                schema_of(&$format)
            }
        }
    };
}

written! {
    /// Name of an object.
    Name(String) is OBJECT_NAME;
    /// A DNS label: a namespace, or the name of an objective.
    Label(String) is LABEL;
    /// Name of a rule.
    SectionName(String) is SECTION_NAME;
    /// A host name without port, lower case.
    Hostname(String) is HOSTNAME;
    /// Address of one machine.
    Address(IpAddr) is ADDRESS;
    /// Address and port to listen on; port 0 lets the system choose.
    Listen(SocketAddr) is LISTEN;
    /// Address and port to connect to.
    Peer(SocketAddr) is PEER;
    /// Host name or address, and port.
    HostAndPort(String) is HOST_AND_PORT;
    /// Identity of a workload.
    Spiffe(String) is SPIFFE;
    /// Name of a header.
    HeaderName(String) is HEADER_NAME;
    /// Value that a header is given.
    HeaderValue(String) is HEADER_VALUE;
    /// A point in time.
    Timestamp(String) is TIMESTAMP;
    /// The domain within which identities are trusted.
    TrustDomain(String) is TRUST_DOMAIN;
    /// Whole path of a file.
    AbsolutePath(String) is ABSOLUTE_PATH;
    /// Path of a request, with a query if there is one.
    RequestPath(String) is REQUEST_PATH;
    /// A URI with its scheme.
    Uri(String) is URI;
}

schema!(Span is DURATION);
schema!(Window is WINDOW);
schema!(ByteSize is BYTE_SIZE);
schema!(Percent is PERCENT);
